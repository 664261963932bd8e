"""What the latents of all images together are like: the aggregated posterior q(z), and what it tells of factors.

q(z) is the mean over the images of their q(z|x). Pure functions of arrays; they know no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .objectives import log_sum_exp
from .posterior import HALF_LOG_2PI, Diagonal, Posterior, marginals

CHUNK_ELEMENTS = 1 << 16
"""numbers of the largest table held at once: as many as a core's cache takes"""
COLLAPSED_NATS, COLLAPSED_SHARE = 0.01, 0.99
MIG_BINS = 20


def decompose(posterior: Posterior, z: Tensor) -> dict[str, Tensor]:
    """The rate's three parts (Chen et al. 2018, arXiv 1802.04942, eq. 2), nats per image, (...), float64.

    z (..., N, L): one draw for each image of its posterior, whose tensors are float64 as z is. mutual_information of
    image and z, at most log N; total_correlation between latents; dimension_kl: of each latent's q(z_j) to the prior,
    summed. They sum to the draws' mean of log q(z|x) - log p(z).
    """
    rows = z.shape[-2]
    whole = posterior.beside()
    single = None if isinstance(whole, Diagonal) else marginals(posterior).beside()
    step = max(1, CHUNK_ELEMENTS // max(z[..., 0, :].numel() * rows, 1))
    joint, product = [], []
    for start in range(0, rows, step):
        each = z[..., start : start + step, :].unsqueeze(-2)
        terms = whole.log_q(each)
        joint.append(log_sum_exp(terms.sum(-1), -1) - math.log(rows))
        product.append(log_sum_exp(single.log_q(each) if single else terms, -2) - math.log(rows))
    log_joint, log_single = torch.cat(joint, -1), torch.cat(product, -2)
    log_prior = z * z * -0.5 - HALF_LOG_2PI
    return {
        "mutual_information": _mean(posterior.log_q(z).sum(-1) - log_joint),
        "total_correlation": _mean(log_joint - log_single.sum(-1)),
        "dimension_kl": _mean((log_single - log_prior).sum(-1)),
    }


def _mean(values: Tensor) -> Tensor:
    mean: Tensor = values.sum(-1) / values.shape[-1]
    return mean


def collapsed_units(posterior: Posterior) -> Tensor:
    """Latents whose posterior is the prior, (...), int64: KL_j < ε for all but a share δ of the N images.

    ε and δ as Lucas et al. 2019 (arXiv 1911.02469) define collapse; KL_j that of the latent by itself.
    """
    share: Tensor = (marginals(posterior).kl() < COLLAPSED_NATS).double().mean(-2)
    units: Tensor = torch.ge(share, COLLAPSED_SHARE).sum(-1)
    return units


def gaussian_total_correlation(codes: Tensor) -> Tensor:
    """Total correlation of codes (N, L) if they were Gaussian, nats (as disentanglement_lib computes it)."""
    covariance = torch.cov(codes.double().T)
    gap: Tensor = covariance.diagonal().log().sum() - torch.linalg.slogdet(covariance)[1]
    return 0.5 * gap


def mutual_information_gap(codes: Tensor, factors: Tensor, sizes: Sequence[int]) -> float:
    """MIG (Chen et al. 2018, section 4.1): how far the best latent of a factor is ahead of the second, 0 to 1.

    codes (N, L): posterior means; factors (N, F): whole numbers below `sizes`. Codes are put into equal bins between
    their extremes, as many as the largest factor has values and at least 20, so that a perfect code scores 1. Factors
    of one value are left out. NaN where there is none left, or one latent only.
    """
    information = code_information(codes, factors, sizes)
    gaps = []
    for row, column in zip(information, factors.T, strict=True):
        entropy = _entropy(torch.bincount(column))
        if entropy > 0 and len(row) > 1:
            first, second = row.sort(descending=True).values[:2].tolist()
            gaps.append((first - second) / entropy)
    return sum(gaps) / len(gaps) if gaps else math.nan


def code_information(codes: Tensor, factors: Tensor, sizes: Sequence[int]) -> Tensor:
    """Mutual information of each factor and each binned latent, nats, (F, L) float64.

    codes (N, L); factors (N, F), of factor f the whole numbers below sizes[f].
    """
    bins = max(MIG_BINS, *sizes)
    low, high = codes.amin(0), codes.amax(0)
    width = (high - low).clamp_min(torch.finfo(codes.dtype).tiny)
    binned = ((codes - low) / width * bins).long().clamp(0, bins - 1)
    found = torch.zeros(factors.shape[1], codes.shape[1], dtype=torch.float64)
    for f, size in enumerate(sizes):
        for j in range(codes.shape[1]):
            table = torch.bincount(factors[:, f] * bins + binned[:, j], minlength=size * bins).view(size, bins)
            found[f, j] = _entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table.flatten())
    return found


def _entropy(counts: Tensor) -> float:
    share = counts[counts > 0].double() / counts.sum()
    return float(-(share * share.log()).sum())


def principal_features(x: Tensor, most: int = 32) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the leading principal axes (D, F) of images x (N, D), F = min(D, N - 1, most) or their rank.

    From the smaller of the two products of x with itself: a tenth of the time of a singular value decomposition.
    """
    exact = x.double()
    mean, kept = exact.mean(0), min(most, x.shape[1], max(x.shape[0] - 1, 1))
    centred = exact - mean
    if x.shape[0] >= x.shape[1]:
        return mean, torch.linalg.eigh(centred.T @ centred)[1].flip(1)[:, :kept]
    axes = centred.T @ torch.linalg.eigh(centred @ centred.T)[1].flip(1)[:, :kept]
    lengths = axes.norm(dim=0)
    real = lengths >= 1e-7 * lengths[0]
    return mean, axes[:, real] / lengths[real]


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Between Gaussians fitted to one and other (N, F) (Dowson & Landau 1982; with Inception's features the FID).

    Biased upwards for few samples (Chong & Forsyth 2020, arXiv 1911.07023): compare it at equal numbers only. NaN
    where a feature is not finite, or there is one row only.
    """
    if min(len(one), len(other)) < 2 or not all(bool(values.isfinite().all()) for values in (one, other)):
        return math.nan
    means = [values.double().mean(0) for values in (one, other)]
    first, second = (torch.cov(values.double().T, correction=1).reshape(values.shape[1], -1) for values in (one, other))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float(((means[0] - means[1]) ** 2).sum() + first.trace() + second.trace() - 2 * cross)
