"""Networks: encoder trunk and decoder as ordinary modules of one trial.

A network is a function returning assembled `nn.Module`s: encoder (..., B, D) -> (..., B, F) and decoder
(..., B, L) -> (..., B, D). The two heads that read μ and the raw scale from the F features belong to the
model, not to the network. A new network is one function and one line in the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from torch import nn


class Network(NamedTuple):
    """What a builder returns."""

    encoder: nn.Module
    features: int
    """width F of the encoder's output"""
    decoder: nn.Module


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": partial(nn.ReLU, inplace=True), "tanh": nn.Tanh}
"""Activations whose bits do not depend on a tensor's layout (see functions.py)."""


def mlp(*, pixels: int, latent_dim: int, hidden: Sequence[int], activation: str) -> Network:
    """Fully connected, pixels-hidden-latent and mirrored back; `hidden` may be empty (a linear VAE)."""
    encoder = _layers([pixels, *hidden], activation)
    decoder = _layers([latent_dim, *reversed(hidden)], activation)
    last = hidden[0] if hidden else latent_dim
    decoder.append(nn.Linear(last, pixels))
    return Network(encoder, hidden[-1] if hidden else pixels, decoder)


def _layers(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in itertools.pairwise(widths):
        layers.append(nn.Linear(before, after))
        layers.append(ACTIVATIONS[activation]())
    return layers


NETWORKS: Mapping[str, Callable[..., Network]] = {"mlp": mlp}
"""Every network a study file may name."""
