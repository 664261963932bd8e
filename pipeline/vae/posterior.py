"""The approximate posterior q(z|x): one object that yields all that is ever computed from it.

μ, σ, log σ, samples, KL and log q come from the same tensors, so that no floor or clamp can be applied to one of
them and not to the others (then the "ELBO" would be no bound). A family says which heads the encoder has and what
their outputs mean; any scale may stand behind any family.

Shapes: (..., B, L) throughout; leading axes (slots, samples of z) pass through. A new family is one entry in the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..own_code import Table
from .functions import gaussian_kl

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

ScaleFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""raw a -> σ, log σ"""


class Posterior(Protocol):
    """A Gaussian over z: dataclass of tensors."""

    @property
    def mean(self) -> Tensor:
        """μ, (..., B, L)."""

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of each latent by itself, (..., B, L)."""

    def sample(self, noise: Tensor) -> Tensor:
        """A reparameterized draw (Kingma & Welling 2013, eq. 9). noise: standard normal, (..., B, L)."""

    def kl(self) -> Tensor:
        """Terms that sum over the latents to KL(q(z|x) || N(0, I)), nats, (..., B, L)."""

    def log_q(self, z: Tensor) -> Tensor:
        """Terms that sum over the latents to log q(z|x), nats, (..., B, L)."""

    def beside(self) -> Posterior:
        """The same with an axis of 1 before the images: `log_q` of z (..., B, 1, L) pairs every z with every image."""


@dataclass(frozen=True, slots=True)
class Diagonal:
    """q(z|x) = N(μ, diag σ²); terms of `kl` and `log_q` are those of the single latents."""

    mean: Tensor
    sigma: Tensor
    log_sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """μ + σ·ε."""
        return self.mean + self.sigma * noise

    def kl(self) -> Tensor:
        """KL(q(z_j|x) || N(0, 1)) for each latent (Kingma & Welling 2013, appendix B)."""
        return gaussian_kl(self.mean, self.sigma, self.log_sigma)

    def back(self, noise: Tensor, to_sample: Tensor, to_kl: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by μ and by log σ (σ moving with it), given those by `sample(noise)` and by `kl()`."""
        to_mean = (self.mean * to_kl).add_(to_sample)
        to_log_sigma = (self.sigma * self.sigma).sub_(1).mul_(to_kl)
        return to_mean, to_log_sigma.add_((self.sigma * noise).mul_(to_sample))

    def log_q(self, z: Tensor) -> Tensor:
        """log q(z_j|x) for each latent."""
        standard = (z - self.mean) / self.sigma
        return standard * standard * -0.5 - self.log_sigma - HALF_LOG_2PI

    def beside(self) -> Diagonal:
        """Each tensor (..., 1, B, L)."""
        return Diagonal(self.mean.unsqueeze(-3), self.sigma.unsqueeze(-3), self.log_sigma.unsqueeze(-3))


@dataclass(frozen=True, slots=True)
class Full:
    """q(z|x) = N(μ, C Cᵀ), C lower triangular; terms of `kl` and `log_q` are those of the rows of C, in order.

    Sums over latents are taken column by column: those of torch over an axis may depend on how a tensor lies.
    """

    mean: Tensor
    cholesky: Tensor
    """C, (..., B, L, L)"""
    log_diagonal: Tensor
    """log C_ii, (..., B, L)"""

    @property
    def sigma(self) -> Tensor:
        """√ of the diagonal of C Cᵀ."""
        return self._row_squares().sqrt()

    def sample(self, noise: Tensor) -> Tensor:
        """μ + C ε."""
        z = self.mean
        for column, value in zip(self.cholesky.unbind(-1), noise.unsqueeze(-2).unbind(-1), strict=True):
            z = z + column * value
        return z

    def kl(self) -> Tensor:
        """½(μ_i² + Σ_j C_ij² - 1) - log C_ii."""
        return (self.mean * self.mean + self._row_squares() - 1) * 0.5 - self.log_diagonal

    def log_q(self, z: Tensor) -> Tensor:
        """log q(z_i|z_1..z_i-1, x), by forward substitution."""
        left, solved = z - self.mean, list[Tensor]()
        for i, column in enumerate(self.cholesky.unbind(-1)):
            solved.append(left[..., i : i + 1] / column[..., i : i + 1])
            left = left - column * solved[-1]
        standard = torch.cat(solved, -1)
        return standard * standard * -0.5 - self.log_diagonal - HALF_LOG_2PI

    def beside(self) -> Full:
        """Each tensor with an axis of 1 before the images."""
        return Full(self.mean.unsqueeze(-3), self.cholesky.unsqueeze(-4), self.log_diagonal.unsqueeze(-3))

    def _row_squares(self) -> Tensor:
        first, *others = self.cholesky.unbind(-1)
        total = first * first
        for column in others:
            total = total + column * column
        return total


