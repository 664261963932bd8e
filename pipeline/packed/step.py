"""One step of a pack: terms, loss, and the gradient of every parameter, written into the pack's buffer.

The same computation as `elbo_terms` under autograd (tested against it), piece by piece: autograd's cost per node is
what a pack of small models would pay most for. Scales go back by their J(a), objectives and likelihoods by what
their entries offer, else by autograd.

Axes: M slot, P padded parameters, R rows of a batch, D data, L latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..vae.likelihoods import Sloped
from ..vae.model import Terms
from ..vae.posterior import Posterior
from .pieces import Back, ByAutograd, Parameter, piece_of
from .slots import SlotMaths
from .stack import Stack


class Step:
    """Computes steps with one binding of rows and gradients; valid until the rows lie elsewhere."""

    def __init__(self, stack: Stack, maths: SlotMaths, rows_MP: Tensor, gradient_MP: Tensor) -> None:
        self._model, self._maths = stack.model, maths
        gradients = stack.views(gradient_MP)
        self._parameters = {
            leaf.name: Parameter(value, gradient)
            for leaf, value, gradient in zip(stack.leaves, stack.bind(rows_MP), gradients, strict=True)
        }
        self._encoder = piece_of(stack.model.encoder, self._of("encoder"), to_input=False)
        self._mean = piece_of(stack.model.mean, self._of("mean"))
        self._raw_scale = piece_of(stack.model.raw_scale, self._of("raw_scale"))
        self._decoder = piece_of(stack.model.decoder, self._of("decoder"))

    @torch.no_grad()
    def __call__(self, x_MRD: Tensor, noise_MRL: Tensor, weight_R: Tensor) -> tuple[Terms, Tensor]:
        """The terms and the loss (M, R) of a batch; the gradient is that of the sum of loss * weight_R."""
        features, back_encoder = self._encoder(self._model.scaled(x_MRD))
        mean, back_mean = self._mean(features)
        raw, back_raw_scale = self._raw_scale(features)
        posterior = Posterior(mean, *self._maths.scale(raw))
        output, back_decoder = self._decoder(posterior.sample(noise_MRL))
        kernel, back_kernel = self._kernel(x_MRD, output)
        terms = Terms(-kernel, posterior.kl(), posterior, raw)
        loss, to_terms = self._maths.loss_and_gradients(terms, weight_R)
        to_z = back_decoder(back_kernel(-to_terms.distortion))
        to_mean, to_log_sigma = posterior.back(noise_MRL, to_z, to_terms.rate)
        to_raw = to_log_sigma.mul_(self._maths.jacobian(raw))
        if to_terms.rest is not None:
            to_mean += to_terms.rest[0]
            to_raw += to_terms.rest[1]
        back_encoder(back_mean(to_mean).add_(back_raw_scale(to_raw)))
        return terms, loss

    def _kernel(self, x_MRD: Tensor, output_MRD: Tensor) -> tuple[Tensor, Back]:
        """The likelihood's kernel (M, R) and the way back to the decoder's output."""
        likelihood, hyper = self._model.observation, self._maths.hyper
        if isinstance(likelihood, Sloped):
            kernel, slope = likelihood.log_kernel_and_slope(x_MRD, output_MRD)
            return kernel, lambda gradient: slope.mul_(gradient.unsqueeze(-1))
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
