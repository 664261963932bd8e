"""Posterior scales: how the encoder's raw output a becomes the posterior's σ.

Each row gives (σ, log σ) of a raw a, both computed stably, so that nothing downstream ever takes the log of
an underflowed σ. J(a) = d log σ / d a is the only *local* difference between rows: one optimizer step moves
log σ by about lr·J²·g under SGD and lr·|J| under Adam, and dKL/da = (σ² - 1)·J(a). Floors and clamps add a global
one: they bound σ, and with it the information a latent can carry.

A new scale is one `Scale` in the table at the foot of this file. Knows no network and no objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..own_code import Table
from .functions import log_softplus, log_softplus_slope, sigmoid, softplus

NEAR_LIMIT = 1.1
"""a bound of σ acts on what is within a tenth of it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One parameterization of the posterior's standard deviation."""

    formula: str
    """for people, e.g. `σ = exp(a/2)`"""
    source: str
    """who uses it"""
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    """a (...) -> σ (...), log σ (...); NaN or -inf outside the domain, never a silent repair"""
    inverse: Callable[[float], float]
    """σ between `lowest` and `highest` -> the raw a that yields it (the positive one where there are two)"""
    jacobian: Callable[[Tensor], Tensor]
    """J(a) = d log σ / d a, (...) -> (...); training goes back by it, so as stable as `forward`"""
    lowest: float = 0.0
    """every σ lies above this"""
    highest: float = math.inf
    """every σ lies below this"""
    kinks: tuple[float, ...] = ()
    """where J jumps"""
    domain: str = ""
    """the rule for a, when not every a is allowed; for the recorded cause of a divergence"""
    outside: Callable[[Tensor], Tensor] | None = None
    """a (...) -> True where a is outside the domain"""

    def __call__(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, with `jacobian` as its derivative for autograd."""
        sigma, log_sigma = _Scaled.apply(a, self)  # type: ignore[no-untyped-call]
        return sigma, log_sigma

    def reaches(self, sigma: float) -> bool:
        """Whether some a yields this σ."""
        return self.lowest < sigma < self.highest

    def at_limit(self, a: Tensor) -> Tensor:
        """a (...) -> True where σ is within NEAR_LIMIT of `lowest` or `highest`, or a outside the domain."""
        sigma = self.forward(a)[0]
        near = (sigma <= self.lowest * NEAR_LIMIT) | (sigma >= self.highest / NEAR_LIMIT)
        return near if self.outside is None else near | self.outside(a)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, scale: Scale) -> tuple[Tensor, Tensor]:
        sigma, log_sigma = scale.forward(a)
        ctx.save_for_backward(a, sigma)
        ctx.scale = scale
        return sigma, log_sigma.clone() if log_sigma is a else log_sigma

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        a, sigma = ctx.saved_tensors
        to_sigma, to_log_sigma = gradients
        return (to_sigma * sigma).add_(to_log_sigma).mul_(ctx.scale.jacobian(a)), None


# ----------------------------------------------------------------------------- exponentials and clamps

VARIANCE_FLOOR = 1e-4


def _log_variance(a: Tensor) -> tuple[Tensor, Tensor]:
    log_sigma = a * 0.5
    return log_sigma.exp(), log_sigma


def _log_precision(a: Tensor) -> tuple[Tensor, Tensor]:
    log_sigma = a * -0.5
    return log_sigma.exp(), log_sigma


def _log_std(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.exp(), a


def _log_variance_floor(a: Tensor) -> tuple[Tensor, Tensor]:
    variance = a.exp() + VARIANCE_FLOOR
    return variance.sqrt(), variance.log() * 0.5


def _log_variance_floor_slope(a: Tensor) -> Tensor:
    return torch.reciprocal(torch.exp(-a) * VARIANCE_FLOOR + 1) * 0.5


def _clamped_log_variance(low: float, high: float, source: str) -> Scale:
    return Scale(
        formula=f"σ = exp(clamp(a, {low:g}, {high:g})/2)",
        source=source,
        forward=lambda a: _log_variance(a.clamp(low, high)),
        inverse=lambda sigma: 2 * math.log(sigma),
        jacobian=lambda a: ((a >= low) & (a <= high)).to(a.dtype) * 0.5,
        lowest=math.exp(low / 2),
        highest=math.exp(high / 2),
        kinks=(low, high),
    )


# -------------------------------------------------------------------------------------------- softplus

SOFTPLUS_SHIFT = math.log(math.expm1(1.0))
"""softplus of it is 1"""
STD_FLOOR = 0.1


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


def _softplus_std(a: Tensor) -> tuple[Tensor, Tensor]:
    return softplus(a), log_softplus(a)


def _softplus_variance(a: Tensor) -> tuple[Tensor, Tensor]:
    log_sigma = log_softplus(a) * 0.5
    return log_sigma.exp(), log_sigma


def _softplus_precision(a: Tensor) -> tuple[Tensor, Tensor]:
    log_sigma = log_softplus(a) * -0.5
    return log_sigma.exp(), log_sigma


def _softplus_std_floor(a: Tensor) -> tuple[Tensor, Tensor]:
    sigma = softplus(a) + STD_FLOOR
    return sigma, sigma.log()


# --------------------------------------------------------------------------------- bounded on both sides

TANH_BOUND = 5.0
TANH_FLOOR = 0.01


def _sigmoid_std(low: float, width: float, gain: float, formula: str, source: str) -> Scale:
    """σ = low + width·sigmoid(gain·a)."""

    def forward(a: Tensor) -> tuple[Tensor, Tensor]:
        sigma = sigmoid(a * gain) * width + low
        return sigma, sigma.log()

    def jacobian(a: Tensor) -> Tensor:
        rise = sigmoid(a * gain)
        return rise * sigmoid(a * -gain) * (width * gain) / (rise * width + low)

    def inverse(sigma: float) -> float:
        return (math.log(sigma - low) - math.log(low + width - sigma)) / gain

    return Scale(
        formula=formula,
        source=source,
        forward=forward,
        inverse=inverse,
        jacobian=jacobian,
        lowest=low,
        highest=low + width,
    )


def _tanh_parts(a: Tensor) -> tuple[Tensor, Tensor]:
    bent = (a / TANH_BOUND).tanh()
    return bent, (bent * TANH_BOUND).exp()


def _tanh_log_std(a: Tensor) -> tuple[Tensor, Tensor]:
    sigma = _tanh_parts(a)[1] + TANH_FLOOR
    return sigma, sigma.log()


def _tanh_log_std_slope(a: Tensor) -> Tensor:
    bent, upper = _tanh_parts(a)
    return upper * (1 - bent * bent) / (upper + TANH_FLOOR)


# ------------------------------------------------------------------------------------ linear and powers


def _elu_std(a: Tensor) -> tuple[Tensor, Tensor]:
    below, above = a.clamp_max(0), a.clamp_min(0)  # keeps the branch not taken finite
    return below.exp() + above, below + torch.log1p(above)


def _raw_std(a: Tensor) -> tuple[Tensor, Tensor]:
    sigma = a.abs()
    return sigma, sigma.log()


def _square_std(a: Tensor) -> tuple[Tensor, Tensor]:
    return a * a, a.abs().log() * 2


def _raw_variance(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.sqrt(), a.log() * 0.5


_ENTRIES: dict[str, Scale] = {
    "log_variance": Scale(
        formula="σ = exp(a/2)",
        source="Kingma & Welling 2013 (arXiv 1312.6114), appendix C; most VAE code",
        forward=_log_variance,
        inverse=lambda sigma: 2 * math.log(sigma),
        jacobian=lambda a: torch.full_like(a, 0.5),
    ),
    "log_std": Scale(
        formula="σ = exp(a)",
        source="Pyro's and NumPyro's VAE examples; Burda et al. 2015",
        forward=_log_std,
        inverse=math.log,
        jacobian=torch.ones_like,
    ),
    "log_precision": Scale(
        formula="σ = exp(-a/2)",
        source="the mirror image of log_variance",
        forward=_log_precision,
        inverse=lambda sigma: -2 * math.log(sigma),
        jacobian=lambda a: torch.full_like(a, -0.5),
    ),
    "log_variance_floor": Scale(
        formula="σ² = exp(a) + 0.0001",
        source="scvi-tools (var_eps)",
        forward=_log_variance_floor,
        inverse=lambda sigma: math.log(sigma * sigma - VARIANCE_FLOOR),
        jacobian=_log_variance_floor_slope,
        lowest=math.sqrt(VARIANCE_FLOOR),
    ),
    "log_variance_clamped": _clamped_log_variance(-30.0, 20.0, "diffusers, from CompVis latent-diffusion"),
    "log_variance_hardtanh": _clamped_log_variance(-6.0, 2.0, "Tomczak & Welling 2017, code of VampPrior"),
    "softplus_std": Scale(
        formula="σ = log(1 + exp(a))",
        source="tfp.layers.IndependentNormal; Pyro's and NumPyro's autoguides",
        forward=_softplus_std,
        inverse=_inverse_softplus,
        jacobian=log_softplus_slope,
    ),
    "softplus_std_shifted": Scale(
        formula=f"σ = log(1 + exp(a + {SOFTPLUS_SHIFT}))",
        source="TensorFlow Probability's recipe: σ = 1 at a = 0",
        forward=lambda a: _softplus_std(a + SOFTPLUS_SHIFT),
        inverse=lambda sigma: _inverse_softplus(sigma) - SOFTPLUS_SHIFT,
        jacobian=lambda a: log_softplus_slope(a + SOFTPLUS_SHIFT),
    ),
    "softplus_std_floor": Scale(
        formula="σ = log(1 + exp(a)) + 0.1",
        source="Hafner et al. 2019, code of Dreamer",
        forward=_softplus_std_floor,
        inverse=lambda sigma: _inverse_softplus(sigma - STD_FLOOR),
        jacobian=lambda a: sigmoid(a) / (softplus(a) + STD_FLOOR),
        lowest=STD_FLOOR,
    ),
    "softplus_variance": Scale(
        formula="σ² = log(1 + exp(a))",
        source="Johnson et al. 2016, code of SVAE (gaussian_mean)",
        forward=_softplus_variance,
        inverse=lambda sigma: _inverse_softplus(sigma * sigma),
        jacobian=lambda a: log_softplus_slope(a) * 0.5,
    ),
    "softplus_variance_shifted": Scale(
        formula=f"σ² = log(1 + exp(a + {SOFTPLUS_SHIFT}))",
        source="softplus_variance with σ = 1 at a = 0",
        forward=lambda a: _softplus_variance(a + SOFTPLUS_SHIFT),
        inverse=lambda sigma: _inverse_softplus(sigma * sigma) - SOFTPLUS_SHIFT,
        jacobian=lambda a: log_softplus_slope(a + SOFTPLUS_SHIFT) * 0.5,
    ),
    "softplus_precision": Scale(
        formula="1/σ² = log(1 + exp(a))",
        source="Johnson et al. 2016, code of SVAE (gaussian_info)",
        forward=_softplus_precision,
        inverse=lambda sigma: _inverse_softplus(sigma**-2),
        jacobian=lambda a: log_softplus_slope(a) * -0.5,
    ),
    "sigmoid_std": _sigmoid_std(
        0.1,
        0.9,
        1.0,
        "σ = 0.9/(1 + exp(-a)) + 0.1",
        "Garnelo et al. 2018, code of Neural Processes",
    ),
    "sigmoid_std_wide": _sigmoid_std(
        0.1,
        2.0,
        0.5,
        "σ = 2/(1 + exp(-a/2)) + 0.1",
        "Hafner et al. 2021, code of DreamerV2 (sigmoid2)",
    ),
    "tanh_log_std": Scale(
        formula="σ = exp(5*tanh(a/5)) + 0.01",
        source="Vahdat & Kautz 2020, code of NVAE",
        forward=_tanh_log_std,
        inverse=lambda sigma: TANH_BOUND * math.atanh(math.log(sigma - TANH_FLOOR) / TANH_BOUND),
        jacobian=_tanh_log_std_slope,
        lowest=math.exp(-TANH_BOUND) + TANH_FLOOR,
        highest=math.exp(TANH_BOUND) + TANH_FLOOR,
    ),
    "elu_std": Scale(
        formula="σ = 1 + a if a > 0 else exp(a)",
        source="mixture density networks (elu + 1)",
        forward=_elu_std,
        inverse=lambda sigma: sigma - 1 if sigma > 1 else math.log(sigma),
        jacobian=lambda a: torch.reciprocal(a.clamp_min(0) + 1),
    ),
    "raw_std": Scale(
        formula="σ = |a|",
        source='the plain reading of "the network outputs σ"',
        forward=_raw_std,
        inverse=lambda sigma: sigma,
        jacobian=torch.reciprocal,
        domain="a != 0",
        outside=lambda a: a == 0,
    ),
    "square_std": Scale(
        formula="σ = a*a",
        source="GPy's discussion of positive transformations",
        forward=_square_std,
        inverse=math.sqrt,
        jacobian=lambda a: torch.reciprocal(a) * 2,
        domain="a != 0",
        outside=lambda a: a == 0,
    ),
    "raw_variance": Scale(
        formula="σ² = a",
        source='the plain reading of "the network outputs σ²"',
        forward=_raw_variance,
        inverse=lambda sigma: sigma * sigma,
        jacobian=lambda a: torch.reciprocal(a * 2),
        domain="a > 0",
        outside=lambda a: a <= 0,
    ),
    "fixed": Scale(
        formula="σ = 1",
        source="a control: deterministic autoencoders with noise",
        forward=lambda a: (torch.ones_like(a), torch.zeros_like(a)),
        inverse=lambda sigma: 0.0,
        jacobian=torch.zeros_like,
        lowest=math.nextafter(1.0, 0.0),
        highest=math.nextafter(1.0, 2.0),
    ),
}

SCALES = Table("a Scale of pipeline.vae.scales", Scale, _ENTRIES)
"""Every posterior scale a study file may name."""
