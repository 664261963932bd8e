"""A data set on a worker's device, and the fixed noise every trial is evaluated with.

The arrays are cloned: what comes from Ray's object store is shared memory that other workers read.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..data.dataset import DataSet
from ..vae.aggregate import principal_features
from ..vae.bounds import BOUND_IMAGES, bound_samples
from ..vae.likelihoods import LIKELIHOODS
from ..vae.metrics import EvaluationSet, evaluation_set
from ..vae.model import standard_normal_bank

VALIDATION_SAMPLES = 1
"""samples of z per validation image: one, with the same noise for all trials and epochs"""
TEST_SAMPLES = 32
"""samples of z per test image"""
FEATURE_IMAGES = 1024
"""training images, the first, that the principal axes for Fréchet distances are taken from, at the most"""
PICTURE_BANK_SEED = 0
"""the prior samples of all runs of all sweeps are decoded from one bank of z"""


class DeviceData:
    """One data set on one device, in one dtype, for one likelihood."""

    def __init__(
        self, dataset: DataSet, *, likelihood: str, dtype: torch.dtype, device: torch.device, bank_seed: int
    ) -> None:
        self.image_shape = dataset.image_shape
        self.levels = dataset.levels
        self.device, self.dtype = device, dtype
        self._dataset, self._bank_seed = dataset, bank_seed
        self._likelihood = LIKELIHOODS[likelihood](levels=dataset.levels)
        self.train_x = self._tensor(dataset.train)
        self.train_log_base = float(self._likelihood.log_base(self.train_x).double().mean())
        self.evaluation = lru_cache(maxsize=None)(self._evaluation)
        self.bound = lru_cache(maxsize=None)(self._bound)
        self.features = lru_cache(maxsize=None)(self._features)

    @property
    def pixels(self) -> int:
        """Number D of values an image has."""
        return self.train_x.shape[1]

    @property
    def identity(self) -> str:
        """What a trial's numbers depend on of the data and of the noise it is evaluated with."""
        return f"{self._dataset.sha256} {self._bank_seed}"

    @property
    def test_images(self) -> int:
        """How many images the test split has."""
        return len(self._dataset.test)

    @property
    def value_range(self) -> tuple[float, float]:
        """What pictures show as black and white."""
        if self._dataset.kind == "real":
            low, high = float(self.train_x.min()), float(self.train_x.max())
            return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        return 0.0, float(self.levels or 1)

    def _tensor(self, values: object) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _evaluation(self, split: str, latent_dim: int) -> EvaluationSet:
        """The `val` or `test` split with its noise bank; the bank is shared between latent sizes."""
        x = self._tensor(self._dataset.val if split == "val" else self._dataset.test)
        noise = evaluation_noise(self._bank_seed, split, len(x), latent_dim).to(self.device, self.dtype)
        return evaluation_set(x, self._likelihood.log_base(x), noise)

    def _bound(self, latent_dim: int) -> EvaluationSet:
        """The first BOUND_IMAGES test images with the K samples of the importance-weighted bound."""
        x = self._tensor(self._dataset.test[:BOUND_IMAGES])
        samples = bound_samples(len(x))
        bank = standard_normal_bank(self._bank_seed, "bound noise", samples * len(x), latent_dim)
        noise = bank.view(samples, len(x), latent_dim).to(self.device, self.dtype)
        return evaluation_set(x, self._likelihood.log_base(x), noise)

    def _features(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and principal axes (D, F) of training images; on the host, float64."""
        return principal_features(torch.tensor(self._dataset.train[:FEATURE_IMAGES]))

    def test_factors(self) -> tuple[Tensor, tuple[int, ...]] | None:
        """What the test images were made from, (N, F) on the host, and how many values each has; None: not known."""
        factors = self._dataset.factors
        return None if factors is None else (torch.tensor(factors.test), factors.sizes)

    def picture_noise(self, rows: int, latent_dim: int) -> Tensor:
        """The z that prior samples are decoded from, (rows, latent_dim)."""
        return picture_bank(rows, latent_dim).to(self.device, self.dtype)


def evaluation_noise(bank_seed: int, split: str, images: int, latent_dim: int) -> Tensor:
    """The noise that all trials of a sweep are evaluated with on `val` or `test`, (S, images, latent_dim)."""
    samples = VALIDATION_SAMPLES if split == "val" else TEST_SAMPLES
    bank = standard_normal_bank(bank_seed, f"{split} noise", samples * images, latent_dim)
    return bank.view(samples, images, latent_dim)


def picture_bank(rows: int, latent_dim: int) -> Tensor:
    """The z that prior samples of all runs are decoded from, (rows, latent_dim)."""
    return standard_normal_bank(PICTURE_BANK_SEED, "prior pictures", rows, latent_dim)
