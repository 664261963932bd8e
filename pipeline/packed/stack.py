"""Stacks: M models of one structure as one module over flat (M, P) buffers.

The model is an ordinary single-trial module. Here its `nn.Linear`s are replaced by batched twins and every
parameter becomes a view of a row-per-slot buffer, so the optimizer sees one row a slot. Modules must name
trailing axes only (all of `vae/` does).

Every parameter starts at a multiple of 16 elements, so a slot's matrices are aligned alike wherever it lies.

Axes: M slot, P padded number of parameters, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..vae.model import VAE
from .layers import replace_linears

ALIGNMENT = 16


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
        replace_linears(model)
        for leaf in self.leaves:
            path, _, attribute = leaf.name.rpartition(".")
            owner = model.get_submodule(path)
            owner._parameters.pop(attribute, None)  # a plain tensor takes its place
            self._owners.append((owner, attribute))

    def bind(self, rows_MP: Tensor) -> list[Tensor]:
        """Makes the module compute with these rows; returns its parameters as views (M, *shape)."""
        views = [view.detach() for view in self.views(rows_MP)]
        for view, (owner, attribute) in zip(views, self._owners, strict=True):
            setattr(owner, attribute, view)
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

    def views(self, buffer_MP: Tensor) -> list[Tensor]:
        """Every parameter's part of a buffer, (M, *shape), in the order of `leaves`."""
        return [buffer_MP[:, leaf.offset : leaf.offset + leaf.size].view(-1, *leaf.shape) for leaf in self.leaves]


def _layout(model: nn.Module) -> tuple[tuple[Leaf, ...], int]:
    leaves, offset = [], 0
    for name, parameter in model.named_parameters():
        leaves.append(Leaf(name, tuple(parameter.shape), offset, parameter.numel()))
        offset += parameter.numel() + -parameter.numel() % ALIGNMENT
    return tuple(leaves), offset
