"""The loop: ask → place → submit → events → ledger → tell, until every search is done.

Two transactions a turn, one before trials are handed out and one with what has ended: a result is in the ledger
before anything depends on it. What was not committed when the driver died is computed again, to the same bits. What a
trial costs here does not depend on how many trials or workers there are. Knows no Ray, no MLflow and no terminal.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .checkpoints import Checkpoints
from .errors import StorageError, SweepConflictError
from .execution.base import Executor
from .ledger.store import Holder, Ledger
from .packed.structure import structure_of
from .packing import Placement
from .paths import WorkPaths, write_atomically
from .records import (
    ENDED,
    EpochReport,
    Event,
    Phase,
    State,
    TrialCheckpoint,
    TrialEnded,
    TrialKey,
    TrialOutcome,
    TrialRecord,
    TrialsReturned,
    TrialTask,
    WorkerJoined,
    WorkerLost,
    WorkerUse,
)
from .stages import Stages

POLL_SECONDS = 0.25
HOUSEKEEPING_SECONDS = 1.0
LOSSES_ALLOWED = 3
"""a trial whose worker was lost before it came further than ever is trained again so often; then it has failed"""
LOSSES_IN_COMPANY = 2
"""after so many losses it is trained with a worker to itself: no neighbour fails for a trial that ends its workers"""
STOP_SECONDS = 5.0
"""how long a stop waits for checkpoints: who sends SIGTERM often kills 10 s later"""


@dataclass(slots=True)
class Watch:
    """What the loop knows of the moment, for whoever displays it."""

    workers: int = 0
    running: int = 0
    reports: int = 0
    """epochs reported since the start"""
    ended_at: list[float] = field(default_factory=list)
    """when trials ended since the start, in order, Unix seconds"""
    use: WorkerUse = field(default_factory=WorkerUse)
    """all workers' time since the start"""
    steady_use: WorkerUse = field(default_factory=WorkerUse)
    """the part of it in which every worker was there and enough trials were left for twice its slots"""
    news: list[str] = field(default_factory=list)
    """what was worth a line since the start"""


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
        allow_mixed: bool = False,
        seconds: float = math.inf,
        observe: Callable[[Sweep], None] = lambda _: None,
    ) -> None:
        """`seconds`: stops by itself after so long."""
        self.name, self.watch = name, Watch()
        self.stages = {(part.arm.id, part.replicate): part for part in stages}
        self._ledger, self._holder, self._executor, self._paths = ledger, holder, executor, paths
        self._allow_mixed, self._observe = allow_mixed, observe
        self._checkpoints = Checkpoints(paths, name, self.watch.news.append)
        self._stop_at = time.monotonic() + seconds
        self._placement = Placement()
        self._fingerprint: dict[str, str] | None = None
        """of all workers, once the first is there"""
        self._refused: dict[str, str] = {}
        """workers whose numbers are not this sweep's, and why"""
        self._hosts: dict[str, str] = {}
        self._epochs: dict[TrialKey, int] = {}
        """finished epochs of the trials that have begun"""
        self._furthest: dict[TrialKey, int] = {}
        """of lost trials: the most epochs that one of their attempts came to"""
        self._recalled: set[TrialKey] = set()
        """trials that a worker was asked to give back"""
        self._losses: Counter[TrialKey] = Counter()
        self._unfinished = {search for search, part in self.stages.items() if not part.finished}
        self._unasked = set(self.stages)
        """searches in which a trial has ended since they were last asked"""
        self._stop = self._steady = False
        self._housekeeping_at = -math.inf

    @property
    def _expected(self) -> int:
        """Workers that train or will soon."""
        return self._executor.workers - len(self._refused)

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return not self._unfinished

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
            self._hand_out(self._due())
            self._take(self._executor.poll(POLL_SECONDS))
            self._spread()
            self._keep_house()
            self._observe(self)
            if self._stop:
                self._leave_off()
                return self.finished
        return True

    def _leave_off(self) -> None:
        """What was in training waits again, its checkpoint kept."""
        self._take(self._executor.close(STOP_SECONDS))
        left = [record for record in self.records() if record.state is State.RUNNING]
        self._save([replace(record, state=State.WAITING) for record in left])

    def _take_up(self) -> None:
        """Trials that a former driver left running wait again."""
        open_trials = [r for r in self.records() if r.state in (State.WAITING, State.RUNNING)]
        self._save([replace(record, state=State.WAITING) for record in open_trials])
        self._wait(open_trials)

    def _due(self) -> list[TrialRecord]:
        """New trials of the searches in which something has ended; those whose place they take are removed."""
        due, outdated = list[TrialRecord](), list[TrialKey]()
        for search in sorted(self._unasked):
            part = self.stages[search]
            due += part.due()
            outdated += part.outdated
            part.outdated.clear()
            if part.finished:
                self._unfinished.discard(search)
        self._unasked.clear()
        if outdated:
            self._ledger.supersede(self.name, outdated, self._holder)
            for key in outdated:
                shutil.rmtree(self._paths.trial(self.name, key), ignore_errors=True)
        return due

    def _wait(self, records: Iterable[TrialRecord]) -> None:
        for record in records:
            structure = structure_of(self._task(record.key).hyperparameters)
            self._placement.wait(record.key, structure, alone=self._losses[record.key] >= LOSSES_IN_COMPANY)

    def _hand_out(self, due: Sequence[TrialRecord]) -> None:
        """Gives workers what waits, `due` last."""
        self._wait(due)
        handed = self._placement.place(self._expected)
        taken = [self._record(key) for keys in handed.values() for key in keys]
        changed = {record.key: record for record in due}
        changed |= {r.key: replace(r, state=State.RUNNING, attempts=r.attempts + 1) for r in taken}
        self._save(list(changed.values()))
        for worker, keys in handed.items():
            self._executor.submit(worker, [self._resumed(key) for key in keys])

    def _take(self, events: Sequence[Event]) -> None:
        ended: list[TrialRecord] = []
        for event in events:
            match event:
                case EpochReport():
                    self.watch.reports += 1
                    self._epochs[event.key] = event.epoch
                    self.stages[event.key.arm, event.key.replicate].report(event.key, event.epoch, event.value)
                case TrialCheckpoint():
                    self._checkpoints.keep(event.key, event.epoch, event.content)
                case WorkerUse():
                    self.watch.use += event
                    self.watch.steady_use += event if self._steady else WorkerUse()
                case TrialEnded():
                    ended += self._end(event)
                case TrialsReturned():
                    ended += self._return(event.keys)
                case WorkerJoined():
                    self._join(event)
                case WorkerLost():
                    ended += self._lose(event)
        self._save(ended)
        for record in ended:
            if record.state in ENDED:
                self._checkpoints.clear(record.key)
        self.watch.workers, self.watch.running = self._placement.workers, self._placement.running

    def _end(self, event: TrialEnded) -> list[TrialRecord]:
        """The ended trial's record; nothing when it is another worker's by now."""
        owner = self._placement.end(event.key)
        if owner is None:
            return []
        return [self._ended(event.key, replace(event.outcome, worker=owner, host=self._hosts[owner]))]

    def _ended(self, key: TrialKey, outcome: TrialOutcome) -> TrialRecord:
        insort(self.watch.ended_at, outcome.ended_at)
        self._epochs.pop(key, None)
        self._recalled.discard(key)
        folder = self._paths.trial(self.name, key)
        try:
            for file, content in outcome.files.items():
                write_atomically(folder / file, content)
        except OSError as error:
            raise StorageError(
                f"A trial's files must be kept below {self._paths.sweep(self.name)}, but writing failed: "
                f"{error.strerror}. Make room or mend the folder, then run the same command again: nothing is lost."
            ) from error
        files = {file: hashlib.sha256(content).hexdigest() for file, content in outcome.files.items()}
        return replace(self._record(key), state=outcome.state, outcome=replace(outcome, files={}), files=files)

    def _join(self, event: WorkerJoined) -> None:
        """Takes a worker whose numbers are those of the sweep's first one; another gets no trials."""
        if self._fingerprint is None:
            self._fingerprint = self._first_fingerprint(event.fingerprint)
        if self._fingerprint != dict(event.fingerprint):
            if not self._allow_mixed:
                self._refuse(event, self._fingerprint)
                return
            self._ledger.update_sweep(self.name, reproducible=False)
        self._placement.join(event.worker, event.slots)
        self._hosts[event.worker] = event.host
        self.watch.news.append(f"worker {event.worker} on {event.host} is ready")

    def _refuse(self, event: WorkerJoined, fingerprint: Mapping[str, str]) -> None:
        """Raises SweepConflictError when that leaves no worker at all."""
        self._refused[event.worker] = why = _mixed(self.name, event, fingerprint)
        if not self._placement.workers and not self._expected:
            raise SweepConflictError(why)
        self.watch.news.append(f"worker {event.worker} gets no trials. {why}")

    def _first_fingerprint(self, candidate: Mapping[str, str]) -> dict[str, str]:
        """The one in the ledger; `candidate` where there is none yet."""
        found = self._ledger.sweep(self.name)
        if found is not None and found.fingerprint is not None:
            return dict(found.fingerprint)
        self._ledger.update_sweep(self.name, fingerprint=candidate)
        return dict(candidate)

    def _lose(self, event: WorkerLost) -> list[TrialRecord]:
        """Its trials wait again, or have failed when that has happened too often."""
        self.watch.news.append(f"worker {event.worker} was lost: {event.reason}")
        self._refused.pop(event.worker, None)
        records = []
        for key in self._placement.leave(event.worker):
            self._recalled.discard(key)
            self._count_loss(key)
            if self._losses[key] > LOSSES_ALLOWED:
                cause = f"its worker was lost {self._losses[key]} times, at last: {event.reason}"
                records.append(self._ended(key, TrialOutcome(State.FAILED, cause=cause, ended_at=time.time())))
            else:
                records.append(replace(self._record(key), state=State.WAITING))
                self._wait(records[-1:])
        return records

    def _count_loss(self, key: TrialKey) -> None:
        """One that came further than ever before goes on from its checkpoint: it is not what ends its workers."""
        reached = self._epochs.pop(key, 0)
        if reached > self._furthest.get(key, 0):
            self._furthest[key] = reached
        else:
            self._losses[key] += 1

    def _return(self, keys: Iterable[TrialKey]) -> list[TrialRecord]:
        """Trials that have not begun wait again, as if they had not been handed out."""
        mine = [self._record(key) for key in keys if self._placement.end(key) is not None]
        records = [replace(record, state=State.WAITING, attempts=record.attempts - 1) for record in mine]
        self._recalled.difference_update(keys)
        self._wait(records)
        return records

    def _spread(self) -> None:
        """A worker without trials gets some that have not begun elsewhere: a host that comes late is of use at once."""
        for worker, keys in self._placement.surplus().items():
            waiting = [key for key in keys if key not in self._epochs and key not in self._recalled]
            if waiting:
                self._recalled.update(waiting)
                self._executor.withdraw(worker, waiting)

    def _keep_house(self) -> None:
        now = time.monotonic()  # the wall clock may jump
        if now - self._housekeeping_at < HOUSEKEEPING_SECONDS:
            return
        self._housekeeping_at = now
        self._ledger.heartbeat(self.name, "driver", self._holder, time.time())
        left = sum(sum(part.expected().values()) - part.ended for part in self.stages.values())
        workers = self._expected
        self._steady = self._placement.workers >= workers and left >= 2 * workers * self._placement.slots
        found = self._ledger.sweep(self.name)
        if found is None or found.stop_requested or now >= self._stop_at:
            self.stop()

    def _save(self, records: Sequence[TrialRecord]) -> None:
        """To the ledger first, then to the searches."""
        if not records:
            return
        self._ledger.save_trials(self.name, records, self._holder)
        for record in records:
            search = (record.key.arm, record.key.replicate)
            part = self.stages[search]
            part.put(record)
            if record.state in ENDED:
                self._unasked.add(search)
                if part.finished:
                    self._unfinished.discard(search)

    def _record(self, key: TrialKey) -> TrialRecord:
        return self.stages[key.arm, key.replicate].records[key]

    def _task(self, key: TrialKey) -> TrialTask:
        return self.stages[key.arm, key.replicate].task(self._record(key))

    def _resumed(self, key: TrialKey) -> TrialTask:
        """The task as it is handed out: going on where a former attempt was."""
        task = self._task(key)
        return replace(task, checkpoint=self._checkpoints.latest(key)) if self._record(key).attempts > 1 else task


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
