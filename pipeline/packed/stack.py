"""Stacks: M models of one structure as one module over flat (M, P) buffers.

The model is an ordinary single-trial module. Here its encoder and decoder are put in runs (runs.py), the heads'
`nn.Linear`s are replaced by batched twins and every parameter becomes a view of a row-per-slot buffer, so the optimizer
sees one row a slot. All else in `vae/` names trailing axes only.

Every parameter starts at a multiple of 16 elements, so a slot's matrices are aligned alike wherever it lies.

Axes: M slot, P padded number of parameters, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..vae.model import VAE
from .runs import batched, setter, slot_by_slot

ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where one parameter lies in a row."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def part(self) -> str:
        """The part of the model it belongs to."""
        return self.name.partition(".")[0]

    @property
    def name_in_part(self) -> str:
        """Its name there."""
        return self.name.partition(".")[2]


class Stack:
    """One module that runs M models, their parameters being rows of a buffer bound to it."""

    def __init__(self, model: VAE) -> None:
        """Takes a single-trial model apart; `model` must not be used alone afterwards."""
        self.leaves, self.row_length = _layout(model)
        self.model = model
        for name in ("encoder", *model.head_names, "decoder"):
            setattr(model, name, batched(model.get_submodule(name)))
        self._setters = [setter(model.get_submodule(leaf.part), leaf.name_in_part) for leaf in self.leaves]
        self.apart = slot_by_slot(model)
        """what runs slot by slot"""

    def run_across(self, across: bool) -> None:
        """Whether what runs slot by slot is to go across slots by vmap."""
        for part in self.apart:
            part.across = across

    def bind(self, rows_MP: Tensor) -> list[Tensor]:
        """Makes the module compute with these rows; returns its parameters as views (M, *shape)."""
        views = [view.detach() for view in self.views(rows_MP)]
        for view, take in zip(views, self._setters, strict=True):
            take(view)
        return views

    def row_of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One tensor for each parameter of the single-trial model as one row (P,), padding zero."""
        row = torch.zeros(self.row_length, dtype=tensors[self.leaves[0].name].dtype)
        for leaf in self.leaves:
            row[leaf.offset : leaf.offset + leaf.size] = tensors[leaf.name].detach().reshape(-1)
        return row

    def named_tensors(self, row_P: Tensor) -> dict[str, Tensor]:
        """The inverse of `row_of`: by names in the single-trial model, copied to the CPU."""
        return {
            leaf.name: row_P[leaf.offset : leaf.offset + leaf.size].view(leaf.shape).cpu().clone()
            for leaf in self.leaves
        }

    def part(self, prefix: str) -> slice:
        """Where in a row the parameters lie whose names begin so; they must lie side by side."""
        found = [leaf for leaf in self.leaves if leaf.name.startswith(prefix)]
        end = found[-1].offset + found[-1].size
        return slice(found[0].offset, end + -end % ALIGNMENT)

    def views(self, buffer_MP: Tensor) -> list[Tensor]:
        """Every parameter's part of a buffer, (M, *shape), in the order of `leaves`."""
        return [buffer_MP[:, leaf.offset : leaf.offset + leaf.size].view(-1, *leaf.shape) for leaf in self.leaves]


def _layout(model: nn.Module) -> tuple[tuple[Leaf, ...], int]:
    leaves, offset = [], 0
    for name, parameter in model.named_parameters():
        leaves.append(Leaf(name, tuple(parameter.shape), offset, parameter.numel()))
        offset += parameter.numel() + -parameter.numel() % ALIGNMENT
    return tuple(leaves), offset
