"""What every side trains: digits as counts, a small VAE, its loop, its pictures, as a PyTorch user would write them.

Knows nothing of `pipeline`, Ray, Optuna or MLflow; all peers share it. Written for speed: the data set is one tensor,
shuffled once an epoch; both heads are one layer; Adam is fused; no value is read back within an epoch.

Model: p(x|z) = Binomial(16, sigmoid(decoder(z))), q(z|x) = N(μ, σ²), p(z) = N(0, 1). ELBO in nats per image, one
sample of z. Shapes: x (B, D), counts divided by 16; noise, μ, σ (B, L).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

LEVELS = 16
"""a pixel counts 0..16"""
SPLIT = (1257, 270, 270)
SAMPLES, RECONSTRUCTIONS, COLUMNS = 64, 32, 8


def write_digits(path: Path, *, side: int = 8, seed: int = 0) -> None:
    """scikit-learn's 8 x 8 digits, shuffled and divided, as an .npz of `train`, `val` and `test`.

    side: enlarged to so many pixels, where a larger image is wanted.
    """
    from sklearn.datasets import load_digits

    images = load_digits().images
    nearest = np.arange(side) * images.shape[1] // side
    images = images[:, nearest][:, :, nearest]
    train, val, test = np.split(np.random.default_rng(seed).permutation(len(images)), np.cumsum(SPLIT)[:2])
    np.savez(path, train=images[train], val=images[val], test=images[test])


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Train and validation images, each (N, D) float32 in 0..1: counts divided by LEVELS once and for all."""

    train: Tensor
    val: Tensor
    bases: tuple[float, float]
    """`log_coefficients` of both"""


@lru_cache(maxsize=1)
def load_images(path: Path) -> Images:
    """Reads an .npz of `write_digits`, once a process; from here on the process computes on one thread."""
    torch.set_num_threads(1)
    with np.load(path) as parts:
        flat = [parts[name].reshape(len(parts[name]), -1) for name in ("train", "val")]
    train, val = (torch.from_numpy(part).float() / LEVELS for part in flat)
    return Images(train, val, (log_coefficients(train), log_coefficients(val)))


Scale = Callable[[Tensor], tuple[Tensor, Tensor]]
"""raw encoder output -> (σ, log σ)"""


def _log_variance(raw: Tensor) -> tuple[Tensor, Tensor]:
    return (raw * 0.5).exp(), raw * 0.5


def _log_std(raw: Tensor) -> tuple[Tensor, Tensor]:
    return raw.exp(), raw


def _softplus_std(raw: Tensor) -> tuple[Tensor, Tensor]:
    sigma = F.softplus(raw)
    return sigma, sigma.log()


def _softplus_variance(raw: Tensor) -> tuple[Tensor, Tensor]:
    variance = F.softplus(raw)
    return variance.sqrt(), variance.log() * 0.5


SCALE_MATHS: Mapping[str, Scale] = {
    "log_variance": _log_variance,
    "log_std": _log_std,
    "softplus_std": _softplus_std,
    "softplus_variance": _softplus_variance,
}
"""Posterior scales by the names in `common.SCALES`."""


DENSE = 256
"""units beside the convolutions"""


class VAE(nn.Module):
    """pixels-hidden-latent-hidden-pixels; with `channels`, strided convolutions and a dense layer for hidden."""

    def __init__(
        self, *, pixels: int, hidden: int, latent_dim: int, scale: str, channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        if channels:
            self.encoder, self.decoder = _convolutional(pixels, channels, latent_dim)
        else:
            self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim))
            self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.latent_dim, self.scale = latent_dim, SCALE_MATHS[scale]

    def terms(self, x: Tensor, noise: Tensor) -> Tensor:
        """-ELBO of a batch without the binomial coefficients, summed over images: ()."""
        mean, raw = self.encoder(x).chunk(2, dim=-1)
        sigma, log_sigma = self.scale(raw)
        logits = self.decoder(mean + sigma * noise)
        distortion = LEVELS * F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = (0.5 * (mean * mean + sigma * sigma - 1) - log_sigma).sum()
        loss: Tensor = distortion + rate
        return loss

    @torch.no_grad()
    def elbo(self, x: Tensor, noise: Tensor) -> float:
        """Mean ELBO of images (N, D), nats per image."""
        return log_coefficients(x) - float(self.terms(x, noise)) / len(x)


