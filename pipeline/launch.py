"""Putting a sweep together and seeing it through: data, ledger, lease, workers, delivery, progress.

The parts know nothing of each other; this file introduces them. Also trains a single configuration.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import FrameType

import yaml

from .config import Study, dump_study, load_study, study_differences, study_hash, study_of
from .data.dataset import DataSet, load_data
from .errors import StudyFileError, SweepConflictError, UserError
from .execution.base import Executor
from .extension import extension_of
from .ledger.store import Holder, Ledger, SweepRecord
from .paths import WorkPaths, write_atomically
from .records import (
    Phase,
    TrialEnded,
    TrialOutcome,
    TrialRecord,
    TrialTask,
    canonical_json,
    derive_seed,
)
from .report.observer import Observer
from .report.progress import Progress
from .results import Results, describe, load_results, trial_of
from .space import arms, most_workers
from .stages import Stages
from .sweep import Sweep

AUTOMATIC_SLOTS = 32
"""slots that `plan` takes a worker to have when each measures for itself how many pay (packed/tuning.py)"""
DELIVERY_PATIENCE_SECONDS = 600.0
EXTENDED = "the result will be that of a fresh sweep of this study"
EXTENDED_MIXED = "workers with different numerics took part, so a fresh sweep of this study may end otherwise"
LEDGER_VARIABLE = "VAE_SWEEP_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Where:
    """Where a sweep runs and where its results go: never part of the study."""

    paths: WorkPaths
    workers: int | None = 1
    """None: all that the cluster at `address` has"""
    max_workers: int | None = None
    """of a cluster that grows; None: `workers`, or no more than the study can use"""
    device: str = "auto"
    """of Ray workers: `cpu`, `cuda`, or `auto`: GPUs where the cluster has some"""
    workers_per_gpu: int = 1
    slots: int | None = None
    """trials a worker trains at once; None: as many as pay, by measurement"""
    executor: str = "ray"
    """`ray`, `inline` or, for tests of all but the training, `simulated`"""
    address: str | None = None
    """of a Ray cluster; None starts one here"""
    tracking: str | None = None
    """MLflow tracking URI; None: the embedded store; `none`: no tracker"""
    allow_mixed: bool = False

    @property
    def ledger_url(self) -> str:
        """The ledger's database."""
        return os.environ.get(LEDGER_VARIABLE) or self.paths.ledger_url


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended."""

    results: Results
    finished: bool
    already: bool
    """it was finished before this command"""
    undelivered: int | None
    """trials the tracker has not got; None: no tracker"""
    lost_delivery: str
    """why, if some are undelivered"""


def open_ledger(where: Where, *, create: bool = False) -> Ledger:
    """The working directory's ledger."""
    if create:
        where.paths.workdir.mkdir(parents=True, exist_ok=True)
    return Ledger.open(where.ledger_url, create=create)


def load_study_data(study: Study) -> DataSet:
    """The study's data. Raises DataError."""
    data = study.data
    return load_data(
        name=data.name,
        path=data.path,
        form=data.form,
        levels=data.levels,
        split=data.split,
        split_seed=study.seed if data.split_seed is None else data.split_seed,
    )


def run(
    file: Path, sets: list[str], where: Where, progress: Progress, *, quiet: bool = False, extend: bool = False
) -> RunReport:
    """Runs the study of `file`, or resumes what is there, until finished or stopped.

    `extend`: a smaller sweep of this name that is there becomes one of this study.
    """
    study = load_study(file, sets)
    if study.is_single:
        problem = "nothing varies: give `scientific` or `nuisance`, or train it once with `vae-sweep train`"
        raise StudyFileError(str(file), [problem])
    dataset = load_study_data(study)
    with open_ledger(where, create=True) as ledger:
        ledger.on_away = progress.message
        for line in _extended(ledger, study, dataset, where.paths) if extend else ():
            progress.message(line)
        record = register(ledger, study, dataset, where.paths)
        if record.status == "finished":
            return RunReport(load_results(ledger, study.name), True, True, _undelivered(ledger, study.name, where), "")
        holder = Holder.current()
        ledger.acquire_lease(study.name, "driver", holder=holder, now=time.time())
        try:
            ledger.update_sweep(study.name, status="running", stop_requested=False)
            delivery = _start_delivery(study.name, where)
            with _workers(study, dataset, where, progress) as executor:
                finished = _drive(study, executor, ledger, holder, where, progress)
                now = time.time()
                ledger.update_sweep(  # before the workers end, which takes a second: delivery waits for it
                    study.name, status="finished" if finished else "stopped", finished_at=now if finished else None
                )
        finally:
            ledger.release_lease(study.name, "driver", holder)
        lost = _await_delivery(study.name, delivery, ledger, where, progress)
        undelivered = _undelivered(ledger, study.name, where)
        return RunReport(load_results(ledger, study.name), finished, False, undelivered, lost)


