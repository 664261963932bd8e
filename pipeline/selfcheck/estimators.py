"""O9 to O12, O17: estimators of the ELBO and its gradient, where their mean or their noise is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..vae.model import build_vae, draw, initialise
from ..vae.objectives import OBJECTIVES, Draws, log_sum_exp
from ..vae.posterior import POSTERIORS, Diagonal
from ..vae.scales import SCALES
from .base import F64_SEED, Line

DRAWS = 100_000
STANDARD_ERRORS = 4.0


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(F64_SEED + seed), dtype=torch.float64)


def beta_is_variance() -> Sequence[Line]:
    """For a fixed decoder variance, β times the rate is a decoder of β times the variance."""
    beta, variance, x, noise = 4.0, 0.25, _normal(50, 12), _normal(1, 50, 3, seed=1)
    gradients = []
    for weight, spread in ((beta, variance), (1.0, beta * variance)):
        model = build_vae(
            network="mlp", pixels=12, hidden=(16,), activation="tanh", posterior="diagonal", latent_dim=3,
            likelihood="gaussian", levels=None,
        ).double()  # fmt: skip
        initialise(model, 1)
        hyper = {"observation_std": torch.tensor(math.sqrt(spread), dtype=torch.float64)}
        numbers = {"beta": torch.tensor(weight), "warmup": torch.tensor(1.0)}
        loss = OBJECTIVES["beta"].loss(draw(model, SCALES["log_std"], x, noise, hyper), numbers).mean()
        parts = torch.autograd.grad(loss * (beta / weight), list(model.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    size = float(gradients[0].abs().max())
    gap = float((gradients[0] - gradients[1]).abs().max())
    return [Line("largest difference of two gradients, of their size", 0.0, gap / size, 1e-12)]


def _conjugate(samples: int) -> tuple[Draws, Tensor, Tensor]:
    """x = z + noise with q = p(z|x), exactly; and the heads' outputs."""
    x, noise = _normal(1, 40, 1), _normal(samples, 40, 1, seed=2)
    mean, raw = (x * 0.5).requires_grad_(), torch.full_like(x, -0.5 * math.log(2)).requires_grad_()
    posterior = POSTERIORS["diagonal"].posterior(SCALES["log_std"], mean, raw)
    z = posterior.sample(noise)
    kernel = (-0.5 * (x - z) ** 2).sum(-1) - 0.5 * math.log(2 * math.pi)
    return Draws(kernel, z, posterior, torch.full((40,), 1 / 40, dtype=torch.float64), 40), mean, raw


def gradient_noise() -> Sequence[Line]:
    """At the exact posterior the path derivative is silent; the score's variance is 1/σ² for μ and 2 for log σ."""
    draws, mean, raw = _conjugate(64)
    lines = []
    for name in ("stl", "dreg"):
        loss = OBJECTIVES[name].loss(draws, {}).sum()
        found = torch.autograd.grad(loss, (mean, raw), retain_graph=True)
        lines.append(Line(f"{name}: largest gradient", 0.0, max(float(one.abs().max()) for one in found), 1e-12))
    sigma, noise = 0.7, _normal(DRAWS, 1, seed=3)
    for scale, slope in (("log_std", 1.0), ("log_variance", 0.5)):
        start = SCALES[scale].inverse(sigma)
        leaves = [torch.zeros_like(noise).requires_grad_(), torch.full_like(noise, start).requires_grad_()]
        q = POSTERIORS["diagonal"].posterior(SCALES[scale], *leaves)
        density = q.log_q((leaves[0] + sigma * noise).detach()).sum()
        to_mean, to_raw = torch.autograd.grad(density, leaves)
        spread = 2 * slope**2
        lines.append(Line(f"{scale}: variance of the score by μ", sigma**-2, float(to_mean.var()), 0.05))
        lines.append(Line(f"{scale}: by the raw scale", spread, float(to_raw.var()), 0.03 * spread))
    return lines


def importance_weights() -> Sequence[Line]:
    """With the exact posterior every importance weight is p(x); with another the bound rises and stays below."""
    draws, _, _ = _conjugate(8)
    with torch.no_grad():
        weights = draws.kernel + draws.log_prior() - draws.posterior.log_q(draws.z).sum(-1)
        spread = float((weights.amax(0) - weights.amin(0)).max())
    lines = [Line("largest difference of two log weights", 0.0, spread, 1e-9)]
    bounds = [_gaussian_bound(samples, 1.3, 0.5) for samples in (1, 5, 50)]
    for (low, low_error), (high, high_error), samples in zip(bounds, bounds[1:], (5, 50), strict=False):
        error = STANDARD_ERRORS * math.hypot(low_error, high_error)
        lines.append(Line(f"bound of {samples} samples against fewer, nats", low, high, error, "at least"))
    lines += [Line("never above log p(x)", 0.0, one, STANDARD_ERRORS * error, "at most") for one, error in bounds]
    return lines


def _gaussian_bound(samples: int, variance: float, shift: float) -> tuple[float, float]:
    """The bound on log ∫ N(z; 0, 1) dz = 0 with q = N(shift, variance), and its standard error."""
    rows = 2 * DRAWS // samples
    sigma = torch.tensor(math.sqrt(variance), dtype=torch.float64)
    q = Diagonal(torch.tensor(shift, dtype=torch.float64), sigma, sigma.log())
    z = q.sample(_normal(samples, rows, seed=4))
    log_weights = -0.5 * (z * z + math.log(2 * math.pi)) - q.log_q(z)
    bound = log_sum_exp(log_weights, 0) - math.log(samples)
    return float(bound.mean()), float(bound.std() / math.sqrt(rows))


def importance_rate() -> Sequence[Line]:
    """The bound's gap shrinks as χ²/(2K): target N(0, 1), proposal N(½, 1.2)."""
    shift, variance = 0.5, 1.2
    kl = 0.5 * (variance + shift**2 - 1 - math.log(variance))
    chi2 = variance / math.sqrt(2 * variance - 1) * math.exp(shift**2 / (2 * variance - 1)) - 1
    one, ten = _gaussian_bound(1, variance, shift), _gaussian_bound(10, variance, shift)
    return [
        Line("gap with one sample: the KL divergence", kl, -one[0], STANDARD_ERRORS * one[1]),
        Line("gap with ten", chi2 / 20, -ten[0], STANDARD_ERRORS * ten[1] + 0.1 * chi2 / 20),
    ]


def sampled_kl() -> Sequence[Line]:
    """The mean of log q - log p over draws is the KL divergence, for every family and scale."""
    lines = []
    noise = _normal(DRAWS, 3, seed=5)
    for family in POSTERIORS:
        for name, scale in SCALES.items() if family == "diagonal" else [("softplus_std", SCALES["softplus_std"])]:
            start = scale.inverse(0.5 if scale.reaches(0.5) else 1.0)
            below = [torch.tensor([[0.4, -0.3, 0.2]], dtype=torch.float64)] if family == "full" else []
            mean, raw = torch.tensor([[0.5, -1.0, 0.0]], dtype=torch.float64), torch.full((1, 3), start).double()
            q = POSTERIORS[family].posterior(scale.forward, mean, raw, *below)
            z = q.sample(noise)
            ratio = (q.log_q(z) + 0.5 * (z * z + math.log(2 * math.pi))).sum(-1)
            error = float(ratio.std() / math.sqrt(DRAWS))
            tolerance = STANDARD_ERRORS * max(error, 1e-12)
            lines.append(Line(f"{family}, {name}, nats", float(q.kl().sum()), float(ratio.mean()), tolerance))
    return lines
