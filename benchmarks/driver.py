"""What the driver costs: the real loop, Optuna and SQLite ledger over simulated workers with made-up training.

    python -m benchmarks.driver [--json FILE] [--only NAME ...]

Every scenario runs in a process of its own after a small warm-up. Costs are processor time, so that other users of the
machine do not count; what the simulated workers cost is measured and taken off.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from pipeline.config import Study, load_study
from pipeline.execution.base import Executor
from pipeline.execution.simulated import SimulatedExecutor
from pipeline.launch.where import Where
from pipeline.ledger.store import Holder, Ledger
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, Event, TrialKey, TrialTask
from pipeline.report.observer import Observer
from pipeline.report.progress import SilentProgress
from pipeline.search.samplers import SAMPLERS
from pipeline.space import arms
from pipeline.stages import Stages
from pipeline.sweep import Sweep

SCALES = ["log_variance", "log_std", "softplus_std", "softplus_variance", "raw_std"]


@dataclass(frozen=True)
class Scenario:
    """A sweep to drive."""

    sampler: str
    arms: int
    """1, or a multiple of 5"""
    replicates: int
    trials: int
    """of one search"""
    workers: int = 1000
    slots: int = 16
    epochs: int = 50
    pruner: str = "none"
    round_seconds: float = 0.2


SCENARIOS: Mapping[str, Scenario] = {
    "random 1k": Scenario("random", 1, 10, 100),
    "random 10k": Scenario("random", 10, 10, 100),
    "random 10k, one at a time": Scenario("random", 10, 10, 100, round_seconds=0.0),
    "random 10k, 10 workers": Scenario("random", 10, 10, 100, workers=10),
    "random 10k, 100 workers": Scenario("random", 10, 10, 100, workers=100),
    "random 10k, one search": Scenario("random", 1, 1, 10_000),
    "median 10k": Scenario("random", 10, 10, 100, pruner="median"),
    "tpe 1k": Scenario("tpe", 5, 10, 20),
    "tpe 2k": Scenario("tpe", 10, 10, 20),
    "tpe 10k": Scenario("tpe", 50, 10, 20),
    "tpe 10k, 10 workers": Scenario("tpe", 50, 10, 20, workers=10),
    "tpe 1k, one search": Scenario("tpe", 1, 1, 1000),
}


@dataclass(frozen=True)
class Cost:
    """What driving a scenario took, in processor seconds of this process."""

    trials: int
    turns: int
    driver_seconds: float
    """without the simulated workers"""
    sampler_seconds: float
    """of it inside Optuna's samplers"""
    trials_per_second: float
    """of driver time"""
    own_ms_per_trial: float
    """driver time outside the samplers"""
    memory_growth_mb: float
    """growth of the peak resident size, simulated workers included"""


def _read_seconds(reads: int = 2000) -> float:
    """What one look at the processor clock costs: a system call, 0.2 ms in some sandboxes."""
    began = time.process_time()
    for _ in range(reads):
        time.process_time()
    return (time.process_time() - began) / (reads + 1)


