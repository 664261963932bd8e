"""The chaos suite's short form: a few schedules that together have every fault. All of it: make chaos."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .chaos.faults import FAULTS, can_mount
from .chaos.schedule import Chaos, draw, seeds_for
from .postgres import binaries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEEDS = [17, 97]
"""driver killed, everything killed, PostgreSQL crashed; delivery killed, checkpoint torn, answers of MLflow lost"""


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    if binaries() is None:
        pytest.skip("NO POSTGRESQL SERVER HERE: install it (apt-get install postgresql), or this is not tested")
    chaos = Chaos(tmp_path_factory.mktemp("chaos") / "c", disks=can_mount())
    try:
        yield chaos
    finally:
        chaos.end()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sweep_survives(chaos: Chaos, seed: int) -> None:
    result = chaos.play(seed)
    assert not result.error, f"{result.faults}: {result.error}"
    assert result.drivers > 1, "the command was given again"


def test_a_hundred_seeds_have_every_fault() -> None:
    drawn = [fault for seed in range(100) for fault in draw(seed).faults]
    assert min(drawn.count(fault) for fault in FAULTS) >= 2
    assert set().union(*(draw(seed).faults for seed in seeds_for(FAULTS))) == set(FAULTS)
    assert draw(5) == draw(5) and draw(5) != draw(5, 1)
    assert all(draw(seed).faults == draw(seed, 1).faults for seed in range(100)), "a redraw is as hard"
