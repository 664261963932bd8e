"""Promise 1: `compare --json` is a function of the study, the data and the numerics, byte for byte.

Every sampler with every stopping rule that promises it, on made-up training (fast, with news in any order) and on real
one; then the machine's part: Ray, PostgreSQL, kill -9, busy cores. A new sampler or rule joins by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pipeline.config import Study
from pipeline.data.dataset import DataSet
from pipeline.execution.base import Executor
from pipeline.execution.inline import InlineExecutor
from pipeline.execution.simulated import SimulatedExecutor
from pipeline.execution.worker_server import WorkerServer
from pipeline.launch import workers as making
from pipeline.launch.sweeping import run
from pipeline.launch.where import LEDGER_VARIABLE, Where
from pipeline.ledger.store import Ledger
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, Event, State, TrialEnded, TrialKey, TrialTask
from pipeline.report.progress import SilentProgress
from pipeline.results import Results, load_results
from pipeline.search.pruners import PRUNERS
from pipeline.search.samplers import SAMPLERS

from .postgres import Server
from .postgres import postgresql as postgresql
from .sweeps import json_of, run_here, study_file, vae_sweep, vae_sweep_here, vae_sweep_started, wait_for
from .test_end_to_end import runs_of

RULES = sorted(name for name, rule in PRUNERS.items() if not rule.looks_at_rivals)
TAGGED = sorted(PRUNERS.keys() - RULES)
CASES = [(sampler, rule) for sampler in sorted(SAMPLERS) for rule in RULES]
USUAL = {("tpe", "median"), ("cmaes", "patient")}
COMPARING = {"pruner_startup": 2, "pruner_warmup_epochs": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "percentile": {**COMPARING, "pruner_percentile": 40.0},
    "threshold": {"pruner_warmup_epochs": 1, "pruner_threshold_nats": -117.0},
    "patient": {"pruner_patience_epochs": 0},
}
"""of a rule, COMPARING where there is none, so that it stops some trials and not all"""
SIZES = {"gp": {"trials": 7}, "cmaes": {"trials": 14, "startup": 2}, "grid": {"trials": 12}}
"""of searches that are not of 9 trials: a proposal of gp costs half a second, a generation of cmaes takes 6 trials"""


def study_of(folder: Path, sampler: str, rule: str, epochs: int | None = None) -> Path:
    """Some trials diverge, and some are stopped where the rule stops any."""
    folder.mkdir(parents=True, exist_ok=True)
    nuisance: dict[str, Any] = {
        "learning_rate": {"low": 1.0e-4, "high": 1.0, "log": True},
        "beta_warmup_epochs": {"low": 0, "high": 2},
    }
    if sampler == "grid":
        nuisance["learning_rate"] = {"choices": [1.0e-4, 1.0e-3, 1.0e-2, 0.9]}
    search = {"sampler": sampler, "pruner": rule, "trials": 9, "startup": 4, "lag": 3, "replicates": 1}
    search |= SIZES.get(sampler, {}) | SETTINGS.get(rule, COMPARING)
    epochs = epochs or (12 if rule == "patient" else 4)
    scientific = {"scale": ["log_variance", "log_std"], "latent_dim": [3]}
    return study_file(
        folder, scientific=scientific, nuisance=nuisance, search=search, train={"epochs": epochs},
        confirm={"candidates": 2, "candidate_seeds": 2, "repeats": 2},
    )  # fmt: skip


class Shuffled:
    """An executor whose news arrive late and in any order, though each trial's own in theirs."""

    def __init__(self, executor: Executor, seed: int) -> None:
        self._executor, self._dice = executor, random.Random(seed)
        self._held: list[Event] = []

    @property
    def workers(self) -> int:
        return self._executor.workers

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        self._executor.submit(worker, self._dice.sample(list(tasks), len(tasks)))

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        self._executor.withdraw(worker, keys)

    def poll(self, timeout_seconds: float) -> list[Event]:
        news: list[Event] = []
        for event in self._executor.poll(timeout_seconds):
            (self._held if isinstance(event, TrialEnded) else news).append(event)
        self._dice.shuffle(self._held)
        ready = self._dice.randint(0, len(self._held))
        news += self._held[:ready]
        del self._held[:ready]
        return news

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        return self._executor.close(notice_seconds)


