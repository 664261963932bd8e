"""Three in ten slots of a pack diverge, whenever they do: all others keep their bits, their successors too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.records import State, TrialOutcome, TrialTask

from .kit import numbers, task, train_all

SLOTS, DIVERGING, WAITING, EPOCHS = 16, 5, 6, 11
MOMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "first step": ({"scale": "raw_variance"}, r"non-finite loss in epoch 1, step 1: raw_variance needs a > 0"),
    "middle of an epoch": ({"learning_rate": 1e20}, r"non-finite loss in epoch 1, step 2"),
    "late": (
        {"scale": "raw_variance", "initial_sigma": 1.0, "learning_rate": 3e-3, "epochs": 40},
        r"non-finite (loss|gradient|validation ELBO).* epoch ([4-9]|10).*",
    ),
}
"""when -> (what a trial has to be, its cause)"""


def healthy(count: int) -> list[TrialTask]:
    """Trials that converge, each with values of its own; the last WAITING take the places of those that ended."""
    scales = ("log_variance", "log_std", "softplus_std")
    return [
        task(i, scale=scales[i % 3], learning_rate=1e-3 * (1 + i % 4), epochs=EPOCHS + i % 3, beta_warmup_epochs=i % 2)
        for i in range(count)
    ]


def diverging(moments: Sequence[str]) -> list[TrialTask]:
    return [task(100 + i, **MOMENTS[moments[i % len(moments)]][0]) for i in range(DIVERGING)]


@pytest.fixture(scope="module")
def alone() -> list[tuple[Any, ...]]:
    """What every healthy trial gives with none that diverges anywhere near."""
    tasks = healthy(SLOTS - DIVERGING + WAITING)
    outcomes = train_all(tasks, SLOTS)
    assert {outcome.state for outcome in outcomes.values()} == {State.COMPLETE}
    found = [numbers(outcomes[one.key]) for one in tasks]
    for at in (0, 7, len(tasks) - 1):
        assert numbers(next(iter(train_all([tasks[at]], 1).values()))) == found[at]
    return found


SOLE = [pytest.param((name,), marks=pytest.mark.slow) for name in MOMENTS]


@pytest.mark.parametrize("moments", [*SOLE, tuple(MOMENTS)], ids=", ".join)
@pytest.mark.parametrize("first", [pytest.param(True, marks=pytest.mark.slow), False], ids=["before", "between"])
def test_the_others_keep_their_bits(moments: tuple[str, ...], first: bool, alone: list[tuple[Any, ...]]) -> None:
    tasks, bad = healthy(SLOTS - DIVERGING + WAITING), diverging(moments)
    order = list(tasks)
    for i, one in enumerate(bad):
        order.insert(i if first else 3 * i, one)
    assert sum(one in bad for one in order[:SLOTS]) == DIVERGING >= 0.3 * SLOTS
    outcomes = train_all(order, SLOTS)
    for i, one in enumerate(bad):
        check_diverged(outcomes[one.key], MOMENTS[moments[i % len(moments)]][1])
    assert [numbers(outcomes[one.key]) for one in tasks] == alone


def check_diverged(outcome: TrialOutcome, cause: str) -> None:
    assert outcome.state is State.DIVERGED and re.fullmatch(cause, outcome.cause or ""), outcome.cause
