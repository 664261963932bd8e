"""How an ordinary single-trial module is run for every slot of a pack.

A module that is a chain of linear layers and elementwise activations runs for all slots at once, on a leading slot
axis (layers.py). Whatever else it is runs slot by slot, or across slots by vmap; a Sequential is taken apart, so that
its linear ends still run batched. Which of these a layer is, depends on the module alone; vmap is taken where it
changes no bit (exactness.py), so a slot computes what it would alone.

Axes: M slot, B batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..vae.networks import ToRows
from .layers import BatchedLinear, replace_linears, stay_exact

ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Mish),
    *(nn.CELU, nn.SELU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.ReLU6, nn.LogSigmoid, nn.Tanhshrink),
    nn.Identity,
)
"""torch's layers that have no parameters and take any shape"""

Setter = Callable[[Tensor], object]
"""takes a parameter of all slots, (M, *shape)"""


class SlotBySlot(nn.Module):
    """One module for M slots, its parameters being taken from outside.

    With one slot its cost is the module's own. `across`: whether several slots go through vmap.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._held = (module,)  # in a tuple: it is no submodule, no parameters of its own are left to it
        stay_exact(module)
        self.names = tuple(name for name, _ in module.named_parameters())
        self.across = False
        self._values: dict[str, Tensor] = {}
        self._owners: list[tuple[nn.Module, str]] = []
        for name in self.names:
            path, _, attribute = name.rpartition(".")
            self._owners.append((module.get_submodule(path), attribute))
        for name, (owner, attribute) in zip(self.names, self._owners, strict=True):
            self._values[name] = cast(Tensor, owner._parameters.pop(attribute)).detach().unsqueeze(0)
        self._leaves: list[list[Tensor]] = []

    def layers(self) -> Iterable[nn.Module]:
        """The layers of the module."""
        return self._held[0].modules()

    def take(self, name: str, value: Tensor) -> None:
        """Sets a parameter of all slots (M, *shape)."""
        self._values[name], self._leaves = value, []

    def leaves(self, slots: int) -> list[list[Tensor]]:
        """Each slot's parameters in the order of `names`, leaves of autograd."""
        if len(self._leaves) < slots:
            parts = [value.detach().unbind() for value in self._values.values()]
            self._leaves = [[part[slot].requires_grad_() for part in parts] for slot in range(slots)]
        return self._leaves

    def run(self, slot: int, x: Tensor, slots: int) -> Tensor:
        """The module of one slot of so many: x (B, in) -> (B, out)."""
        for (owner, attribute), leaf in zip(self._owners, self.leaves(slots)[slot], strict=True):
            setattr(owner, attribute, leaf)
        result: Tensor = self._held[0](x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """x (M, B, in) -> (M, B, out)."""
        slots = len(x)
        if slots == 1:
            return self.run(0, x[0], 1).unsqueeze(0)
        if self.across:
            call = partial(functional_call, self._held[0])
            result: Tensor = torch.vmap(call, in_dims=(0, (0,)))(self._values, (x,))
            return result
        return torch.stack([self.run(slot, rows, slots) for slot, rows in enumerate(x.unbind())])


class Runs(nn.Module):
    """Parts of a Sequential one after the other: batched ones and such that run slot by slot."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """x (M, B, in) -> (M, B, out)."""
        for part in self.parts:
            x = part(x)
        return x


def in_runs(module: nn.Module) -> nn.Module:
    """The module itself if all of it runs batched, else its runs."""
    children = dict(module.named_children()) if type(module) is nn.Sequential else {}
    flags = _batched(children)
    if _is_linear(module) or (type(module) is nn.Sequential and all(flags.values())):
        return module
    if not any(flags.values()):
        return Runs([SlotBySlot(module)])
    groups: list[tuple[bool, OrderedDict[str, nn.Module]]] = []
    for name, child in children.items():
        if not groups or groups[-1][0] != flags[name]:
            groups.append((flags[name], OrderedDict()))
        groups[-1][1][name] = child
    # names stay those of the whole, so a parameter is found in its run by the name it has there
    return Runs([nn.Sequential(group) if flag else SlotBySlot(nn.Sequential(group)) for flag, group in groups])


def _batched(children: Mapping[str, nn.Module]) -> dict[str, bool]:
    """Which layers of a Sequential run batched: linear ones while its values are rows (B, n), and what follows them."""
    flags: dict[str, bool] = {}
    rows, inside = True, False
    for name, child in children.items():
        if _is_linear(child):
            inside = rows
        elif type(child) not in ELEMENTWISE:
            inside = False
            rows = type(child) is ToRows or (type(child) is nn.Flatten and (child.start_dim, child.end_dim) == (1, -1))
        flags[name] = inside
    return flags


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.bias is not None


def setter(module: nn.Module, name: str) -> Setter:
    """Where a parameter of a module that has been put `in_runs` is to be set, by its name in the whole."""
    if isinstance(module, Runs):
        for part in module.parts:
            if isinstance(part, SlotBySlot):
                if name in part.names:
                    return partial(part.take, name)
            elif name.partition(".")[0] in dict(part.named_children()):
                return setter(part, name)
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    owner._parameters.pop(attribute, None)  # a plain tensor takes its place
    return partial(setattr, owner, attribute)


def slot_by_slot(module: nn.Module) -> list[SlotBySlot]:
    """All of a module's parts that run so."""
    return [part for part in module.modules() if isinstance(part, SlotBySlot)]


def batched(module: nn.Module) -> nn.Module:
    """A module for all slots: in runs, the linear layers that run batched being replaced by their twins."""
    module = in_runs(module)
    if _is_linear(module):
        return BatchedLinear()
    replace_linears(module)
    return module
