"""Promise 4 for any order of events: no trial lost, none doubled, the same numbers, whoever is killed and whenever."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from pipeline.config import Study, load_study
from pipeline.execution.base import Executor
from pipeline.execution.simulated import SimulatedExecutor
from pipeline.ledger.store import Holder, Ledger
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, State, TrialKey, TrialRecord
from pipeline.space import arms
from pipeline.stages import Stages
from pipeline.sweep import LOSSES_ALLOWED, Sweep

from ..sweeps import MEDIAN, study_file
from .cases import fuzz, sizes
from .scripted import FINGERPRINT, Book, Killed, Script, ScriptedExecutor

STUDIES: dict[str, dict[str, Any]] = {
    "tpe": {"search": {"sampler": "tpe", "trials": 4, "startup": 2, "lag": 2, "replicates": 1}},
    "random": {"search": {"sampler": "random", "trials": 4, "replicates": 2}},
    "median": {"search": {"sampler": "tpe", "trials": 5, "startup": 3, "lag": 2, "replicates": 1, **MEDIAN}},
}
SMALL: dict[str, Any] = {"scientific": {"scale": ["log_variance", "log_std"]}, "confirm": {"repeats": 1}}
SEEN: Counter[str] = Counter()
ENOUGH = 100
"""cases in which everything happens at least once"""


class Bench:
    """A ledger in which one sweep after the other is run, each from its beginning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger.open(WorkPaths.at(folder).ledger_url)
        self.holder = Holder.current()

    @cache  # noqa: B019
    def study(self, kind: str) -> Study:
        return load_study(study_file(self.folder, **SMALL, **STUDIES[kind]))

    def begin(self) -> None:
        self.ledger.delete_sweep("small")
        self.ledger.create_sweep(name="small", study="{}", study_hash="", created_at=1.0)
        self.ledger.acquire_lease("small", "driver", holder=self.holder, now=1e12)

    def sweep(self, kind: str, executor: Executor) -> Sweep:
        """A driver that takes up what the ledger has."""
        study = self.study(kind)
        known: defaultdict[tuple[str, int], list[TrialRecord]] = defaultdict(list)
        for record in self.ledger.trials("small"):
            known[record.key.arm, record.key.replicate].append(record)
        stages = [
            Stages(study, arm, replicate, known[arm.id, replicate])
            for arm in arms(study)
            for replicate in range(study.search.replicates)
        ]
        return Sweep(
            name="small",
            stages=stages,
            ledger=self.ledger,
            holder=self.holder,
            executor=executor,
            paths=WorkPaths.at(self.folder),
        )

    @cache  # noqa: B019
    def undisturbed(self, kind: str) -> dict[TrialKey, str]:
        self.begin()
        executor = SimulatedExecutor(workers=1, slots=1)
        assert self.sweep(kind, executor).run()
        return _numbers(self.ledger.trials("small"))


def _numbers(records: list[TrialRecord]) -> dict[TrialKey, str]:
    """All of a trial that must not depend on what happened; a simulated one has no files."""
    return {
        r.key: repr((r.params, r.seed, r.thresholds, r.proposal, r.state))
        + (repr((sorted(o.curves.items()), sorted(o.metrics.items()), o.cause, o.epochs)) if (o := r.outcome) else "")
        for r in records
    }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@sizes(few=6, many=150)
def test_any_order_of_events_ends_in_the_same(count: int, bench: Bench) -> None:
    def check(kind: str, ruthless: bool, numbers: bytes) -> None:
        expected = bench.undisturbed(kind)
        script, book = Script(numbers), Book()
        bench.begin()
        while not _driven(bench, kind, script, book, ruthless=ruthless):
            pass
        records = bench.ledger.trials("small")
        failed = {record.key for record in records if record.state is State.FAILED}
        assert all(record.state in ENDED for record in records)
        assert all(book.most_lost[key] > LOSSES_ALLOWED for key in failed) and (ruthless or not failed)
        if not failed:
            assert _numbers(records) == expected
        for record in records:
            attempts = book.handed[record.key] - book.returned[record.key]
            assert record.attempts == attempts or (book.torn and record.attempts > attempts), record.key
            assert record.attempts >= 1
            for name, sha256 in record.files.items():
                kept = WorkPaths.at(bench.folder).trial("small", record.key) / name
                assert hashlib.sha256(kept.read_bytes()).hexdigest() == sha256
        SEEN.update(book.seen + Counter(drivers=book.drivers, failed=len(failed)))

    fuzz(
        count,
        check,
        kind=st.sampled_from(list(STUDIES)),
        ruthless=st.booleans(),
        numbers=st.binary(min_size=60, max_size=300),
    )
    if count < ENOUGH:
        return
    for what in ("train", "end", "join", "lose", "return", "repeat_late", "join_stranger", "resumed"):
        assert SEEN[what], f"no case in which {what} happened: {SEEN}"
    assert SEEN["drivers"] > count, "no driver was killed or stopped"


def _driven(bench: Bench, kind: str, script: Script, book: Book, *, ruthless: bool) -> bool:
    """One driver from its start to its end; whether the sweep has ended."""
    book.begin()
    executor = ScriptedExecutor(script, book, ruthless=ruthless)
    sweep = bench.sweep(kind, executor)
    executor.stop = sweep.stop
    try:
        finished = sweep.run()
    except Killed:
        return False
    states = {record.state for record in bench.ledger.trials("small")}
    assert State.RUNNING not in states, "what a driver left is nobody's"
    assert finished == (states <= ENDED and sweep.finished)
    found = bench.ledger.sweep("small")
    assert found is not None and found.fingerprint in (None, FINGERPRINT)
    return finished
