"""The trainer: a worker's queue of trials, trained in packs, one per structure.

`submit` may hand over more than there are slots: the next trials wait here, so no slot waits for the driver.
Knows no Ray; the executors own one trainer a worker.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Sequence

import torch

from ..data.dataset import DataSet
from ..own_code import is_own
from ..records import EpochReport, Params, State, TrialCheckpoint, TrialEnded, TrialKey, TrialTask, WorkerUse
from .device_data import DeviceData
from .exactness import packs_exactly, runs_across
from .finish import failed_outcome, finish_slots
from .pack import Pack
from .slots import Slot
from .snapshots import take_snapshots
from .structure import Structure, structure_of
from .tuning import across_pays, best_width, most_slots

News = EpochReport | TrialCheckpoint | TrialEnded | WorkerUse


class Trainer:
    """Trains what it is given, at most `slots` trials at once (None: as many as pay, by measurement)."""

    def __init__(
        self,
        dataset: DataSet,
        *,
        slots: int | None,
        bank_seed: int,
        device: str = "cpu",
        checkpoint_seconds: float = math.inf,
    ) -> None:
        """`checkpoint_seconds`: how often the state of a trial that goes on is given out."""
        self._dataset, self._bank_seed = dataset, bank_seed
        self._device = torch.device(device)
        self._automatic, self._checkpoint_seconds = slots is None, checkpoint_seconds
        self.slots = most_slots(self._device) if slots is None else slots
        """trials that are trained at once, at the most"""
        self._queue: deque[TrialTask] = deque()
        self._alone: set[TrialKey] = set()
        self._packs: dict[Structure, Pack] = {}
        self._width: dict[Structure, int] = {}
        self._across: set[Structure] = set()
        self._packs_scale: dict[tuple[Structure, str], bool] = {}
        """whether a scale of the user's own packs exactly"""
        self._data: dict[tuple[str, torch.dtype], DeviceData] = {}
        self._use, self._used_until = WorkerUse(), time.perf_counter()

    def submit(self, tasks: Sequence[TrialTask]) -> None:
        """Queues trials."""
        self._queue.extend(tasks)

    def withdraw(self, keys: Collection[TrialKey]) -> tuple[TrialKey, ...]:
        """Takes trials out of the queue that have not begun; returns which."""
        taken = tuple(task.key for task in self._queue if task.key in keys and task.key not in self._alone)
        self._queue = deque(task for task in self._queue if task.key not in taken)
        return taken

    @property
    def busy(self) -> bool:
        """Whether anything is queued or training."""
        return bool(self._queue or self._packs)

    def checkpoints(self, older_than_seconds: float = 0.0) -> list[TrialCheckpoint]:
        """The state of every trial in training whose last one is that old and that has finished an epoch since."""
        now, found = time.monotonic(), []
        for pack in self._packs.values():
            for slot in pack.slots:
                if slot.running and slot.epoch > slot.saved_epoch and now - slot.saved_at >= older_than_seconds:
                    found.append(pack.checkpoint(slot))
                    slot.saved_at, slot.saved_epoch = now, slot.epoch
        return found

    def advance(self, seconds: float) -> list[News]:
        """Trains whole epochs for about `seconds`, at least one where there is work, and says what happened.

        Last comes what the time since the last such call with work went into.
        """
        deadline = time.monotonic() + seconds
        events: list[News] = []
        self._account(0)
        while self.busy:
            events += self._admit()
            occupied = sum(len(pack.slots) for pack in self._packs.values())
            for structure, pack in list(self._packs.items()):
                before = pack.step_seconds
                events += self._train(structure, pack)
                self._use += WorkerUse(step_seconds=pack.step_seconds - before)
            self._account(occupied)
            events += self.checkpoints(self._checkpoint_seconds)
            if time.monotonic() >= deadline:
                break
        if events:
            events.append(self._use)
            self._use = WorkerUse()
        return events

    def _account(self, occupied: int) -> None:
        """Books the time since the last call with so many slots occupied."""
        now = time.perf_counter()
        seconds, self._used_until = now - self._used_until, now
        packs = self._packs.keys()
        capacity = max(min(self.slots, sum(self._width.get(s, 1) for s in packs) or self.slots), occupied)
        self._use += WorkerUse(seconds, 0.0, occupied * seconds, capacity * seconds)

    def _admit(self) -> list[TrialEnded]:
        """Fills free slots from the queue in order; a trial whose pack is full waits for it."""
        arrivals: dict[Structure, list[TrialTask]] = {structure: [] for structure in self._packs}
        waiting: deque[TrialTask] = deque()
        free = self.slots - sum(len([s for s in pack.slots if s.running]) for pack in self._packs.values())
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
        return [end for structure, tasks in arrivals.items() for end in self._settle(structure, tasks)]

    def _settle(self, structure: Structure, tasks: Sequence[TrialTask]) -> list[TrialEnded]:
        """Puts newcomers into their pack and lets the ended leave it."""
        pack, failed = self._packs.get(structure), []
        try:
            pack = pack or Pack(structure, self._device_data(structure))
            pack.stack.run_across(structure in self._across)
            pack.resettle(tasks)
        except Exception as error:  # a network or an initial value that cannot be
            failed = self._blame([Slot(task, time.time()) for task in tasks], error)
            if pack:
                pack.resettle(())
        if pack and pack.slots:
            self._packs[structure] = pack
        else:
            self._packs.pop(structure, None)
        return failed

    def _limit(self, structure: Structure, members: Sequence[TrialTask]) -> int:
        if any(task.key in self._alone for task in members):
            return 1
        sample = {**members[0].hyperparameters, "scale": "log_variance"}
        own = {str(task.hyperparameters["scale"]) for task in members if is_own(task.hyperparameters["scale"])}
        try:
            if structure not in self._width:
                self._width[structure] = self._widest(structure, sample)
            exact = [self._scale_packs(structure, {**sample, "scale": scale}) for scale in sorted(own)]
        except Exception:  # that trial will raise again when it is trained, and be blamed then
            return 1
        return self._width[structure] if all(exact) else 1

    def _widest(self, structure: Structure, sample: Params) -> int:
        """How many slots a pack may have, by trying."""
        data = self._device_data(structure)
        across = runs_across(structure, data, sample) and across_pays(structure, data, sample)
        width = best_width(structure, data, sample, across=across) if self._automatic else self.slots
        if width > 1 and not across and not packs_exactly(structure, data, sample):
            return 1
        self._across |= {structure} if across else set()
        return width

    def _scale_packs(self, structure: Structure, sample: Params) -> bool:
        """Whether the sample's scale, one of the user's own, packs exactly."""
        key = (structure, str(sample["scale"]))
        if key not in self._packs_scale:
            across = structure in self._across
            self._packs_scale[key] = packs_exactly(structure, self._device_data(structure), sample, across=across)
        return self._packs_scale[key]

    def _train(self, structure: Structure, pack: Pack) -> Sequence[EpochReport | TrialEnded]:
        try:
            pack.train_epoch()
            reports = [
                EpochReport(slot.task.key, slot.epoch, slot.curves["val/elbo"][-1])
                for slot in pack.slots
                if slot.state is not State.DIVERGED
            ]
            ended = [slot for slot in pack.slots if not slot.running]
            take_snapshots(pack)
            outcomes = finish_slots(pack, ended)
        except Exception as error:  # the model's or the user's code raised: the trial's fault, not ours
            del self._packs[structure]
            if _out_of_memory(error) and len(pack.slots) > 1:
                self._width[structure] = len(pack.slots) // 2
                self._queue.extendleft(slot.task for slot in reversed(pack.slots))
                return []
            return self._blame(pack.slots, error)
        return [*reports, *(TrialEnded(slot.task.key, end) for slot, end in zip(ended, outcomes, strict=True))]

    def _blame(self, slots: Sequence[Slot], error: Exception) -> list[TrialEnded]:
        """One slot: it failed. Several: each is trained again alone, so that the guilty one is found."""
        if len(slots) == 1:
            return [TrialEnded(slots[0].task.key, failed_outcome(slots[0], f"{type(error).__name__}: {error}"))]
        self._alone.update(slot.task.key for slot in slots)
        self._queue.extendleft(slot.task for slot in reversed(slots))
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


def _out_of_memory(error: Exception) -> bool:
    """torch has an exception of its own for a GPU only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
