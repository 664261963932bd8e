"""A sweep on several hosts: one dies, others join, a partition heals. Each has its own address (tests/hosts.py)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.records import ENDED

from .hosts import hosts
from .sweeps import json_of, read, records, run_here, study_file, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LONGER = {"train": {"epochs": 90}, "search": {"trials": 8, "startup": 4}}


def run_words(file: Path, workdir: Path, head: str, *more: object) -> list[object]:
    words = [sys.executable, "-m", "pipeline", "run", file, "--workdir", workdir, "--mlflow", "none"]
    return [*words, "--address", head, "--slots", "3", *more]


def ended(workdir: Path) -> int:
    return sum(record.state in ENDED for record in records(workdir))


def hosts_of(workdir: Path) -> Counter[str]:
    """Host -> trials that have ended there."""
    return Counter(record.outcome.host for record in records(workdir) if record.outcome)


def test_a_host_dies_another_comes_and_a_third_is_one_too_many(tmp_path: Path) -> None:
    file, workdir, log = study_file(tmp_path, **LONGER), tmp_path / "work", tmp_path / "log"
    expected = run_here(file, tmp_path / "here", slots=16)
    with hosts(tmp_path) as cluster:
        first, second = cluster.add(), cluster.add()
        driver = cluster.popen("h0", *run_words(file, workdir, cluster.head, "--max-workers", "2"), log=log)
        wait_for(lambda: all(f"on {name} is ready" in log.read_text() for name in (first, second)), driver)
        wait_for(lambda: {first, second} <= {*hosts_of(workdir)}, driver)
        cluster.kill(second)
        wait_for(lambda: "was lost" in log.read_text(), driver)
        third, came = cluster.add(), time.monotonic()
        wait_for(lambda: f"on {third} is ready" in log.read_text(), driver)
        print(f"\na host that joined was used after {time.monotonic() - came:.1f} s")
        fourth = cluster.add()
        assert driver.wait(300) == 0, log.read_text()
    results = read(workdir)
    assert json_of(results) == json_of(expected)
    assert max(record.attempts for record in results.records) >= 2, "lost trials were attempted again"
    assert {*hosts_of(workdir)} == {first, second, third}, f"{fourth} was beyond --max-workers"


def test_a_partition_that_heals(tmp_path: Path) -> None:
    file, workdir, log = study_file(tmp_path, **LONGER), tmp_path / "work", tmp_path / "log"
    expected = run_here(file, tmp_path / "here", slots=16)
    with hosts(tmp_path) as cluster:
        first, second = cluster.add(), cluster.add()
        driver = cluster.popen("h0", *run_words(file, workdir, cluster.head), log=log)
        wait_for(lambda: all(f"on {name} is ready" in log.read_text() for name in (first, second)), driver)
        cluster.cut(second)
        before = ended(workdir)
        wait_for(lambda: "was lost" in log.read_text(), driver)
        assert ended(workdir) > before, "the other host went on meanwhile"
        cluster.mend(second)
        cluster.kill(second)  # Ray 2.60's raylet does not learn that it was given up: it must be started again
        cluster.again(second)
        wait_for(lambda: log.read_text().count(f"on {second} is ready") == 2, driver)
        assert driver.wait(300) == 0, log.read_text()
    results = read(workdir)
    assert json_of(results) == json_of(expected)
