"""Pieces of a step: a value together with the way back from it, parameters' gradients written where they belong.

Chains of linear layers and activations go back by hand, which costs a third of autograd in small models; what is
no such chain, or has an activation that `ACTIVATION_GRADIENTS` lacks, goes back by autograd. Which way a piece goes
depends on the structure alone.

Axes: M slot, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..vae.functions import keep_positive_
from .layers import BatchedLinear, input_gradient, linear, weight_gradient_into

Back = Callable[[Tensor], Tensor]
"""gradient of a piece's value, which it may overwrite -> gradient of its input"""

ActivationGradient = Callable[[Tensor, Tensor], Tensor]
"""(gradient, the activation's output) -> the gradient of its input, all of one shape; may be in place"""

ACTIVATION_GRADIENTS: Mapping[type[nn.Module], ActivationGradient] = {
    nn.ReLU: keep_positive_,
    nn.Tanh: torch.ops.aten.tanh_backward,
}
"""Activations whose gradient follows from their output. For speed only: any other goes by autograd."""


class Parameter(NamedTuple):
    """A parameter of all slots, and the place of its gradient, both (M, *shape)."""

    value: Tensor
    gradient: Tensor


class Layer(NamedTuple):
    """A linear layer and the activation after it, if any."""

    weight: Parameter
    bias: Parameter
    activation: nn.Module | None


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
            values.append(y if layer.activation is None else layer.activation(y))
        return values[-1], lambda gradient: self._back(values, gradient)

    def _back(self, values: Sequence[Tensor], gradient: Tensor) -> Tensor:
        for i in reversed(range(len(self._layers))):
            layer = self._layers[i]
            if layer.activation is not None:
                gradient = ACTIVATION_GRADIENTS[type(layer.activation)](gradient, values[i + 1])
            weight_gradient_into(layer.weight.gradient, gradient, values[i])
            torch.sum(gradient, 1, out=layer.bias.gradient)
            if i or self._to_input:
                gradient = input_gradient(gradient, layer.weight.value)
        return gradient


class ByAutograd:
    """Any function of one tensor and parameters; differentiated by autograd."""

    def __init__(self, function: Callable[[Tensor], Tensor], parameters: Iterable[Parameter]) -> None:
        self._function, self._parameters = function, list(parameters)
        for parameter in self._parameters:
            parameter.value.requires_grad_()

    def __call__(self, x: Tensor) -> tuple[Tensor, Back]:
        """x (M, B, in) -> the function's value and the way back."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self._function(leaf)

        def back(gradient: Tensor) -> Tensor:
            values = [parameter.value for parameter in self._parameters]
            to_x, *gradients = torch.autograd.grad(y, [leaf, *values], gradient)
            for parameter, found in zip(self._parameters, gradients, strict=True):
                parameter.gradient.copy_(found)
            return to_x

        return y.detach(), back


def piece_of(module: nn.Module, parameters: Mapping[str, Parameter], *, to_input: bool = True) -> Chain | ByAutograd:
    """The cheapest piece that is this module. parameters: by their names in the module."""
    layers = _layers(module, parameters)
    return ByAutograd(module, parameters.values()) if layers is None else Chain(layers, to_input=to_input)


def _layers(module: nn.Module, parameters: Mapping[str, Parameter]) -> list[Layer] | None:
    """The module as a chain, or None where it is none."""
    if isinstance(module, BatchedLinear):
        return [Layer(parameters["weight"], parameters["bias"], None)]
    layers: list[Layer] = []
    for name, child in module.named_children() if type(module) is nn.Sequential else [("", module)]:
        if isinstance(child, BatchedLinear):
            layers.append(Layer(parameters[f"{name}.weight"], parameters[f"{name}.bias"], None))
        elif layers and layers[-1].activation is None and type(child) in ACTIVATION_GRADIENTS:
            layers[-1] = layers[-1]._replace(activation=child)
        else:
            return None
    return layers