def _convolutional(pixels: int, channels: tuple[int, ...], latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of square images; every level halves a side."""
    side = round(pixels**0.5)
    last = side >> len(channels)
    flat = channels[-1] * last**2
    encoder, decoder = nn.Sequential(nn.Unflatten(1, (1, side, side))), nn.Sequential()
    for before, after in pairwise((1, *channels)):
        encoder.extend([nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()])
    encoder.extend([nn.Flatten(), nn.Linear(flat, DENSE), nn.ReLU(), nn.Linear(DENSE, 2 * latent_dim)])
    decoder.extend([nn.Linear(latent_dim, DENSE), nn.ReLU(), nn.Linear(DENSE, flat)])
    decoder.extend([nn.ReLU(), nn.Unflatten(1, (channels[-1], last, last))])
    for before, after in pairwise((*reversed(channels), 1)):
        decoder.extend([nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()])
    decoder[-1] = nn.Flatten()
    return encoder, decoder


def log_coefficients(x: Tensor) -> float:
    """Mean over images of the sum over pixels of log C(16, x)."""
    n = torch.tensor(float(LEVELS), dtype=torch.float64)
    exact = x.double() * LEVELS
    return float((torch.lgamma(n + 1) - torch.lgamma(exact + 1) - torch.lgamma(n - exact + 1)).sum(-1).mean())


class Training:
    """One trial: call `epoch` as often as wanted."""

    def __init__(
        self,
        images: Images,
        *,
        scale: str,
        learning_rate: float,
        seed: int,
        hidden: int = 128,
        latent_dim: int = 8,
        batch_size: int = 64,
        channels: tuple[int, ...] = (),
    ) -> None:
        torch.manual_seed(seed)
        self.images, self.batch_size = images, batch_size
        pixels = images.train.shape[1]
        self.model = VAE(pixels=pixels, hidden=hidden, latent_dim=latent_dim, scale=scale, channels=channels)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate, fused=True)
        self.val_noise = torch.randn(len(images.val), latent_dim)

    def steps(self, order: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The optimizer steps of one epoch; returns the summed training loss, not read back.

        order (N,) and noise (N, L) are drawn unless given.
        """
        train = self.images.train
        order = torch.randperm(len(train)) if order is None else order
        noise = torch.randn(len(train), self.model.latent_dim) if noise is None else noise
        total = torch.zeros(())
        for x, e in zip(torch.split(train[order], self.batch_size), torch.split(noise, self.batch_size), strict=True):
            loss = self.model.terms(x, e)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss / len(x))
            self.optimizer.step()
            total += loss.detach()
        return total

    def epoch(self) -> dict[str, float]:
        """Trains an epoch and evaluates: the two values that every side logs."""
        train_loss = self.steps()
        with torch.inference_mode():
            val_loss = self.model.terms(self.images.val, self.val_noise)
        images = self.images
        return {
            "train/elbo": images.bases[0] - float(train_loss) / len(images.train),
            "val/elbo": images.bases[1] - float(val_loss) / len(images.val),
        }

    @torch.inference_mode()
    def save_pictures(self, folder: Path) -> None:
        """Writes samples.png and reconstructions.png."""
        model, x = self.model, self.images.val[:RECONSTRUCTIONS]
        z = torch.randn(SAMPLES, model.latent_dim, generator=torch.Generator().manual_seed(0))
        mean = model.encoder(x)[:, : model.latent_dim]
        samples, copies = (model.decoder(latent).sigmoid() for latent in (z, mean))
        rows = [
            part for pair in zip(torch.split(x, COLUMNS), torch.split(copies, COLUMNS), strict=True) for part in pair
        ]
        folder.mkdir(parents=True, exist_ok=True)
        _grid(samples).save(folder / "samples.png")
        _grid(torch.cat(rows)).save(folder / "reconstructions.png")


def _grid(images: Tensor) -> Image.Image:
    """Images (N, D) in 0..1 in rows of COLUMNS with gaps of one pixel, enlarged five times."""
    side = round(images.shape[1] ** 0.5)
    cells: NDArray[Any] = (images.reshape(-1, COLUMNS, side, side).numpy() * 255).astype(np.uint8)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=64)
    canvas = cells.transpose(0, 2, 1, 3).reshape(cells.shape[0] * (side + 1), -1)
    return Image.fromarray(canvas).resize((canvas.shape[1] * 5, canvas.shape[0] * 5), Image.Resampling.NEAREST)


def train(images: Images, report: Callable[[int, dict[str, float]], None], *, epochs: int, **config: Any) -> Training:
    """A whole trial; `report` hears (finished epochs, values) after every epoch."""
    training = Training(images, **config)
    for epoch in range(1, epochs + 1):
        report(epoch, training.epoch())
    return training
