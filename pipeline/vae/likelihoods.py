"""Likelihoods p(x|z): what the decoder's output means.

Each is a small module built for one data set's `levels`. Shapes: x, output (..., B, D) -> (..., B), nats.
`log_kernel` holds what depends on the decoder; `log_base` the rest, a constant of the data computed once.
A new likelihood is one class and one line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..own_code import Table
from .functions import counts_kernel_and_slope, counts_log_kernel, sigmoid, softplus
from .posterior import HALF_LOG_2PI

Hyper = Mapping[str, Tensor]
"""Numeric hyperparameters of the model, each a scalar or (M, 1, 1)."""


class LikelihoodModule(Protocol):
    """What every likelihood offers."""

    kinds: ClassVar[frozenset[str]]
    """kinds of data it is a likelihood for: counts, binary, real"""
    outputs: int
    """numbers of the decoder's output per pixel, side by side"""

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """The part of log p(x|z) that depends on the decoder. x (..., B, D), output (..., B, D·outputs) -> (..., B)."""

    def log_base(self, x: Tensor) -> Tensor:
        """The part that depends on x alone. (N, D) -> (N,)."""

    def mean(self, output: Tensor) -> Tensor:
        """E[x|z] in the data's units, without gradient. (..., B, D·outputs) -> (..., B, D)."""


