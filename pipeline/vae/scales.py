"""Posterior scales: how the encoder's raw output a becomes the posterior's σ.

Each row gives (σ, log σ) of a raw a, both computed stably, so that nothing downstream ever takes the log of
an underflowed σ. J(a) = d log σ / d a is the only *local* difference between rows: one optimizer step moves
log σ by about lr·J²·g under SGD and lr·|J| under Adam, and dKL/da = (σ² - 1)·J(a).

A new scale is one `Scale` in the table at the foot of this file. Knows no network and no objective.

Sources: `log_variance` Kingma & Welling 2013 (arXiv 1312.6114), appendix C; `log_std` Pyro's and NumPyro's
VAE examples; `softplus_std` tfp.layers.IndependentNormal; `softplus_variance` Johnson et al. 2016 (SVAE);
`raw_std` and `raw_variance`: no transformation, the plain reading of "the network outputs σ (σ²)".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .functions import log_softplus, log_softplus_slope, softplus


@dataclass(frozen=True, slots=True)
class Scale:
    """One parameterization of the posterior's standard deviation."""

    formula: str
    """for people, e.g. `σ = exp(a/2)`"""
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    """a (...) -> σ (...), log σ (...); NaN or -inf outside the domain, never a silent repair"""
    inverse: Callable[[float], float]
    """σ > 0 -> the raw a that yields it (the positive one where there are two)"""
    jacobian: Callable[[Tensor], Tensor]
    """J(a) = d log σ / d a, (...) -> (...); training goes back by it, so as stable as `forward`"""
    domain: str = ""
    """the rule for a, when not every a is allowed; for the recorded cause of a divergence"""
    outside: Callable[[Tensor], Tensor] | None = None
    """a (...) -> True where a is outside the domain"""


def _log_variance(a: Tensor) -> tuple[Tensor, Tensor]:
    log_sigma = a * 0.5
    return log_sigma.exp(), log_sigma


def _log_std(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.exp(), a


def _softplus_std(a: Tensor) -> tuple[Tensor, Tensor]:
    return softplus(a), log_softplus(a)


def _softplus_variance(a: Tensor) -> tuple[Tensor, Tensor]:
    log_sigma = log_softplus(a) * 0.5
    return log_sigma.exp(), log_sigma


def _raw_std(a: Tensor) -> tuple[Tensor, Tensor]:
    sigma = a.abs()
    return sigma, sigma.log()


def _raw_variance(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.sqrt(), a.log() * 0.5


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


SCALES: Mapping[str, Scale] = {
    "log_variance": Scale(
        formula="σ = exp(a/2)",
        forward=_log_variance,
        inverse=lambda sigma: 2 * math.log(sigma),
        jacobian=lambda a: torch.full_like(a, 0.5),
    ),
    "log_std": Scale(
        formula="σ = exp(a)",
        forward=_log_std,
        inverse=math.log,
        jacobian=torch.ones_like,
    ),
    "softplus_std": Scale(
        formula="σ = log(1 + exp(a))",
        forward=_softplus_std,
        inverse=_inverse_softplus,
        jacobian=log_softplus_slope,
    ),
    "softplus_variance": Scale(
        formula="σ² = log(1 + exp(a))",
        forward=_softplus_variance,
        inverse=lambda sigma: _inverse_softplus(sigma * sigma),
        jacobian=lambda a: log_softplus_slope(a) * 0.5,
    ),
    "raw_std": Scale(
        formula="σ = |a|",
        forward=_raw_std,
        inverse=lambda sigma: sigma,
        jacobian=torch.reciprocal,
        domain="a != 0",
        outside=lambda a: a == 0,
    ),
    "raw_variance": Scale(
        formula="σ² = a",
        forward=_raw_variance,
        inverse=lambda sigma: sigma * sigma,
        jacobian=lambda a: torch.reciprocal(a * 2),
        domain="a > 0",
        outside=lambda a: a <= 0,
    ),
}
"""Every posterior scale a study file may name."""
