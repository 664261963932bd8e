"""Batched twins of linear layers: one product for all slots, in the orientation that is fast.

Also the layers of modules that run slot by slot, made so that vmap over slots changes no bit of theirs.

Axes: M slot, B batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

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


# -------------------------------------------------------------------------- in modules of their own


class _Affine(torch.autograd.Function):
    """`linear` of one slot, x (B, in) -> (B, out); under vmap the batched product of all slots.

    torch's own adds the bias within the product when alone and after it under vmap, which rounds otherwise.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(x.unsqueeze(0), weight.unsqueeze(0), bias.unsqueeze(0)).squeeze(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        gradient, (x, weight) = gradients[0].unsqueeze(0), ctx.saved_tensors
        to_x = input_gradient(gradient, weight.unsqueeze(0)).squeeze(0) if ctx.needs_input_grad[0] else None
        return to_x, weight_gradient(gradient, x.unsqueeze(0)).squeeze(0), gradient.sum(1).squeeze(0)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        tensors = [
            tensor.expand(size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
            for tensor, axis in zip(inputs, in_dims, strict=True)
        ]
        return _Linear.apply(*tensors), 0  # type: ignore[no-untyped-call]


def _linear_of(layer: nn.Linear, x: Tensor) -> Tensor:
    rows: Tensor = _Affine.apply(x.reshape(-1, x.shape[-1]), layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return rows.view(*x.shape[:-1], -1)


def _layer_norm_of(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    shape = cast(list[int], layer.normalized_shape)
    return torch.nn.functional.layer_norm(x, shape, eps=layer.eps) * layer.weight + layer.bias


def stay_exact(module: nn.Module) -> None:
    """Gives the linear and normalising layers of a module the arithmetic they have under vmap."""
    for layer in module.modules():
        if type(layer) is nn.Linear and layer.bias is not None:
            layer.forward = partial(_linear_of, layer)  # type: ignore[method-assign]
        elif type(layer) is nn.LayerNorm and layer.weight is not None and layer.bias is not None:
            layer.forward = partial(_layer_norm_of, layer)  # type: ignore[method-assign]
