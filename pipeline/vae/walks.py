"""Where in latent space pictures are taken: along each latent, between two images, all over two latents.

Pure functions of numbers; they know no model and no picture. Shapes: z (..., L).
"""

from __future__ import annotations

import torch
from torch import Tensor

TRAVERSAL_REACH = 3.0
"""in standard deviations of the prior"""


def traversals(base: Tensor, latents: Tensor, steps: int) -> Tensor:
    """base (L,) with one latent at a time going from -3 to 3, (len(latents), steps, L).

    `steps` is odd: where a base's latent is 0, the middle of its row is the base itself.
    """
    values = torch.linspace(-TRAVERSAL_REACH, TRAVERSAL_REACH, steps, dtype=torch.float64).to(base)
    walks = base.repeat(len(latents), steps, 1)
    for row, latent in enumerate(latents.tolist()):
        walks[row, :, latent] = values
    return walks


def interpolations(starts: Tensor, ends: Tensor, steps: int) -> Tensor:
    """On the straight lines from starts (N, L) to ends (N, L), both in, (N, steps, L)."""
    share = torch.linspace(0, 1, steps, dtype=torch.float64).to(starts).view(-1, 1)
    return starts.unsqueeze(1) * (1 - share) + ends.unsqueeze(1) * share


def manifold(side: int) -> Tensor:
    """Quantiles of the prior of two latents, side by side, (side, side, 2), float64 (Kingma & Welling 2013, figure 4).

    The first latent grows to the right, the second upwards; all squares between have the same probability.
    """
    quantiles = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side)
    up, right = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    return torch.stack([right, up], -1)
