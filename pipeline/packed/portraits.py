"""Pictures that only repeats have: what each latent does, what lies between images, how wide the posterior is.

Made slot by slot, of fixed z and of test images, so that a slot's pictures are those of the trial alone. Rows that
would make a picture of large images too large are left out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..vae.metrics import SIGMA_LOG10_EDGES
from ..vae.pictures import grid_png, histogram_png, rows_within, to_bytes
from ..vae.posterior import marginals
from ..vae.walks import interpolations, manifold, traversals
from .pack import Pack
from .slots import Slot
from .snapshots import as_array

TRAVERSED, STEPS = 16, 11
"""latents, those with the highest rate, and pictures of each"""
PAIRS, BETWEEN = 8, 9
"""pairs of test images, and pictures from the one's mean to the other's"""
MANIFOLD_SIDE = 20


@torch.no_grad()
def portraits(pack: Pack, slot: Slot) -> dict[str, bytes]:
    """The pictures by their file names."""
    maths = pack.subset([slot])
    data = pack.data.bound(pack.structure.latent_dim)
    posterior = pack.stack.model.posterior(data.x[: data.count].unsqueeze(0), maths.scale)
    rate = marginals(posterior).kl()[0].double().mean(0)
    found = {
        "traversals.png": _traversals(pack, rate),
        "interpolations.png": _interpolations(pack, data.x, posterior.mean[0]),
        "manifold.png": _manifold(pack),
    }
    return {name: content for name, content in found.items() if content}


def sigma_picture(counts: list[int]) -> bytes:
    """Of the counts of σ below, in and above the bins of SIGMA_LOG10_EDGES; what is outside is not drawn."""
    low, high = round(SIGMA_LOG10_EDGES[0]), round(SIGMA_LOG10_EDGES[-1])
    return histogram_png(range(low, high + 1), counts[1:-1])


def _traversals(pack: Pack, rate: Tensor) -> bytes:
    """A row for each latent, highest rate (L,) first: from -3 to 3, all others 0."""
    rows = rows_within(min(len(rate), TRAVERSED), STEPS, pack.data.image_shape)
    latents = rate.nan_to_num(-1.0).argsort(descending=True, stable=True)[:rows]
    base = torch.zeros(len(rate), dtype=pack.data.dtype, device=pack.data.device)
    return grid_png(_decoded(pack, traversals(base, latents, STEPS)), pack.data.image_shape)


def _interpolations(pack: Pack, x: Tensor, mean: Tensor) -> bytes:
    """Rows of a test image, the way from its mean (L,) to the next image's, and that image; empty for one image."""
    shape = pack.data.image_shape
    pairs = rows_within(min(len(mean) // 2, PAIRS), BETWEEN + 2, shape)
    if len(mean) < 2:
        return b""
    between = _decoded(pack, interpolations(mean[0 : 2 * pairs : 2], mean[1 : 2 * pairs : 2], BETWEEN))
    ends = to_bytes(as_array(x[: 2 * pairs]), *pack.data.value_range)
    rows = [np.concatenate([ends[2 * i : 2 * i + 1], between[i], ends[2 * i + 1 : 2 * i + 2]]) for i in range(pairs)]
    return grid_png(rows, shape)


def _manifold(pack: Pack) -> bytes:
    """Over both latents of a model that has two, at the prior's quantiles; else empty."""
    if pack.structure.latent_dim != 2:
        return b""
    side = rows_within(MANIFOLD_SIDE, MANIFOLD_SIDE, pack.data.image_shape)
    return grid_png(_decoded(pack, manifold(side).to(pack.data.device, pack.data.dtype)), pack.data.image_shape)


def _decoded(pack: Pack, z: Tensor) -> list[NDArray[np.uint8]]:
    """Expected pixel values of z (rows, columns, L) as bytes, each row (columns, D)."""
    model = pack.stack.model
    made = model.observation.mean(model.decode(z.flatten(0, 1).unsqueeze(0))).view(*z.shape[:2], -1)
    return list(to_bytes(as_array(made), *pack.data.value_range))
