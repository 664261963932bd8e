"""Likelihoods p(x|z): what the decoder's output means.

Each is a small module built for one data set's `levels`. Shapes: x, output (..., B, D) -> (..., B), nats.
`log_kernel` holds what depends on the decoder; `log_base` the rest, a constant of the data computed once.
A new likelihood is one class and one line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .functions import counts_kernel_and_slope, counts_log_kernel, sigmoid
from .posterior import HALF_LOG_2PI

Hyper = Mapping[str, Tensor]
"""Numeric hyperparameters of the model, each a scalar or (M, 1, 1)."""


class LikelihoodModule(Protocol):
    """What every likelihood offers."""

    kinds: ClassVar[frozenset[str]]
    """kinds of data it is a likelihood for: counts, binary, real"""

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """The part of log p(x|z) that depends on the decoder. (..., B, D) x 2 -> (..., B)."""

    def log_base(self, x: Tensor) -> Tensor:
        """The part that depends on x alone. (N, D) -> (N,)."""

    def mean(self, output: Tensor) -> Tensor:
        """E[x|z] in the data's units, without gradient. (..., B, D) -> (..., B, D)."""


@runtime_checkable
class Sloped(Protocol):
    """A likelihood without parameters that gives its derivative along; for speed only."""

    def log_kernel_and_slope(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """log_kernel (..., B) and its derivative by the output (..., B, D)."""


class Binomial(nn.Module):
    """x ~ Binomial(levels, sigmoid(output)) for each pixel: exact for counts 0..levels."""

    kinds: ClassVar[frozenset[str]] = frozenset({"counts"})

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()
        self.trials = float(levels or 1)

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """Sum over pixels of x·l - n·softplus(l)."""
        return counts_log_kernel(output, x, self.trials)

    def log_kernel_and_slope(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and x - n·sigmoid(l)."""
        return counts_kernel_and_slope(output, x, self.trials)

    def log_base(self, x: Tensor) -> Tensor:
        """Sum over pixels of log C(n, x)."""
        exact = x.double()
        n = torch.tensor(self.trials, dtype=torch.float64, device=x.device)
        per_pixel = torch.lgamma(n + 1) - torch.lgamma(exact + 1) - torch.lgamma(n - exact + 1)
        return per_pixel.sum(-1).to(x.dtype)

    def mean(self, output: Tensor) -> Tensor:
        """n·sigmoid(output)."""
        return sigmoid(output) * self.trials


class Bernoulli(Binomial):
    """x ~ Bernoulli(sigmoid(output)) for each pixel; binary data only."""

    kinds: ClassVar[frozenset[str]] = frozenset({"binary"})

    def __init__(self, *, levels: int | None) -> None:
        super().__init__(levels=1)


class Gaussian(nn.Module):
    """x ~ N(output, observation_std²) for each pixel; the standard deviation is a hyperparameter."""

    kinds: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """-½ ‖x - output‖²/s² - D log s."""
        std = hyper["observation_std"]
        return _gaussian_kernel(x, output, std, std.log())

    def log_base(self, x: Tensor) -> Tensor:
        """-D/2 · log 2π."""
        return torch.full_like(x[:, 0], -HALF_LOG_2PI * x.shape[-1])

    def mean(self, output: Tensor) -> Tensor:
        """The output itself."""
        return output


class GaussianLearned(nn.Module):
    """x ~ N(output, s²) with one learned s for all pixels (Rybkin et al. 2020, σ-VAE, arXiv 2006.13202)."""

    kinds: ClassVar[frozenset[str]] = frozenset({"real"})

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(1, 1))

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """-½ ‖x - output‖²/s² - D log s."""
        return _gaussian_kernel(x, output, self.log_std.exp(), self.log_std)

    def log_base(self, x: Tensor) -> Tensor:
        """-D/2 · log 2π."""
        return torch.full_like(x[:, 0], -HALF_LOG_2PI * x.shape[-1])

    def mean(self, output: Tensor) -> Tensor:
        """The output itself."""
        return output


def _gaussian_kernel(x: Tensor, output: Tensor, std: Tensor, log_std: Tensor) -> Tensor:
    standard = (x - output) / std
    return (standard * standard * -0.5 - log_std).sum(-1)


LIKELIHOODS: Mapping[str, type[Binomial] | type[Bernoulli] | type[Gaussian] | type[GaussianLearned]] = {
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "gaussian": Gaussian,
    "gaussian_learned": GaussianLearned,
}
"""Every likelihood a study file may name."""

NATURAL_LIKELIHOOD: Mapping[str, str] = {
    "counts": "binomial",
    "binary": "bernoulli",
    "real": "gaussian_learned",
}
"""The likelihood taken for a kind of data when the study file names none."""
