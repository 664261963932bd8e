"""A tracker in memory: keeps what it is given and shows it to nobody.

The twin that tests and `--no-tracker` runs use. It is as forgetful as a real one: a run delivered twice
without `in_doubt` is there twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from ..errors import TrackerError
from .base import HEARTBEAT, STUDY_FILE, RecordedRun, RunRecord, SweepEnd, SweepRun, Tracker, spelled_time


@dataclass(slots=True)
class _Run:
    ledger_id: str
    run_id: str
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    last: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class NullTracker:
    """Sweeps and runs in a dictionary of this process."""

    def __init__(self) -> None:
        self._sweeps: dict[str, list[_Run]] = {}  # the parent comes first
        self._count = 0

    @property
    def target(self) -> str:
        """Always `null`."""
        return "null"

    def record_sweep(self, sweep: SweepRun, end: SweepEnd | None = None, *, alive_ms: int | None = None) -> str:
        """See `Tracker`."""
        parent = self._runs(sweep)[0]
        study = sweep.study_yaml.encode()
        if parent.files.get(STUDY_FILE) != study:
            parent.status = "RUNNING"
        parent.files[STUDY_FILE] = study
        parent.tags.update(sweep.tags)
        if alive_ms is not None:
            parent.tags[HEARTBEAT] = spelled_time(alive_ms)
        if end is not None:
            parent.files.update({name: text.encode() for name, text in end.files.items()})
            parent.last.update({key: (0, end.ended_ms, value) for key, value in end.metrics.items()})
            parent.tags.update(end.tags)
            parent.status = end.status
        return parent.run_id

    def deliver(self, sweep: SweepRun, run: RunRecord, *, in_doubt: bool) -> str:
        """See `Tracker`."""
        runs = self._runs(sweep)
        left_behind = (old for old in runs if in_doubt and old.ledger_id == run.ledger_id)
        kept = next(left_behind, None) or self._add(runs, run.ledger_id)
        kept.params.update(run.params)
        kept.tags.update(run.tags)
        kept.files.update({name: path.read_bytes() for name, path in run.files.items()})
        for point in run.metrics:
            new = (point.step, point.timestamp_ms, point.value)
            kept.last[point.key] = max(kept.last.get(point.key, new), new)
        kept.status = run.status
        return kept.run_id

    def discard(self, sweep: SweepRun, ledger_ids: Collection[str] | None = None) -> None:
        """See `Tracker`."""
        runs = self._sweeps.get(sweep.name, [])
        if not runs or runs[0].ledger_id != sweep.ledger_id:
            return
        if ledger_ids is None:
            del self._sweeps[sweep.name]
        else:
            runs[:] = [run for run in runs if run.ledger_id not in ledger_ids]

    def recorded(self, sweep: SweepRun, *, files: bool = True) -> tuple[RecordedRun, ...]:
        """See `Tracker`."""
        runs = self._sweeps.get(sweep.name, [])
        if not runs or runs[0].ledger_id != sweep.ledger_id:
            return ()
        return tuple(_recorded(run, files) for run in runs)

    def _runs(self, sweep: SweepRun) -> list[_Run]:
        runs = self._sweeps.setdefault(sweep.name, [])
        if not runs:
            parent = self._add(runs, sweep.ledger_id)
            parent.files[STUDY_FILE] = sweep.study_yaml.encode()
        if runs[0].ledger_id != sweep.ledger_id:
            raise TrackerError(
                f"A sweep's name is used once, but {sweep.name!r} belongs to another ledger here. Choose another name."
            )
        return runs

    def _add(self, runs: list[_Run], ledger_id: str) -> _Run:
        self._count += 1
        runs.append(_Run(ledger_id, f"run{self._count}"))
        return runs[-1]


def _recorded(run: _Run, files: bool) -> RecordedRun:
    metrics = {key: value for key, (_, _, value) in run.last.items()}
    artifacts = frozenset(run.files if files else ())
    return RecordedRun(run.ledger_id, run.run_id, run.status, metrics, dict(run.params), artifacts)


def _static_check(tracker: NullTracker) -> Tracker:
    return tracker
