"""Is a pack of this structure, on this machine, bit for bit what its slots would be alone?

Almost all structures are. What is not (a latent of 1: its one-column product takes another path) is found here, by
trying, and then runs slot by slot: exactness is never traded, only speed.
"""

from __future__ import annotations

import torch

from ..records import Params, Phase, TrialKey, TrialTask
from .device_data import DeviceData
from .pack import Pack
from .structure import Structure

TRIED_SLOTS = 5
TRIED_STEPS = 3


def packs_exactly(structure: Structure, data: DeviceData, sample: Params) -> bool:
    """Trains a few slots for a few steps packed and alone, and compares weights and metrics bit for bit.

    `sample`: any complete set of hyperparameters of this structure.
    """
    tasks = [
        TrialTask(TrialKey("exactness", 0, Phase.SEARCH, i), {**sample, "scale": "log_variance"}, seed=i)
        for i in range(TRIED_SLOTS)
    ]
    packed_rows, packed_metrics = _try(structure, data, tasks)
    for i, task in enumerate(tasks):
        rows, metrics = _try(structure, data, [task])
        same_rows = bool((_bits(rows[0]) == _bits(packed_rows[i])).all())
        if not same_rows or any(repr(metrics[name][0]) != repr(packed_metrics[name][i]) for name in metrics):
            return False
    return True


def _try(structure: Structure, data: DeviceData, tasks: list[TrialTask]) -> tuple[torch.Tensor, dict[str, list[float]]]:
    pack = Pack(structure, data)
    pack.resettle(tasks)
    pack.train_steps(limit=TRIED_STEPS)
    return pack.rows_MP, pack.evaluate(pack.slots, "val")


def _bits(row: torch.Tensor) -> torch.Tensor:
    return row.contiguous().view(torch.int64 if row.dtype == torch.float64 else torch.int32)
