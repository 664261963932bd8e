"""A trial's random draws: batch order and noise, each a function of (trial seed, epoch) alone.

Seeding anew each epoch lets a trial go on from any epoch without a stored generator state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import derive_seed


def batch_order(seed: int, epoch: int, images: int) -> Tensor:
    """A permutation of the training images, (images,) int64."""
    return torch.randperm(images, generator=_generator(seed, "order", epoch))


def epoch_noise(seed: int, epoch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal noise of one epoch, `shape` = (steps, rows, latents)."""
    return torch.randn(shape, dtype=dtype, generator=_generator(seed, "noise", epoch))


def _generator(seed: int, purpose: str, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))
