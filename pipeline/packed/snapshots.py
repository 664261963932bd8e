"""Prior samples of a trial while it trains, for those who watch them form: few, at epochs that double.

Only of trials that are measured on test data, a small part of a sweep. Nothing is drawn for them: the bank of z is
common to all runs, so a trial's numbers do not know whether it was photographed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..vae.pictures import square_grid, to_bytes
from .pack import Pack
from .slots import Slot

SAMPLES = 64


def is_due(slot: Slot) -> bool:
    """Whether a trial that goes on is photographed after its present epoch: 1, 2, 4, 8, ..."""
    return slot.running and slot.task.evaluate_test and slot.epoch.bit_count() == 1


def take_snapshots(pack: Pack) -> None:
    """Adds `samples-N.png`, N the finished epochs, to every slot that is due."""
    due = [slot for slot in pack.slots if is_due(slot)]
    for slot, picture in zip(due, prior_samples(pack, due), strict=True):
        slot.snapshots[f"samples-{slot.epoch}.png"] = picture


@torch.no_grad()
def prior_samples(pack: Pack, slots: Sequence[Slot]) -> list[bytes]:
    """For each slot the PNG of SAMPLES images decoded from the bank of z, the expected pixel values."""
    if not slots:
        return []
    data = pack.data
    pack.subset(slots)
    z = data.picture_noise(SAMPLES, pack.structure.latent_dim).expand(len(slots), -1, -1)
    model = pack.stack.model
    pixels = to_bytes(as_array(model.observation.mean(model.decode(z))), *data.value_range)
    return [square_grid(images, data.image_shape) for images in pixels]


def as_array(values: Tensor) -> NDArray[np.float32]:
    """On the host, float32."""
    return values.float().cpu().numpy()