class Clock:
    """Adds up processor time, less what looking at the clock costs."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self.calls = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self._seconds += time.process_time() - began
            self.calls += 1

    def seconds(self, read_seconds: float, others: int = 0) -> float:
        """The time inside; `others`: calls of clocks that ran inside this one."""
        return self._seconds - read_seconds * (self.calls + 2 * others)


class TimedExecutor:
    """An executor whose own cost is known; looks at the clock twice a turn only (`_read_seconds`)."""

    def __init__(self, executor: Executor, clock: Clock) -> None:
        self._executor, self._clock = executor, clock
        self._submitted: list[tuple[str, Sequence[TrialTask]]] = []

    @property
    def workers(self) -> int:
        return self._executor.workers

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        self._submitted.append((worker, tasks))

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        with self._clock.running():
            self._executor.withdraw(worker, keys)

    def poll(self, timeout_seconds: float) -> list[Event]:
        with self._clock.running():
            for worker, tasks in self._submitted:
                self._executor.submit(worker, tasks)
            self._submitted.clear()
            return self._executor.poll(timeout_seconds)

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        return self._executor.close(notice_seconds)


class TimedSampler:
    """A sampler whose own cost is known."""

    def __init__(self, sampler: Any, clock: Clock) -> None:
        self._sampler, self._clock = sampler, clock
        self.model_based = sampler.model_based

    def propose(self, *arguments: Any) -> Any:
        with self._clock.running():
            return self._sampler.propose(*arguments)


class TimedEntry:
    """An entry of the table of samplers that makes timed ones."""

    def __init__(self, entry: Any, clock: Clock) -> None:
        self._entry, self._clock = entry, clock
        self.model_based = entry.model_based

    def __call__(self, plan: Any) -> TimedSampler:
        return TimedSampler(self._entry(plan), self._clock)


def study_of(scenario: Scenario, folder: Path) -> Study:
    """The scenario as a study file."""
    latents = max(scenario.arms // len(SCALES), 1)
    plain = {
        "version": 1,
        "name": "benchmark",
        "data": {"name": "digits"},
        "train": {"epochs": scenario.epochs},
        "scientific": {"scale": SCALES[: scenario.arms], "latent_dim": list(range(2, 2 + latents))},
        "nuisance": {
            "learning_rate": {"low": 1.0e-4, "high": 3.0e-1, "log": True},
            "beta_warmup_epochs": {"low": 0, "high": 20},
        },
        "search": {
            "sampler": scenario.sampler,
            "trials": scenario.trials,
            "replicates": scenario.replicates,
            "pruner": scenario.pruner,
        },
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(plain, sort_keys=False))
    return load_study(file)


def drive(scenario: Scenario) -> tuple[int, Clock, Clock, Clock]:
    """Trials driven, and the clocks of the whole loop, of the workers and of the samplers."""
    whole, workers, samplers = Clock(), Clock(), Clock()
    with tempfile.TemporaryDirectory() as folder, timed_samplers(samplers):
        paths = WorkPaths.at(folder)
        study = study_of(scenario, paths.workdir)
        ledger, holder = Ledger.open(paths.ledger_url), Holder.current()
        ledger.create_sweep(name=study.name, study="{}", study_hash="", created_at=time.time())
        ledger.acquire_lease(study.name, "driver", holder=holder, now=time.time())
        simulated = SimulatedExecutor(
            workers=scenario.workers, slots=scenario.slots, round_seconds=scenario.round_seconds
        )
        where = Where(paths, workers=scenario.workers, slots=scenario.slots)
        with whole.running():
            sweep = Sweep(
                name=study.name,
                stages=[Stages(study, arm, r) for arm in arms(study) for r in range(study.search.replicates)],
                ledger=ledger,
                holder=holder,
                executor=TimedExecutor(simulated, workers),
                paths=paths,
                observe=Observer(study, where.slots, SilentProgress()),
            )
            assert sweep.run()
        counts = ledger.counts(study.name)
        assert {state for _, _, state in counts} <= ENDED
        ledger.close()
    return sum(counts.values()), whole, workers, samplers


@contextmanager
def timed_samplers(clock: Clock) -> Iterator[None]:
    """Every search's sampler counts its time on `clock`."""
    with patch.dict(SAMPLERS, {name: TimedEntry(entry, clock) for name, entry in SAMPLERS.items()}):
        yield


def measure(scenario: Scenario) -> Cost:
    """Drives the scenario after a small one that loads all libraries."""
    drive(Scenario(scenario.sampler, 1, 2, 10, workers=2, pruner=scenario.pruner))
    before = peak_mb()
    trials, whole, workers, samplers = drive(scenario)
    read = _read_seconds()
    driver = whole.seconds(read, workers.calls + samplers.calls) - workers.seconds(read)
    sampler = samplers.seconds(read)
    return Cost(
        trials=trials,
        turns=workers.calls,
        driver_seconds=driver,
        sampler_seconds=sampler,
        trials_per_second=trials / driver,
        own_ms_per_trial=1000 * (driver - sampler) / trials,
        memory_growth_mb=peak_mb() - before,
    )


def peak_mb() -> float:
    """The largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    options = parser.parse_args()
    titles = ("scenario", "trials", "turns", "trials/s", "own ms/trial", "sampler s", "MB")
    print("{:26} {:>7} {:>7} {:>9} {:>13} {:>10} {:>6}".format(*titles))
    costs: dict[str, Cost] = {}
    for name in options.only:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost = costs[name] = pool.apply(measure, (SCENARIOS[name],))
        print(
            f"{name:26} {cost.trials:7} {cost.turns:7} {cost.trials_per_second:9.0f} {cost.own_ms_per_trial:13.3f} "
            f"{cost.sampler_seconds:10.2f} {cost.memory_growth_mb:6.0f}",
            flush=True,
        )
    ratios = {
        f"{sampler}: cost per trial at 10k / at 1k": costs[f"{sampler} 10k"].own_ms_per_trial
        / costs[f"{sampler} 1k"].own_ms_per_trial
        for sampler in ("random", "tpe")
        if {f"{sampler} 10k", f"{sampler} 1k"} <= costs.keys()
    }
    for what, ratio in ratios.items():
        print(f"{what}: {ratio:.2f}")
    if options.json:
        figures = {name: {"sweep": asdict(SCENARIOS[name]), "cost": asdict(cost)} for name, cost in costs.items()}
        options.json.write_text(json.dumps({"scenarios": figures, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