_static_check: type[Executor] = Shuffled


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Every executor that `run` makes is one."""
    make = making.make_executor

    def made(dataset: DataSet, study: Study, where: Where, server: WorkerServer | None) -> Executor:
        return Shuffled(make(dataset, study, where, server), seed)

    with patch.object(making, "make_executor", made):
        yield


def stopped_and_resumed(file: Path, workdir: Path, seed: int, **options: Any) -> Results:
    """Interrupted at random turns of the loop, each time by another driver, and seen to its end."""
    dice, where = random.Random(seed), Where(WorkPaths.at(workdir), tracking="none", **options)
    save = Ledger.save_trials

    class Stop(BaseException):
        pass

    for _ in range(4):
        left = dice.randint(1, 25)

        def dying(self: Ledger, *args: Any, **kwargs: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stop
            save(self, *args, **kwargs)

        with patch.object(Ledger, "save_trials", dying):
            try:
                if run(file, [], where, SilentProgress()).finished:
                    break
            except Stop:
                continue
    return run_here(file, workdir, **options)


@pytest.mark.parametrize(
    ("sampler", "rule"), [case if case in USUAL else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
class TestEverySamplerAndRule:
    def test_of_the_loop(self, tmp_path: Path, sampler: str, rule: str) -> None:
        """Made-up training: workers, slots, order and interruptions."""
        file = study_of(tmp_path, sampler, rule)
        plain = run_here(file, tmp_path / "plain", executor="simulated", workers=1, slots=1)
        states = {record.state for record in plain.records}
        assert State.DIVERGED in states and (rule == "none") == (State.STOPPED not in states), states
        for workers, slots in ((1, 4), (2, 1), (2, 32), (40, 3)):
            other = run_here(file, tmp_path / f"{workers} {slots}", executor="simulated", workers=workers, slots=slots)
            assert json_of(other) == json_of(plain), (workers, slots)
        for seed in range(3):
            with shuffled(seed):
                other = run_here(file, tmp_path / f"shuffled {seed}", executor="simulated", workers=3, slots=4)
            assert json_of(other) == json_of(plain), f"shuffled {seed}"
            resumed = stopped_and_resumed(
                file, tmp_path / f"resumed {seed}", seed, executor="simulated", workers=2, slots=3
            )
            assert json_of(resumed) == json_of(plain), f"resumed {seed}"

    @pytest.mark.slow
    def test_of_real_training(self, tmp_path: Path, sampler: str, rule: str) -> None:
        file = study_of(tmp_path, sampler, rule, epochs=6 if rule == "patient" else 3)
        plain = run_here(file, tmp_path / "plain", executor="inline", workers=1, slots=1)
        for workers, slots in ((1, 4), (2, 32)):
            other = run_here(file, tmp_path / f"{workers} {slots}", executor="inline", workers=workers, slots=slots)
            assert json_of(other) == json_of(plain), (workers, slots)
        resumed = stopped_and_resumed(file, tmp_path / "resumed", 1, executor="inline", workers=2, slots=4)
        assert json_of(resumed) == json_of(plain)


def _spin() -> None:
    os.nice(15)  # as Ray's workers are: beside work that is not, they would hardly be let on
    while True:
        sum(range(10**6))


@contextmanager
def busy_cores() -> Iterator[None]:
    """Two processes that never rest on every core."""
    spawn = multiprocessing.get_context("spawn")
    spinning = [spawn.Process(target=_spin, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.join()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_the_machine(tmp_path: Path, postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL, Ray, busy cores, the driver killed, then other workers and slots: the bytes of one quiet process."""
    file = study_of(tmp_path, "tpe", "median", epochs=40)
    expected = json_of(run_here(file, tmp_path / "plain", slots=1))
    url = postgresql.new_database()
    monkeypatch.setenv(LEDGER_VARIABLE, url)
    words = ("run", file, "--workdir", tmp_path / "work", "--mlflow", "none")
    with busy_cores():
        driver = vae_sweep_started(*words, "--workers", "2", "--slots", "2", log=tmp_path / "log")
        with Ledger.open(url) as ledger:

            def ended() -> int:
                return sum(count for (_, _, state), count in ledger.counts("small").items() if state in ENDED)

            wait_for(lambda: ended() >= 8, driver, 600)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            assert ended() < sum(ledger.counts("small").values()), "killed too late"
        vae_sweep(*words, "--workers", "1", "--slots", "32")
    assert vae_sweep_here("compare", "small", "--json")[1] == expected
    with Ledger.open(url) as ledger:
        results = load_results(ledger, "small")
    assert results.sweep.reproducible and max(record.attempts for record in results.records) > 1