def marginals(posterior: Posterior) -> Diagonal:
    """Each latent's own distribution, whatever it has to do with the others."""
    return Diagonal(posterior.mean, posterior.sigma, posterior.sigma.log())


def detached(posterior: Posterior) -> Posterior:
    """The same, through which no gradient flows back to the encoder."""
    return _mapped(posterior, Tensor.detach)


def in_float64(posterior: Posterior) -> Posterior:
    """The same distribution, to be computed with in float64."""
    return _mapped(posterior, Tensor.double)


def _mapped(posterior: Posterior, change: Callable[[Tensor], Tensor]) -> Posterior:
    tensors: dict[str, Tensor] = {one.name: getattr(posterior, one.name) for one in fields(posterior)}  # type: ignore[arg-type]
    changed: Any = replace(posterior, **{name: change(tensor) for name, tensor in tensors.items()})  # type: ignore[type-var]
    return changed  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------- families


class Shared(nn.Module):
    """A head that does not look: one learned vector for all images, its output (..., B, L)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, latent_dim))

    def forward(self, features: Tensor) -> Tensor:
        """features (..., B, F) -> (..., B, L)."""
        return self.bias.expand(*features.shape[:-1], self.bias.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Which heads read the encoder's features, and the posterior of their outputs."""

    formula: str
    """for people"""
    heads: Callable[[int, int], Mapping[str, nn.Module]]
    """(features, latent_dim) -> heads by name; among them `mean` and `raw_scale`"""
    posterior: Callable[..., Posterior]
    """(scale, the heads' outputs in their order) -> q(z|x)"""
    by_hand: bool = False
    """whether it is `Diagonal` with the heads' outputs as μ and raw scale, which needs no autograd"""


def diagonal(scale: ScaleFunction, mean: Tensor, raw: Tensor) -> Diagonal:
    """The two outputs are μ and the raw scale, each (..., B, L)."""
    return Diagonal(mean, *scale(raw))


def _natural(scale: ScaleFunction, weighted_mean: Tensor, raw: Tensor) -> Diagonal:
    sigma, log_sigma = scale(raw)
    return Diagonal(weighted_mean * (sigma * sigma), sigma, log_sigma)


def _full(scale: ScaleFunction, mean: Tensor, raw: Tensor, below: Tensor | None = None) -> Full:
    """`below`: C's entries under the diagonal, row by row, (..., B, L(L-1)/2); None for a single latent."""
    sigma, log_sigma = scale(raw)
    latents = raw.shape[-1]
    entries = torch.cat([torch.zeros_like(raw[..., :1]), sigma, *([] if below is None else [below])], -1)
    cholesky = entries.index_select(-1, _places(latents).to(raw.device))
    return Full(mean, cholesky.view(*raw.shape[:-1], latents, latents), log_sigma)


def _places(latents: int) -> Tensor:
    """Where each entry of C is found, row by row, among: zero, the diagonal, what is below it."""
    below = itertools.count(1 + latents)
    return torch.tensor(
        [1 + i if i == j else next(below) if j < i else 0 for i in range(latents) for j in range(latents)]
    )


def _two_heads(features: int, latent_dim: int) -> Mapping[str, nn.Module]:
    return {"mean": nn.Linear(features, latent_dim), "raw_scale": nn.Linear(features, latent_dim)}


def _shared_scale(features: int, latent_dim: int) -> Mapping[str, nn.Module]:
    return {"mean": nn.Linear(features, latent_dim), "raw_scale": Shared(latent_dim)}


def _three_heads(features: int, latent_dim: int) -> Mapping[str, nn.Module]:
    below = latent_dim * (latent_dim - 1) // 2
    return {**_two_heads(features, latent_dim), **({"below": nn.Linear(features, below)} if below else {})}


_ENTRIES: dict[str, Family] = {
    "diagonal": Family(
        formula="N(μ(x), diag σ(x)²)",
        heads=_two_heads,
        posterior=diagonal,
        by_hand=True,
    ),
    "shared_scale": Family(
        formula="N(μ(x), diag σ²), one learned σ for all x",
        heads=_shared_scale,
        posterior=diagonal,
        by_hand=True,
    ),
    "natural": Family(
        formula="N(h(x)·σ(x)², diag σ(x)²), h = μ/σ² being the first natural parameter",
        heads=_two_heads,
        posterior=_natural,
    ),
    "full": Family(
        formula="N(μ(x), C(x) C(x)ᵀ), C lower triangular with σ(x) as its diagonal",
        heads=_three_heads,
        posterior=_full,
    ),
}

POSTERIORS = Table("a Family of pipeline.vae.posterior", Family, _ENTRIES)
"""Every family a study file may name."""
