"""Which executor trains a study's trials, by what `Where` says. Ray is loaded only where it is asked for."""

from __future__ import annotations

from ..config import Study, own_names
from ..data.dataset import DataSet
from ..execution.base import Executor
from ..execution.environment import loading, prepare_ray
from ..execution.worker_server import WorkerServer
from ..own_code import parcels
from ..records import derive_seed
from ..space import most_workers
from .where import Where

AUTOMATIC_SLOTS = 32
"""slots that `plan` takes a worker to have when each measures for itself how many pay (packed/tuning.py)"""


def make_executor(dataset: DataSet, study: Study, where: Where, server: WorkerServer | None = None) -> Executor:
    """The workers. The twins stay in this process; Ray is loaded only where it is asked for."""
    bank_seed = derive_seed(study.seed, "bank")
    if where.executor == "inline":
        from ..execution.inline import InlineExecutor

        return InlineExecutor(
            dataset,
            workers=where.workers or 1,
            slots=where.slots,
            bank_seed=bank_seed,
            checkpoint_seconds=where.checkpoint_seconds,
        )
    if where.executor == "processes":
        from ..execution.process_pool import ProcessPool

        count = where.workers or 1
        return ProcessPool(
            server or WorkerServer(),
            dataset,
            workers=min(count, where.max_workers or count),
            slots=where.slots,
            bank_seed=bank_seed,
            log=where.paths.workers_log(study.name),
            checkpoint_seconds=where.checkpoint_seconds,
            silence_seconds=where.silence_seconds,
            code=parcels(own_names(study)),
        )
    if where.executor == "simulated":
        from ..execution.simulated import SimulatedExecutor

        return SimulatedExecutor(workers=where.workers or 1, slots=where.slots or AUTOMATIC_SLOTS)
    prepare_ray(where.address)  # before Ray is imported
    with loading():
        from ..execution.ray_pool import RayPool

    return RayPool(
        dataset,
        workers=where.workers,
        max_workers=where.max_workers or where.workers or most_workers(study),
        slots=where.slots,
        bank_seed=bank_seed,
        address=where.address,
        device=where.device,
        workers_per_gpu=where.workers_per_gpu,
        checkpoint_seconds=where.checkpoint_seconds,
        silence_seconds=where.silence_seconds,
        code=parcels(own_names(study)),
    )
