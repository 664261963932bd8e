"""The VAE: encoder, heads, decoder, likelihood; what a step draws from it; its initial weights.

An ordinary module of one trial. Knows no pack: the pack replaces its `nn.Linear`s by batched twins and calls
the same functions with a leading slot axis.

Shapes: x (..., B, D); noise, z (..., B, L).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..records import derive_seed
from .likelihoods import LIKELIHOODS, Hyper, LikelihoodModule
from .networks import build_network
from .objectives import Draws
from .posterior import POSTERIORS, Family, Posterior, ScaleFunction
from .scales import Scale


class VAE(nn.Module):
    """q(z|x) and p(x|z) of one trial; the scale is not part of it but applied to the heads' outputs."""

    def __init__(
        self,
        *,
        encoder: nn.Module,
        features: int,
        family: Family,
        latent_dim: int,
        decoder: nn.Module,
        likelihood: nn.Module,
        input_factor: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = features
        heads = family.heads(features, latent_dim)
        self.head_names = tuple(heads)
        for name, head in heads.items():
            setattr(self, name, head)
        self.decoder = decoder
        self.likelihood = likelihood
        self.family = family
        self.input_factor = input_factor
        self.latent_dim = latent_dim

    def scaled(self, x: Tensor) -> Tensor:
        """What the encoder sees of x (..., B, D)."""
        return x * self.input_factor if self.input_factor != 1 else x

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (..., B, D) -> the heads' outputs: mean and raw scale (..., B, L), and what else the family has."""
        features = self.encoder(self.scaled(x))
        return tuple(self.get_submodule(name)(features) for name in self.head_names)

    def posterior(self, x: Tensor, scale: ScaleFunction) -> Posterior:
        """q(z|x) of x (..., B, D)."""
        return self.family.posterior(scale, *self.encode(x))

    def decode(self, z: Tensor) -> Tensor:
        """z (..., B, L) -> the likelihood's parameters (..., B, D)."""
        output: Tensor = self.decoder(z)
        return output

    @property
    def observation(self) -> LikelihoodModule:
        """The likelihood p(x|z) as what it is."""
        return cast(LikelihoodModule, self.likelihood)


def draw(model: VAE, scale: ScaleFunction, x: Tensor, noise: Tensor, hyper: Hyper, *, images: int = 0) -> Draws:
    """What a step draws for x (B, D) with standard normal noise (K, B, L), every image counting alike.

    `images`: number of training images, where there are more than these. The plain form of a step of training, for
    one trial and autograd.
    """
    outputs = [output.unsqueeze(-3) for output in model.encode(x)]
    posterior = model.family.posterior(scale, *outputs)
    z = posterior.sample(noise)
    decoded = model.decode(z.flatten(0, -2)).view(*z.shape[:-1], -1)  # networks take rows
    kernel = model.observation.log_kernel(x, decoded, hyper)
    count = x.shape[-2]
    return Draws(kernel, z, posterior, torch.full_like(x[..., 0], 1 / count), images or count)


def build_vae(
    *,
    network: str,
    pixels: int,
    hidden: Sequence[int],
    activation: str,
    posterior: str,
    latent_dim: int,
    likelihood: str,
    levels: int | None,
    image_shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> VAE:
    """A VAE by the names of the tables. Counts enter the encoder divided by `levels`.

    `image_shape`: (H, W) or (H, W, C) of `pixels` numbers; None: one row of them. `seed`: of what modules draw at
    random while they are built.
    """
    observation = LIKELIHOODS[likelihood](levels=levels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = build_network(
            network,
            pixels=pixels,
            image_shape=image_shape or (1, pixels),
            outputs=observation.outputs,
            latent_dim=latent_dim,
            hidden=hidden,
            activation=activation,
        )
        return VAE(
            encoder=parts.encoder,
            features=parts.features,
            family=POSTERIORS[posterior],
            latent_dim=latent_dim,
            decoder=parts.decoder,
            likelihood=observation,
            input_factor=1.0 / levels if levels else 1.0,
        )


DRAWN = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
"""layers whose weights `initialise` draws; classes derived from them keep their own"""


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draws the weights of every linear and convolutional layer in place: U(±1/√fan_in), torch's own default.

    Each parameter has its own generator, seeded by (seed, its name), and rows are drawn in order, so models that
    differ in latent size share what they have in common. Other parameters keep the values they were built with.
    """
    for layer_name, layer in model.named_modules():
        if type(layer) in DRAWN:
            bound = 1 / math.sqrt(cast(Tensor, layer.weight)[0].numel())  # torch counts fan_in so, transposed or not
            for name, parameter in layer.named_parameters(recurse=False):
                generator = torch.Generator().manual_seed(derive_seed(seed, "weights", f"{layer_name}.{name}"))
                parameter.copy_(
                    torch.empty(parameter.shape, dtype=parameter.dtype).uniform_(-bound, bound, generator=generator)
                )


@torch.no_grad()
def start_from(model: VAE, scale: Scale, sigma: float, *, matched: bool = False) -> None:
    """Sets the scale head's bias so that the posterior's standard deviation starts about `sigma`.

    `matched`: also divides the head's weights by J there, so that log σ starts equally spread under every scale.
    """
    head = model.get_submodule("raw_scale")
    cast(Tensor, head.bias).fill_(scale.inverse(sigma))
    slope = slope_at(scale, sigma)
    if matched and isinstance(head, nn.Linear) and slope:
        head.weight.div_(slope)


def slope_at(scale: Scale, sigma: float) -> float:
    """J where the scale yields `sigma`."""
    return float(scale.jacobian(torch.tensor([scale.inverse(sigma)], dtype=torch.float64)))


def standard_normal_bank(seed: int, purpose: str, rows: int, latent_dim: int) -> Tensor:
    """Fixed standard normal draws (rows, latent_dim), float32; models of other latent size share columns."""
    columns = [
        torch.randn(rows, generator=torch.Generator().manual_seed(derive_seed(seed, purpose, j)))
        for j in range(latent_dim)
    ]
    return torch.stack(columns, dim=1)
