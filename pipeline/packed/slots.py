"""Slots: what one trial keeps of its own inside a pack.

Axes: M slot, B batch, L latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..records import State, TrialTask
from ..vae.model import Terms
from ..vae.objectives import OBJECTIVES, WeightedRate, warmup_weight
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
    snapshots: dict[str, bytes] = field(default_factory=dict)
    """pictures made while it trains"""

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


class TermGradients(NamedTuple):
    """The gradient of a weighted loss by the ELBO's terms."""

    distortion: Tensor
    """(M, B)"""
    rate: Tensor
    """(M, B, L) or (M, B, 1)"""
    rest: tuple[Tensor, Tensor] | None
    """by the posterior's mean and raw scale (M, B, L) where an objective uses them on its own"""


class SlotMaths:
    """Scale, objective and hyperparameter tensors of a fixed sequence of slots.

    Slots of one scale (objective) should stand together: each run of equal ones is one call.
    """

    def __init__(self, slots: Sequence[Slot], dtype: torch.dtype, device: torch.device) -> None:
        self._slots = slots
        self._dtype, self._device = dtype, device
        self._scales = [(SCALES[name], part) for name, part in _runs([s.scale for s in slots])]
        self._objectives = [(OBJECTIVES[name], part) for name, part in _runs([s.objective for s in slots])]
        self._beta = self._column([slot.number("beta") for slot in slots])
        self._warmup = self._beta
        self._rate_weight: Tensor | None = None
        self.hyper = {"observation_std": self._column([s.number("observation_std") for s in slots]).unsqueeze(-1)}

    def begin_epoch(self) -> None:
        """Takes each slot's warm-up weight of the epoch it is about to train."""
        self._warmup = self._column(
            [warmup_weight(slot.epoch, int(slot.number("beta_warmup_epochs"))) for slot in self._slots]
        )
        weights = [
            objective.weight(self._beta[part], self._warmup[part])
            for objective, part in self._objectives
            if isinstance(objective, WeightedRate)
        ]
        self._rate_weight = torch.cat(weights) if len(weights) == len(self._objectives) else None

    def scale(self, raw_MBL: Tensor) -> tuple[Tensor, Tensor]:
        """σ and log σ, each slot by its own scale."""
        if len(self._scales) == 1:
            return self._scales[0][0].forward(raw_MBL)
        parts = [scale.forward(raw_MBL[part]) for scale, part in self._scales]
        return torch.cat([sigma for sigma, _ in parts]), torch.cat([log_sigma for _, log_sigma in parts])

    def jacobian(self, raw_MBL: Tensor) -> Tensor:
        """d log σ / d raw, each slot by its own scale."""
        if len(self._scales) == 1:
            return self._scales[0][0].jacobian(raw_MBL)
        return torch.cat([scale.jacobian(raw_MBL[part]) for scale, part in self._scales])

    def loss_and_gradients(self, terms: Terms, weight_B: Tensor) -> tuple[Tensor, TermGradients]:
        """Per-image loss (M, B), and the gradients of its sum weighted by `weight_B`."""
        if self._rate_weight is None:
            return self._by_autograd(terms, weight_B)
        loss = terms.distortion + terms.rate.sum(-1) * self._rate_weight
        to_rate = (weight_B * self._rate_weight).unsqueeze(-1)
        return loss, TermGradients(weight_B.expand_as(loss), to_rate, None)

    def _by_autograd(self, terms: Terms, weight_B: Tensor) -> tuple[Tensor, TermGradients]:
        """For objectives that are any function; the same bits for those that need it not."""
        leaves = [t.detach().requires_grad_() for t in (terms.distortion, terms.rate, terms.posterior.mean, terms.raw)]
        distortion, rate, mean, raw = leaves
        with torch.enable_grad():
            loss = self._loss(Terms(distortion, rate, Posterior(mean, *self.scale(raw)), raw))
        to_distortion, to_rate, to_mean, to_raw = torch.autograd.grad(
            loss, leaves, weight_B.expand_as(loss), materialize_grads=True
        )
        return loss.detach(), TermGradients(to_distortion, to_rate, (to_mean, to_raw))

    def _loss(self, terms: Terms) -> Tensor:
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
