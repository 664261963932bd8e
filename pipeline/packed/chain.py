"""Linear layers of M models at once, and chains of them with ReLU between, as one function with a gradient by hand.

The intermediate tensors belong to the function alone, so its backward pass works in place: a pack's step is bound by
the memory it touches. Every matrix product is taken in the orientation that is fast, which depends on the layer's
sizes alone, so a slot's bits do not depend on its pack.

Axes: M slot, B batch, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NARROW = 16
"""below so many columns a product is slower than its transpose: up to four times on AVX2 (docs/log.md)"""


class BatchedLinear(nn.Module):
    """M linear layers at once. `weight` (M, O, I) and `bias` (M, O) are bound from outside."""

    weight: Tensor
    bias: Tensor
    gradient: Tensor | None = None
    """where the backward pass is to write the weight's gradient, (M, O, I); None: autograd hands it on"""

    def forward(self, x: Tensor) -> Tensor:
        """One batched matrix product: x (M, B, I) -> (M, B, O)."""
        result: Tensor = _apply(x, [(self, False)], halves=False)
        return result


class BatchedChain(nn.Module):
    """Linear layers, each with or without a ReLU behind it. With `halves` the output is cut in two along O."""

    def __init__(self, layers: Sequence[tuple[BatchedLinear, bool]], *, halves: bool = False) -> None:
        super().__init__()
        self.layers, self._halves = tuple(layers), halves

    def forward(self, x: Tensor) -> Any:
        """x (M, B, I) -> (M, B, O), or its two halves (M, B, O/2) each."""
        return _apply(x, self.layers, halves=self._halves)


def _apply(x: Tensor, layers: Sequence[tuple[BatchedLinear, bool]], *, halves: bool) -> Any:
    relus = tuple(relu for _, relu in layers)
    targets = tuple(layer.gradient for layer, _ in layers)
    parameters = [tensor for layer, _ in layers for tensor in (layer.weight, layer.bias)]
    return _Chain.apply(x, relus, halves, targets, *parameters)  # type: ignore[no-untyped-call]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        relus: tuple[bool, ...],
        halves: bool,
        targets: tuple[Tensor | None, ...],
        *parameters: Tensor,
    ) -> Any:
        values = [x]
        for relu, weight, bias in zip(relus, parameters[::2], parameters[1::2], strict=True):
            value = _affine(values[-1], weight, bias)
            values.append(value.relu_() if relu else value)
        ctx.relus, ctx.halves, ctx.targets = relus, halves, targets
        kept = values if relus[-1] else values[:-1]
        ctx.save_for_backward(*kept, *parameters[::2])
        last = values[-1]
        return tuple(half.contiguous() for half in last.chunk(2, -1)) if halves else last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        relus = ctx.relus
        values, weights = ctx.saved_tensors[: -len(relus)], ctx.saved_tensors[-len(relus) :]
        gradient, ours = (torch.cat(gradients, -1), True) if ctx.halves else (gradients[0], False)
        found: list[Tensor | None] = []
        for layer in reversed(range(len(relus))):
            x, weight = values[layer], weights[layer]
            if relus[layer]:
                out = {"grad_input": gradient} if ours else {}  # what came from outside is not ours to change
                threshold = torch.ops.aten.threshold_backward.grad_input if ours else torch.ops.aten.threshold_backward
                gradient = threshold(gradient, values[layer + 1], 0, **out)
            found += [gradient.sum(1), _to_weight(x, gradient, ctx.targets[layer])]
            if layer or ctx.needs_input_grad[0]:
                gradient, ours = _to_input(gradient, weight), True
        return (gradient if ctx.needs_input_grad[0] else None, None, None, None, *reversed(found))


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x Wᵀ + b: (M, B, I), (M, O, I), (M, O) -> (M, B, O)."""
    if weight.shape[1] < NARROW:
        return torch.baddbmm(bias.unsqueeze(2), weight, x.transpose(1, 2)).transpose(1, 2).contiguous()
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _to_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of x, (M, B, I)."""
    if weight.shape[2] < NARROW:
        return torch.bmm(weight.transpose(1, 2), gradient.transpose(1, 2)).transpose(1, 2).contiguous()
    return torch.bmm(gradient, weight)


def _to_weight(x: Tensor, gradient: Tensor, target: Tensor | None) -> Tensor | None:
    """The gradient of the weight, (M, O, I); None when it was written into `target`."""
    if target is not None:
        for slot in range(len(target)):  # one by one: the batched product cannot write into rows of a larger buffer
            torch.mm(gradient[slot].t(), x[slot], out=target[slot])
        return None
    if x.shape[2] < gradient.shape[2]:
        return torch.bmm(x.transpose(1, 2), gradient).transpose(1, 2)
    return torch.bmm(gradient.transpose(1, 2), x)