def test_mixed_numerics_are_refused_or_tagged(tmp_path: Path) -> None:
    """Not promised, and never without a word of it."""
    file = study_of(tmp_path, "random", "none")

    def mixed(dataset: DataSet, study: Study, where: Where, server: WorkerServer | None) -> Executor:
        return SimulatedExecutor(workers=2, slots=2, devices={"simulated-1": "another"})

    with patch.object(making, "make_executor", mixed):
        alike = run_here(file, tmp_path / "refused", workers=2)
        tagged = run_here(file, tmp_path / "work", workers=2, allow_mixed=True)
    assert alike.sweep.reproducible and not tagged.sweep.reproducible
    shown = vae_sweep_here("status", "small", "--workdir", tmp_path / "work")[1]
    assert "no: workers with different numerics took part" in " ".join(shown.split())
    page = tmp_path / "report.html"
    assert vae_sweep_here("compare", "small", "--workdir", tmp_path / "work", "--html", page)[0] == 0
    assert "Not reproducible" in page.read_text()


@pytest.mark.parametrize("rule", [TAGGED[0], *(pytest.param(rule, marks=pytest.mark.slow) for rule in TAGGED[1:])])
def test_rules_that_look_at_rivals_are_tagged(tmp_path: Path, rule: str) -> None:
    """Not promised: tagged from the start, in the ledger, the status, the page and MLflow."""
    file, workdir = study_of(tmp_path, "random", rule, epochs=9), tmp_path / "work"
    results = run_here(file, workdir, executor="simulated", workers=1, slots=2, tracking=None)
    assert not results.sweep.reproducible
    assert State.STOPPED in {record.state for record in results.records}, "it stops some"
    words = f"the stopping rule {rule} looks at trials that happen to run"
    assert f"no: {words}" in " ".join(vae_sweep_here("status", "small", "--workdir", workdir)[1].split())
    page = tmp_path / "report.html"
    assert vae_sweep_here("compare", "small", "--workdir", workdir, "--html", page)[0] == 0
    assert "Not reproducible" in page.read_text() and words in page.read_text()
    tags = {run.data.tags["reproducible"] for run in runs_of(workdir)}
    assert tags == {"false"}


def test_the_suite_can_fail(tmp_path: Path) -> None:
    """An executor whose numbers depend on the worker is found out."""
    file = study_of(tmp_path, "tpe", "none")
    plain = run_here(file, tmp_path / "plain", executor="inline", slots=4)

    def other_noise(dataset: DataSet, study: Study, where: Where, server: WorkerServer | None) -> Executor:
        return InlineExecutor(dataset, workers=1, slots=4, bank_seed=1)

    with patch.object(making, "make_executor", other_noise):
        assert json_of(run_here(file, tmp_path / "other")) != json_of(plain)
