"""The simulated twin of the Ray pool: any number of workers with virtual time and made-up training.

For tests of scheduling and measurements of the driver: no time passes but the driver's own. What a trial reports is a
pure function of its hyperparameters and its seed, never of its worker, its slot or the clock. Knows no torch.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..packed.stopping import stop_cause
from ..records import (
    EpochReport,
    Event,
    Params,
    State,
    TrialEnded,
    TrialKey,
    TrialOutcome,
    TrialsReturned,
    TrialTask,
    WorkerJoined,
    WorkerLost,
    canonical_json,
    derive_seed,
)
from .base import Executor

HOST = "nowhere"
CURVES: Mapping[str, float] = {
    "val/elbo": 1.0,
    "val/rate": -0.1,
    "val/distortion": -0.9,
    "val/active_units": -0.05,
    "train/elbo": 0.98,
    "posterior/sigma_mean": -0.004,
    "posterior/sigma_min": -0.001,
    "posterior/sigma_max": -0.008,
}
"""Every curve is this multiple of `val/elbo`."""
TEST_METRICS: Mapping[str, float] = {
    "test/elbo": 1.01,
    "test/rate": -0.101,
    "test/distortion": -0.909,
    "test/active_units": -0.05,
    "test/elbo_se": -0.01,
}
"""made-up test metrics as multiples of the last val/elbo"""


def elbo_curve(hyperparameters: Params, seed: int) -> tuple[float, ...]:
    """Made-up `val/elbo` of each epoch, nats; shorter than `epochs` where the training diverges.

    A bowl over log10 learning_rate with its best at 10^-2.5; all other hyperparameters together shift it by up to 10
    nats, the seed by about 1. Diverges from about 10^-1.2 on.
    """
    epochs, draw = int(_number(hyperparameters, "epochs")), random.Random(seed)
    exponent = math.log10(_number(hyperparameters, "learning_rate"))
    others = {name: value for name, value in hyperparameters.items() if name not in ("epochs", "learning_rate")}
    shift = 10 * derive_seed(canonical_json(others)) / 2**63
    best = -100 - shift - 6 * (exponent + 2.5) ** 2 + draw.gauss(0, 1)
    diverges = exponent + draw.gauss(0, 0.3) > -1.2
    finite = draw.randrange(epochs) if diverges else epochs
    return tuple(best - 60 * math.exp(-5 * (epoch + 1) / epochs) + draw.gauss(0, 0.3) for epoch in range(finite))


@dataclass(slots=True)
class _Run:
    """A trial in training."""

    task: TrialTask
    curve: tuple[float, ...]
    epochs: int
    epoch_seconds: float
    started_at: float
    neighbours: int
    times: list[float] = field(default_factory=list)
    """ends of the finished epochs"""


@dataclass(slots=True)
class _Worker:
    queue: deque[TrialTask] = field(default_factory=deque)
    running: int = 0


class SimulatedExecutor:
    """`workers` times `slots` trials at once; `poll` moves the clock to whatever happens next."""

    def __init__(
        self,
        *,
        workers: int,
        slots: int,
        seconds_per_epoch: float = 1.0,
        round_seconds: float = 0.2,
        start_seconds: float = 5.0,
        losses: Mapping[str, float] | None = None,
        joins: Sequence[float] = (),
        devices: Mapping[str, str] | None = None,
        fatal: Callable[[TrialTask], bool] = lambda _: False,
    ) -> None:
        """All times in virtual seconds since 0.

        seconds_per_epoch: mean over trials, each has a pace of its own; round_seconds: what happens within so much of
        the next event comes in one poll; losses: worker -> when it is lost. The first workers are there at once and
        called `simulated-0` and so on; a lost one's replacement gets the next number and takes `start_seconds`.
        joins: when one more comes; devices: worker -> what its fingerprint says instead of `simulated`; fatal: which
        trials end their worker with their first epoch.
        """
        self._slots, self._epoch_seconds = slots, seconds_per_epoch
        self._round_seconds, self._start_seconds = round_seconds, start_seconds
        self._losses, self._devices, self._fatal = dict(losses or {}), dict(devices or {}), fatal
        self._workers: dict[str, _Worker] = {}
        self._agenda: list[tuple[float, int, Callable[[], Sequence[Event]]]] = []
        """(when, tie-break, what happens then)"""
        self._planned = self._started = 0
        self._wanted = workers
        self.now = 0.0
        """virtual seconds"""
        for _ in range(workers):
            self._start_worker(0.0)
        for when in joins:
            self._start_worker(when)

    @property
    def workers(self) -> int:
        """As many as were asked for; a lost one is replaced."""
        return self._wanted

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Queues trials at a worker."""
        self._workers[worker].queue.extend(tasks)
        self._fill(worker)

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        """Takes what has not begun out of the worker's queue."""
        queue = self._workers[worker].queue
        taken = tuple(task.key for task in queue if task.key in keys)
        self._workers[worker].queue = deque(task for task in queue if task.key not in taken)
        self._plan(0.0, lambda: [TrialsReturned(taken)])

    def poll(self, timeout_seconds: float) -> list[Event]:
        """What happens next; nothing, `timeout_seconds` later, when nothing is under way."""
        events: list[Event] = []
        if not self._agenda:
            self.now += timeout_seconds
            return events
        until = self._agenda[0][0] + self._round_seconds
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._agenda)
            events += happen()
        return events

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        """Drops what is unfinished: there is nothing to go on from."""
        self._workers.clear()
        self._agenda.clear()
        return []

    def _plan(self, delay_seconds: float, happen: Callable[[], Sequence[Event]]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (self.now + delay_seconds, self._planned, happen))

    def _start_worker(self, delay_seconds: float) -> None:
        name = f"simulated-{self._started}"
        self._started += 1
        self._plan(delay_seconds, partial(self._join, name))

    def _join(self, name: str) -> list[Event]:
        self._workers[name] = _Worker()
        if name in self._losses:
            self._plan(max(self._losses[name] - self.now, 0.0), partial(self._lose, name))
        return [WorkerJoined(name, HOST, {"device": self._devices.get(name, "simulated")}, self._slots)]

    def _lose(self, name: str) -> list[Event]:
        if self._workers.pop(name, None) is None:
            return []
        self._start_worker(self._start_seconds)
        return [WorkerLost(name, f"lost at {self.now:g} s, as planned")]

    def _fill(self, name: str) -> None:
        worker = self._workers[name]
        while worker.queue and worker.running < self._slots:
            worker.running += 1
            task = worker.queue.popleft()
            run = _Run(
                task,
                curve=elbo_curve(task.hyperparameters, task.seed),
                epochs=int(_number(task.hyperparameters, "epochs")),
                epoch_seconds=self._epoch_seconds * (0.5 + derive_seed(str(task.key)) / 2**63),
                started_at=self.now,
                neighbours=worker.running,
            )
            self._plan(run.epoch_seconds, partial(self._epoch, name, run))

    def _epoch(self, name: str, run: _Run) -> list[Event]:
        """An epoch ends, and with it perhaps the trial."""
        if name not in self._workers:
            return []
        epoch = len(run.times)
        if self._fatal(run.task):
            return self._lose(name)
        if epoch == len(run.curve):
            return [self._end(name, run, State.DIVERGED, f"made-up divergence in epoch {epoch + 1}")]
        run.times.append(self.now)
        report = EpochReport(run.task.key, epoch + 1, run.curve[epoch])
        if epoch + 1 == run.epochs:
            return [report, self._end(name, run, State.COMPLETE)]
        if cause := stop_cause(run.task, run.curve[: epoch + 1]):
            return [report, self._end(name, run, State.STOPPED, cause)]
        self._plan(run.epoch_seconds, partial(self._epoch, name, run))
        return [report]

    def _end(self, name: str, run: _Run, state: State, cause: str | None = None) -> TrialEnded:
        self._workers[name].running -= 1
        self._fill(name)
        elbo = run.curve[: len(run.times)]
        curves = {curve: tuple(factor * value for value in elbo) for curve, factor in CURVES.items() if elbo}
        metrics = {curve: values[-1] for curve, values in curves.items()}
        if run.task.evaluate_test and state is State.COMPLETE:
            metrics |= {metric: factor * elbo[-1] for metric, factor in TEST_METRICS.items()}
        outcome = TrialOutcome(
            state=state,
            curves=curves,
            metrics=metrics,
            cause=cause,
            epochs=len(elbo),
            epoch_times=tuple(run.times),
            started_at=run.started_at,
            ended_at=self.now,
            worker_seconds=(self.now - run.started_at) / run.neighbours,
            host=HOST,
            largest_pack=run.neighbours,
        )
        return TrialEnded(run.task.key, outcome)


def _number(hyperparameters: Params, name: str) -> float:
    value = hyperparameters[name]
    assert isinstance(value, int | float), (name, value)
    return float(value)


_static_check: type[Executor] = SimulatedExecutor
