"""The Ray pool: one persistent actor a CPU core or GPU, each with one trainer.

The data set goes once into the object store. Each busy actor has two rounds of training under way, so the next one
starts while the driver reads the last one's news; trials wait at the actor before a slot falls free. On a cluster
the pool follows the nodes: there is an actor wherever there is room, up to a limit. What a lost actor was training is
the driver's to hand out again.

Ray reads its settings when it is imported: call `environment.prepare_ray` before importing this module.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from ..data.dataset import DataSet
from ..errors import ExecutionError, UserError
from ..own_code import Parcel, receive
from ..records import Event, TrialEnded, TrialKey, TrialsReturned, TrialTask, WorkerJoined, WorkerLost
from .base import Executor
from .environment import ray_folder
from .health import LOSSES_IN_A_ROW, PULSE_SECONDS, ROUND_SECONDS, START_SECONDS, Listening, Losses
from .ray_cluster import capacity, join, share

ROUNDS_UNDER_WAY = 2
LOOK_SECONDS = 2.0
"""how often a cluster is asked for its nodes"""


class TrainerActor:
    """Runs inside a Ray worker process."""

    def __init__(self) -> None:
        self._trainer: Any = None

    def placed(self) -> None:
        """Answers as soon as the actor has a place on a node."""

    def pulse(self) -> None:
        """Answers as long as the process lives; in a thread of its own."""

    def load(
        self,
        dataset: DataSet,
        slots: int | None,
        bank_seed: int,
        device: str,
        checkpoint_seconds: float,
        code: Sequence[Parcel],
    ) -> tuple[str, dict[str, str], int]:
        """Loads everything, which takes seconds. Returns host, fingerprint and slots."""
        from .environment import fingerprint, loading, prepare_process

        with loading():
            prepare_process()  # before torch is imported, which the user's code may do
            receive(code)
            from ..packed.trainer import Trainer

        self._trainer = Trainer(
            dataset, slots=slots, bank_seed=bank_seed, device=device, checkpoint_seconds=checkpoint_seconds
        )
        return socket.gethostname(), fingerprint(device), self._trainer.slots

    def withdraw(self, tasks: Sequence[TrialTask], keys: Sequence[TrialKey]) -> list[Event]:
        """Takes new trials, and gives back those of `keys` that have not begun."""
        self._trainer.submit(tasks)
        return [TrialsReturned(self._trainer.withdraw(keys))]

    def advance(self, tasks: Sequence[TrialTask], seconds: float) -> list[Event]:
        """Takes new trials, trains for about `seconds`, and says what happened."""
        self._trainer.submit(tasks)
        return list(self._trainer.advance(seconds))

    def leave(self) -> list[Event]:
        """How far it is with every trial."""
        return list(self._trainer.checkpoints())


@dataclass(slots=True)
class _Worker:
    name: str
    actor: Any
    placed: Any
    """reference of the call that ends when the actor has a place; None: it has one"""
    loaded: Any
    """reference of the call that ends when it can train; None: it can"""
    era: int
    """how many losses came before it was started; those that came together count once"""
    placed_at: float = 0.0
    inbox: list[TrialTask] = field(default_factory=list)
    trials: set[TrialKey] = field(default_factory=set)
    rounds: list[Any] = field(default_factory=list)
    """references of the rounds under way, oldest first"""
    pulse: Any = None
    """reference of the sign of life that was asked for last"""
    quiet_seconds: float = 0.0
    """since it last gave one, as far as the driver was there to hear it"""

    @property
    def awaited(self) -> list[Any]:
        """What it answers next, if anything: its calls end in order."""
        return [ref for ref in (self.placed, self.loaded, *self.rounds) if ref is not None][:1]


class RayPool:
    """Workers on a Ray cluster: a local one started here, or the one at `address`."""

    def __init__(
        self,
        dataset: DataSet,
        *,
        workers: int | None,
        slots: int | None,
        bank_seed: int,
        address: str | None = None,
        max_workers: int | None = None,
        device: str = "auto",
        workers_per_gpu: int = 1,
        checkpoint_seconds: float = math.inf,
        silence_seconds: float = 60.0,
        code: Sequence[Parcel] = (),
    ) -> None:
        """`workers`: so many are started at least, even where there is no room yet, which is what an autoscaler adds
        nodes for (None: what the cluster has). Room beyond them, now or later, is used up to `max_workers` (None:
        `workers`, or without them all there is room for). `silence_seconds`: an actor that has given no sign of life
        for so long (a stopped process, a machine that swaps) is given up. `code`: the user's own, for every actor.
        """
        self._owns_cluster = join(address, workers)
        self._elastic = address is not None
        self._logs = f"{ray_folder() if self._owns_cluster else '/tmp/ray'}/session_latest/logs"
        self._share = share(device, workers_per_gpu)
        room = capacity(self._share)
        self._asked = min(workers or room, max_workers or workers or room)
        self._limit = max_workers or workers
        if not self._elastic and room < 1:
            raise ExecutionError("A Ray worker needs a CPU or a GPU, but the cluster has none to offer.")
        self._load = (ray.put(dataset), slots, bank_seed, self._share.device, checkpoint_seconds, code)
        self._silence_seconds, self._listening, self._losses = silence_seconds, Listening(), Losses()
        self._workers: dict[str, _Worker] = {}
        self._started, self._looked_at = 0, 0.0
        self._follow_nodes()

    @property
    def workers(self) -> int:
        """Those with a place on a node; a cluster of our own has one for each."""
        return sum(worker.placed is None or not self._elastic for worker in self._workers.values())

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Hands trials to an actor; they travel with its next round."""
        state = self._workers[worker]
        state.inbox.extend(tasks)
        state.trials.update(task.key for task in tasks)
        self._keep_busy(state)

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        """Asks an actor for trials back, between two rounds."""
        state = self._workers[worker]
        tasks, state.inbox = state.inbox, []
        state.rounds.append(state.actor.withdraw.remote(tasks, keys))

    def poll(self, timeout_seconds: float) -> list[Event]:
        """News of all actors that have some."""
        self._follow_nodes()
        waited_for = {ref: worker for worker in self._workers.values() for ref in worker.awaited}
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
        events += self._silent()
        return events

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        """Ends the actors, and the connection if it was made here. With notice, after the rounds under way."""
        events: list[Event] = self._leave(notice_seconds) if notice_seconds and self._workers else []
        for worker in self._workers.values():
            ray.kill(worker.actor)
        self._workers.clear()
        if self._owns_cluster and ray.is_initialized():
            ray.shutdown()
        return events

    def _leave(self, notice_seconds: float) -> list[Event]:
        """What the actors have to say at the end, as far as it comes in time."""
        deadline, events = time.monotonic() + notice_seconds, list[Event]()
        last = {w.name: [*w.rounds, w.actor.leave.remote()] for w in self._workers.values() if w.loaded is None}
        for references in last.values():  # in the order in which they were called
            for reference in references:
                ready, _ = ray.wait([reference], timeout=max(deadline - time.monotonic(), 0.0))
                if not ready:
                    break
                with suppress(RayError):
                    events += ray.get(reference)
        return events

    def _follow_nodes(self) -> None:
        """As many actors as the cluster has room for or was asked for, within the limit."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        wanted = max(self._asked, capacity(self._share))
        wanted = min(wanted, self._limit) if self._limit else wanted
        while len(self._workers) < wanted:
            self._start_worker()
        surplus = len(self._workers) - wanted
        for worker in [w for w in self._workers.values() if w.placed is not None][: max(surplus, 0)]:
            ray.kill(worker.actor)  # its node has left, and no other has room
            del self._workers[worker.name]

    def _start_worker(self) -> None:
        name = f"ray-{self._started}"
        self._started += 1
        remote: Any = ray.remote  # its annotations know no concurrency groups
        actor: Any = (
            remote(concurrency_groups={"pulse": 1})(TrainerActor)
            .options(num_cpus=1, num_gpus=self._share.gpus, max_restarts=0, scheduling_strategy="SPREAD")
            .remote()
        )
        self._workers[name] = _Worker(
            name, actor, actor.placed.remote(), actor.load.remote(*self._load), self._losses.era
        )

    def _keep_busy(self, worker: _Worker) -> None:
        while worker.trials and (len(worker.rounds) < ROUNDS_UNDER_WAY):
            tasks, worker.inbox = worker.inbox, []
            worker.rounds.append(worker.actor.advance.remote(tasks, ROUND_SECONDS))

    def _read(self, worker: _Worker, reference: Any) -> list[Event]:
        try:
            news = ray.get(reference)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), UserError):
                raise ExecutionError(f"A Ray worker cannot train this study: {cause}") from error
            return self._lose(worker, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if worker.placed is not None:
            worker.placed, worker.placed_at = None, time.monotonic()
            return []
        if worker.loaded is not None:
            worker.loaded = None
            return [WorkerJoined(worker.name, *news)]
        worker.rounds.remove(reference)
        worker.trials -= {event.key for event in news if isinstance(event, TrialEnded)}
        worker.trials -= {key for event in news if isinstance(event, TrialsReturned) for key in event.keys}
        if news:
            self._losses.trained()
        self._keep_busy(worker)
        return list(news)

    def _overdue(self) -> list[Event]:
        """Actors that have a place and still cannot train; one that waits for a place is no fault."""
        now = time.monotonic()
        loading = [w for w in self._workers.values() if w.placed is None and w.loaded is not None]
        events: list[Event] = []
        for worker in loading:
            if now - worker.placed_at > START_SECONDS:
                ray.kill(worker.actor)
                events += self._lose(worker, f"not ready within {START_SECONDS:.0f} s of its start")
        return events

    def _silent(self) -> list[Event]:
        """Actors that train, or so it seems, but give no sign of life; their place is needed for another."""
        heard_seconds = self._listening.seconds()
        events: list[Event] = []
        for worker in [w for w in self._workers.values() if w.loaded is None]:
            worker.quiet_seconds += heard_seconds
            if worker.pulse is not None and ray.wait([worker.pulse], timeout=0)[0]:
                worker.pulse, worker.quiet_seconds = None, 0.0  # an error is an answer, too: the rounds will tell
            if worker.pulse is None and worker.quiet_seconds >= PULSE_SECONDS:
                worker.pulse = worker.actor.pulse.options(concurrency_group="pulse").remote()
            elif worker.quiet_seconds >= max(self._silence_seconds, 2 * PULSE_SECONDS):
                ray.kill(worker.actor)
                events += self._lose(worker, f"no sign of life for {worker.quiet_seconds:.0f} s")
        return events

    def _lose(self, worker: _Worker, reason: str) -> list[Event]:
        del self._workers[worker.name]
        losses = self._losses.lost(worker.era)
        if losses >= LOSSES_IN_A_ROW:
            raise ExecutionError(
                f"Ray workers were lost {losses} times in a row before they had trained an epoch, at last: {reason}. "
                f"See the logs below {self._logs}; `--executor processes` runs without Ray."
            )
        self._looked_at = 0.0  # it is replaced at once where there is room
        return [WorkerLost(worker.name, reason)]


_static_check: type[Executor] = RayPool
