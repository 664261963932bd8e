"""A schedule: which faults hit a sweep and when, drawn from a seed; and what must be true when it is over."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.launch.where import LEDGER_VARIABLE
from pipeline.records import ENDED
from pipeline.results import load_results
from pipeline.tracking.mlflow_tracker import LEDGER_ID

from ..sweeps import check_budgets, json_of, run_here, study_file, vae_sweep_here
from .faults import FAULTS
from .trial_run import PATIENCE_SECONDS, Missed, SweepRun
from .world import World

STUDY: dict[str, Any] = {
    "name": "chaos",
    "question": "Does it survive?",
    "train": {"epochs": 500},
    "scientific": {"scale": ["log_variance", "log_std", "raw_variance"], "latent_dim": [3]},
    "search": {"trials": 5, "startup": 3, "lag": 2, "replicates": 1},
    "confirm": {"candidates": 2, "candidate_seeds": 1, "repeats": 2},
}
"""raw_variance diverges in its first step; the others train for one to two seconds a trial. 27 trials in all."""
LAST_MOMENT = 8
"""no fault is begun later than after so many ended trials: enough are left for it to hit"""
REDRAWS = 3
"""where a sweep was over before a fault could hit, one of trials twice, then four times as long takes its place"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens to one sweep."""

    seed: int
    ledger: str
    """sqlite or postgresql"""
    faults: tuple[str, ...]
    moments: tuple[int, ...]
    """after so many ended trials"""
    delays_seconds: tuple[float, ...]


@dataclass(slots=True)
class Result:
    """How it went."""

    seed: int
    ledger: str
    faults: Sequence[str]
    seconds: float = 0.0
    drivers: int = 0
    """how often the command was given"""
    attempts: int = 0
    """trials that were handed to a worker more than once"""
    redraws: int = 0
    """how often the sweep was over before a fault could hit, and earlier moments in a longer one were drawn"""
    missed: list[str] = field(default_factory=list)
    """what each of them waited for"""
    error: str = ""
    """empty: all that must be true is"""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(seed: int, redraw: int = 0, *, postgresql: bool = True, disks: bool = True) -> Schedule:
    """The schedule of a seed: odd ones on PostgreSQL. Every redraw is earlier; the last one has other faults."""
    dice = random.Random(f"{seed} {redraw if redraw == REDRAWS else 0}")
    ledger = "postgresql" if seed % 2 and postgresql else "sqlite"
    possible = [
        name for name, fault in FAULTS.items() if fault.ledger in ("", ledger) and (disks or not fault.disk)
    ]  # fmt: skip
    chosen: list[str] = []
    count = dice.choice((2, 2, 3))
    while len(chosen) < count:
        (name,) = dice.choices(possible, [FAULTS[one].weight for one in possible])
        if name not in chosen:
            chosen.append(name)
    if 0 < redraw < REDRAWS:
        dice = random.Random(f"{seed} {redraw}")
    last = max(LAST_MOMENT - 3 * redraw, 0)
    moments = sorted(dice.randint(0, last) for _ in chosen)
    return Schedule(seed, ledger, tuple(chosen), tuple(moments), tuple(round(0.4 * dice.random(), 3) for _ in chosen))


def seeds_for(names: Collection[str]) -> list[int]:
    """The first seeds that together draw all of these faults, greedily few."""
    missing, found = set(names), list[int]()
    while missing:
        best = max(range(200), key=lambda seed: (len(missing & set(draw(seed).faults)), -seed))
        found.append(best)
        missing -= set(draw(best).faults)
    return found


@dataclass(frozen=True, slots=True)
class Reference:
    """A study, and what it comes to undisturbed."""

    file: Path
    expected: str
    """JSON of the comparison"""
    keys: list[str]
    """of all trials"""


