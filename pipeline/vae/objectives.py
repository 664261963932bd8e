"""Objectives: what a training step minimises, per image, in nats.

Each maps what a step has drawn to a loss (..., B). `warmup` is the rate's weight of the epoch (`warmup_weight`);
reported ELBOs never carry β or warm-up. A new objective is one `Objective` in the table at the foot of this file.

Shapes: B images of a batch, K samples of z an image, L latents; leading axes (slots) pass through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..own_code import Table
from .posterior import HALF_LOG_2PI, Posterior, detached, marginals

Numbers = Mapping[str, Tensor]
"""Numeric hyperparameters under their study-file names, and `warmup`; each a scalar or (..., 1)."""

NUMBERS = ("beta", "free_bits", "capacity", "capacity_weight")
"""Numeric hyperparameters that objectives may read."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What a training step has drawn and computed for a batch."""

    kernel: Tensor
    """log p(x|z) without the likelihood's base measure, (..., K, B)"""
    z: Tensor
    """~ q(z|x), (..., K, B, L)"""
    posterior: Posterior
    """q(z|x), its tensors (..., 1, B, L)"""
    weight: Tensor
    """(B,): 1/number of images, 0 for rows that only fill the batch up"""
    images: int
    """number of training images"""

    def rate(self) -> Tensor:
        """Terms that sum over the latents to KL(q(z|x) || p(z)), (..., B, L)."""
        return self.posterior.kl().squeeze(-3)

    def distortion(self) -> Tensor:
        """-E_q log p(x|z), the mean over the samples, (..., B)."""
        return -self.kernel.mean(-2)

    def log_prior(self) -> Tensor:
        """log p(z), (..., K, B)."""
        return (self.z * self.z * -0.5 - HALF_LOG_2PI).sum(-1)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the batch of values (..., B), (..., 1)."""
        return (values * self.weight).sum(-1, keepdim=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One thing to minimise."""

    formula: str
    """for people: D distortion, R rate, w warm-up"""
    source: str
    reads: frozenset[str] = frozenset()
    """which of NUMBERS, and of `warmup`, change it"""
    loss: Callable[[Draws, Numbers], Tensor]
    """-> (..., B)"""
    rate_weight: Callable[[Numbers], Tensor] | None = None
    """where the loss is D + weight·R with one sample: the weight; such a step needs no autograd"""


def _weighted(weight: Callable[[Numbers], Tensor], formula: str, source: str, reads: str = "") -> Objective:
    return Objective(
        formula=formula,
        source=source,
        reads=frozenset(reads.split()),
        loss=lambda draws, numbers: draws.distortion() + draws.rate().sum(-1) * weight(numbers),
        rate_weight=weight,
    )


def _free_bits(draws: Draws, numbers: Numbers) -> Tensor:
    rate = (draws.rate() * draws.weight.unsqueeze(-1)).sum(-2)
    kept = torch.maximum(rate, numbers["free_bits"]).sum(-1, keepdim=True)
    return draws.distortion() + kept * numbers["warmup"]


def _capacity(draws: Draws, numbers: Numbers) -> Tensor:
    excess = (draws.mean(draws.rate().sum(-1)) - numbers["capacity"]).abs()
    return draws.distortion() + excess * numbers["capacity_weight"]


def _log_weights(draws: Draws, posterior: Posterior) -> Tensor:
    """log p(x, z)/q(z|x), (..., K, B)."""
    return draws.kernel + draws.log_prior() - posterior.log_q(draws.z).sum(-1)


def _iwae(draws: Draws, numbers: Numbers) -> Tensor:
    log_weights = _log_weights(draws, draws.posterior)
    return math.log(log_weights.shape[-2]) - log_sum_exp(log_weights, -2)


def _sticking_the_landing(draws: Draws, numbers: Numbers) -> Tensor:
    return -_log_weights(draws, detached(draws.posterior)).mean(-2)


def _doubly_reparameterized(draws: Draws, numbers: Numbers) -> Tensor:
    log_weights = _log_weights(draws, detached(draws.posterior))
    with torch.no_grad():
        weights = (log_weights - log_sum_exp(log_weights, -2).unsqueeze(-2)).exp()
    if draws.z.requires_grad:
        draws.z.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * weights.unsqueeze(-1)
        )
    return -(weights * log_weights).sum(-2)


