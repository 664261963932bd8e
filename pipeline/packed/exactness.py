"""Is a pack of this structure, on this machine, bit for bit what its slots would be alone?

Almost all structures are. What is not (a latent of 1: its one-column product takes another path) is found here, by
trying, and then runs slot by slot: exactness is never traded, only speed.
"""

from __future__ import annotations

import warnings

import torch
from torch.nn.modules.conv import _ConvNd

from ..own_code import is_own
from ..records import Params, Phase, TrialKey, TrialTask
from .device_data import DeviceData
from .pack import Pack
from .structure import Structure

TRIED_SLOTS = 5
TRIED_STEPS = 3


def packs_exactly(structure: Structure, data: DeviceData, sample: Params, *, across: bool = False) -> bool:
    """Trains a few slots for a few steps packed and alone, and compares weights and metrics bit for bit.

    `sample`: any complete set of hyperparameters of this structure. The scales of this repository pack exactly (their
    contract test); one of the user's own is tried itself. `across`: with vmap where modules would run slot by slot;
    alone there is nothing to go across.
    """
    tasks = _tasks(sample)
    packed_rows, packed_metrics = _try(structure, data, tasks, across)
    for i, task in enumerate(tasks):
        rows, metrics = _try(structure, data, [task], False)
        same_rows = bool((_bits(rows[0]) == _bits(packed_rows[i])).all())
        if not same_rows or any(repr(metrics[name][0]) != repr(packed_metrics[name][i]) for name in metrics):
            return False
    return True


def runs_across(structure: Structure, data: DeviceData, sample: Params) -> bool:
    """Whether what runs slot by slot may go across slots by vmap: on a CPU where that changes no bit.

    Under vmap a convolution becomes a grouped one, which a CPU computes otherwise and no faster: it is not tried. On a
    GPU numbers hold for one number of slots anyway, so there it is enough that vmap can do it.
    """
    pack = Pack(structure, data)
    if not pack.stack.apart:
        return False
    on_cpu = data.device.type == "cpu"
    if on_cpu and any(isinstance(layer, _ConvNd) for part in pack.stack.apart for layer in part.layers()):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # vmap warns where it would go slot by slot itself, and slower
        try:
            if on_cpu:
                return packs_exactly(structure, data, sample, across=True)
            _try(structure, data, _tasks(sample), True)
        except Exception:  # vmap cannot do all that a module may do
            return False
    return True


def _tasks(sample: Params) -> list[TrialTask]:
    scale = sample["scale"] if is_own(sample["scale"]) else "log_variance"
    return [
        TrialTask(TrialKey("exactness", 0, Phase.SEARCH, i), {**sample, "scale": scale}, seed=i)
        for i in range(TRIED_SLOTS)
    ]


def _try(
    structure: Structure, data: DeviceData, tasks: list[TrialTask], across: bool
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    pack = Pack(structure, data)
    pack.stack.run_across(across)
    pack.resettle(tasks)
    pack.train_steps(limit=TRIED_STEPS)
    return pack.rows_MP, pack.evaluate(pack.slots, "val")


def _bits(row: torch.Tensor) -> torch.Tensor:
    return row.contiguous().view(torch.int64 if row.dtype == torch.float64 else torch.int32)
