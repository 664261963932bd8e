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
    upper = (e + 1).reciprocal_()
    lower = e * upper
    # where(a > 0, upper, lower) in a third of the time: `where` is slow on a mask
    return keep_positive_(upper.sub_(lower), a).add_(lower)


def keep_positive_(values: Tensor, a: Tensor) -> Tensor:
    """Elementwise sets `values` to 0, in place, where a <= 0; also ReLU's gradient, a being its input or output."""
    result: Tensor = torch.ops.aten.threshold_backward.grad_input(values, a, 0, grad_input=values)
    return result


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


def _clamped_softplus(a: Tensor) -> Tensor:
    inner = a.clamp_min(small_threshold(a.dtype))  # keeps the branch not taken away from log(0)
    return inner.clamp_min(0) + torch.log1p(torch.exp(-inner.abs()))


def _log_softplus_slope(a: Tensor, soft: Tensor) -> Tensor:
    slope = -torch.expm1(-soft) / soft  # sigmoid(a)/softplus(a) = (1 - exp(-s))/s
    return torch.where(a < small_threshold(a.dtype), torch.ones_like(slope), slope)


def log_softplus_slope(a: Tensor) -> Tensor:
    """d log(softplus(a)) / da, elementwise, 1 for a far below zero; not differentiable by autograd."""
    return _log_softplus_slope(a, _clamped_softplus(a))


class _LogSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        soft = _clamped_softplus(a)
        ctx.save_for_backward(a, soft)
        return torch.where(a < small_threshold(a.dtype), a, soft.log())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        a, soft = ctx.saved_tensors
        return gradients[0] * _log_softplus_slope(a, soft)


def log_softplus(a: Tensor) -> Tensor:
    """log(log(1 + exp(a))), elementwise, finite for every finite a; gradient (1 - exp(-s))/s."""
    result: Tensor = _LogSoftplus.apply(a)  # type: ignore[no-untyped-call]
    return result


def _counts_kernel_from(logits: Tensor, counts: Tensor, trials: float, e: Tensor) -> Tensor:
    soft = torch.log1p(e).add_(logits.clamp_min(0))
    return soft.mul_(-trials).addcmul_(counts, logits).sum(-1)


def _counts_slope_from(logits: Tensor, counts: Tensor, trials: float, e: Tensor) -> Tensor:
    return _sigmoid_from(logits, e).mul_(-trials).add_(counts)


def counts_kernel_and_slope(logits: Tensor, counts: Tensor, trials: float) -> tuple[Tensor, Tensor]:
    """`counts_log_kernel` (...) and its derivative by the logits, x - n·sigmoid(l); logits, counts: (..., D)."""
    e = logits.abs().neg_().exp_()
    kernel = _counts_kernel_from(logits, counts, trials, e)
    return kernel, _counts_slope_from(logits, counts, trials, e)


class _CountsLogKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor, trials: float) -> Tensor:
        e = logits.abs().neg_().exp_()
        ctx.save_for_backward(logits, counts, e)
        ctx.trials = trials
        return _counts_kernel_from(logits, counts, trials, e)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, counts, e = ctx.saved_tensors
        return _counts_slope_from(logits, counts, ctx.trials, e).mul_(gradients[0].unsqueeze(-1)), None, None


def counts_log_kernel(logits: Tensor, counts: Tensor, trials: float) -> Tensor:
    """Sum over the last axis of x·l - n·softplus(l): Binomial(n, sigmoid(l)) without its base measure.

    logits, counts: (..., D); returns (...). Written as one function because it is the largest
    elementwise part of a training step; n = 1 is the Bernoulli likelihood.
    """
    result: Tensor = _CountsLogKernel.apply(logits, counts, trials)  # type: ignore[no-untyped-call]
    return result


def _gaussian_kl(mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Tensor:
    return (mean * mean).add_(sigma * sigma).sub_(1).mul_(0.5).sub_(log_sigma)


class _GaussianKl(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Tensor:
        ctx.save_for_backward(mean, sigma)
        return _gaussian_kl(mean, sigma, log_sigma)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, sigma = ctx.saved_tensors
        return gradients[0] * mean, gradients[0] * sigma, -gradients[0]


def gaussian_kl(mean: Tensor, sigma: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(μ, σ²) || N(0, 1)) = ½(μ² + σ² - 1) - log σ, elementwise, nats; mean, sigma, log_sigma as inputs."""
    if not torch.is_grad_enabled():  # `apply` costs as much again
        return _gaussian_kl(mean, sigma, log_sigma)
    result: Tensor = _GaussianKl.apply(mean, sigma, log_sigma)  # type: ignore[no-untyped-call]
    return result
