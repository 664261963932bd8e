"""O13 to O16 and O18 to O24: densities, divergences, derivatives and metrics against closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ..data.loaders import load_named
from ..vae.aggregate import gaussian_total_correlation, mutual_information_gap
from ..vae.likelihoods import Binomial, ContinuousBernoulli, DiscretizedLogistic, GaussianLearned
from ..vae.posterior import POSTERIORS, diagonal
from ..vae.scales import SCALES, Scale
from .base import F64_SEED, Line

POINTS = 200_001
UNIFORM, BINOMIAL, HISTOGRAM = -181.325654, -252.148130, -106.230622
"""test log likelihoods of the digits' last 397 under models of the first 1400, nats per image, computed elsewhere"""


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(F64_SEED + seed), dtype=torch.float64)


def continuous_bernoulli() -> Sequence[Line]:
    """The continuous Bernoulli's density integrates to one."""
    x = torch.linspace(0, 1, POINTS, dtype=torch.float64).unsqueeze(-1)
    likelihood, lines = ContinuousBernoulli(levels=None), []
    for logit in (-9.0, -1.0, -0.0999, -1e-6, 0.0, 0.1001, 3.0):
        density = likelihood.log_kernel(x, torch.full_like(x, logit), {}).exp()
        lines.append(Line(f"logit {logit:g}", 1.0, float(torch.trapezoid(density, x.squeeze(-1))), 1e-9))
    return lines


def discretized_logistic() -> Sequence[Line]:
    """The discretised logistic's bins sum to one."""
    lines = []
    for levels in (16, 255):
        likelihood = DiscretizedLogistic(levels=levels).double()
        x = torch.arange(levels + 1, dtype=torch.float64).unsqueeze(-1)
        for place in (-3.0, -0.2, 0.0, 0.5):
            with torch.no_grad():
                mass = likelihood.log_kernel(x, torch.full_like(x, place), {}).exp().sum()
            lines.append(Line(f"{levels + 1} values about {place:g}", 1.0, float(mass), 1e-12))
    return lines


def optimal_variance() -> Sequence[Line]:
    """A learned decoder variance is best at the mean squared error (Rybkin et al. 2020)."""
    x, output = _normal(30, 12), _normal(30, 12, seed=1) * 0.3
    error = float(((x - output) ** 2).mean())
    likelihood = GaussianLearned(levels=None).double()
    likelihood.log_std.data.fill_(0.5 * math.log(error))
    value = (likelihood.log_kernel(x, output, {}) + likelihood.log_base(x)).mean()
    (slope,) = torch.autograd.grad(value, likelihood.log_std)
    best = -6.0 * (math.log(2 * math.pi * error) + 1)
    return [
        Line("derivative by log σ there", 0.0, float(slope), 1e-10),
        Line("nats per image there", best, float(value.detach()), 1e-10),
    ]


def divergences() -> Sequence[Line]:
    """KL divergences against torch.distributions, for every family and scale."""
    lines = []
    for family, entry in POSTERIORS.items():
        for name, scale in SCALES.items():
            q, reference = _with_reference(family, scale)
            prior = Normal(torch.zeros(4, dtype=torch.float64), 1.0)
            if isinstance(reference, MultivariateNormal):
                standard = MultivariateNormal(prior.mean, torch.eye(4, dtype=torch.float64))
                expected = kl_divergence(reference, standard)
            else:
                expected = kl_divergence(reference, prior).sum(-1)
            gap = (q.sum(-1) - expected).abs() / expected.abs().clamp_min(1)
            lines.append(Line(f"{family}, {name}: {entry.formula}", 0.0, float(gap.max()), 1e-12))
    return lines


def _with_reference(family: str, scale: Scale) -> tuple[Tensor, Normal | MultivariateNormal]:
    """The KL terms of 50 posteriors with 4 latents, and the same posteriors by torch."""
    start = scale.inverse(0.5 if scale.reaches(0.5) else 1.0)
    mean, wiggle, below = _normal(50, 4), _normal(50, 4, seed=1).tanh(), _normal(50, 6, seed=2)
    raw = start * (1 + 0.1 * wiggle) + 0.01 * wiggle
    sigma = scale.forward(raw)[0]
    outputs = [mean, raw, below] if family == "full" else [mean, raw]
    kl = POSTERIORS[family].posterior(scale.forward, *outputs).kl()
    if family == "full":
        cholesky = torch.diag_embed(sigma)
        i, j = torch.tril_indices(4, 4, -1)
        cholesky[:, i, j] = below
        return kl, MultivariateNormal(mean, scale_tril=cholesky, validate_args=False)
    return kl, Normal(mean * sigma**2 if family == "natural" else mean, sigma)


def derivatives() -> Sequence[Line]:
    """Each scale's J against central differences, and its inverse, where σ still tells a."""
    lines = []
    for name, scale in SCALES.items():
        a = torch.linspace(-20, 20, 164, dtype=torch.float64)
        a = a[~scale.outside(a)] if scale.outside else a
        near = torch.stack([(a - kink).abs() for kink in scale.kinks] or [torch.ones_like(a)]).amin(0)
        a = a[near > 1e-5]
        step = 1e-5
        centre = (scale.forward(a + step)[1] - scale.forward(a - step)[1]) / (2 * step)
        slope = scale.jacobian(a)
        gap = (centre - slope).abs() / slope.abs().clamp_min(1)
        lines.append(Line(f"{name}: J", 0.0, float(gap.max()), 1e-6))
        telling = a[slope.abs() > 1e-5]
        back = [abs(scale.inverse(float(scale.forward(one)[0]))) - abs(float(one)) for one in telling]
        known = [abs(off) for off, one in zip(back, telling, strict=True) if abs(float(one)) > 0.5]
        lines.append(Line(f"{name}: inverse", 0.0, max(known, default=0.0), 1e-9))
    return lines


