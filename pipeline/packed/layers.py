"""Batched twins of linear layers: one product for all slots, in the orientation that is fast.

Axes: M slot, B batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LARGE = 1 << 16
"""elements of a weight from which on its gradient is written in place"""
NARROW = 16
"""below so many columns a product is slower than its transpose: up to four times on AVX2 (docs/log.md)"""


class BatchedLinear(nn.Module):
    """M linear layers at once. `weight` (M, out, in) and `bias` (M, out) are bound from outside."""

    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """One batched matrix product: x (M, B, in) -> (M, B, out)."""
        result: Tensor = _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


def replace_linears(module: nn.Module) -> None:
    """Puts a batched twin without weights in the place of every `nn.Linear`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, BatchedLinear())
        else:
            replace_linears(child)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x Wᵀ + b: x (M, B, in), weight (M, out, in), bias (M, out) -> (M, B, out)."""
    if weight.shape[1] < NARROW:
        return torch.baddbmm(bias.unsqueeze(2), weight, x.transpose(1, 2)).transpose(1, 2).contiguous()
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Of `linear`: gradient (M, B, out) -> (M, B, in)."""
    if weight.shape[2] < NARROW:
        return torch.bmm(weight.transpose(1, 2), gradient.transpose(1, 2)).transpose(1, 2).contiguous()
    return torch.bmm(gradient, weight)


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Of `linear`: gradient (M, B, out), x (M, B, in) -> (M, out, in), not always contiguous."""
    if x.shape[2] < NARROW:
        return torch.bmm(x.transpose(1, 2), gradient).transpose(1, 2)
    return torch.bmm(gradient.transpose(1, 2), x)


def weight_gradient_into(place: Tensor, gradient: Tensor, x: Tensor) -> None:
    """`weight_gradient` written to its place (M, out, in) in a larger buffer.

    A batched product cannot write there; from some size on, products slot by slot cost less than a copy.
    """
    if place[0].numel() < LARGE:
        place.copy_(weight_gradient(gradient, x))
        return
    for slot in range(len(place)):
        torch.mm(gradient[slot].t(), x[slot], out=place[slot])


class _Linear(torch.autograd.Function):
    """`linear` for networks that are differentiated by autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        to_x = input_gradient(gradient, weight) if ctx.needs_input_grad[0] else None
        return to_x, weight_gradient(gradient, x), gradient.sum(1)
