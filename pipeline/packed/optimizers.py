"""Per-slot optimizers over flat rows, with each slot's own hyperparameters and step count.

One call of torch's own fused kernel per slot row: the arithmetic is torch.optim's, a frozen slot is a call not
made, and per-slot learning rates need no code. State lives in (M, P) buffers.

A new optimizer is one entry in the table. Tested against torch.optim after 200 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SlotHyper:
    """One slot's optimizer hyperparameters, under their study-file names."""

    learning_rate: float
    weight_decay: float
    momentum: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float


Update = Callable[[], object]
"""Takes one step with what the gradient and the step count hold by then."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """How one slot's row is updated."""

    buffers: int
    """how many state buffers of the row's shape it needs"""
    bind: Callable[[Tensor, Tensor, tuple[Tensor, ...], Tensor, SlotHyper], Update]
    """(row (P,), gradient (P,), state rows, step count () from 1 on, hyper) -> what updates row and state in place"""
    rescale: Callable[[SlotHyper, float], SlotHyper]
    """(hyper, J) -> hyper under which parameters a step as far as J·a would under the given one (docs/catalogue.md)"""


def _sgd(row: Tensor, gradient: Tensor, state: tuple[Tensor, ...], step: Tensor, hyper: SlotHyper) -> Update:
    """torch.optim.SGD: L2 weight decay, heavy-ball momentum without dampening."""
    update = partial(
        torch._fused_sgd_,
        [row],
        [gradient],
        [state[0]] if hyper.momentum else [],
        weight_decay=hyper.weight_decay,
        momentum=hyper.momentum,
        lr=hyper.learning_rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    return lambda: update(is_first_step=bool(step == 1))


def _adam(row: Tensor, gradient: Tensor, state: tuple[Tensor, ...], step: Tensor, hyper: SlotHyper) -> Update:
    """torch.optim.Adam (Kingma & Ba 2015), L2 weight decay."""
    return _fused_adam(torch._fused_adam_, row, gradient, state, step, hyper)


def _adamw(row: Tensor, gradient: Tensor, state: tuple[Tensor, ...], step: Tensor, hyper: SlotHyper) -> Update:
    """torch.optim.AdamW (Loshchilov & Hutter 2019), decoupled weight decay."""
    return _fused_adam(torch._fused_adamw_, row, gradient, state, step, hyper)


def _fused_adam(
    kernel: Callable[..., object],
    row: Tensor,
    gradient: Tensor,
    state: tuple[Tensor, ...],
    step: Tensor,
    hyper: SlotHyper,
) -> Update:
    return partial(
        kernel,
        [row],
        [gradient],
        [state[0]],
        [state[1]],
        [],
        [step],
        lr=hyper.learning_rate,
        beta1=hyper.adam_beta1,
        beta2=hyper.adam_beta2,
        weight_decay=hyper.weight_decay,
        eps=hyper.adam_epsilon,
        amsgrad=False,
        maximize=False,
    )


def _rescaled_sgd(hyper: SlotHyper, slope: float) -> SlotHyper:
    return replace(hyper, learning_rate=hyper.learning_rate / slope**2, weight_decay=hyper.weight_decay * slope**2)


def _rescaled_adam(hyper: SlotHyper, slope: float) -> SlotHyper:
    return replace(
        hyper,
        learning_rate=hyper.learning_rate / slope,
        adam_epsilon=hyper.adam_epsilon * slope,
        weight_decay=hyper.weight_decay * slope**2,
    )


def _rescaled_adamw(hyper: SlotHyper, slope: float) -> SlotHyper:
    return replace(_rescaled_adam(hyper, slope), weight_decay=hyper.weight_decay * slope)


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer(buffers=1, bind=_sgd, rescale=_rescaled_sgd),
    "adam": Optimizer(buffers=2, bind=_adam, rescale=_rescaled_adam),
    "adamw": Optimizer(buffers=2, bind=_adamw, rescale=_rescaled_adamw),
}
"""Every optimizer a study file may name."""
