"""The Ray pool: one persistent actor a CPU core or GPU, each with one trainer. The only importer of ray.

The data set goes once into the object store. Each busy actor has two rounds of training under way, so the next one
starts while the driver reads the last one's news; trials wait at the actor before a slot falls free. An actor that
is lost is replaced; what it was training is the driver's to hand out again.

Ray reads its settings when it is imported: call `environment.prepare_ray` before importing this module.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from ..data.dataset import DataSet
from ..errors import ExecutionError
from ..records import Event, TrialEnded, TrialKey, TrialTask, WorkerJoined, WorkerLost
from .base import Executor

ROUND_SECONDS = 0.2
"""how long an actor trains before it reports"""
ROUNDS_UNDER_WAY = 2
START_SECONDS = 180.0
"""how long a new actor may take to say hello"""
LOSSES_IN_A_ROW = 5
"""so many actors lost with no trial ended in between: something is wrong with the machine"""


class TrainerActor:
    """Runs inside a Ray worker process."""

    def __init__(self, dataset: DataSet, slots: int | None, bank_seed: int, device: str) -> None:
        from .environment import fingerprint, prepare_process

        prepare_process()  # before torch is imported
        from ..packed.trainer import Trainer

        self._trainer = Trainer(dataset, slots=slots, bank_seed=bank_seed, device=device)
        self._fingerprint = fingerprint(device)

    def hello(self) -> tuple[str, dict[str, str], int]:
        """Host, fingerprint and slots."""
        return socket.gethostname(), self._fingerprint, self._trainer.slots

    def advance(self, tasks: Sequence[TrialTask], seconds: float) -> list[Event]:
        """Takes new trials, trains for about `seconds`, and says what happened."""
        self._trainer.submit(tasks)
        return list(self._trainer.advance(seconds))


@dataclass(slots=True)
class _Worker:
    name: str
    actor: Any
    hello: Any
    started_at: float
    joined: bool = False
    inbox: list[TrialTask] = field(default_factory=list)
    trials: set[TrialKey] = field(default_factory=set)
    rounds: list[Any] = field(default_factory=list)
    """object references of the rounds under way, oldest first"""


class RayPool:
    """Workers on a Ray cluster: a local one started here, or the one at `address`."""

    def __init__(
        self, dataset: DataSet, *, workers: int, slots: int | None, bank_seed: int, address: str | None = None
    ) -> None:
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            _start(address, workers)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        self._wanted = min(workers, gpus or cpus)
        if self._wanted < 1:
            raise ExecutionError("A Ray worker needs a CPU or a GPU, but the cluster has none free to offer.")
        self._options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_restarts": 0}
        self._device = "cuda" if gpus else "cpu"
        self._slots, self._bank_seed = slots, bank_seed
        self._dataset = ray.put(dataset)
        self._workers: dict[str, _Worker] = {}
        self._started = self._losses = 0
        for _ in range(self._wanted):
            self._start_worker()

    @property
    def workers(self) -> int:
        """As many as were asked for and the cluster has room for; a lost one is replaced."""
        return self._wanted

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Hands trials to an actor; they travel with its next round."""
        state = self._workers[worker]
        state.inbox.extend(tasks)
        state.trials.update(task.key for task in tasks)
        self._keep_busy(state)

    def poll(self, timeout_seconds: float) -> list[Event]:
        """News of all actors that have some."""
        waited_for = {ref: worker for worker in self._workers.values() for ref in self._awaited(worker)}
        ready: list[Any] = []
        if waited_for:
            references = list(waited_for)
            ready, _ = ray.wait(references, num_returns=1, timeout=timeout_seconds)
            if ready:
                ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        else:
            time.sleep(timeout_seconds)
        events: list[Event] = []
        for reference in ready:
            events += self._read(waited_for[reference], reference)
        events += self._overdue()
        return events

    def close(self) -> None:
        """Ends the actors, and the cluster if it was started here."""
        for worker in self._workers.values():
            ray.kill(worker.actor)
        self._workers.clear()
        if self._owns_cluster and ray.is_initialized():
            ray.shutdown()

    def _start_worker(self) -> None:
        name = f"ray-{self._started}"
        self._started += 1
        actor: Any = (
            ray.remote(TrainerActor)
            .options(**self._options)
            .remote(self._dataset, self._slots, self._bank_seed, self._device)
        )
        self._workers[name] = _Worker(name, actor, actor.hello.remote(), time.monotonic())

    def _awaited(self, worker: _Worker) -> list[Any]:
        """The next round of an actor (rounds end in order), or its hello."""
        return worker.rounds[:1] if worker.joined else [worker.hello]

    def _keep_busy(self, worker: _Worker) -> None:
        while worker.trials and (len(worker.rounds) < ROUNDS_UNDER_WAY):
            tasks, worker.inbox = worker.inbox, []
            worker.rounds.append(worker.actor.advance.remote(tasks, ROUND_SECONDS))

    def _read(self, worker: _Worker, reference: Any) -> list[Event]:
        try:
            news = ray.get(reference)
        except RayError as error:
            return self._lose(worker, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if not worker.joined:
            worker.joined = True
            return [WorkerJoined(worker.name, *news)]
        worker.rounds.remove(reference)
        ended = {event.key for event in news if isinstance(event, TrialEnded)}
        worker.trials -= ended
        if ended:
            self._losses = 0
        self._keep_busy(worker)
        return list(news)

    def _overdue(self) -> list[Event]:
        now = time.monotonic()
        late = [w for w in self._workers.values() if not w.joined and now - w.started_at > START_SECONDS]
        events: list[Event] = []
        for worker in late:
            ray.kill(worker.actor)
            events += self._lose(worker, f"no answer within {START_SECONDS:.0f} s of its start")
        return events

    def _lose(self, worker: _Worker, reason: str) -> list[Event]:
        del self._workers[worker.name]
        self._losses += 1
        if self._losses >= LOSSES_IN_A_ROW:
            raise ExecutionError(
                f"{self._losses} Ray workers were lost one after the other, the last one: {reason}. "
                "See the logs below /tmp/ray/session_latest/logs; `--executor inline` runs without Ray."
            )
        self._start_worker()
        return [WorkerLost(worker.name, reason)]


def _start(address: str | None, workers: int) -> None:
    """Connects to a cluster, or starts one on this machine that listens for itself only."""
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address:
            ray.init(address=address, **common)
            return
        ray.init(num_cpus=workers, include_dashboard=False, **common)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ExecutionError(f"No Ray cluster could be used {where}: {error}") from error


_static_check: type[Executor] = RayPool
