"""Slots: what one trial keeps of its own inside a pack.

Axes: M slot, B batch, L latent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from ..records import State, TrialTask
from ..vae.model import slope_at
from ..vae.objectives import NUMBERS, OBJECTIVES, capacity_at, warmup_weight
from ..vae.scales import SCALES, Scale
from .optimizers import SlotHyper


@dataclass(slots=True, eq=False)
class Slot:
    """A trial in training."""

    task: TrialTask
    started_at: float
    epoch: int = 0
    """finished epochs"""
    state: State = State.RUNNING
    cause: str | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    epoch_times: list[float] = field(default_factory=list)
    worker_seconds: float = 0.0
    largest_pack: int = 1
    snapshots: dict[str, bytes] = field(default_factory=dict)
    """pictures made while it trains"""
    saved_at: float = field(default_factory=time.monotonic)
    """of its last checkpoint, or of its start here; monotonic seconds"""
    saved_epoch: int = 0
    """finished epochs then"""

    def number(self, name: str) -> float:
        """A numeric hyperparameter."""
        return float(cast(float, self.task.hyperparameters[name]))

    @property
    def epochs(self) -> int:
        """Epochs it is to train."""
        return int(self.number("epochs"))

    @property
    def scale(self) -> str:
        """Name of its posterior scale."""
        return str(self.task.hyperparameters["scale"])

    @property
    def running(self) -> bool:
        """Whether it is still in training."""
        return self.state is State.RUNNING

    def optimizer_hyper(self) -> SlotHyper:
        """What the optimizer needs to know of this slot."""
        return SlotHyper(*(self.number(name) for name in SlotHyper.__slots__))

    def initial_sigma(self) -> float | None:
        """The σ its posterior starts from; None: whatever the network's own weights come to."""
        given = self.task.hyperparameters["initial_sigma"]
        matched = self.task.hyperparameters["protocol"] != "as_shipped"
        return self.number("initial_sigma") if given is not None else 1.0 if matched else None

    def head_slope(self) -> float:
        """What the scale head's steps are divided by: |J| at the start under `jacobian_matched`, else 1."""
        if self.task.hyperparameters["protocol"] != "jacobian_matched":
            return 1.0
        return abs(slope_at(SCALES[self.scale], self.initial_sigma() or 1.0)) or 1.0

    def warmup(self) -> float:
        """Weight of the rate in the epoch it is about to train."""
        warmup_epochs, cycles = int(self.number("beta_warmup_epochs")), int(self.number("beta_cycles"))
        return warmup_weight(self.epoch, self.epochs, warmup_epochs, cycles)

    def capacity(self) -> float:
        """The rate it is to have in that epoch."""
        return capacity_at(self.epoch, self.number("capacity"), int(self.number("capacity_epochs")))

    def end(self, state: State, cause: str | None = None) -> None:
        """Ends the trial; its row is no longer updated."""
        self.state, self.cause = state, cause


class SlotMaths:
    """Scales, objective and hyperparameter tensors of a fixed sequence of slots of one structure.

    Slots of one scale should stand together: each run of equal ones is one call.
    """

    def __init__(self, slots: Sequence[Slot], dtype: torch.dtype, device: torch.device) -> None:
        self._slots = slots
        self._dtype, self._device = dtype, device
        self._scales = [(SCALES[name], part) for name, part in _runs([s.scale for s in slots])]
        self.objective = OBJECTIVES[str(slots[0].task.hyperparameters["objective"]) if slots else "elbo"]
        self.numbers = {name: self._column([slot.number(name) for slot in slots]) for name in NUMBERS}
        self.hyper = {"observation_std": self._column([s.number("observation_std") for s in slots]).unsqueeze(-1)}

    def begin_epoch(self) -> None:
        """Takes each slot's warm-up weight and capacity of the epoch it is about to train."""
        self.numbers |= {
            "warmup": self._column([slot.warmup() for slot in self._slots]),
            "capacity": self._column([slot.capacity() for slot in self._slots]),
        }

    def scale(self, raw_MBL: Tensor) -> tuple[Tensor, Tensor]:
        """σ and log σ, each slot by its own scale; autograd may go back through it."""
        if len(self._scales) == 1:
            return _apply(self._scales[0][0], raw_MBL)
        parts = [_apply(scale, raw_MBL[part]) for scale, part in self._scales]
        return torch.cat([sigma for sigma, _ in parts]), torch.cat([log_sigma for _, log_sigma in parts])

    def jacobian(self, raw_MBL: Tensor) -> Tensor:
        """d log σ / d raw, each slot by its own scale."""
        if len(self._scales) == 1:
            return self._scales[0][0].jacobian(raw_MBL)
        return torch.cat([scale.jacobian(raw_MBL[part]) for scale, part in self._scales])

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device).unsqueeze(-1)


def _apply(scale: Scale, raw: Tensor) -> tuple[Tensor, Tensor]:
    return scale(raw) if raw.requires_grad else scale.forward(raw)


def _runs(names: Sequence[str]) -> list[tuple[str, slice]]:
    runs, start = [], 0
    for name, members in groupby(names):
        count = len(list(members))
        runs.append((name, slice(start, start + count)))
        start += count
    return runs
