"""Checkpoints: a trial between two epochs as bytes, from which any worker goes on to the same bits.

One safetensors file: weights and optimizer state under the parameters' names, curves, times and pictures as tensors,
the rest as JSON in its header. No random state is needed, since draws are seeded anew each epoch (draws.py). Nothing
is unpickled. Knows no file: who keeps the bytes answers for their being whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..records import TrialTask, canonical_json
from .slots import Slot
from .stack import Stack

VERSION = 1
"""of what a checkpoint holds; one of another version is not used"""
_HEADER = "vae_sweep"


def save(slot: Slot, stack: Stack, rows: Sequence[Tensor], origin: str) -> bytes:
    """A trial in training with at least one finished epoch.

    `rows`: its parameters and optimizer state, each (P,); `origin`: what its numbers depend on beside its task.
    """
    tensors = {
        f"row{i}/{name}": tensor for i, row in enumerate(rows) for name, tensor in stack.named_tensors(row).items()
    }
    tensors |= {f"curve/{name}": torch.tensor(values, dtype=torch.float64) for name, values in slot.curves.items()}
    tensors["epoch_times"] = torch.tensor(slot.epoch_times, dtype=torch.float64)
    for name, picture in slot.snapshots.items():
        tensors[f"picture/{name}"] = torch.frombuffer(bytearray(picture), dtype=torch.uint8)
    header = {
        "version": VERSION,
        "task": _identity(slot.task, origin),
        "epoch": slot.epoch,
        "started_at": slot.started_at,
        "worker_seconds": slot.worker_seconds,
        "largest_pack": slot.largest_pack,
    }
    return save_tensors(tensors, metadata={_HEADER: canonical_json(header)})


def resume(slot: Slot, stack: Stack, buffers: int, origin: str) -> list[Tensor] | None:
    """Puts `slot` where its task's checkpoint is and returns its `buffers` rows, each (P,).

    None, and the slot as it was, where there is no checkpoint or it is not one of this very training.
    """
    content = slot.task.checkpoint
    if content is None:
        return None
    try:
        header, tensors = _header(content), load_tensors(content)
        if header["version"] != VERSION or header["task"] != _identity(slot.task, origin):
            return None
        epoch = int(header["epoch"])
        rows = [stack.row_of(_part(tensors, f"row{i}/")) for i in range(buffers)]
        curves = {name: values.tolist() for name, values in _part(tensors, "curve/").items()}
        times = tensors["epoch_times"].tolist()
        pictures = {name: picture.numpy().tobytes() for name, picture in _part(tensors, "picture/").items()}
        if not 0 < epoch < slot.epochs or {len(times), len(curves["val/elbo"]), *map(len, curves.values())} != {epoch}:
            return None
        seconds, pack = float(header["worker_seconds"]), int(header["largest_pack"])
        started_at = float(header["started_at"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    slot.epoch, slot.curves, slot.epoch_times, slot.snapshots = epoch, curves, times, pictures
    slot.started_at, slot.worker_seconds, slot.largest_pack, slot.saved_epoch = started_at, seconds, pack, epoch
    return rows


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _header(content: bytes) -> Mapping[str, Any]:
    """The JSON that `save` put into the file's header."""
    length = int.from_bytes(content[:8], "little")
    found: Mapping[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_HEADER])
    return found


def _identity(task: TrialTask, origin: str) -> str:
    """All that a training's numbers depend on but the machine, as a hash."""
    rule = [task.thresholds, *astuple(task.stopping)]
    parts = [origin, str(task.key), dict(task.hyperparameters), task.seed, rule, task.evaluate_test]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
