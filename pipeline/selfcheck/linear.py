"""O4 to O8: a linear VAE, whose best ELBO is known: the likelihood of probabilistic PCA.

Data: the bundled digits divided by 16, centred, all 1797; S their covariance with 1/n, λ its eigenvalues, descending.
Tipping & Bishop 1999 (pPCA); Lucas et al. 2019 (arXiv 1911.02469), the linear VAE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ..data.loaders import load_named
from ..vae.likelihoods import GaussianLearned
from ..vae.model import slope_at
from ..vae.posterior import HALF_LOG_2PI, Diagonal
from ..vae.scales import SCALES, Scale
from .base import Line

LATENTS = 10
KNOWN = {1: -3.748464, 2: 0.005707, 5: 8.907637, 10: 17.451947, 20: 27.277300, 32: 35.247022}
"""latents -> maximum mean log likelihood, nats per image, computed elsewhere"""
ACTIVE = {1.0: 0, 0.5: 3, 0.2: 7, 0.1: 12, 0.05: 18, 0.02: 30}
"""fixed variance of the decoder -> how many latents are worth their rate"""
STEPS, RATE, GAP_NATS = 3000, 1e-2, 0.01


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 64), eigenvalues (64,), eigenvectors (64, 64) as columns; float64."""
    x = torch.tensor(load_named("digits").parts[0], dtype=torch.float64).flatten(1) / 16
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    return x, values.flip(0), vectors.flip(1)


def _ppca(q: int) -> tuple[float, Tensor, Tensor]:
    """Maximum mean log likelihood, its noise variance, its loadings W (64, q)."""
    _, values, vectors = _digits()
    pixels = len(values)
    noise = values[q:].mean()
    log_det = values[:q].log().sum() + (pixels - q) * noise.log()
    best = -0.5 * (pixels * math.log(2 * math.pi) + log_det + pixels)
    return float(best), noise, vectors[:, :q] * (values[:q] - noise).sqrt()


def closed_form() -> Sequence[Line]:
    """The maximum of probabilistic PCA is the likelihood of its Gaussian."""
    x, _, _ = _digits()
    lines = []
    for q, known in KNOWN.items():
        best, noise, loadings = _ppca(q)
        covariance = loadings @ loadings.T + noise * torch.eye(x.shape[1], dtype=torch.float64)
        direct = float(MultivariateNormal(torch.zeros(x.shape[1]).double(), covariance).log_prob(x).mean())  # type: ignore[no-untyped-call]
        lines += [Line(f"{q} latents: of the Gaussian", best, direct, 1e-10), Line(f"{q} latents", known, best, 1e-6)]
    return lines


def _elbo(loadings: Tensor, encoder: Tensor, log_sigma: Tensor, noise: Tensor) -> Tensor:
    """Each image's ELBO without sampling: E‖x - Wz‖² has a closed form. By this program's KL and kernel."""
    x, _, _ = _digits()
    mean = x @ encoder.T
    posterior = Diagonal(mean, log_sigma.exp().expand_as(mean), log_sigma.expand_as(mean))
    likelihood = GaussianLearned(levels=None).double()
    likelihood.log_std.data.fill_(float(0.5 * noise.log()))
    with torch.no_grad():
        kernel = likelihood.log_kernel(x, mean @ loadings.T, {}) + likelihood.log_base(x)
    spread = ((2 * log_sigma).exp() * (loadings * loadings).sum(0)).sum() / (2 * noise)
    return kernel - spread - posterior.kl().sum(-1)


def _best_encoder(loadings: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean's weights (q, 64), log σ (q,) of the best diagonal posterior, and M = WᵀW + σ²I."""
    precision = loadings.T @ loadings + noise * torch.eye(loadings.shape[1], dtype=torch.float64)
    return torch.linalg.solve(precision, loadings.T), 0.5 * (noise / precision.diagonal()).log(), precision


def optimum() -> Sequence[Line]:
    """At the linear VAE's optimum the ELBO is log p(x) for every image."""
    x, _, _ = _digits()
    _, noise, loadings = _ppca(LATENTS)
    encoder, log_sigma, _ = _best_encoder(loadings, noise)
    covariance = loadings @ loadings.T + noise * torch.eye(x.shape[1], dtype=torch.float64)
    exact = MultivariateNormal(torch.zeros(x.shape[1]).double(), covariance).log_prob(x)  # type: ignore[no-untyped-call]
    gap = (_elbo(loadings, encoder, log_sigma, noise) - exact).abs().max()
    return [Line("largest difference of an image, nats", 0.0, float(gap), 1e-10)]


def rotation() -> Sequence[Line]:
    """A rotated latent space costs a diagonal posterior ½[Σ log M_jj - log det M]."""
    best, noise, loadings = _ppca(LATENTS)
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(LATENTS, LATENTS, generator=generator, dtype=torch.float64))[0]
    encoder, log_sigma, precision = _best_encoder(loadings @ turned, noise)
    expected = 0.5 * (precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1])
    measured = best - float(_elbo(loadings @ turned, encoder, log_sigma, noise).mean())
    return [
        Line("nats lost per image", float(expected), measured, 1e-9),
        Line("more than nothing", 0.1, measured, 0.0, "at least"),
    ]


