"""Networks: encoder trunk and decoder as ordinary modules of one trial.

A network is a function returning assembled `nn.Module`s: encoder (B, D) -> (B, F) and decoder (B, L) ->
(B, D·outputs); likelihoods want one or several `outputs` a pixel. Pixels come and go in the order H, W, C, the
outputs of one pixel side by side. The heads that read the F features belong to the model, not to the network. A
new network is one function and one line in the table; what it must keep to is in admission.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import UserError
from ..own_code import Table


class Network(NamedTuple):
    """What a builder returns."""

    encoder: nn.Module
    features: int
    """width F of the encoder's output"""
    decoder: nn.Module


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": partial(nn.ReLU, inplace=True), "tanh": nn.Tanh}
"""Activations whose bits do not depend on a tensor's layout (see functions.py)."""


def mlp(
    *,
    pixels: int,
    image_shape: tuple[int, ...],
    outputs: int,
    latent_dim: int,
    hidden: Sequence[int],
    activation: str,
) -> Network:
    """Fully connected, pixels-hidden-latent and mirrored back; `hidden` may be empty (a linear VAE)."""
    encoder = _layers([pixels, *hidden], activation)
    decoder = _layers([latent_dim, *reversed(hidden)], activation)
    last = hidden[0] if hidden else latent_dim
    decoder.append(nn.Linear(last, pixels * outputs))
    return Network(encoder, hidden[-1] if hidden else pixels, decoder)


def _layers(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in itertools.pairwise(widths):
        layers.append(nn.Linear(before, after))
        layers.append(ACTIVATIONS[activation]())
    return layers


# ------------------------------------------------------------------------------------- convolutions

KERNEL, STRIDE, PADDING = 4, 2, 1
"""Every level halves a side, rounded down (Radford et al. 2015, arXiv 1511.06434, code of DCGAN)."""
DENSE = 256
"""units of the layer beside the convolutions (Locatello et al. 2018, arXiv 1811.12359, code of disentanglement_lib)"""


class ToChannels(nn.Module):
    """Rows of numbers (B, H·W·C) as images (B, C, H, W), the memory being left as it lies: channels last."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.shape = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """No number is moved."""
        return x.reshape(-1, *self.shape).permute(0, 3, 1, 2)


class ToRows(nn.Module):
    """Images (B, C·outputs, H, W) as rows (B, H·W·C·outputs)."""

    def forward(self, x: Tensor) -> Tensor:
        """The inverse of `ToChannels`."""
        return x.permute(0, 2, 3, 1).flatten(1)


def conv(
    *,
    pixels: int,
    image_shape: tuple[int, ...],
    outputs: int,
    latent_dim: int,
    hidden: Sequence[int],
    activation: str,
) -> Network:
    """Strided convolutions down to a dense layer of 256, and mirrored back; `hidden` = channels of each level.

    Raises UserError where the images have too few pixels for so many levels.
    """
    sizes = _sizes_of_levels(image_shape, hidden)
    channels = image_shape[2] if len(image_shape) == 3 else 1
    height, width = sizes[-1]
    flat = height * width * hidden[-1]
    encoder = nn.Sequential(ToChannels(*sizes[0], channels))
    for before, after in itertools.pairwise([channels, *hidden]):
        encoder.extend([nn.Conv2d(before, after, KERNEL, STRIDE, PADDING), ACTIVATIONS[activation]()])
    encoder.extend([ToRows(), nn.Linear(flat, DENSE), ACTIVATIONS[activation]()])
    decoder = _layers([latent_dim, DENSE, flat], activation)
    decoder.append(ToChannels(height, width, hidden[-1]))
    for level, (before, after) in enumerate(itertools.pairwise([*reversed(hidden), channels * outputs]), start=1):
        if level > 1:
            decoder.append(ACTIVATIONS[activation]())
        odd = [side % STRIDE for side in sizes[-1 - level]]  # what rounding down has lost
        decoder.append(nn.ConvTranspose2d(before, after, KERNEL, STRIDE, PADDING, output_padding=(odd[0], odd[1])))
    decoder.append(ToRows())
    return Network(encoder, DENSE, decoder)


def _sizes_of_levels(image_shape: tuple[int, ...], hidden: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width before every level and after the last."""
    height, width = image_shape[:2]
    levels = len(hidden)
    most = min(height, width).bit_length() - 1
    if not 1 <= levels <= most:
        shown = " x ".join(map(str, image_shape))
        remedy = f"give 1 to {most} numbers of channels" if most else "take network: mlp, or images with two sides"
        raise UserError(
            f"Each level of `network: conv` (a number of channels in `hidden`) halves the images, so a side needs 2 "
            f"pixels for one level, 4 for two, 8 for three, but images are {shown} and `hidden` has {levels} "
            f"levels: {remedy}."
        )
    return [(height >> level, width >> level) for level in range(levels + 1)]


_ENTRIES: dict[str, Callable[..., Network]] = {
    "mlp": mlp,
    "conv": conv,
}

NETWORKS = Table("a function that builds a Network of pipeline.vae.networks", None, _ENTRIES)
"""Every network a study file may name."""


def build_network(name: str, **given: Any) -> Network:
    """What the builder of this name makes of its arguments. Raises UserError where that is no network."""
    try:
        built: Any = NETWORKS[name](**given)
    except UserError:
        raise
    except Exception as error:  # whoever wrote it
        shown = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"The network {name} must come out of its builder, but that raised {shown}.") from error
    parts = tuple(built) if isinstance(built, tuple | list) else ()
    if [isinstance(part, kind) for part, kind in zip(parts, (nn.Module, int, nn.Module), strict=False)] != [True] * 3:
        came = ", ".join(type(part).__name__ for part in parts) or type(built).__name__
        raise UserError(f"A network is (encoder, features, decoder): module, int, module. But {name} gave {came}.")
    return Network(*parts)
