"""Which worker a trial goes to: workers first, slots second, trials of one structure side by side.

Placement can change no number, only speed. What a trial costs here does not depend on how many trials or workers there
are. Knows no executor and no record; it works on keys.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from .packed.structure import Structure
from .records import TrialKey

Place = TypeVar("Place", bound=Hashable)

BACKLOG_SHARE = 2
"""a worker is given 1/2 more trials than it has slots, so that a freed slot is refilled at once"""


@dataclass(slots=True)
class _Load:
    """What a live worker has."""

    trials: dict[TrialKey, Structure] = field(default_factory=dict)
    counts: Counter[Structure] = field(default_factory=Counter)


class Placement:
    """The trials that wait, and which live worker has which others."""

    def __init__(self) -> None:
        self.slots = 0
        """of a worker: the workers of a sweep are alike, or else the most that one has"""
        self._waiting: dict[Structure, deque[tuple[int, TrialKey]]] = {}
        """structure -> (order of arrival, trial)"""
        self._arrived = self._unplaced = 0
        self._loads: dict[str, _Load] = {}
        self._owners: dict[TrialKey, str] = {}
        self._alone: deque[tuple[TrialKey, Structure]] = deque()
        """trials that wait for a worker of their own"""
        self._reserved: str | None = None
        """the worker that has such a trial, or is to have one once its others have ended; filed nowhere"""
        self._even: defaultdict[int, dict[str, None]] = defaultdict(dict)
        """trials in all -> workers that have so many, longest first"""
        self._alike: defaultdict[tuple[int, Structure, int], dict[str, None]] = defaultdict(dict)
        """(trials in all, structure, trials of it) -> workers that stand so, longest first"""

    @property
    def workers(self) -> int:
        """Live workers."""
        return len(self._loads)

    @property
    def running(self) -> int:
        """Trials that workers have."""
        return len(self._owners)

    def wait(self, key: TrialKey, structure: Structure, *, alone: bool = False) -> None:
        """A trial needs a worker; `alone`: one that has nothing else meanwhile."""
        if alone:
            self._alone.append((key, structure))
            self._unplaced += 1
            return
        self._waiting.setdefault(structure, deque()).append((self._arrived, key))
        self._arrived += 1
        self._unplaced += 1

    def join(self, worker: str, slots: int) -> None:
        """A worker is there, without trials."""
        self.slots = max(self.slots, slots)
        self._loads[worker] = _Load()
        self._file(worker)

    def leave(self, worker: str) -> list[TrialKey]:
        """A worker is lost; the trials it had, in key order."""
        if worker not in self._loads:
            return []
        self._unfile(worker)
        lost = sorted(self._loads.pop(worker).trials)
        for key in lost:
            del self._owners[key]
        if worker == self._reserved:
            self._reserved = None
        return lost

    def end(self, key: TrialKey) -> str | None:
        """A trial has ended; the worker that had it, None when none did."""
        worker = self._owners.pop(key, None)
        if worker is not None:
            load = self._loads[worker]
            self._unfile(worker)
            load.counts[load.trials.pop(key)] -= 1
            load.counts += Counter()  # drops the zeros
            if worker == self._reserved and not self._alone and not load.trials:
                self._reserved = None
            self._file(worker)
        return worker

    def place(self, among: int = 0) -> dict[str, list[TrialKey]]:
        """Worker -> waiting trials that it has from now on; trials beyond all capacity stay waiting.

        First come first, but those of one structure behind the first of them. `among`: workers that are live or on
        their way, so that the first to join does not get what is the others' share.
        """
        share = -(-(self._unplaced + len(self._owners)) // max(among, len(self._loads), 1))
        limit = min(self.slots + self.slots // BACKLOG_SHARE, share)
        handed = self._place_alone()
        for structure in sorted(self._waiting, key=lambda structure: self._waiting[structure][0]):
            queue = self._waiting[structure]
            while queue and (worker := self._best(structure, limit)) is not None:
                _, key = queue.popleft()
                self._unplaced -= 1
                self._give(worker, key, structure)
                handed.setdefault(worker, []).append(key)
            if not queue:
                del self._waiting[structure]
        return handed

    def _place_alone(self) -> dict[str, list[TrialKey]]:
        """One trial at a time, on one worker: what takes that worker along is then known."""
        if self._alone and self._loads and self._reserved is None:
            oldest = next(iter(self._loads))  # has proven itself; where workers are lost, the newest is there
            self._unfile(oldest)
            self._reserved = oldest
        if not self._alone or self._reserved is None or self._loads[self._reserved].trials:
            return {}
        key, structure = self._alone.popleft()
        self._unplaced -= 1
        self._give(self._reserved, key, structure)
        return {self._reserved: [key]}

    def surplus(self) -> dict[str, list[TrialKey]]:
        """Worker -> the newest of its trials that would be elsewhere if all were handed out now.

        Empty while trials wait, and while every worker has some.
        """
        if self._unplaced or not self._even.get(0):
            return {}
        share = -(-len(self._owners) // len(self._loads))
        heavy = [load for load, workers in self._even.items() if workers and load > share]
        return {worker: list(self._loads[worker].trials)[share:] for load in heavy for worker in self._even[load]}

    def _best(self, structure: Structure, limit: int) -> str | None:
        """The least loaded worker, of several one with most trials of the structure; None when all have `limit`."""
        load = next((load for load in range(limit) if load in self._even), None)
        if load is None:
            return None
        alike = (self._alike.get((load, structure, same)) for same in range(load, 0, -1))
        return next(iter(next(filter(None, alike), self._even[load])))

    def _give(self, worker: str, key: TrialKey, structure: Structure) -> None:
        load = self._loads[worker]
        self._unfile(worker)
        load.trials[key] = structure
        load.counts[structure] += 1
        self._owners[key] = worker
        self._file(worker)

    def _file(self, worker: str) -> None:
        if worker == self._reserved:
            return
        load = self._loads[worker]
        self._even[len(load.trials)][worker] = None
        for structure, same in load.counts.items():
            self._alike[len(load.trials), structure, same][worker] = None

    def _unfile(self, worker: str) -> None:
        if worker == self._reserved:
            return
        load = self._loads[worker]
        _drop(self._even, len(load.trials), worker)
        for structure, same in load.counts.items():
            _drop(self._alike, (len(load.trials), structure, same), worker)


def _drop(shelves: dict[Place, dict[str, None]], place: Place, worker: str) -> None:
    del shelves[place][worker]
    if not shelves[place]:
        del shelves[place]
