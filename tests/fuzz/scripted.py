"""An executor whose workers do what a script of drawn numbers says, and the model that its driver is held against.

Numbers are those of the simulated executor, so that a trial's result is the same wherever and whenever it is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.execution.base import Executor
from pipeline.execution.simulated import SimulatedExecutor
from pipeline.records import (
    EpochReport,
    Event,
    TrialCheckpoint,
    TrialEnded,
    TrialKey,
    TrialOutcome,
    TrialsReturned,
    TrialTask,
    WorkerJoined,
    WorkerLost,
)
from pipeline.sweep import LOSSES_ALLOWED

SLOTS = 4
MOST_POLLS = 3000
MOST_WORKERS = 3
FINGERPRINT = {"device": "simulated"}


class Killed(BaseException):
    """The driver's end at any moment; nothing catches it."""


class Script:
    """Drawn bytes; 0 once they are used up."""

    def __init__(self, numbers: bytes) -> None:
        self._numbers = list(reversed(numbers))

    @property
    def over(self) -> bool:
        return not self._numbers

    def choose(self, count: int) -> int:
        """A number below `count`, which is not above 256."""
        return self._numbers.pop() % count if self._numbers and count else 0


@dataclass
class Book:
    """What was done to every trial, over all drivers of a sweep."""

    tasks: dict[TrialKey, TrialTask] = field(default_factory=dict)
    handed: Counter[TrialKey] = field(default_factory=Counter)
    returned: Counter[TrialKey] = field(default_factory=Counter)
    lost: Counter[TrialKey] = field(default_factory=Counter)
    """since the driver began"""
    most_lost: Counter[TrialKey] = field(default_factory=Counter)
    """the most that one driver saw"""
    ended: set[TrialKey] = field(default_factory=set)
    """whose end a driver has been told while it was the trial's"""
    kept: dict[TrialKey, int] = field(default_factory=dict)
    """epoch of the newest checkpoint that a driver was given"""
    drivers: int = 0
    torn: bool = False
    """a driver was killed while it handed trials out"""
    seen: Counter[str] = field(default_factory=Counter)
    """how often each thing has happened"""

    def begin(self) -> None:
        """A driver begins."""
        self.drivers += 1
        self.lost.clear()


def outcome_of(task: TrialTask) -> TrialOutcome:
    """What a training ends in, by the simulated twin."""
    name = repr(replace(task, checkpoint=None))
    if name not in _KNOWN:
        twin = SimulatedExecutor(workers=1, slots=1)
        twin.poll(0.0)
        twin.submit("simulated-0", [task])
        while name not in _KNOWN:
            for event in twin.poll(0.0):
                if isinstance(event, TrialEnded):
                    _KNOWN[name] = replace(event.outcome, files={"samples.png": name.encode()})
    return _KNOWN[name]


_KNOWN: dict[str, TrialOutcome] = {}


@dataclass
class _Training:
    task: TrialTask
    epoch: int = 0
    begun: bool = False