def _total_correlation(draws: Draws, numbers: Numbers) -> Tensor:
    """Chen et al. 2018, eq. 4 with α = γ = 1; q(z) by minibatch-weighted sampling (their appendix C.1)."""
    z, posterior = draws.z, draws.posterior
    each = z.unsqueeze(-2)  # beside every image j that q(z) sums over
    log_q_BB = posterior.beside().log_q(each).sum(-1)
    log_q_BBL = marginals(posterior).beside().log_q(each)
    real = (draws.weight > 0).to(z.dtype)
    absent = (1 - real) * -1e30  # rows that only fill the batch up
    scale = torch.log(real.sum() * draws.images)
    log_joint = log_sum_exp(log_q_BB + absent, -1) - scale
    log_product = (log_sum_exp(log_q_BBL + absent.unsqueeze(-1), -2) - scale).sum(-1)
    log_q = posterior.log_q(z).sum(-1)
    penalty = log_q - log_joint + numbers["beta"].unsqueeze(-1) * (log_joint - log_product)
    penalty = penalty + log_product - draws.log_prior()
    return draws.distortion() + penalty.mean(-2) * numbers["warmup"]


def log_sum_exp(values: Tensor, axis: int) -> Tensor:
    """log Σ exp of values (...) over an axis, without overflow; its own, since torch's depends on how a tensor lies."""
    top = values.detach().amax(axis, keepdim=True)
    return (values - top).exp().sum(axis).log() + top.squeeze(axis)


def warmup_weight(epoch: int, epochs: int, warmup_epochs: int, cycles: int = 0) -> float:
    """Weight of the rate in 0-based `epoch` of `epochs`.

    Without cycles (epoch + 1)/warmup_epochs, at most 1 (Bowman et al. 2016). With M `cycles` it rises from 0 to 1
    over the first half of each of M equal parts and stays there (Fu et al. 2019, arXiv 1903.10145, with R = ½).
    """
    if cycles:
        length = epochs / cycles
        return min(1.0, 2 * (epoch % length) / length)
    return min(1.0, (epoch + 1) / warmup_epochs) if warmup_epochs > 0 else 1.0


def capacity_at(epoch: int, capacity: float, capacity_epochs: int) -> float:
    """The rate aimed at in 0-based `epoch`: rises linearly from 0 over `capacity_epochs` (Burgess et al. 2018)."""
    return capacity * min(1.0, epoch / capacity_epochs) if capacity_epochs > 0 else capacity


_ENTRIES: dict[str, Objective] = {
    "elbo": _weighted(
        lambda numbers: numbers["warmup"], "D + w·R", "Kingma & Welling 2013 (arXiv 1312.6114)", "warmup"
    ),
    "beta": _weighted(
        lambda numbers: numbers["beta"] * numbers["warmup"],
        "D + β·w·R",
        "Higgins et al. 2017",
        "beta warmup",
    ),
    "free_bits": Objective(
        formula="D + w·Σ_j max(λ, mean over the batch of R_j)",
        source="Kingma et al. 2016 (arXiv 1606.04934), eq. 15",
        reads=frozenset({"free_bits", "warmup"}),
        loss=_free_bits,
    ),
    "capacity": Objective(
        formula="D + γ·|mean over the batch of R - C(t)|",
        source="Burgess et al. 2018 (arXiv 1804.03599), eq. 8",
        reads=frozenset({"capacity", "capacity_weight"}),
        loss=_capacity,
    ),
    "iwae": Objective(
        formula="-log mean over K samples of p(x, z)/q(z|x)",
        source="Burda et al. 2015 (arXiv 1509.00519), eq. 8",
        loss=_iwae,
    ),
    "stl": Objective(
        formula="D + R without the score of q: only the path through z leads back to the encoder",
        source="Roeder et al. 2017 (arXiv 1703.09194)",
        loss=_sticking_the_landing,
    ),
    "dreg": Objective(
        formula="the gradient of iwae, doubly reparameterized",
        source="Tucker et al. 2018 (arXiv 1810.04152), eq. 6",
        loss=_doubly_reparameterized,
    ),
    "tcvae": Objective(
        formula="D + w·(mutual information + β·total correlation + dimension-wise KL)",
        source="Chen et al. 2018 (arXiv 1802.04942), eq. 4",
        reads=frozenset({"beta", "warmup"}),
        loss=_total_correlation,
    ),
}

OBJECTIVES = Table("an Objective of pipeline.vae.objectives", Objective, _ENTRIES)
"""Every objective a study file may name."""
