"""One step of a pack: loss, and the gradient of every parameter, written into the pack's buffer.

The same computation as an objective's loss of `draw` under autograd (tested against it), piece by piece: autograd's
cost per node is what a pack of small models would pay most for. Where a loss is D + weight·R of one sample and the
posterior is diagonal, all goes back by hand: scales by their J(a), likelihoods by what their entries offer. Else the
part between the encoder's heads and the decoder goes back by autograd. Which way it is depends on the structure alone.

Axes: M slot, P padded parameters, K samples of z an image, R rows of a batch, D data, L latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..vae.likelihoods import Sloped
from ..vae.objectives import Draws, Objective
from ..vae.posterior import Diagonal
from .pieces import Back, ByAutograd, Parameter, is_by_hand, piece_of
from .slots import SlotMaths
from .stack import Stack


class Computed(NamedTuple):
    """What a step tells beside the gradient."""

    loss: Tensor
    """(M, R)"""
    cost: Tensor
    """D + R, the negative ELBO without the likelihood's base measure, (M, R)"""
    raw: Tensor
    """the scale head's output, (M, R, L)"""


class Step:
    """Computes steps with one binding of rows and gradients; valid until the rows lie elsewhere."""

    def __init__(
        self, stack: Stack, maths: SlotMaths, rows_MP: Tensor, gradient_MP: Tensor, *, samples: int, images: int
    ) -> None:
        """samples: K. images: number of training images."""
        self._model, self._maths = stack.model, maths
        self._samples, self._images = samples, images
        gradients = stack.views(gradient_MP)
        self._parameters = {
            leaf.name: Parameter(value, gradient)
            for leaf, value, gradient in zip(stack.leaves, stack.bind(rows_MP), gradients, strict=True)
        }
        self._encoder = piece_of(stack.model.encoder, self._of("encoder"), to_input=False)
        self._heads = [piece_of(stack.model.get_submodule(name), self._of(name)) for name in stack.model.head_names]
        self._decoder = piece_of(stack.model.decoder, self._of("decoder"))
        has_weight = maths.objective.rate_weight is not None
        self._middle_by_hand = stack.model.family.by_hand and has_weight and samples == 1
        likelihood = stack.model.observation
        self._sloped = likelihood if isinstance(likelihood, Sloped) else None

    @property
    def by_hand(self) -> bool:
        """Whether no part of it goes by autograd."""
        pieces = all(is_by_hand(piece) for piece in (self._encoder, *self._heads, self._decoder))
        return pieces and self._middle_by_hand and self._sloped is not None

    @torch.no_grad()
    def __call__(self, x_MRD: Tensor, noise_MKRL: Tensor, weight_R: Tensor) -> Computed:
        """What a batch comes to; the gradient is that of the sum of loss * weight_R."""
        features, back_encoder = self._encoder(self._model.scaled(x_MRD))
        outputs, backs = zip(*(head(features) for head in self._heads), strict=True)
        if self._middle_by_hand:
            computed, to_outputs = self._by_hand(x_MRD, noise_MKRL.squeeze(1), weight_R, outputs)
        else:
            computed, to_outputs = self._by_autograd(x_MRD, noise_MKRL, weight_R, outputs)
        first, *others = [back(gradient) for back, gradient in zip(backs, to_outputs, strict=True)]
        for other in others:
            first.add_(other)
        back_encoder(first)
        return computed

    def _by_hand(
        self, x_MRD: Tensor, noise_MRL: Tensor, weight_R: Tensor, outputs: Sequence[Tensor]
    ) -> tuple[Computed, Sequence[Tensor]]:
        mean, raw = outputs
        posterior = Diagonal(mean, *self._maths.scale(raw))
        output, back_decoder = self._decoder(posterior.sample(noise_MRL))
        kernel, back_kernel = self._kernel(x_MRD, output)
        distortion, rate = -kernel, posterior.kl().sum(-1)
        weight = _rate_weight(self._maths.objective, self._maths)
        loss = distortion + rate * weight
        to_kernel = -weight_R.expand_as(loss)
        to_z = back_decoder(back_kernel(to_kernel))
        to_mean, to_log_sigma = posterior.back(noise_MRL, to_z, (weight_R * weight).unsqueeze(-1))
        to_raw = to_log_sigma.mul_(self._maths.jacobian(raw))
        return Computed(loss, distortion + rate, raw), (to_mean, to_raw)

    def _by_autograd(
        self, x_MRD: Tensor, noise_MKRL: Tensor, weight_R: Tensor, outputs: Sequence[Tensor]
    ) -> tuple[Computed, Sequence[Tensor]]:
        slots, samples, rows, _ = noise_MKRL.shape
        leaves = [output.detach().requires_grad_() for output in outputs]
        with torch.enable_grad():
            posterior = self._model.family.posterior(self._maths.scale, *(leaf.unsqueeze(1) for leaf in leaves))
            z = posterior.sample(noise_MKRL)
        output, back_decoder = self._decoder(z.detach().reshape(slots, samples * rows, -1))
        x = x_MRD.unsqueeze(1).expand(-1, samples, -1, -1).reshape(slots, samples * rows, -1) if samples > 1 else x_MRD
        kernel, back_kernel = self._kernel(x, output)
        leaf = kernel.view(slots, samples, rows).detach().requires_grad_()
        with torch.enable_grad():
            draws = Draws(leaf, z, posterior, weight_R, self._images)
            loss = self._maths.objective.loss(draws, self._maths.numbers)
        to_loss = weight_R.expand_as(loss)
        (to_kernel,) = torch.autograd.grad(loss, leaf, to_loss, retain_graph=True)
        to_z = back_decoder(back_kernel(to_kernel.view(slots, samples * rows))).view_as(z)
        to_outputs = torch.autograd.grad([loss, z], leaves, [to_loss, to_z], materialize_grads=True)
        cost = draws.distortion() + draws.rate().sum(-1)
        return Computed(loss.detach(), cost.detach(), outputs[1]), to_outputs

    def _kernel(self, x_MRD: Tensor, output_MRD: Tensor) -> tuple[Tensor, Back]:
        """The likelihood's kernel (M, R) and the way back to the decoder's output."""
        if self._sloped is not None:
            kernel, slope = self._sloped.log_kernel_and_slope(x_MRD, output_MRD)
            return kernel, lambda gradient: slope.mul_(gradient.unsqueeze(-1))
        likelihood, hyper = self._model.observation, self._maths.hyper
        by_autograd = ByAutograd(
            lambda output: likelihood.log_kernel(x_MRD, output, hyper), self._of("likelihood").values()
        )
        return by_autograd(output_MRD)

    def _of(self, part: str) -> dict[str, Parameter]:
        """The parameters of one part of the model, by their names in it."""
        prefix = f"{part}."
        return {
            name.removeprefix(prefix): parameter
            for name, parameter in self._parameters.items()
            if name.startswith(prefix)
        }


def _rate_weight(objective: Objective, maths: SlotMaths) -> Tensor:
    assert objective.rate_weight is not None
    return objective.rate_weight(maths.numbers)
