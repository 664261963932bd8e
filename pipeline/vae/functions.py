"""Elementwise functions whose bits do not depend on where an element lies in its tensor.

torch's own softplus, sigmoid, silu and logaddexp kernels differ in the last bit between their vector body
and the scalar tail, so a slot of a pack would differ from a solo run. exp, log, log1p, expm1, sqrt and the
four operations do not; everything here is made of those.

Notation: a (any shape); e = exp(-|a|).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sigmoid(a: Tensor) -> Tensor:
    """1 / (1 + exp(-a)), elementwise, without overflow; not differentiable by autograd.

    Use it inside hand-written backward passes only.
    """
    return _sigmoid_from(a, torch.exp(-a.abs()))


def _sigmoid_from(a: Tensor, e: Tensor) -> Tensor:
    reciprocal = torch.reciprocal(e + 1)
    return torch.where(a >= 0, reciprocal, e * reciprocal)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        e = torch.exp(-a.abs())
        ctx.save_for_backward(a, e)
        return a.clamp_min(0) + torch.log1p(e)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        a, e = ctx.saved_tensors
        return gradients[0] * _sigmoid_from(a, e)


def softplus(a: Tensor) -> Tensor:
    """log(1 + exp(a)) = max(a, 0) + log1p(exp(-|a|)), elementwise; gradient sigmoid(a)."""
    result: Tensor = _Softplus.apply(a)  # type: ignore[no-untyped-call]
    return result


def small_threshold(dtype: torch.dtype) -> float:
    """The a below which log(softplus(a)) equals a to working precision (error about exp(a)/2)."""
    return -34.0 if dtype == torch.float64 else -15.0


class _LogSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        threshold = small_threshold(a.dtype)
        inner = a.clamp_min(threshold)  # keeps the branch not taken away from log(0)
        soft = inner.clamp_min(0) + torch.log1p(torch.exp(-inner.abs()))
        ctx.save_for_backward(a, soft)
        return torch.where(a < threshold, a, soft.log())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        a, soft = ctx.saved_tensors
        slope = -torch.expm1(-soft) / soft  # sigmoid(a)/softplus(a) = (1 - exp(-s))/s
        return gradients[0] * torch.where(a < small_threshold(a.dtype), torch.ones_like(slope), slope)


def log_softplus(a: Tensor) -> Tensor:
    """log(log(1 + exp(a))), elementwise, finite for every finite a; gradient (1 - exp(-s))/s."""
    result: Tensor = _LogSoftplus.apply(a)  # type: ignore[no-untyped-call]
    return result


class _CountsLogKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor, trials: float) -> Tensor:
        e = logits.abs().neg_().exp_()
        ctx.save_for_backward(logits, counts, e)
        ctx.trials = trials
        soft = torch.log1p(e).add_(logits.clamp_min(0)).mul_(trials)
        return (counts * logits).sub_(soft).sum(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, counts, e = ctx.saved_tensors
        residual = _sigmoid_from(logits, e).mul_(-ctx.trials).add_(counts)
        return residual.mul_(gradients[0].unsqueeze(-1)), None, None


def counts_log_kernel(logits: Tensor, counts: Tensor, trials: float) -> Tensor:
    """Sum over the last axis of x·l - n·softplus(l): Binomial(n, sigmoid(l)) without its base measure.

    logits, counts: (..., D); returns (...). Written as one function because it is the largest
    elementwise part of a training step; n = 1 is the Bernoulli likelihood.
    """
    result: Tensor = _CountsLogKernel.apply(logits, counts, trials)  # type: ignore[no-untyped-call]
    return result


class _GaussianKl(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Tensor:
        ctx.save_for_backward(mean, sigma)
        return (mean * mean).add_(sigma * sigma).sub_(1).mul_(0.5).sub_(log_sigma)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, sigma = ctx.saved_tensors
        return gradients[0] * mean, gradients[0] * sigma, -gradients[0]


def gaussian_kl(mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(μ, σ²) || N(0, 1)) = ½(μ² + σ² - 1) - log σ, elementwise, nats; σ and log σ as separate inputs."""
    result: Tensor = _GaussianKl.apply(mean, sigma, log_sigma)  # type: ignore[no-untyped-call]
    return result
