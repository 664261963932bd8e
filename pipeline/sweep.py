"""The loop: ask → place → submit → events → ledger → tell, until every search is done.

One transaction a turn; a result is in the ledger before anything depends on it. What was not committed when the
driver died is computed again, to the same bits. Knows no Ray, no MLflow and no terminal.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import SweepConflictError
from .execution.base import Executor
from .ledger.store import Holder, Ledger
from .packing import place
from .paths import WorkPaths, write_atomically
from .records import (
    EpochReport,
    Event,
    Phase,
    State,
    TrialEnded,
    TrialKey,
    TrialOutcome,
    TrialRecord,
    TrialTask,
    WorkerJoined,
    WorkerLost,
)
from .stages import Stages

POLL_SECONDS = 0.25
HOUSEKEEPING_SECONDS = 1.0
LOSSES_ALLOWED = 3
"""a trial whose worker was lost is trained again this often, elsewhere; then it counts as failed"""


@dataclass(slots=True)
class Watch:
    """What the loop knows of the moment, for whoever displays it."""

    workers: int = 0
    running: int = 0
    reports: int = 0
    """epochs reported since the start"""
    last: str = ""
    """the newest thing worth a line"""


class Sweep:
    """Drives the stages of every search with one executor until all are finished, or told to stop."""

    def __init__(
        self,
        *,
        name: str,
        stages: Iterable[Stages],
        ledger: Ledger,
        holder: Holder,
        executor: Executor,
        paths: WorkPaths,
        slots: int,
        allow_mixed: bool = False,
        observe: Callable[[Sweep], None] = lambda _: None,
    ) -> None:
        self.name, self.watch = name, Watch()
        self.stages = {(part.arm.id, part.replicate): part for part in stages}
        self._ledger, self._holder, self._executor, self._paths = ledger, holder, executor, paths
        self._slots, self._allow_mixed, self._observe = slots, allow_mixed, observe
        self._waiting: deque[TrialKey] = deque()
        self._assigned: dict[str, set[TrialKey]] = {}
        """live worker -> trials it has"""
        self._losses: Counter[TrialKey] = Counter()
        self._unasked = set(self.stages)
        """searches that something happened to since they were last asked"""
        self._stop = False
        self._housekeeping_at = 0.0

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return all(part.finished for part in self.stages.values())

    def records(self) -> list[TrialRecord]:
        """All trials so far, in key order."""
        found = [record for part in self.stages.values() for record in part.records.values()]
        return sorted(found, key=lambda record: record.key)

    def stop(self) -> None:
        """Ends the loop after the current turn; unfinished trials are trained again on resume."""
        self._stop = True

    def run(self) -> bool:
        """Runs until finished (True) or stopped (False)."""
        self._take_up()
        while not self.finished:
            self._ask()
            self._hand_out()
            self._take(self._executor.poll(POLL_SECONDS))
            self._keep_house()
            self._observe(self)
            if self._stop:
                return False
        return True

    def _take_up(self) -> None:
        """Trials that a former driver left running wait again."""
        open_trials = [r for r in self.records() if r.state in (State.WAITING, State.RUNNING)]
        self._save([replace(record, state=State.WAITING) for record in open_trials])
        self._waiting.extend(record.key for record in open_trials)

    def _ask(self) -> None:
        due = [record for search in sorted(self._unasked) for record in self.stages[search].due()]
        self._unasked.clear()
        if due:
            self._ledger.save_trials(self.name, due)
            self._waiting.extend(record.key for record in due)

    def _hand_out(self) -> None:
        loads = {worker: [self._task(key).hyperparameters for key in keys] for worker, keys in self._assigned.items()}
        if not self._waiting or not loads:
            return
        waiting = [(key, self._task(key).hyperparameters) for key in self._waiting]
        handed = place(waiting, loads, self._slots)
        taken = [self._record(key) for keys in handed.values() for key in keys]
        self._save([replace(r, state=State.RUNNING, attempts=r.attempts + 1) for r in taken])
        gone = {record.key for record in taken}
        self._waiting = deque(key for key in self._waiting if key not in gone)
        for worker, keys in handed.items():
            self._assigned[worker].update(keys)
            self._executor.submit(worker, [self._task(key) for key in keys])

    def _take(self, events: Sequence[Event]) -> None:
        ended: list[TrialRecord] = []
        for event in events:
            match event:
                case EpochReport():
                    self.watch.reports += 1
                case TrialEnded():
                    ended += self._end(event)
                case WorkerJoined():
                    self._join(event)
                case WorkerLost():
                    ended += self._lose(event)
        self._save(ended)
        self.watch.workers = len(self._assigned)
        self.watch.running = sum(len(keys) for keys in self._assigned.values())

    def _end(self, event: TrialEnded) -> list[TrialRecord]:
        """The ended trial's record; nothing when it is another worker's by now."""
        owner = next((worker for worker, keys in self._assigned.items() if event.key in keys), None)
        if owner is None:
            return []
        self._assigned[owner].discard(event.key)
        return [self._ended(event.key, replace(event.outcome, worker=owner))]

    def _ended(self, key: TrialKey, outcome: TrialOutcome) -> TrialRecord:
        folder = self._paths.trial(self.name, key)
        for file, content in outcome.files.items():
            write_atomically(folder / file, content)
        files = {file: hashlib.sha256(content).hexdigest() for file, content in outcome.files.items()}
        return replace(self._record(key), state=outcome.state, outcome=replace(outcome, files={}), files=files)

    def _join(self, event: WorkerJoined) -> None:
        """Takes a worker whose numbers are those of the sweep's first one."""
        known = self._sweep_fingerprint()
        if known is None:
            self._ledger.update_sweep(self.name, fingerprint=dict(event.fingerprint))
        elif dict(known) != dict(event.fingerprint):
            if not self._allow_mixed:
                raise SweepConflictError(_mixed(self.name, event, known))
            self._ledger.update_sweep(self.name, reproducible=False)
        self._assigned[event.worker] = set()
        self.watch.last = f"worker {event.worker} on {event.host} is ready"

    def _sweep_fingerprint(self) -> Mapping[str, str] | None:
        found = self._ledger.sweep(self.name)
        return found.fingerprint if found else None

    def _lose(self, event: WorkerLost) -> list[TrialRecord]:
        """Its trials wait again, or have failed when that has happened too often."""
        self.watch.last = f"worker {event.worker} was lost: {event.reason}"
        records = []
        for key in sorted(self._assigned.pop(event.worker, set())):
            self._losses[key] += 1
            if self._losses[key] > LOSSES_ALLOWED:
                cause = f"its worker was lost {self._losses[key]} times, at last: {event.reason}"
                records.append(self._ended(key, TrialOutcome(State.FAILED, cause=cause, ended_at=time.time())))
            else:
                records.append(replace(self._record(key), state=State.WAITING))
                self._waiting.append(key)
        return records

    def _keep_house(self) -> None:
        now = time.time()
        if now - self._housekeeping_at < HOUSEKEEPING_SECONDS:
            return
        self._housekeeping_at = now
        self._ledger.heartbeat(self.name, "driver", self._holder, now)
        found = self._ledger.sweep(self.name)
        if found is None or found.stop_requested:
            self.stop()

    def _save(self, records: Sequence[TrialRecord]) -> None:
        """To the ledger first, then to the searches."""
        if not records:
            return
        self._ledger.save_trials(self.name, records)
        for record in records:
            search = (record.key.arm, record.key.replicate)
            self.stages[search].put(record)
            self._unasked.add(search)

    def _record(self, key: TrialKey) -> TrialRecord:
        return self.stages[key.arm, key.replicate].records[key]

    def _task(self, key: TrialKey) -> TrialTask:
        return self.stages[key.arm, key.replicate].task(self._record(key))


def tally(records: Iterable[TrialRecord]) -> dict[tuple[str, Phase, State], int]:
    """How many trials of each arm and phase stand where."""
    return Counter((record.key.arm, record.key.phase, record.state) for record in records)


def _mixed(name: str, event: WorkerJoined, known: Mapping[str, str]) -> str:
    differences = [
        f"{key}: {known.get(key)} there, {event.fingerprint.get(key)} here"
        for key in sorted({*known, *event.fingerprint})
        if known.get(key) != event.fingerprint.get(key)
    ]
    return (
        f"All trials of sweep '{name}' must be trained under one numerics fingerprint, but worker {event.worker} on "
        f"{event.host} has another: {'; '.join(differences)}. Use the first one's environment, or --allow-mixed, "
        "which tags the sweep as not reproducible."
    )
