"""Putting a sweep together and seeing it through: data, ledger, lease, workers, delivery, progress.

The parts know nothing of each other; this file introduces them.
"""

from __future__ import annotations

import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import FrameType

from ..config import Study, load_study
from ..data.dataset import DataSet
from ..errors import StudyFileError
from ..execution.base import Executor
from ..execution.environment import loading
from ..execution.worker_server import WorkerServer
from ..ledger.store import Holder, Ledger
from ..records import TrialRecord
from ..report.observer import Observer
from ..report.progress import Progress
from ..results import Results, load_results
from ..search.pruners import PRUNERS
from ..space import arms
from ..stages import Stages
from ..sweep import Sweep
from . import workers
from .beside import DeliveryProcess, Helpers, helpers_of
from .delivering import await_delivery, give_files, is_delivered, undelivered
from .registering import extended, register
from .where import Where, load_study_data, open_ledger


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


def run(
    file: Path,
    sets: list[str],
    where: Where,
    progress: Progress,
    *,
    extend: bool = False,
    helpers: Helpers | None = None,
) -> RunReport:
    """Runs the study of `file`, or resumes what is there, until finished or stopped.

    `extend`: a smaller sweep of this name that is there becomes one of this study. `helpers`: what was started for
    it beforehand.
    """
    with helpers_of(where) if helpers is None else nullcontext(helpers) as (delivery, server):
        with loading():
            study = load_study(file, sets)
        if study.is_single:
            problem = "nothing varies: give `scientific` or `nuisance`, or train it once with `vae-sweep train`"
            raise StudyFileError(str(file), [problem])
        return _run(study, load_study_data(study), where, progress, delivery, server, extend=extend)


def _run(
    study: Study,
    dataset: DataSet,
    where: Where,
    progress: Progress,
    delivery: DeliveryProcess | None,
    server: WorkerServer | None,
    *,
    extend: bool,
) -> RunReport:
    with open_ledger(where, create=True) as ledger:
        ledger.on_away = progress.message
        for line in extended(ledger, study, dataset, where.paths) if extend else ():
            progress.message(line)
        record = register(ledger, study, dataset, where.paths)
        if record.status == "finished":
            # A driver that was killed at its end may have left the tracker without the rest.
            if is_delivered(ledger, study.name, where):
                delivery = None
            if delivery is not None:
                delivery.begin(study.name)
            return _delivered(study.name, delivery, ledger, where, progress, finished=True, already=True)
        holder = Holder.current()
        ledger.acquire_lease(study.name, "driver", holder=holder, now=time.time())
        try:
            tag = False if PRUNERS[study.search.pruner].looks_at_rivals else None
            ledger.update_sweep(study.name, status="running", stop_requested=False, reproducible=tag)
            if delivery is not None:
                delivery.begin(study.name)
            with _workers(study, dataset, where, progress, server) as executor:
                finished = _drive(study, executor, ledger, holder, where, progress)
                now = time.time()
                ledger.update_sweep(  # before the workers end, which takes a second: delivery waits for it
                    study.name, status="finished" if finished else "stopped", finished_at=now if finished else None
                )
                if delivery is not None:
                    give_files(delivery, study.name, where)
        finally:
            ledger.release_lease(study.name, "driver", holder)
        return _delivered(study.name, delivery, ledger, where, progress, finished=finished, already=False)


def _delivered(
    name: str,
    delivery: DeliveryProcess | None,
    ledger: Ledger,
    where: Where,
    progress: Progress,
    *,
    finished: bool,
    already: bool,
) -> RunReport:
    """Waits for the delivery while it gets on."""
    lost = await_delivery(name, delivery, ledger, where, progress)
    return RunReport(load_results(ledger, name), finished, already, undelivered(ledger, name, where), lost)


@contextmanager
def _workers(
    study: Study, dataset: DataSet, where: Where, progress: Progress, server: WorkerServer | None
) -> Iterator[Executor]:
    count = "all" if where.workers is None else str(where.workers)
    kind = {"ray": "Ray ", "processes": ""}.get(where.executor, f"{where.executor} ")
    place = f" of the cluster at {where.address}" if where.address and where.executor == "ray" else ""
    progress.message(f"starting {count} {kind}worker{'' if where.workers == 1 else 's'}{place}")
    executor = workers.make_executor(dataset, study, where, server)
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
            seconds=math.inf if where.hours is None else where.hours * 3600,
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
