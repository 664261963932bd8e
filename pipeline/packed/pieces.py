"""Pieces of a step: a value together with the way back from it, parameters' gradients written where they belong.

Chains of linear layers and activations go back by hand, which costs a third of autograd in small models; what is
no such chain, or has an activation that `ACTIVATIONS` lacks, goes back by autograd, for all slots together or,
where it runs slot by slot, for each by itself. Which way a piece goes depends on the structure alone.

Axes: M slot, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..vae.functions import keep_positive_
from .layers import BatchedLinear, input_gradient, linear, weight_gradient_into
from .runs import Runs, SlotBySlot

Back = Callable[[Tensor], Tensor]
"""gradient of a piece's value, which it may overwrite -> gradient of its input"""


class Activation(NamedTuple):
    """An activation whose gradient follows from its output."""

    apply_: Callable[[Tensor], Tensor]
    """in place: what came in is needed no more, and a second tensor would only take room in the cache"""
    gradient: Callable[[Tensor, Tensor], Tensor]
    """(gradient, the activation's output) -> the gradient of its input, all of one shape; may be in place"""


ACTIVATIONS: Mapping[type[nn.Module], Activation] = {
    nn.ReLU: Activation(torch.relu_, keep_positive_),
    nn.Tanh: Activation(torch.tanh_, torch.ops.aten.tanh_backward),
}
"""Those that go by hand, for speed only: any other goes by autograd."""


class Parameter(NamedTuple):
    """A parameter of all slots, and the place of its gradient, both (M, *shape)."""

    value: Tensor
    gradient: Tensor


class Layer(NamedTuple):
    """A linear layer and the activation after it, if any."""

    weight: Parameter
    bias: Parameter
    activation: Activation | None


class Chain:
    """Linear layers and activations; differentiated by hand."""

    def __init__(self, layers: Sequence[Layer], *, to_input: bool) -> None:
        """to_input: whether the gradient of the input is wanted; if not, what comes back means nothing."""
        self._layers, self._to_input = layers, to_input

    def __call__(self, x: Tensor) -> tuple[Tensor, Back]:
        """x (M, B, in) -> (M, B, out) and the way back."""
        values = [x]
        for layer in self._layers:
            y = linear(values[-1], layer.weight.value, layer.bias.value)
            values.append(y if layer.activation is None else layer.activation.apply_(y))
        return values[-1], lambda gradient: self._back(values, gradient)

    def _back(self, values: Sequence[Tensor], gradient: Tensor) -> Tensor:
        for i in reversed(range(len(self._layers))):
            layer = self._layers[i]
            if layer.activation is not None:
                gradient = layer.activation.gradient(gradient, values[i + 1])
            weight_gradient_into(layer.weight.gradient, gradient, values[i])
            torch.sum(gradient, 1, out=layer.bias.gradient)
            if i or self._to_input:
                gradient = input_gradient(gradient, layer.weight.value)
        return gradient


class ByAutograd:
    """Any function of one tensor and parameters; differentiated by autograd."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], parameters: Iterable[Parameter], *, to_input: bool = True
    ) -> None:
        self._function, self._parameters, self._to_input = function, list(parameters), to_input
        for parameter in self._parameters:
            parameter.value.requires_grad_()

    def __call__(self, x: Tensor) -> tuple[Tensor, Back]:
        """x (M, B, in) -> the function's value and the way back."""
        leaf = x.detach().requires_grad_(self._to_input)
        with torch.enable_grad():
            y = self._function(leaf)

        def back(gradient: Tensor) -> Tensor:
            values = [parameter.value for parameter in self._parameters]
            to_x, gradients = _gradients(y, leaf, values, gradient)
            for parameter, found in zip(self._parameters, gradients, strict=True):
                parameter.gradient.copy_(found)
            return to_x

        return y.detach(), back


