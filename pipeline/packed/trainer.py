"""The trainer: a worker's queue of trials, trained in packs, one per structure.

`submit` may hand over more than there are slots: the next trials wait here, so no slot waits for the driver.
Knows no Ray; the executors own one trainer a worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import torch

from ..data.dataset import DataSet
from ..records import EpochReport, TrialEnded, TrialKey, TrialTask
from .device_data import DeviceData
from .exactness import packs_exactly
from .finish import failed_outcome, finish_slots
from .pack import Pack
from .structure import Structure, structure_of


class Trainer:
    """Trains what it is given, at most `slots` trials at once."""

    def __init__(self, dataset: DataSet, *, slots: int, bank_seed: int, device: str = "cpu") -> None:
        self._dataset, self._slots, self._bank_seed = dataset, slots, bank_seed
        self._device = torch.device(device)
        self._queue: deque[TrialTask] = deque()
        self._alone: set[TrialKey] = set()
        self._packs: dict[Structure, Pack] = {}
        self._width: dict[Structure, int] = {}
        self._data: dict[tuple[str, torch.dtype], DeviceData] = {}

    def submit(self, tasks: Sequence[TrialTask]) -> None:
        """Queues trials."""
        self._queue.extend(tasks)

    @property
    def busy(self) -> bool:
        """Whether anything is queued or training."""
        return bool(self._queue or self._packs)

    def advance(self, seconds: float) -> list[EpochReport | TrialEnded]:
        """Trains whole epochs for about `seconds`, at least one where there is work, and says what happened."""
        deadline = time.monotonic() + seconds
        events: list[EpochReport | TrialEnded] = []
        while self.busy:
            self._admit()
            for structure, pack in list(self._packs.items()):
                events += self._train(structure, pack)
            if time.monotonic() >= deadline:
                break
        return events

    def _admit(self) -> None:
        """Fills free slots from the queue in order; a trial whose pack is full waits for it."""
        arrivals: dict[Structure, list[TrialTask]] = {structure: [] for structure in self._packs}
        waiting: deque[TrialTask] = deque()
        free = self._slots - sum(len([s for s in pack.slots if s.running]) for pack in self._packs.values())
        while self._queue:
            task = self._queue.popleft()
            structure = structure_of(task.hyperparameters)
            present = (
                [slot.task for slot in self._packs[structure].slots if slot.running] if structure in self._packs else []
            )
            members = [*present, *arrivals.get(structure, [])]
            if free <= 0 or (members and len(members) >= self._limit(structure, [*members, task])):
                waiting.append(task)
                continue
            arrivals.setdefault(structure, []).append(task)
            free -= 1
        self._queue = waiting
        for structure, tasks in arrivals.items():
            if structure not in self._packs:
                self._packs[structure] = Pack(structure, self._device_data(structure))
            self._packs[structure].resettle(tasks)
            if not self._packs[structure].slots:
                del self._packs[structure]

    def _limit(self, structure: Structure, members: Sequence[TrialTask]) -> int:
        if any(task.key in self._alone for task in members):
            return 1
        if structure not in self._width:
            exact = packs_exactly(structure, self._device_data(structure), members[0].hyperparameters)
            self._width[structure] = self._slots if exact else 1
        return self._width[structure]

    def _train(self, structure: Structure, pack: Pack) -> list[EpochReport | TrialEnded]:
        try:
            pack.train_epoch()
            ended = [slot for slot in pack.slots if not slot.running]
            outcomes = finish_slots(pack, ended)
        except Exception as error:  # the model's or the user's code raised: the trial's fault, not ours
            return self._blame(structure, pack, error)
        events: list[EpochReport | TrialEnded] = [
            EpochReport(slot.task.key, slot.epoch, slot.curves["val/elbo"][-1]) for slot in pack.slots if slot.epoch
        ]
        events += [TrialEnded(slot.task.key, outcome) for slot, outcome in zip(ended, outcomes, strict=True)]
        return events

    def _blame(self, structure: Structure, pack: Pack, error: Exception) -> list[EpochReport | TrialEnded]:
        """One slot: it failed. Several: each is trained again alone, so that the guilty one is found."""
        del self._packs[structure]
        if len(pack.slots) == 1:
            slot = pack.slots[0]
            return [TrialEnded(slot.task.key, failed_outcome(slot, f"{type(error).__name__}: {error}"))]
        tasks = [slot.task for slot in pack.slots]
        self._alone.update(task.key for task in tasks)
        self._queue.extendleft(reversed(tasks))
        return []

    def _device_data(self, structure: Structure) -> DeviceData:
        dtype = torch.float64 if structure.dtype == "float64" else torch.float32
        key = (structure.likelihood, dtype)
        if key not in self._data:
            self._data[key] = DeviceData(
                self._dataset,
                likelihood=structure.likelihood,
                dtype=dtype,
                device=self._device,
                bank_seed=self._bank_seed,
            )
        return self._data[key]
