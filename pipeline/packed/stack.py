"""Stacks: M models of one structure as one module over flat (M, P) buffers.

The model is an ordinary single-trial module. Here its `nn.Linear`s are replaced by batched twins and every
parameter becomes a view of a row-per-slot buffer, so the optimizer sees one row a slot. Modules must name
trailing axes only (all of `vae/` does).

Every parameter starts at a multiple of 16 elements, so a slot's matrices are aligned alike wherever it lies.

Axes: M slot, P padded number of parameters, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..vae.model import VAE

ALIGNMENT = 16


class BatchedLinear(nn.Module):
    """M linear layers at once. `weight` (M, out, in) and `bias` (M, out) are bound from outside."""

    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """One batched matrix product: x (M, B, in) -> (M, B, out)."""
        result: Tensor = _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


NARROW = 16
"""below so many columns a product is slower than its transpose: up to four times on AVX2 (docs/log.md)"""


class _Linear(torch.autograd.Function):
    """x Wᵀ + b, each of its products taken in the orientation in which the narrow side is the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if weight.shape[1] < NARROW:
            columns = torch.baddbmm(bias.unsqueeze(2), weight, x.transpose(1, 2))
            return columns.transpose(1, 2).contiguous()
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient, (wide, narrow) = gradients[0], weight.shape[1:]
        to_x = None
        if ctx.needs_input_grad[0]:
            if narrow < NARROW:
                to_x = torch.bmm(weight.transpose(1, 2), gradient.transpose(1, 2)).transpose(1, 2).contiguous()
            else:
                to_x = torch.bmm(gradient, weight)
        if narrow < wide:
            to_weight = torch.bmm(x.transpose(1, 2), gradient).transpose(1, 2)
        else:
            to_weight = torch.bmm(gradient.transpose(1, 2), x)
        return to_x, to_weight, gradient.sum(1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where one parameter lies in a row."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Stack:
    """One module that runs M models, their parameters being rows of a buffer bound to it."""

    def __init__(self, model: VAE) -> None:
        """Takes a single-trial model apart; `model` must not be used alone afterwards."""
        self.leaves, self.row_length = _layout(model)
        self.model = model
        self._owners: list[tuple[nn.Module, str]] = []
        _replace_linears(model)
        for leaf in self.leaves:
            path, _, attribute = leaf.name.rpartition(".")
            owner = model.get_submodule(path)
            owner._parameters.pop(attribute, None)  # a plain tensor takes its place
            self._owners.append((owner, attribute))

    def bind(self, rows_MP: Tensor, *, with_gradient: bool = False) -> list[Tensor]:
        """Makes the module compute with these rows; returns its parameters as views (M, *shape)."""
        views = []
        for leaf, (owner, attribute) in zip(self.leaves, self._owners, strict=True):
            view = rows_MP[:, leaf.offset : leaf.offset + leaf.size].view(-1, *leaf.shape).detach()
            view.requires_grad_(with_gradient)
            setattr(owner, attribute, view)
            views.append(view)
        return views

    def row_of(self, model: nn.Module) -> Tensor:
        """The parameters of a single-trial model of this structure as one row (P,), padding zero."""
        parameters = dict(model.named_parameters())
        row = torch.zeros(self.row_length, dtype=parameters[self.leaves[0].name].dtype)
        for leaf in self.leaves:
            row[leaf.offset : leaf.offset + leaf.size] = parameters[leaf.name].detach().reshape(-1)
        return row

    def named_tensors(self, row_P: Tensor) -> dict[str, Tensor]:
        """One slot's parameters by their names in the single-trial model, copied to the CPU."""
        return {
            leaf.name: row_P[leaf.offset : leaf.offset + leaf.size].view(leaf.shape).cpu().clone()
            for leaf in self.leaves
        }

    def gradients_into(self, buffer_MP: Tensor, gradients: tuple[Tensor, ...]) -> None:
        """Copies gradients (M, *shape), in the order of `bind`'s views, into a flat buffer."""
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            buffer_MP[:, leaf.offset : leaf.offset + leaf.size].view(-1, *leaf.shape).copy_(gradient)


def _layout(model: nn.Module) -> tuple[tuple[Leaf, ...], int]:
    leaves, offset = [], 0
    for name, parameter in model.named_parameters():
        leaves.append(Leaf(name, tuple(parameter.shape), offset, parameter.numel()))
        offset += parameter.numel() + -parameter.numel() % ALIGNMENT
    return tuple(leaves), offset


def _replace_linears(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, BatchedLinear())
        else:
            _replace_linears(child)
