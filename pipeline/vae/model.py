"""The VAE: encoder, two heads, decoder, likelihood; its terms; its initial weights.

An ordinary module of one trial. Knows no pack: the pack replaces its `nn.Linear`s by batched twins and calls
the same functions with a leading slot axis.

Shapes: x (..., B, D); noise, z (..., B, L).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..records import derive_seed
from .likelihoods import LIKELIHOODS, Hyper, LikelihoodModule
from .networks import NETWORKS
from .posterior import Posterior, make_posterior
from .scales import Scale


class VAE(nn.Module):
    """q(z|x) and p(x|z) of one trial; the scale is not part of it but applied to `raw`."""

    def __init__(
        self,
        *,
        encoder: nn.Module,
        features: int,
        latent_dim: int,
        decoder: nn.Module,
        likelihood: nn.Module,
        input_factor: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean = nn.Linear(features, latent_dim)
        self.raw_scale = nn.Linear(features, latent_dim)
        self.decoder = decoder
        self.likelihood = likelihood
        self.input_factor = input_factor
        self.latent_dim = latent_dim

    def scaled(self, x: Tensor) -> Tensor:
        """What the encoder sees of x (..., B, D)."""
        return x * self.input_factor if self.input_factor != 1 else x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., B, D) -> posterior mean and raw scale a, each (..., B, L)."""
        features = self.encoder(self.scaled(x))
        return self.mean(features), self.raw_scale(features)

    def decode(self, z: Tensor) -> Tensor:
        """z (..., B, L) -> the likelihood's parameters (..., B, D)."""
        output: Tensor = self.decoder(z)
        return output

    @property
    def observation(self) -> LikelihoodModule:
        """The likelihood p(x|z) as what it is."""
        return cast(LikelihoodModule, self.likelihood)


@dataclass(frozen=True, slots=True)
class Terms:
    """The two terms of -ELBO = D + R, per image, without the likelihood's base measure."""

    distortion: Tensor
    """-log kernel of p(x|z) for one z ~ q(z|x), (..., B), nats"""
    rate: Tensor
    """KL(q(z_j|x) || p(z_j)), (..., B, L), nats"""
    posterior: Posterior
    raw: Tensor
    """the encoder's raw scale output, (..., B, L)"""


def elbo_terms(
    model: VAE, scale: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, noise: Tensor, hyper: Hyper
) -> Terms:
    """One-sample terms of the ELBO of x (..., B, D) with standard normal noise (..., B, L)."""
    mean, raw = model.encode(x)
    posterior = make_posterior(scale, mean, raw)
    output = model.decode(posterior.sample(noise))
    kernel = model.observation.log_kernel(x, output, hyper)
    return Terms(-kernel, posterior.kl(), posterior, raw)


def build_vae(
    *,
    network: str,
    pixels: int,
    hidden: Sequence[int],
    activation: str,
    latent_dim: int,
    likelihood: str,
    levels: int | None,
) -> VAE:
    """A VAE by the names of the tables. Counts enter the encoder divided by `levels`."""
    parts = NETWORKS[network](pixels=pixels, latent_dim=latent_dim, hidden=hidden, activation=activation)
    return VAE(
        encoder=parts.encoder,
        features=parts.features,
        latent_dim=latent_dim,
        decoder=parts.decoder,
        likelihood=LIKELIHOODS[likelihood](levels=levels),
        input_factor=1.0 / levels if levels else 1.0,
    )


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draws every linear layer's weights in place: U(±1/√fan_in), torch's own default.

    Each parameter has its own generator, seeded by (seed, its name), and rows are drawn in order, so models that
    differ in latent size share what they have in common. Other parameters keep their constant values.
    """
    for layer_name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            for name, parameter in layer.named_parameters(recurse=False):
                generator = torch.Generator().manual_seed(derive_seed(seed, "weights", f"{layer_name}.{name}"))
                parameter.copy_(
                    torch.empty(parameter.shape, dtype=parameter.dtype).uniform_(-bound, bound, generator=generator)
                )


@torch.no_grad()
def start_from(model: VAE, scale: Scale, sigma: float) -> None:
    """Sets the scale head's bias so that the posterior's standard deviation starts about `sigma`."""
    model.raw_scale.bias.fill_(scale.inverse(sigma))


def standard_normal_bank(seed: int, purpose: str, rows: int, latent_dim: int) -> Tensor:
    """Fixed standard normal draws (rows, latent_dim), float32; models of other latent size share columns."""
    columns = [
        torch.randn(rows, generator=torch.Generator().manual_seed(derive_seed(seed, purpose, j)))
        for j in range(latent_dim)
    ]
    return torch.stack(columns, dim=1)