def rates() -> Sequence[Line]:
    """The optimum's rate, its active units and how many latents are worth having follow from the spectrum."""
    x, values, _ = _digits()
    _, noise, loadings = _ppca(LATENTS)
    encoder, log_sigma, _ = _best_encoder(loadings, noise)
    mean = x @ encoder.T
    posterior = Diagonal(mean, log_sigma.exp().expand_as(mean), log_sigma.expand_as(mean))
    expected = 0.5 * (values[:LATENTS] / noise).log().sum()
    varied = mean.var(0, correction=0) + (2 * log_sigma).exp()
    lines = [
        Line("mean rate, nats", float(expected), float(posterior.kl().sum(-1).mean()), 1e-10),
        Line("largest |Var E z + σ² - 1|", 0.0, float((varied - 1).abs().max()), 1e-12),
    ]
    counts = [(fixed, known, int((values > fixed).sum())) for fixed, known in ACTIVE.items()]
    return lines + [
        Line(f"latents worth having at σ² = {fixed:g}", known, found, 0.0) for fixed, known, found in counts
    ]


# ------------------------------------------------------------------------------------------- training


def _cost(loadings: Tensor, encoder: Tensor, sigma: Tensor, log_sigma: Tensor, log_noise: Tensor) -> Tensor:
    """Minus the mean ELBO of M linear VAEs (M,), from the covariance alone. W (M, D, q), V (M, q, D), σ (M, q).

    In the coordinates of the eigenvectors, where S is diagonal: the problem is the same.
    """
    x, values, _ = _digits()
    explained = encoder * values  # V S
    gram = loadings.transpose(1, 2) @ loadings
    square = values.sum() - 2 * (loadings.transpose(1, 2) * explained).sum((1, 2))
    square = square + (gram * (explained @ encoder.transpose(1, 2))).sum((1, 2))
    square = square + (sigma * sigma * gram.diagonal(dim1=1, dim2=2)).sum(-1)
    distortion = x.shape[1] * (HALF_LOG_2PI + 0.5 * log_noise) + 0.5 * square * (-log_noise).exp()
    spread = (explained * encoder).sum(-1)  # E μ²
    return distortion + (0.5 * (spread + sigma * sigma - 1) - log_sigma).sum(-1)


def bounded_maximum(scale: Scale) -> float:
    """The best mean ELBO of a linear VAE whose σ must lie where the scale reaches, nats per image.

    Along the principal axes all but the loadings' lengths and the noise has a closed form: v = w/(w² + s²), and σ²
    the s²/(s² + w²) that is wanted, or the nearest bound.
    """
    _, values, _ = _digits()
    pixels, lowest, highest = len(values), max(scale.lowest, 1e-9) ** 2, min(scale.highest, 1e9) ** 2
    _, noise, loadings = _ppca(LATENTS)
    lengths = loadings.norm(dim=0).clone().requires_grad_()
    log_noise = noise.log().clone().requires_grad_()

    def cost() -> Tensor:
        variance, squares = log_noise.exp(), lengths * lengths
        encoder = lengths / (squares + variance)
        wanted = (variance / (variance + squares)).clamp(lowest, highest)
        left = values[LATENTS:].sum() + (values[:LATENTS] * (1 - lengths * encoder) ** 2 + squares * wanted).sum()
        rate = 0.5 * (wanted + encoder**2 * values[:LATENTS] - 1 - wanted.log()).sum()
        total: Tensor = pixels * (HALF_LOG_2PI + 0.5 * log_noise) + left / (2 * variance) + rate
        return total

    optimizer = torch.optim.LBFGS(
        [lengths, log_noise], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cost()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return -float(cost().detach())


def trained() -> Sequence[Line]:
    """Adam at 1e-2 (of log σ, where it starts) brings every scale to the best ELBO it can reach."""
    names, count = list(SCALES), len(SCALES)
    sigmas = [1.0 if SCALES[name].reaches(1.0) else 0.5 for name in names]
    starts = torch.tensor([SCALES[n].inverse(s) for n, s in zip(names, sigmas, strict=True)]).double().unsqueeze(1)
    slopes = torch.tensor([slope_at(SCALES[n], s) or 1.0 for n, s in zip(names, sigmas, strict=True)]).double()
    generator = torch.Generator().manual_seed(0)
    _, values, _ = _digits()

    def drawn(*shape: int) -> Tensor:
        one = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        return (one / math.sqrt(shape[-1])).repeat(count, 1, 1).requires_grad_()

    loadings, encoder = drawn(len(values), LATENTS), drawn(LATENTS, len(values))
    moved = torch.zeros(count, LATENTS, dtype=torch.float64, requires_grad=True)
    log_noise = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    best = torch.tensor([bounded_maximum(SCALES[name]) for name in names])
    optimizer = torch.optim.Adam([loadings, encoder, moved, log_noise], lr=RATE)
    gap = torch.full_like(best, math.inf)
    for _ in range(STEPS):
        raw = starts + moved / slopes.unsqueeze(1)
        sigma, log_sigma = zip(*(SCALES[name](raw[i : i + 1]) for i, name in enumerate(names)), strict=True)
        cost = _cost(loadings, encoder, torch.cat(sigma), torch.cat(log_sigma), log_noise)
        gap = torch.minimum(gap, cost.detach() + best)
        if bool((gap < 0.9 * GAP_NATS).all()):
            break
        optimizer.zero_grad()
        cost.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    gaps = dict(zip(names, gap.tolist(), strict=True))
    lines = [Line(f"{name}: nats below its maximum", 0.0, max(one, 0.0), GAP_NATS) for name, one in gaps.items()]
    return [*lines, Line("none above it", 0.0, min(gaps.values()), 1e-6, "at least")]