@runtime_checkable
class Sloped(Protocol):
    """A likelihood without parameters that gives its derivative along; for speed only."""

    def log_kernel_and_slope(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """log_kernel (..., B) and its derivative by the output (..., B, D)."""


class Binomial(nn.Module):
    """x ~ Binomial(levels, sigmoid(output)) for each pixel: exact for counts 0..levels."""

    kinds: ClassVar[frozenset[str]] = frozenset({"counts"})
    outputs = 1

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
    outputs = 1

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
    outputs = 1

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


class ContinuousBernoulli(nn.Module):
    """x in [0, 1] with density C(l)·exp(x·l), l = output (Loaiza-Ganem & Cunningham 2019, arXiv 1907.06845)."""

    kinds: ClassVar[frozenset[str]] = frozenset({"real"})
    support = (0.0, 1.0)
    outputs = 1

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """Sum over pixels of x·l - log ∫ exp(t·l) dt."""
        kernel: Tensor = _ContinuousBernoulliKernel.apply(output, x)  # type: ignore[no-untyped-call]
        return kernel

    def log_base(self, x: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(x[:, 0])

    def mean(self, output: Tensor) -> Tensor:
        """1/(1 - exp(-l)) - 1/l."""
        return _tilted_mean(output)


SERIES_BELOW = 0.1
"""|l| under which closed forms lose digits to cancellation; the series keep all of float64 there"""


def _log_tilted_integral(tilt: Tensor) -> Tensor:
    """log ∫_0^1 exp(t·tilt) dt = max(tilt, 0) + log((1 - exp(-|tilt|))/|tilt|)."""
    size = tilt.abs()
    far = size.clamp_min(SERIES_BELOW)
    near = tilt * tilt
    series = tilt * 0.5 + near * (1 / 24 + near * (-1 / 2880 + near / 181440))
    return torch.where(size < SERIES_BELOW, series, tilt.clamp_min(0) + (-torch.expm1(-far)).log() - far.log())


def _tilted_mean(tilt: Tensor) -> Tensor:
    """The derivative of `_log_tilted_integral`."""
    size = tilt.abs()
    far = size.clamp_min(SERIES_BELOW)
    near = tilt * tilt
    series = tilt * (1 / 12 + near * (-1 / 720 + near / 30240)) + 0.5
    upper = torch.reciprocal(-torch.expm1(-far)) - far.reciprocal()  # for |tilt|; by symmetry 1 - it for -|tilt|
    return torch.where(size < SERIES_BELOW, series, torch.where(tilt > 0, upper, 1 - upper))


class _ContinuousBernoulliKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(output, x)
        return (x * output - _log_tilted_integral(output)).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        output, x = ctx.saved_tensors
        return (x - _tilted_mean(output)) * gradients[0].unsqueeze(-1), None


class BetaBinomial(nn.Module):
    """x ~ Binomial(levels, p), p ~ Beta(s·m, s·(1-m)), m = sigmoid(output), one learned s for all pixels.

    For counts that spread more than a binomial allows. Written out as products, exact for any s.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"counts"})
    outputs = 1

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()
        self.trials = levels or 1
        self.log_concentration = nn.Parameter(torch.full((1, 1), 2.0))

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """Sum over pixels of log B(x + α, n - x + β) - log B(α, β)."""
        total = self.log_concentration.exp()
        log_alpha, log_beta = self.log_concentration - softplus(-output), self.log_concentration - softplus(output)
        alpha, beta = log_alpha.exp(), log_beta.exp()
        # i = 0 by the logs themselves: α and β may underflow
        terms = torch.where(x > 0, log_alpha, 0.0) + torch.where(x < self.trials, log_beta, 0.0)
        terms = terms - self.log_concentration
        for i in range(1, self.trials):
            up = torch.where(x > i, torch.log(alpha + i), 0.0)
            down = torch.where(x < self.trials - i, torch.log(beta + i), 0.0)
            terms = terms + (up + down - torch.log(total + i))
        return terms.sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        """Sum over pixels of log C(n, x)."""
        return Binomial(levels=self.trials).log_base(x)

    def mean(self, output: Tensor) -> Tensor:
        """n·m."""
        return sigmoid(output) * self.trials


class Categorical(nn.Module):
    """Each pixel one of levels + 1 values, softmax of as many outputs; knows no order among them."""

    kinds: ClassVar[frozenset[str]] = frozenset({"counts"})

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()
        self.outputs = (levels or 1) + 1

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """Sum over pixels of the log-softmax at x."""
        logits = self._logits(output)
        top = logits.detach().amax(-1, keepdim=True)
        centred = logits - top
        chosen = centred.gather(-1, x.long().unsqueeze(-1).expand(*centred.shape[:-1], 1)).squeeze(-1)
        return (chosen - centred.exp().sum(-1).log()).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(x[:, 0])

    def mean(self, output: Tensor) -> Tensor:
        """Σ k·p_k."""
        logits = self._logits(output)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        values = torch.arange(self.outputs, dtype=output.dtype, device=output.device)
        return (weights * values).sum(-1) / weights.sum(-1)

    def _logits(self, output: Tensor) -> Tensor:
        return output.view(*output.shape[:-1], -1, self.outputs)


class DiscretizedLogistic(nn.Module):
    """x in 0..levels: a logistic density about levels·(½ + output), integrated over each value's bin.

    The first and last bins are open (Salimans et al. 2017, arXiv 1701.05517); one learned width for all pixels.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"counts"})
    outputs = 1

    def __init__(self, *, levels: int | None) -> None:
        super().__init__()
        self.levels = levels or 1
        self.log_width = nn.Parameter(torch.full((1, 1), -2.0))

    def log_kernel(self, x: Tensor, output: Tensor, hyper: Hyper) -> Tensor:
        """Sum over pixels of log(S(b) - S(a)) = log S(b) + log S(-a) + log(1 - exp(a - b)), S the sigmoid."""
        scale = self.levels * self.log_width.exp()
        centre = self._centre(output)
        above, below = (x + 0.5 - centre) / scale, (x - 0.5 - centre) / scale
        inner = (-torch.expm1(-1 / scale)).log()
        first, last = x <= 0, x >= self.levels
        terms = torch.where(last, 0.0, -softplus(-above)) + torch.where(first, 0.0, -softplus(below))
        return (terms + torch.where(first | last, 0.0, inner)).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(x[:, 0])

    @torch.no_grad()
    def mean(self, output: Tensor) -> Tensor:
        """Σ over k of the probability of more than k."""
        scale, centre = self.levels * self.log_width.exp(), self._centre(output)
        total = torch.zeros_like(output)
        for k in range(self.levels):
            total = total + sigmoid((centre - k - 0.5) / scale)
        return total

    def _centre(self, output: Tensor) -> Tensor:
        return (output + 0.5) * self.levels


LikelihoodType = (
    type[Binomial]
    | type[Bernoulli]
    | type[Gaussian]
    | type[GaussianLearned]
    | type[ContinuousBernoulli]
    | type[BetaBinomial]
    | type[Categorical]
    | type[DiscretizedLogistic]
)

_ENTRIES: dict[str, LikelihoodType] = {
    "bernoulli": Bernoulli,
    "beta_binomial": BetaBinomial,
    "binomial": Binomial,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
    "gaussian": Gaussian,
    "gaussian_learned": GaussianLearned,
}

LIKELIHOODS = Table("a class of likelihoods, like those of pipeline.vae.likelihoods", type, _ENTRIES)
"""Every likelihood a study file may name."""

NATURAL_LIKELIHOOD: Mapping[str, str] = {
    "counts": "binomial",
    "binary": "bernoulli",
    "real": "gaussian_learned",
}
"""The likelihood taken for a kind of data when the study file names none."""
