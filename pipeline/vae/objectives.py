"""Objectives: what a training step minimises, per image, in nats.

Each maps the ELBO's terms and per-trial weights to a loss of shape (..., B). `warmup` rises from 0 to 1 over the
trial's warm-up epochs (Bowman et al. 2016, KL annealing); reported ELBOs never carry β or warm-up.
A new objective is one function and one line in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .model import Terms


@dataclass(frozen=True, slots=True)
class WeightedRate:
    """D + weight(β, w)·R: an objective that the packed step differentiates without autograd."""

    weight: Callable[[Tensor, Tensor], Tensor]
    """(beta, warmup) -> the rate's weight; all scalars or (M, 1)"""

    def __call__(self, terms: Terms, *, beta: Tensor, warmup: Tensor) -> Tensor:
        """The loss (..., B). beta, warmup: scalars or (M, 1)."""
        return terms.distortion + terms.rate.sum(-1) * self.weight(beta, warmup)


elbo = WeightedRate(lambda beta, warmup: warmup)
"""Negative ELBO, D + w·R (Kingma & Welling 2013)."""
beta_vae = WeightedRate(lambda beta, warmup: beta * warmup)
"""D + β·w·R (Higgins et al. 2017)."""


def warmup_weight(epoch: int, warmup_epochs: int) -> float:
    """Weight of the rate in 0-based `epoch`: (epoch + 1)/warmup_epochs, at most 1."""
    return min(1.0, (epoch + 1) / warmup_epochs) if warmup_epochs > 0 else 1.0


OBJECTIVES: Mapping[str, Callable[..., Tensor]] = {"elbo": elbo, "beta": beta_vae}
"""Every objective a study file may name."""
