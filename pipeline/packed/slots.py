"""Slots: what one trial keeps of its own inside a pack.

Axes: M slot, B batch, L latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from ..records import State, TrialTask
from ..vae.model import Terms
from ..vae.objectives import OBJECTIVES, warmup_weight
from ..vae.posterior import Posterior
from ..vae.scales import SCALES
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
    best: float = float("-inf")

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
    def objective(self) -> str:
        """Name of its objective."""
        return str(self.task.hyperparameters["objective"])

    @property
    def running(self) -> bool:
        """Whether it is still in training."""
        return self.state is State.RUNNING

    def optimizer_hyper(self) -> SlotHyper:
        """What the optimizer needs to know of this slot."""
        return SlotHyper(*(self.number(name) for name in SlotHyper.__slots__))

    def end(self, state: State, cause: str | None = None) -> None:
        """Ends the trial; its row is no longer updated."""
        self.state, self.cause = state, cause


class SlotMaths:
    """Scale, objective and hyperparameter tensors of a fixed sequence of slots.

    Slots of one scale (objective) should stand together: each run of equal ones is one call.
    """

    def __init__(self, slots: Sequence[Slot], dtype: torch.dtype, device: torch.device) -> None:
        self._slots = slots
        self._dtype, self._device = dtype, device
        self._scales = [(SCALES[name].forward, part) for name, part in _runs([s.scale for s in slots])]
        self._objectives = [(OBJECTIVES[name], part) for name, part in _runs([s.objective for s in slots])]
        self._beta = self._column([slot.number("beta") for slot in slots])
        self._warmup = self._beta
        self.hyper = {"observation_std": self._column([s.number("observation_std") for s in slots]).unsqueeze(-1)}

    def begin_epoch(self) -> None:
        """Takes each slot's warm-up weight of the epoch it is about to train."""
        self._warmup = self._column(
            [warmup_weight(slot.epoch, int(slot.number("beta_warmup_epochs"))) for slot in self._slots]
        )

    def scale(self, raw_MBL: Tensor) -> tuple[Tensor, Tensor]:
        """σ and log σ, each slot by its own scale."""
        if len(self._scales) == 1:
            return self._scales[0][0](raw_MBL)
        parts = [forward(raw_MBL[part]) for forward, part in self._scales]
        return torch.cat([sigma for sigma, _ in parts]), torch.cat([log_sigma for _, log_sigma in parts])

    def loss(self, terms: Terms) -> Tensor:
        """Per-image loss (M, B), each slot by its own objective."""
        if len(self._objectives) == 1:
            return self._objectives[0][0](terms, beta=self._beta, warmup=self._warmup)
        return torch.cat(
            [
                objective(_part(terms, part), beta=self._beta[part], warmup=self._warmup[part])
                for objective, part in self._objectives
            ]
        )

    def _column(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device).unsqueeze(-1)


def _runs(names: Sequence[str]) -> list[tuple[str, slice]]:
    runs, start = [], 0
    for name, members in groupby(names):
        count = len(list(members))
        runs.append((name, slice(start, start + count)))
        start += count
    return runs


def _part(terms: Terms, part: slice) -> Terms:
    posterior = Posterior(terms.posterior.mean[part], terms.posterior.sigma[part], terms.posterior.log_sigma[part])
    return Terms(terms.distortion[part], terms.rate[part], posterior, terms.raw[part])