def register(ledger: Ledger, study: Study, dataset: DataSet, paths: WorkPaths) -> SweepRecord:
    """The sweep's row: a new one, or the old one of the same question. Raises SweepConflictError for another."""
    plain = describe(study, dataset)
    found = ledger.sweep(study.name)
    if found is None:
        write_atomically(paths.study(study.name), dump_study(study).encode())
        return ledger.create_sweep(
            name=study.name, study=canonical_json(plain), study_hash=study_hash(plain), created_at=time.time()
        )
    if found.study_hash != study_hash(plain):
        old = json.loads(found.study)
        extension = extension_of(old, plain)
        remedy = "Give this one a name of its own (--set name=...) or another --workdir."
        if not extension.refused:
            remedy = f"It only adds to what is there: run it with --extend. Or: {remedy[0].lower()}{remedy[1:]}"
        raise _conflict(study, paths, study_differences(old, plain), remedy)
    _keep_study_file(paths, found, study)
    return found


def _extended(ledger: Ledger, study: Study, dataset: DataSet, paths: WorkPaths) -> list[str]:
    """Makes the sweep of this name, if there is one, one of `study`; what that adds, in lines.

    Raises SweepConflictError where that cannot be, LeaseHeldError while somebody drives it.
    """
    plain, name, holder = describe(study, dataset), study.name, Holder.current()
    if ledger.sweep(name) is None:
        return []
    ledger.acquire_lease(name, "driver", holder=holder, now=time.time())
    try:
        found = ledger.sweep(name)
        if found is None:
            return []
        extension = extension_of(json.loads(found.study), plain)
        if extension.refused:
            remedy = "An extension only adds. Give this one a name of its own (--set name=...) or another --workdir."
            raise _conflict(study, paths, extension.refused, remedy)
        if not extension.added:
            return []
        ledger.extend_sweep(name, study=canonical_json(plain), study_hash=study_hash(plain))
    finally:
        ledger.release_lease(name, "driver", holder)
    again = [extension.again] if extension.again else []
    end = EXTENDED if found.reproducible else EXTENDED_MIXED
    return [f"sweep {name} is extended: {'; '.join(extension.added)}", *again, end]


def _conflict(study: Study, paths: WorkPaths, differences: Sequence[str], remedy: str) -> SweepConflictError:
    lines = "\n".join(f"  - {line}" for line in differences)
    return SweepConflictError(
        f"A sweep is its name and its question, but '{study.name}' in {paths.workdir} asks something else:\n"
        f"{lines}\n{remedy}"
    )


def _keep_study_file(paths: WorkPaths, record: SweepRecord, study: Study) -> None:
    """The file follows the ledger where it was left behind; `study` has the order in which people wrote it."""
    known, file = study_of(json.loads(record.study)), paths.study(record.name)
    text = dump_study(study if study == known else known)
    with suppress(OSError, yaml.YAMLError):
        if yaml.safe_load(file.read_text()) == yaml.safe_load(text):
            return
    write_atomically(file, text.encode())


def make_executor(dataset: DataSet, study: Study, where: Where) -> Executor:
    """The workers. The twins stay in this process; Ray is loaded only where it is asked for."""
    bank_seed = derive_seed(study.seed, "bank")
    if where.executor == "inline":
        from .execution.inline import InlineExecutor

        return InlineExecutor(dataset, workers=where.workers or 1, slots=where.slots, bank_seed=bank_seed)
    if where.executor == "simulated":
        from .execution.simulated import SimulatedExecutor

        return SimulatedExecutor(workers=where.workers or 1, slots=where.slots or AUTOMATIC_SLOTS)
    from .execution.environment import prepare_ray

    prepare_ray(where.address)  # before Ray is imported
    from .execution.ray_pool import RayPool

    return RayPool(
        dataset,
        workers=where.workers,
        max_workers=where.max_workers or where.workers or most_workers(study),
        slots=where.slots,
        bank_seed=bank_seed,
        address=where.address,
        device=where.device,
        workers_per_gpu=where.workers_per_gpu,
    )


@contextmanager
def _workers(study: Study, dataset: DataSet, where: Where, progress: Progress) -> Iterator[Executor]:
    count = "all" if where.workers is None else str(where.workers)
    kind = "Ray" if where.executor == "ray" else where.executor
    place = f" of the cluster at {where.address}" if where.address and kind == "Ray" else ""
    progress.message(f"starting {count} {kind} worker{'' if where.workers == 1 else 's'}{place}")
    executor = make_executor(dataset, study, where)
    try:
        yield executor
    finally:
        executor.close()


def _drive(study: Study, executor: Executor, ledger: Ledger, holder: Holder, where: Where, progress: Progress) -> bool:
    try:
        sweep = Sweep(
            name=study.name,
            stages=_stages(study, ledger),
            ledger=ledger,
            holder=holder,
            executor=executor,
            paths=where.paths,
            allow_mixed=where.allow_mixed,
            observe=Observer(study, where.slots, progress),
        )
        with _stopping(sweep.stop, progress):
            return sweep.run()
    finally:
        progress.close()


