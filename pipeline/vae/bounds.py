"""Bounds tighter than the ELBO, and how noisy the encoder's gradient is; for a stack of models on one split.

The importance-weighted bound says how much of an ELBO's gap is the encoder's; it never lies above log p(x) by more
than its error. Knows neither a trial nor a pack. Shapes as in metrics.py: x (N, D), results (M,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .likelihoods import Hyper
from .metrics import CHUNK_ROWS, EvaluationSet
from .model import VAE
from .posterior import HALF_LOG_2PI, Posterior, ScaleFunction

BOUND_IMAGES = 512
"""so many images of a split at the most"""
BOUND_ROWS = 1 << 15
"""images times samples that the importance-weighted bound is computed from, at the most"""
BOUND_SAMPLES = 128
"""K at the most"""


def bound_samples(images: int) -> int:
    """K for so many images; depends on nothing else, so that equal studies have equal numbers."""
    return min(max(BOUND_ROWS // max(images, 1), 1), BOUND_SAMPLES)


@torch.no_grad()
def importance_weighted(
    model: VAE, scale: ScaleFunction, data: EvaluationSet, hyper: Hyper, slots: int
) -> dict[str, Tensor]:
    """Burda et al. 2015 (arXiv 1509.00519), eq. 8, with the K samples of z that `data` has, means over the images.

    iw_elbo and its standard error iw_elbo_se (over the images, NaN for one): nats per image; ess: effective sample
    size (Σw)²/Σ(w²) (Kong 1992) as a fraction of K, near 1/K where one sample has all the weight: a loose bound.
    """
    samples = data.noise.shape[0]
    weight = torch.cat([_log_weights(model, scale, data, rows, hyper, slots) for rows in data.chunks()], -1)
    top = weight.amax(1)
    total, squares = torch.zeros_like(top), torch.zeros_like(top)
    for one in weight.unbind(1):  # in order: the bits of a sum over an axis may depend on how the tensor lies
        share = _exp_of_difference(one, top)
        total, squares = total + share, squares + share * share
    bound = top + total.log() - math.log(samples)
    mean, error = _mean_and_error(bound, data)
    effective = (total * total / squares * data.weight).sum(-1) / (data.count * samples)
    return {"iw_elbo": mean, "iw_elbo_se": error, "ess": effective}


def _log_weights(
    model: VAE, scale: ScaleFunction, data: EvaluationSet, rows: slice, hyper: Hyper, slots: int
) -> Tensor:
    """log p(x, z) - log q(z|x) of some rows under each sample of z, (M, K, R), float64."""
    x = data.x[rows].expand(slots, -1, -1)
    posterior = model.family.posterior(scale, *(output.unsqueeze(1) for output in model.encode(x)))
    found = []
    step = max(CHUNK_ROWS // x.shape[1], 1)
    for start in range(0, len(data.noise), step):
        noise = data.noise[start : start + step, rows]
        z = posterior.sample(noise)  # (M, k, R, L)
        repeated = x.unsqueeze(1).expand(-1, len(noise), -1, -1).flatten(1, 2)
        kernel = model.observation.log_kernel(repeated, model.decode(z.flatten(1, 2)), hyper)
        found.append(kernel.double().view(z.shape[:-1]) + log_ratio(posterior, z))
    return torch.cat(found, 1) + data.row_log_base[rows]


def _exp_of_difference(one: Tensor, top: Tensor) -> Tensor:
    """exp(one - top), 0 for a weight of nothing even where all so far were that."""
    return torch.where(one == -math.inf, 0.0, (one - top).exp())


def log_ratio(posterior: Posterior, z: Tensor) -> Tensor:
    """log p(z) - log q(z|x), (..., B), float64."""
    return (z * z * -0.5 - HALF_LOG_2PI - posterior.log_q(z)).sum(-1).double()


def _mean_and_error(values: Tensor, data: EvaluationSet) -> tuple[Tensor, Tensor]:
    mean = (values * data.weight).sum(-1) / data.count
    centred = (values - mean.unsqueeze(-1)) * data.weight
    return mean, ((centred * centred).sum(-1) / (data.count - 1) / data.count).sqrt()


def head_signal_to_noise(
    model: VAE, scale: ScaleFunction, x: Tensor, noise: Tensor, hyper: Hyper
) -> tuple[Tensor, Tensor]:
    """Signal-to-noise ratio of the ELBO's gradient by the mean head's and the scale head's outputs, two (M,).

    |mean| / standard deviation over the draws, of each image and latent, then the mean of those (as Rainforth et al.
    2018, arXiv 1802.04537, measure it of weights). x: (M, B, D); noise: (S, B, L), S > 1. NaN where nothing varies.
    """
    with torch.no_grad():
        outputs = model.encode(x)
    gradients: list[list[Tensor]] = [[], []]
    for one in noise:
        leaves = [output.detach().requires_grad_() for output in outputs]
        with torch.enable_grad():
            posterior = model.family.posterior(scale, *leaves)
            kernel = model.observation.log_kernel(x, model.decode(posterior.sample(one)), hyper)
            elbo = kernel.sum() - posterior.kl().sum()
        found = torch.autograd.grad(elbo, leaves[:2], materialize_grads=True)
        for kept, gradient in zip(gradients, found, strict=True):
            kept.append(gradient.double())
    ratios = []
    for kept in gradients:
        drawn = torch.stack(kept)
        mean = drawn.sum(0) / len(kept)
        spread = (((drawn - mean) ** 2).sum(0) / (len(kept) - 1)).sqrt()
        ratios.append((mean.abs() / spread).flatten(1).sum(1) / mean[0].numel())
    return ratios[0], ratios[1]
