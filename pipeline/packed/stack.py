"""Stacks: M models of one structure as one module over flat (M, P) buffers.

The model is an ordinary single-trial module. Here its `nn.Linear`s are replaced by batched twins, runs of Linear and
ReLU by one function each, and every parameter becomes a view of a row-per-slot buffer, so the optimizer sees one row
a slot. Modules must name trailing axes only (all of `vae/` does).

Every matrix starts at a multiple of 16 elements, so a slot's matrices are aligned alike wherever it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..vae.model import VAE
from .chain import BatchedChain, BatchedLinear

ALIGNMENT = 16
LARGE = 1 << 16
"""elements from which on copying a weight's gradient costs more than computing it slot by slot, in place"""
HEADS = ("mean", "raw_scale")
"""Two layers that read the same features: they are kept as one matrix."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where one parameter lies in a row: one of the model's, or those of both heads one after the other."""

    owner: str
    """the layer that is given the view"""
    attribute: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    """names and shapes in the single-trial model"""
    offset: int
    size: int

    def place(self, rows: Tensor) -> Tensor:
        """This parameter in rows (..., P), as a view (..., *shape)."""
        found = rows[..., self.offset : self.offset + self.size]
        return found.view(*found.shape[:-1], *self.shape)

    def split(self, value: Tensor) -> dict[str, Tensor]:
        """One slot's value (*shape) by the names in the single-trial model."""
        pieces = torch.split(value, [shape[0] for _, shape in self.parts])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.parts, pieces, strict=True)}


class Stack:
    """One module that runs M models, their parameters being rows of a buffer bound to it."""

    def __init__(self, model: VAE) -> None:
        """Takes a single-trial model apart; `model` must not be used alone afterwards."""
        self.leaves, self.row_length = _layout(model)
        self.model = model
        _replace_linears(model)
        heads = BatchedLinear()
        self._owners = [heads if leaf.owner in HEADS else model.get_submodule(leaf.owner) for leaf in self.leaves]
        for leaf, owner in zip(self.leaves, self._owners, strict=True):
            owner._parameters.pop(leaf.attribute, None)  # a plain tensor takes its place
        self._written = frozenset(
            leaf
            for leaf, owner in zip(self.leaves, self._owners, strict=True)
            if isinstance(owner, BatchedLinear) and leaf.attribute == "weight" and leaf.size >= LARGE
        )
        """whose gradients a backward pass writes into the buffer by itself"""
        _fuse(model, heads)

    def bind(self, rows_MP: Tensor, gradient_MP: Tensor | None = None) -> list[Tensor]:
        """Makes the module compute with these rows.

        With `gradient_MP` a backward pass writes the gradients of large weights there by itself; returned are the
        views (M, *shape) of all other parameters, in the order of `gradients_into`.
        """
        views = []
        for leaf, owner in zip(self.leaves, self._owners, strict=True):
            view = leaf.place(rows_MP).detach()
            setattr(owner, leaf.attribute, view)
            if leaf in self._written and isinstance(owner, BatchedLinear):
                owner.gradient = None if gradient_MP is None else leaf.place(gradient_MP)
            elif gradient_MP is not None:
                views.append(view.requires_grad_())
        return views

    def row_of(self, model: nn.Module) -> Tensor:
        """The parameters of a single-trial model of this structure as one row (P,), padding zero."""
        parameters = dict(model.named_parameters())
        row = torch.zeros(self.row_length, dtype=next(iter(parameters.values())).dtype)
        for leaf in self.leaves:
            for name, place in leaf.split(leaf.place(row)).items():
                place.copy_(parameters[name].detach())
        return row

    def named_tensors(self, row_P: Tensor) -> dict[str, Tensor]:
        """One slot's parameters by their names in the single-trial model, copied to the CPU."""
        return {
            name: value.cpu().clone() for leaf in self.leaves for name, value in leaf.split(leaf.place(row_P)).items()
        }

    def gradients_into(self, buffer_MP: Tensor, gradients: tuple[Tensor, ...]) -> None:
        """Copies gradients (M, *shape) of the views that `bind` returned into a flat buffer."""
        copied = (leaf for leaf in self.leaves if leaf not in self._written)
        for leaf, gradient in zip(copied, gradients, strict=True):
            leaf.place(buffer_MP).copy_(gradient)


def _layout(model: nn.Module) -> tuple[tuple[Leaf, ...], int]:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    leaves, offset = [], 0
    for name, shape in shapes.items():
        owner, _, attribute = name.rpartition(".")
        if owner in HEADS[1:]:
            continue  # lies with the first of them
        names = [f"{head}.{attribute}" for head in HEADS] if owner in HEADS else [name]
        whole = (sum(shapes[part][0] for part in names), *shape[1:])
        size = torch.Size(whole).numel()
        leaves.append(Leaf(owner, attribute, whole, tuple((part, shapes[part]) for part in names), offset, size))
        offset += size + -size % ALIGNMENT
    return tuple(leaves), offset


def _replace_linears(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, BatchedLinear())
        else:
            _replace_linears(child)


def _fuse(model: VAE, heads: BatchedLinear) -> None:
    """Puts chains where Linear and ReLU alone follow one another; the heads end the encoder's, where it is one."""
    for name, child in list(model.named_children()):
        layers = _chain(child)
        if layers is not None:
            setattr(model, name, BatchedChain(layers))
    if (trunk := model.encoder) and isinstance(trunk, BatchedChain):
        model.heads = BatchedChain([*trunk.layers, (heads, False)], halves=True)
        model.encoder = nn.Identity()
    else:
        model.heads = BatchedChain([(heads, False)], halves=True)


def _chain(module: nn.Module) -> Sequence[tuple[BatchedLinear, bool]] | None:
    """The layers of a Sequential of BatchedLinear and ReLU, each with whether a ReLU follows; None for all else."""
    children = list(module.children()) if isinstance(module, nn.Sequential) else []
    known = all(isinstance(child, BatchedLinear | nn.ReLU) for child in children)
    if not known or not children or not isinstance(children[0], BatchedLinear):
        return None
    followed = pairwise([*children, nn.Identity()])
    return [(layer, isinstance(after, nn.ReLU)) for layer, after in followed if isinstance(layer, BatchedLinear)]