class Chaos:
    """Runs schedules, one after the other, in one world."""

    def __init__(self, folder: Path, *, disks: bool) -> None:
        self._folder, self._disks = folder, disks
        folder.mkdir(parents=True, exist_ok=True)
        self._references: dict[int, Reference] = {}
        self._world = World(folder)

    def end(self) -> None:
        """Ends all that runs."""
        self._world.end()

    def play(self, seed: int, *, keep: bool = False) -> Result:
        """One schedule, redrawn when the sweep was quicker than a fault."""
        began, misses = time.monotonic(), list[str]()
        for redraw in range(REDRAWS + 1):
            schedule = draw(seed, redraw, postgresql=self._world.postgres is not None, disks=self._disks)
            result = Result(seed, schedule.ledger, schedule.faults, redraws=redraw, missed=misses)
            folder = self._folder / f"{seed}-{redraw}"
            try:
                reference = self._reference(STUDY["train"]["epochs"] * 2 ** min(redraw, 2))
                with self._place(schedule, reference, folder) as run:
                    self._play(schedule, run, result, reference)
            except Missed as missed:
                misses.append(str(missed))
                result.error = f"a fault never hit: {missed}"
                shutil.rmtree(folder, ignore_errors=True)
                continue
            except (AssertionError, subprocess.SubprocessError, OSError) as error:
                result.error = f"{type(error).__name__}: {error}"
            break
        result.seconds = round(time.monotonic() - began, 1)
        if not (keep and result.error):
            shutil.rmtree(folder, ignore_errors=True)
        return result

    def _reference(self, epochs: int) -> Reference:
        if epochs not in self._references:
            folder = self._folder / f"reference-{epochs}"
            folder.mkdir()
            file = study_file(folder, **{**STUDY, "train": {"epochs": epochs}})
            results = run_here(file, folder / "work", slots=8)
            keys = sorted(str(record.key) for record in results.records)
            self._references[epochs] = Reference(file, json_of(results), keys)
        return self._references[epochs]

    @contextmanager
    def _place(self, schedule: Schedule, reference: Reference, folder: Path) -> Iterator[SweepRun]:
        """A working directory, on a small disk of its own where it is to be filled; and a database."""
        workdir, world = folder / "work", self._world
        workdir.mkdir(parents=True)
        mounted = any(FAULTS[name].disk for name in schedule.faults)
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", workdir], check=True)
        url = world.postgres.new_database() if schedule.ledger == "postgresql" and world.postgres else None
        run = SweepRun(world, reference.file, workdir, f"chaos-{folder.name}", url)
        try:
            yield run
        finally:
            run.close()
            world.mend()
            if url and world.postgres:
                world.postgres.drop(url)
            if mounted:
                subprocess.run(["umount", "-l", workdir], check=False)

    def _play(self, schedule: Schedule, run: SweepRun, result: Result, reference: Reference) -> None:
        run.start()
        for name, moment, delay in zip(schedule.faults, schedule.moments, schedule.delays_seconds, strict=True):
            run.await_(lambda due=moment: run.ends() >= due and run.driver_known(), f"{moment} ended trials")  # type: ignore[misc]
            time.sleep(delay)
            FAULTS[name].strike(run)
            if run.process is None:
                run.start()
        assert run.process is not None
        code = run.process.wait(PATIENCE_SECONDS)
        assert code == 0, f"ended with {code}\n{run.said()[-2000:]}"
        self._world.mend()
        self._judge(run, result, reference)

    def _judge(self, run: SweepRun, result: Result, reference: Reference) -> None:
        """All that must be true of a finished sweep, whatever has happened to it."""
        environment = {LEDGER_VARIABLE: run.ledger_url} if result.ledger == "postgresql" else {}
        tracking = self._world.proxy.url
        with patch.dict(os.environ, environment):
            words = (run.name, "--workdir", run.workdir, "--mlflow", tracking)
            checked, synced = vae_sweep_here("sync", *words, "--check"), (0, "", "")
            if checked[0] != 0:  # `run` did not wait for a tracker that was away
                synced = self._synced(*words)
                checked = vae_sweep_here("sync", *words, "--check")
            assert checked[0] == 0 and "agree" in checked[1], checked
        results = load_results(run.ledger, run.name)
        assert results.sweep.status == "finished" and results.sweep.reproducible
        assert sorted(str(record.key) for record in results.records) == reference.keys
        assert all(record.state in ENDED for record in results.records)
        check_budgets(results.study, results.comparison)
        assert json_of(results).replace(run.name, STUDY["name"]) == reference.expected, "another result"
        result.drivers = len(run.logs)
        assert result.drivers == 1 + sum(FAULTS[name].again for name in result.faults), (
            "how often the command was given"
        )
        result.attempts = sum(record.attempts > 1 for record in results.records)
        self._judge_mlflow(run, reference)
        assert not list(run.workdir.glob("*/trials/**/checkpoint-*")), "checkpoints of ended trials"
        texts = run.said() + run.delivery_said() + synced[1] + synced[2]
        assert "Traceback" not in texts, texts[texts.index("Traceback") :][:2000]

    @staticmethod
    def _synced(*words: object) -> tuple[int, str, str]:
        """`sync`, as soon as a delivery that outlived its driver lets it."""
        deadline = time.monotonic() + 90
        while True:
            synced = vae_sweep_here("sync", *words)
            if synced[0] == 0:
                return synced
            assert "one delivery at a time" in synced[2] and time.monotonic() < deadline, synced
            time.sleep(0.5)

    def _judge_mlflow(self, run: SweepRun, reference: Reference) -> None:
        """By MLflow's own client: every trial once, none running."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._world.proxy.url)
        experiment = client.get_experiment_by_name(run.name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        found = sorted(one.data.tags[LEDGER_ID].partition("/")[2] for one in runs)
        assert found == ["", *reference.keys], "every trial once, and the parent"
        assert not [one.info.run_id for one in runs if one.info.status == "RUNNING"]