class EachByAutograd:
    """A module that runs slot by slot; differentiated by autograd, each slot by itself."""

    def __init__(self, module: SlotBySlot, parameters: Sequence[Parameter], *, to_input: bool) -> None:
        """parameters: in the order of the module's names."""
        self._module, self._parameters, self._to_input = module, parameters, to_input

    def __call__(self, x: Tensor) -> tuple[Tensor, Back]:
        """x (M, B, in) -> (M, B, out) and the way back."""
        slots = len(x)
        leaves = [part.detach().requires_grad_(self._to_input) for part in x.unbind()]
        with torch.enable_grad():
            outputs = [self._module.run(slot, leaf, slots) for slot, leaf in enumerate(leaves)]

        def back(gradient: Tensor) -> Tensor:
            to_x = []
            for slot, values in enumerate(self._module.leaves(slots)):
                to_slot, gradients = _gradients(outputs[slot], leaves[slot], values, gradient[slot])
                to_x.append(to_slot)
                for parameter, found in zip(self._parameters, gradients, strict=True):
                    parameter.gradient[slot].copy_(found)
            return _together(to_x)

        return _together([output.detach() for output in outputs]), back


def _gradients(y: Tensor, leaf: Tensor, values: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
    """Gradients of the input, where it is wanted, and of the parameters; zeros where y does not depend on one."""
    wanted = [*([leaf] if leaf.requires_grad else []), *values]
    if not y.requires_grad:
        found: Sequence[Tensor] = [torch.zeros_like(one) for one in wanted]
    else:
        found = torch.autograd.grad(y, wanted, gradient, materialize_grads=True)
    return (found[0], found[1:]) if leaf.requires_grad else (leaf, found)


def _together(parts: Sequence[Tensor]) -> Tensor:
    """A slot axis before the parts of the slots; no copy of a single one."""
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(list(parts))


class Series:
    """Pieces one after the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces

    def __call__(self, x: Tensor) -> tuple[Tensor, Back]:
        """x (M, B, in) -> (M, B, out) and the way back."""
        backs = []
        for piece in self.pieces:
            x, back = piece(x)
            backs.append(back)

        def through(gradient: Tensor) -> Tensor:
            for back in reversed(backs):
                gradient = back(gradient)
            return gradient

        return x, through


Piece = Chain | ByAutograd | EachByAutograd | Series


def is_by_hand(piece: Piece) -> bool:
    """Whether no part of it goes by autograd."""
    return all(is_by_hand(part) for part in piece.pieces) if isinstance(piece, Series) else isinstance(piece, Chain)


def piece_of(module: nn.Module, parameters: Mapping[str, Parameter], *, to_input: bool = True) -> Piece:
    """The cheapest piece that is this module. parameters: by their names in the module; there may be others."""
    if isinstance(module, Runs):
        parts = enumerate(module.parts)
        return Series([piece_of(part, parameters, to_input=to_input or i > 0) for i, part in parts])
    if isinstance(module, SlotBySlot):
        own = [parameters[name] for name in module.names]
        if module.across and own and len(own[0].value) > 1:
            return ByAutograd(module, own, to_input=to_input)
        return EachByAutograd(module, own, to_input=to_input)
    layers = _layers(module, parameters)
    if layers is not None:
        return Chain(layers, to_input=to_input)
    places = () if isinstance(module, BatchedLinear) else dict(module.named_children())
    own = [one for name, one in parameters.items() if name.partition(".")[0] in places or not places]
    return ByAutograd(module, own, to_input=to_input)


def _layers(module: nn.Module, parameters: Mapping[str, Parameter]) -> list[Layer] | None:
    """The module as a chain, or None where it is none."""
    if isinstance(module, BatchedLinear):
        return [Layer(parameters["weight"], parameters["bias"], None)]
    layers: list[Layer] = []
    for name, child in module.named_children() if type(module) is nn.Sequential else [("", module)]:
        if isinstance(child, BatchedLinear):
            layers.append(Layer(parameters[f"{name}.weight"], parameters[f"{name}.bias"], None))
        elif layers and layers[-1].activation is None and type(child) in ACTIVATIONS:
            layers[-1] = layers[-1]._replace(activation=ACTIVATIONS[type(child)])
        else:
            return None
    return layers
