"""The approximate posterior q(z|x): one object that yields all that is ever computed from it.

μ, σ, log σ, samples, KL, log q and entropy come from the same two tensors, so that no floor or clamp can be
applied to one of them and not to the others (then the "ELBO" would be no bound).

Shapes: (..., B, L) throughout; leading axes (slots) pass through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .functions import gaussian_kl

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Diagonal Gaussian q(z|x) = N(μ, diag σ²)."""

    mean: Tensor
    sigma: Tensor
    log_sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """μ + σ·ε (Kingma & Welling 2013, eq. 9). noise: standard normal, (..., B, L)."""
        return self.mean + self.sigma * noise

    def kl(self) -> Tensor:
        """KL(q(z_j|x) || N(0, 1)) for each latent, nats, (..., B, L) (same paper, appendix B)."""
        return gaussian_kl(self.mean, self.sigma, self.log_sigma)

    def back(self, noise: Tensor, to_sample: Tensor, to_kl: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by μ and by log σ (σ moving with it), given those by `sample(noise)` and by `kl()`."""
        to_mean = (self.mean * to_kl).add_(to_sample)
        to_log_sigma = (self.sigma * self.sigma).sub_(1).mul_(to_kl)
        return to_mean, to_log_sigma.add_((self.sigma * noise).mul_(to_sample))

    def log_q(self, z: Tensor) -> Tensor:
        """log q(z_j|x) for each latent, nats, (..., B, L)."""
        standard = (z - self.mean) / self.sigma
        return standard * standard * -0.5 - self.log_sigma - HALF_LOG_2PI

    def entropy(self) -> Tensor:
        """Entropy of q(z_j|x) for each latent, nats, (..., B, L)."""
        return self.log_sigma + (0.5 + HALF_LOG_2PI)


def make_posterior(scale: Callable[[Tensor], tuple[Tensor, Tensor]], mean: Tensor, raw: Tensor) -> Posterior:
    """The posterior of the encoder's two outputs, mean and raw (..., B, L), under a scale's `forward`."""
    sigma, log_sigma = scale(raw)
    return Posterior(mean, sigma, log_sigma)