def total_correlation() -> Sequence[Line]:
    """The Gaussian total correlation of two latents correlated by 0.6."""
    one, noise = _normal(2000, 1), _normal(2000, 1, seed=1)
    white = torch.linalg.qr(torch.cat([torch.ones_like(one), one, noise], 1))[0][:, 1:]  # exactly uncorrelated
    codes = torch.stack([white[:, 0], 0.6 * white[:, 0] + 0.8 * white[:, 1]], 1)
    expected = -0.5 * math.log(1 - 0.36)
    return [Line("nats", expected, float(gaussian_total_correlation(codes)), 1e-9)]


def natural_parameters() -> Sequence[Line]:
    """The gradient of the log normalizer by the natural parameters is (E z, E z²)."""
    first, second = _normal(9, 4).requires_grad_(), (-_normal(9, 4, seed=1).abs() - 0.1).requires_grad_()
    normalizer = (-(first * first) / (4 * second) - 0.5 * (-2 * second).log()).sum()
    mean, square = torch.autograd.grad(normalizer, (first, second))
    raw = (-0.5 / second.detach()).log()
    q = POSTERIORS["natural"].posterior(SCALES["log_variance"].forward, first.detach(), raw)
    return [
        Line("largest error of E z", 0.0, float((q.mean - mean).abs().max()), 1e-12),
        Line("of E z², relative", 0.0, float(((q.mean**2 + q.sigma**2 - square) / square).abs().max()), 1e-12),
    ]


def sample_deviation() -> Sequence[Line]:
    """s/c4 is an unbiased estimator of σ, as s² is of σ²: log σ² is no better founded than log σ."""
    n, draws = 10, _normal(200_000, 10, seed=9)
    c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    deviation = draws.std(1)
    error = 4 / math.sqrt(2 * (n - 1) * len(draws))
    return [
        Line("c4(10)", 0.972659, c4, 1e-6),
        Line("mean of s/c4", 1.0, float((deviation / c4).mean()), error),
        Line("mean of s²", 1.0, float((deviation**2).mean()), 2 * error),
    ]


def floats() -> Sequence[Line]:
    """In float32 every scale gives a finite loss and gradient, or its σ² overflows or a is outside its domain."""
    lines = []
    sizes = torch.tensor([10.0**k for k in range(-8, 5)])
    everywhere = torch.cat([-sizes, sizes])
    for name, scale in SCALES.items():
        a = everywhere.clone().requires_grad_()
        q = diagonal(scale, torch.full_like(a, 0.3), a)
        loss = q.kl() + q.sample(torch.full_like(a, -0.7)) ** 2
        (gradient,) = torch.autograd.grad(loss.sum(), a)
        finite = torch.isfinite(loss.detach()) & torch.isfinite(gradient)
        log_sigma = scale.forward(everywhere.double())[1]
        may_fail = log_sigma * 2 > math.log(torch.finfo(torch.float32).max)
        if scale.outside is not None:
            may_fail |= scale.outside(everywhere)
        lines.append(Line(f"{name}: silent failures", 0.0, float((~finite & ~may_fail).sum()), 0.0))
    return lines


def information_gap() -> Sequence[Line]:
    """MIG is 1 for a perfect code, 0 for one that is copied, about 0 for noise."""
    sizes = (3, 40, 16)
    factors = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).repeat(5, 1)
    codes = factors.double() * torch.tensor([-0.3, 7.0, 1e-3], dtype=torch.float64) + 5
    return [
        Line("a perfect code", 1.0, mutual_information_gap(codes, factors, sizes), 1e-12),
        Line("a copied one", 0.0, mutual_information_gap(codes.repeat(1, 2), factors, sizes), 1e-12),
        Line("noise", 0.0, mutual_information_gap(_normal(len(factors), 5), factors, sizes), 0.02),
    ]


def baselines() -> Sequence[Line]:
    """What models without latents reach on the digits: a VAE below them has learned nothing of dependence."""
    x = torch.tensor(load_named("digits").parts[0], dtype=torch.float64).flatten(1)
    train, test = x[:1400], x[1400:]
    share = (train.sum(0) + 0.5) / (16 * 1400 + 1)
    binomial, logits = Binomial(levels=16), (share / (1 - share)).log()
    independent = binomial.log_kernel(test, logits.expand_as(test), {}) + binomial.log_base(test)
    counts = torch.stack([(train == value).sum(0) for value in range(17)]).double() + 0.1
    table = (counts / counts.sum(0)).log()
    histogram = table.gather(0, test.long()).sum(-1)
    return [
        Line("uniform over 17 levels", UNIFORM, -64 * math.log(17), 1e-6),
        Line("independent binomial pixels", BINOMIAL, float(independent.mean()), 1e-6),
        Line("independent histograms", HISTOGRAM, float(histogram.mean()), 1e-6),
    ]
