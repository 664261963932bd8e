"""Metrics of a VAE on a split, at β = 1, with fixed noise; pure functions without gradient.

Sums over images are taken in float64. Images are taken in chunks of a fixed number of rows, a multiple of 16,
the last one filled up with repeated rows of weight 0, so that a slot's bits do not depend on its neighbours.

Shapes: x (N, D); noise (S, N, L) for S samples of z per image; results (M,) for a stack of M models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .likelihoods import Hyper
from .model import VAE

CHUNK_ROWS = 512
SIGMA_LOG10_EDGES = tuple(k / 10 for k in range(-40, 21))
"""Bins of the histogram of σ: 0.1 decades wide, from 10^-4 to 10^2."""
ACTIVE_UNIT_VARIANCE = 0.01
"""A latent is active when Var_x(E_q[z_j]) exceeds this (Burda et al. 2015, arXiv 1509.00519)."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """A split made ready for evaluation, all rows padded to whole chunks."""

    x: Tensor
    """(N', D), N' the padded number of rows"""
    log_base: Tensor
    """mean of the likelihood's base measure over the N real rows, float64 scalar"""
    row_log_base: Tensor
    """(N',) the likelihood's base measure, float64"""
    weight: Tensor
    """(N',) 1 for real rows, 0 for padding, float64"""
    noise: Tensor
    """(S, N', L)"""
    count: int
    """N"""

    def chunks(self) -> list[slice]:
        """Slices over the rows."""
        rows = self.x.shape[0]
        return [slice(start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS)]


def evaluation_set(x: Tensor, log_base: Tensor, noise: Tensor) -> EvaluationSet:
    """Pads x (N, D), log_base (N,) and noise (S, N, L) with copies of row 0 to a multiple of 16 rows."""
    count = x.shape[0]
    padding = -count % 16
    rows = torch.cat([torch.arange(count), torch.zeros(padding, dtype=torch.int64)]).to(x.device)
    weight = torch.ones(count + padding, dtype=torch.float64, device=x.device)
    weight[count:] = 0
    return EvaluationSet(
        x=x.index_select(0, rows),
        log_base=log_base.double().sum() / count,
        row_log_base=log_base.double().index_select(0, rows),
        weight=weight,
        noise=noise.index_select(1, rows),
        count=count,
    )


class ImageDetails:
    """What an evaluation sees of the single images: their ELBOs, and how the posterior's σ are spread.

    Made for one evaluation of `data` by M = `slots` models; `evaluate` fills it.
    """

    def __init__(self, data: EvaluationSet, slots: int) -> None:
        self._data = data
        self._elbo_MN = data.row_log_base.repeat(slots, 1)
        self._edges = torch.tensor([10.0**edge for edge in SIGMA_LOG10_EDGES], dtype=torch.float64).to(data.x.device)
        self._counts = torch.zeros(slots, len(SIGMA_LOG10_EDGES) + 1, dtype=torch.int64, device=data.x.device)

    def add_posterior(self, rows: slice, rate: Tensor, sigma: Tensor) -> None:
        """Takes up the rate (M, R), float64, and σ (M, R, L) of some rows."""
        self._elbo_MN[:, rows] -= rate
        real = sigma[:, : self._data.count - rows.start].double().contiguous()  # without padding
        slots, bins = self._counts.shape
        at = torch.bucketize(real, self._edges, right=True).flatten(1)
        at += torch.arange(slots, device=at.device).unsqueeze(1) * bins
        self._counts += at.flatten().bincount(minlength=slots * bins).view(slots, bins)

    def add_kernel(self, rows: slice, kernel: Tensor) -> None:
        """Takes up the log-likelihood kernel (M, R) of some rows under one sample of z, float64."""
        self._elbo_MN[:, rows] += kernel / self._data.noise.shape[0]

    def elbo(self) -> Tensor:
        """ELBO of each image, its mean over the samples of z, (M, N) float64."""
        return self._elbo_MN[:, : self._data.count]

    def elbo_se(self) -> Tensor:
        """Standard error over the images of the mean ELBO, (M,) float64; NaN for one image.

        Sums run over the padded rows, a multiple of 16, as all others here.
        """
        weight, count = self._data.weight, self._data.count
        mean = (self._elbo_MN * weight).sum(-1, keepdim=True) / count
        centred = (self._elbo_MN - mean) * weight
        return ((centred * centred).sum(-1) / (count - 1) / count).sqrt()

    def sigma_counts(self) -> Tensor:
        """How many σ, over images and latents, lie below the bins, in each bin (its lower edge in), and above: (M, 62).

        Bins have the edges 10^SIGMA_LOG10_EDGES.
        """
        return self._counts


@torch.no_grad()
def evaluate(
    model: VAE,
    scale: Callable[[Tensor], tuple[Tensor, Tensor]],
    data: EvaluationSet,
    hyper: Hyper,
    slots: int,
    details: ImageDetails | None = None,
) -> dict[str, Tensor]:
    """Means over the split, each (M,) float64, for a stack of M = `slots` models.

    elbo, rate, distortion: nats per image; active_units: a count; sigma_mean, sigma_min, sigma_max: over
    images and latents. `details` gets what is seen of the single images.
    """
    samples = data.noise.shape[0]
    rate, distortion, sigma_sum = (torch.zeros(slots, dtype=torch.float64, device=data.x.device) for _ in range(3))
    sigma_min, sigma_max, means = [], [], []
    for rows in data.chunks():
        x = data.x[rows].expand(slots, -1, -1)
        weight = data.weight[rows]
        posterior = model.posterior(x, scale)
        row_rate = posterior.kl().sum(-1).double()
        rate += (row_rate * weight).sum(-1)
        if details is not None:
            details.add_posterior(rows, row_rate, posterior.sigma)
        for noise in data.noise[:, rows]:
            output = model.decode(posterior.sample(noise))
            kernel = model.observation.log_kernel(x, output, hyper).double()
            distortion -= (kernel * weight).sum(-1) / samples
            if details is not None:
                details.add_kernel(rows, kernel)
        sigma_sum += (posterior.sigma.double().sum(-1) * weight).sum(-1)
        sigma_min.append(posterior.sigma.amin((1, 2)))  # padding repeats real rows: no effect on the extremes
        sigma_max.append(posterior.sigma.amax((1, 2)))
        means.append(posterior.mean)
    rate, distortion = rate / data.count, distortion / data.count - data.log_base
    return {
        "elbo": -(distortion + rate),
        "rate": rate,
        "distortion": distortion,
        "active_units": active_units(torch.cat(means, dim=1), data.weight).double(),
        "sigma_mean": sigma_sum / (data.count * model.latent_dim),
        "sigma_min": torch.stack(sigma_min).amin(0).double(),
        "sigma_max": torch.stack(sigma_max).amax(0).double(),
    }


def active_units(mean: Tensor, weight: Tensor) -> Tensor:
    """Number of latents whose posterior mean varies over the data (Burda et al. 2015, section 5.2).

    mean: (..., N, L) posterior means; weight: (N,) 1 for rows that count. Returns (...), int64.
    """
    exact, rows = mean.double(), weight.unsqueeze(-1)
    count = weight.sum()
    centred = exact - (exact * rows).sum(-2, keepdim=True) / count
    variance = (centred * centred * rows).sum(-2) / (count - 1).clamp_min(1)
    return (variance > ACTIVE_UNIT_VARIANCE).sum(-1)
