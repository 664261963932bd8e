"""The in-process twin of the Ray pool: workers that take turns in the driver's own process.

For tests and debugging (a breakpoint in a model works), and for machines without Ray. Several workers are as good as
one here, only slower to follow; their results are the same.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence

from ..data.dataset import DataSet
from ..packed.trainer import Trainer
from ..records import Event, Params, Phase, TrialEnded, TrialKey, TrialsReturned, TrialTask, WorkerJoined
from .base import Executor
from .environment import fingerprint, prepare_process


class InlineExecutor:
    """Trains one round of each worker per poll."""

    def __init__(
        self,
        dataset: DataSet,
        *,
        workers: int,
        slots: int | None,
        bank_seed: int,
        checkpoint_seconds: float = math.inf,
    ) -> None:
        prepare_process()
        self._trainers = {
            f"inline-{i}": Trainer(dataset, slots=slots, bank_seed=bank_seed, checkpoint_seconds=checkpoint_seconds)
            for i in range(workers)
        }
        self._news: list[Event] = [
            WorkerJoined(name, socket.gethostname(), fingerprint("cpu"), trainer.slots)
            for name, trainer in self._trainers.items()
        ]

    @property
    def workers(self) -> int:
        """As many as were asked for."""
        return len(self._trainers)

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Queues trials at a worker."""
        self._trainers[worker].submit(tasks)

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        """Takes what has not begun out of the worker's queue."""
        self._news.append(TrialsReturned(self._trainers[worker].withdraw(keys)))

    def poll(self, timeout_seconds: float) -> list[Event]:
        """One round of epochs on every busy worker."""
        events, self._news = self._news, []
        for trainer in self._trainers.values():
            events += trainer.advance(0.0)
        return events

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        """Drops what is unfinished, after its checkpoints when there is time."""
        trainers, self._trainers = self._trainers, {}
        return [one for trainer in trainers.values() for one in trainer.checkpoints()] if notice_seconds else []


_static_check: type[Executor] = InlineExecutor


def measure_epoch(dataset: DataSet, hyperparameters: Params, *, slots: int, bank_seed: int) -> float:
    """Seconds of one core that one epoch of one trial takes in a pack of `slots`, measured in this process."""
    prepare_process()
    trainer = Trainer(dataset, slots=slots, bank_seed=bank_seed)
    keys = [TrialKey("measure", 0, Phase.SEARCH, number) for number in range(slots)]
    trainer.submit([TrialTask(key, {**hyperparameters, "epochs": 2}, seed=key.number) for key in keys])
    seconds, epochs = 0.0, 0
    while trainer.busy:
        for event in trainer.advance(0.0):
            if isinstance(event, TrialEnded):
                seconds += event.outcome.worker_seconds
                epochs += max(event.outcome.epochs, 1)
    return seconds / epochs