def _stages(study: Study, ledger: Ledger) -> list[Stages]:
    """Every search as the ledger has it; the ledger's curves are not kept."""
    known: defaultdict[tuple[str, int], list[TrialRecord]] = defaultdict(list)
    for record in ledger.trials(study.name):
        known[record.key.arm, record.key.replicate].append(record)
    searches = product(arms(study), range(study.search.replicates))
    return [Stages(study, arm, replicate, known[arm.id, replicate]) for arm, replicate in searches]


@contextmanager
def _stopping(stop: Callable[[], None], progress: Progress) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a clean stop; a second Ctrl-C interrupts."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        progress.message("stopping; what is unfinished will be trained again (Ctrl-C once more to leave at once)")
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------ delivery


def tracking_target(where: Where) -> str | None:
    """The tracking URI in force; None where nothing is tracked."""
    if where.tracking == "none":
        return None
    return where.tracking or os.environ.get("MLFLOW_TRACKING_URI") or where.paths.mlflow_url


def _start_delivery(name: str, where: Where) -> subprocess.Popen[bytes] | None:
    """Delivery runs beside the training as `vae-sweep sync --follow`: nothing it does can stall the loop."""
    target = tracking_target(where)
    if target is None:
        return None
    command = [sys.executable, "-m", "pipeline", "sync", name, "--follow", "--workdir", str(where.paths.workdir)]
    log = where.paths.delivery_log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:  # a former run's last words are not this one's
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": target, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )


def _undelivered(ledger: Ledger, name: str, where: Where) -> int | None:
    from .tracking.mlflow_tracker import target_of

    target = tracking_target(where)
    return None if target is None else ledger.count_undelivered(name, target_of(target))


def _await_delivery(
    name: str, process: subprocess.Popen[bytes] | None, ledger: Ledger, where: Where, progress: Progress
) -> str:
    """Waits while deliveries go on arriving; returns why it stopped waiting, empty when all is delivered."""
    if process is None:
        return ""
    left = _undelivered(ledger, name, where)
    if left:
        progress.message(f"delivering the last {left} trials to MLflow")
    deadline = time.monotonic() + DELIVERY_PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        now_left = _undelivered(ledger, name, where)
        if now_left != left:
            left, deadline = now_left, time.monotonic() + DELIVERY_PATIENCE_SECONDS
        if left and _says_away(where.paths.delivery_log(name)):
            process.terminate()
            return "MLflow is away"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    if process.poll() not in (0, None):
        lines = where.paths.delivery_log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the delivery ended with exit code {process.returncode}"
    return ""


def _says_away(log: Path) -> bool:
    lines = log.read_text(errors="replace").strip().splitlines()
    return bool(lines) and "away" in lines[-1]


# ------------------------------------------------------------------------------------------ one trial


def train_single(study: Study, *, slots: int = 1) -> TrialOutcome:
    """Trains a single-configuration study in this process: the same engine, the same numbers."""
    if not study.is_single:
        raise UserError(
            "train takes one configuration: a file without `scientific` and `nuisance`, such as "
            "`vae-sweep best NAME --export FILE` writes. A study with arms is for `vae-sweep run`."
        )
    key, params, seed = trial_of(study)
    return train_alone(study, load_study_data(study), TrialTask(key, params, seed, (), True, True))


def train_again(results: Results, record: TrialRecord) -> TrialOutcome:
    """Trains one trial of a sweep again, alone, in this process."""
    task = TrialTask(
        key=record.key,
        hyperparameters=results.hyperparameters(record),
        seed=record.seed,
        thresholds=record.thresholds,
        evaluate_test=record.key.phase is Phase.REPEAT,
        keep_weights=True,
    )
    return train_alone(results.study, load_study_data(results.study), task)


def train_alone(study: Study, dataset: DataSet, task: TrialTask) -> TrialOutcome:
    """One trial in one slot of the inline executor."""
    from .execution.inline import InlineExecutor

    executor = InlineExecutor(dataset, workers=1, slots=1, bank_seed=derive_seed(study.seed, "bank"))
    executor.submit("inline-0", [task])
    while True:
        for event in executor.poll(0.0):
            if isinstance(event, TrialEnded):
                return event.outcome


def save_outcome(folder: Path, outcome: TrialOutcome) -> None:
    """Writes a trial's files and `result.json` into `folder`."""
    for name, content in outcome.files.items():
        write_atomically(folder / name, content)
    summary: Mapping[str, object] = {
        "state": outcome.state,
        "cause": outcome.cause,
        "epochs": outcome.epochs,
        "metrics": dict(outcome.metrics),
        "curves": {name: list(values) for name, values in outcome.curves.items()},
    }
    write_atomically(folder / "result.json", (json.dumps(summary, indent=1, sort_keys=True) + "\n").encode())


def same_numbers(outcome: TrialOutcome, record: TrialRecord) -> bool | None:
    """Whether a trial trained again gave the ledger's numbers, bit for bit; None where it had not ended."""
    if record.outcome is None:
        return None
    mine, theirs = ((o.state, dict(o.metrics), dict(o.curves), o.cause) for o in (outcome, record.outcome))
    return mine == theirs