class ScriptedExecutor:
    """Two workers of SLOTS slots, another one for each that is lost, and some that come by themselves.

    `ruthless`: workers are lost as often as the script says; otherwise no trial loses more than it may.
    """

    def __init__(self, script: Script, book: Book, *, ruthless: bool) -> None:
        self._script, self._book, self._ruthless = script, book, ruthless
        self.stop: Callable[[], None] = lambda: None
        self._there: dict[str, dict[TrialKey, _Training]] = {}
        self._coming = [f"{book.drivers}-{number}" for number in (1, 2)]
        self._strangers: set[str] = set()
        self._withdrawn: list[tuple[str, tuple[TrialKey, ...]]] = []
        self._late: list[Event] = []
        self._count, self._polls = 2, 0

    @property
    def workers(self) -> int:
        """Workers that are there or on their way."""
        return len(self._there) + len(self._coming) + len(self._strangers)

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Checks that the driver hands out what it may."""
        book = self._book
        if self._script.choose(40) == 1:
            book.torn = True
            raise Killed
        assert worker in self._there, f"{worker} is no worker that has joined and is the sweep's"
        for task in tasks:
            key, plain = task.key, replace(task, checkpoint=None)
            assert book.tasks.setdefault(key, plain) == plain, f"{key} is another trial than before"
            assert key not in book.ended, f"{key} has ended and is handed out again"
            assert all(key not in held for held in self._there.values()), f"{key} is trained twice at once"
            assert task.checkpoint in (None, f"{key} {book.kept.get(key)}".encode()), task.checkpoint
            book.handed[key] += 1
            self._there[worker][key] = _Training(plain, book.kept[key] if task.checkpoint else 0)
            book.seen["resumed"] += task.checkpoint is not None

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        """Is answered later, or never when the worker is lost before."""
        assert worker in self._there
        self._withdrawn.append((worker, tuple(keys)))

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Some of what can happen."""
        self._polls += 1
        assert self._polls < MOST_POLLS, "the sweep never ends"
        if self._script.over:
            return self._finish_quietly()
        events: list[Event] = []
        for _ in range(self._script.choose(4)):
            happens = (
                self._train, self._train, self._train, self._train, self._end, self._end, self._join, self._join,
                self._lose, self._return, self._return, self._repeat_late, self._join_stranger, self._stop_or_kill,
            )[self._script.choose(14)]  # fmt: skip
            if happens == self._stop_or_kill and events:
                continue  # what a killed driver has been told is in its ledger: it dies before it hears
            found = happens()
            self._book.seen[happens.__name__.strip("_")] += bool(found)
            events += found
        return events

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        """With notice, some of the workers still say something."""
        events: list[Event] = []
        for held in self._there.values() if notice_seconds else ():
            for training in list(held.values())[: self._script.choose(3)]:
                events += self._checkpoint(training) if training.epoch else []
        self._there.clear()
        return events

    def _worker(self) -> str | None:
        names = sorted(self._there)
        return names[self._script.choose(len(names))] if names else None

    def _training(self) -> tuple[str, _Training] | None:
        """A trial in some worker's slots; it has begun now."""
        worker = self._worker()
        running = list(self._there[worker].values())[:SLOTS] if worker else []
        if worker is None or not running:
            return None
        training = running[self._script.choose(len(running))]
        training.begun = True
        return worker, training

    def _train(self) -> list[Event]:
        """An epoch of some trial, sometimes its checkpoint, and its end after the last one."""
        found = self._training()
        if found is None:
            return []
        worker, training = found
        outcome = outcome_of(training.task)
        if training.epoch >= outcome.epochs:
            return self._ended(worker, training)
        training.epoch += 1
        value = outcome.curves["val/elbo"][training.epoch - 1]
        events: list[Event] = [EpochReport(training.task.key, training.epoch, value)]
        return events + (self._checkpoint(training) if self._script.choose(3) == 1 else [])

    def _checkpoint(self, training: _Training) -> list[Event]:
        key = training.task.key
        if training.epoch > self._book.kept.get(key, 0):
            self._book.kept[key] = training.epoch
            return [TrialCheckpoint(key, training.epoch, f"{key} {training.epoch}".encode())]
        return []

    def _end(self) -> list[Event]:
        """All that is left of some trial."""
        found = self._training()
        return self._ended(*found) if found else []

    def _ended(self, worker: str, training: _Training) -> list[Event]:
        key = training.task.key
        del self._there[worker][key]
        self._book.ended.add(key)
        event = TrialEnded(key, outcome_of(training.task))
        self._late.append(event)
        return [event]

    def _join(self) -> list[Event]:
        """One that was on its way, or one that nobody expected: a host that comes late."""
        if not self._coming:
            if len(self._there) > MOST_WORKERS:
                return []
            self._coming.append(self._new_name())
        name = self._coming.pop(0)
        if self._script.choose(5) == 1:
            return self._lost(name)
        self._there[name] = {}
        return [WorkerJoined(name, "host", FINGERPRINT, SLOTS)]

    def _join_stranger(self) -> list[Event]:
        """A worker whose numbers are others; it must get nothing."""
        if not self._there or len(self._strangers) > 1:
            return []
        name = f"stranger-{self._book.drivers}-{len(self._strangers)}"
        self._strangers.add(name)
        return [WorkerJoined(name, "elsewhere", {"device": "other"}, SLOTS)]

    def _lose(self) -> list[Event]:
        worker = self._worker()
        if worker is None:
            return []
        held = self._there[worker]
        if not self._ruthless and any(self._book.lost[key] >= LOSSES_ALLOWED for key in held):
            return []
        del self._there[worker]
        for key, training in held.items():
            self._book.lost[key] += 1
            self._book.most_lost[key] = max(self._book.most_lost[key], self._book.lost[key])
            if self._book.lost[key] <= LOSSES_ALLOWED:
                self._late += [EpochReport(key, training.epoch + 1, -1.0), TrialEnded(key, outcome_of(training.task))]
        return self._lost(worker)

    def _lost(self, name: str) -> list[Event]:
        self._coming.append(self._new_name())
        return [WorkerLost(name, "as drawn")]

    def _new_name(self) -> str:
        self._count += 1
        return f"{self._book.drivers}-{self._count}"

    def _return(self) -> list[Event]:
        """An answer to a withdrawal; what has begun meanwhile, or ended, stays."""
        if not self._withdrawn:
            return []
        worker, keys = self._withdrawn.pop(0)
        held = self._there.get(worker)
        if held is None:
            return []
        back = tuple(key for key in keys if key in held and not held[key].begun)
        for key in back:
            del held[key]
            self._book.returned[key] += 1
        return [TrialsReturned(back)]

    def _repeat_late(self) -> list[Event]:
        """What was said before once more, or what a lost worker had sent before it was lost."""
        if not self._late:
            return []
        event = self._late[self._script.choose(len(self._late))]
        if isinstance(event, TrialEnded):
            for held in self._there.values():
                if event.key in held:  # taken for the new worker's; what that one says later comes too late
                    self._late.append(TrialEnded(event.key, outcome_of(held.pop(event.key).task)))
                    self._book.ended.add(event.key)
        return [event]

    def _stop_or_kill(self) -> list[Event]:
        if self._script.choose(2):
            raise Killed
        self.stop()
        return []

    def _finish_quietly(self) -> list[Event]:
        """Nothing goes wrong any more."""
        events: list[Event] = []
        while self._coming:
            name = self._coming.pop(0)
            self._there[name] = {}
            events.append(WorkerJoined(name, "host", FINGERPRINT, SLOTS))
        while self._withdrawn:
            events += self._return()
        for worker, held in self._there.items():
            for training in list(held.values()):
                events += self._ended(worker, training)
        return events


_static_check: type[Executor] = ScriptedExecutor
