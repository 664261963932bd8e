"""Which modules may be trained in a pack, and what is refused with its remedy before a step is taken.

A network is any two ordinary modules written for one trial: encoder (B, D) -> (B, F), decoder (B, L) ->
(B, D·outputs). What they compute for an image must depend on that image and on their parameters alone: else neither
a trial's numbers nor the ELBO of a single image would mean anything. Most rules are tried rather than read: each
module is run on a few rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..errors import UserError
from .model import VAE

ROWS = 5
TOLERANCE = 1e-3
"""of a row's largest value: what other rows may change by another order of summing"""


def admit(model: VAE, pixels: int) -> VAE:
    """The model as it is. Raises UserError where its encoder or decoder cannot be trained in a pack."""
    encoder, decoder = model.encoder, model.decoder
    parts = {"encoder": encoder, "decoder": decoder}
    for name, part in parts.items():
        _check_layers(name, part)
        _check_parameters(name, part)
    _check_sharing(parts)
    dtype = next((one.dtype for one in model.parameters()), torch.float32)
    _try(f"the encoder of images of {pixels} pixels", encoder, _rows(pixels, dtype), model.features)
    outputs = pixels * model.observation.outputs
    _try(f"the decoder of {model.latent_dim} latents", decoder, _rows(model.latent_dim, dtype), outputs)
    return model


def refused(rule: str, came: str, remedy: str) -> UserError:
    """The error of a module that is not admitted."""
    return UserError(f"{rule}, but {came}: {remedy}.")


def _check_layers(name: str, part: nn.Module) -> None:
    for place, layer in part.named_modules():
        where = f"the {name} has {type(layer).__name__}" + (f" at {place!r}" if place else "")
        if isinstance(layer, _BatchNorm):
            raise refused(
                "An image's numbers must not depend on the others of its batch",
                where,
                "take nn.GroupNorm or nn.LayerNorm",
            )
        if isinstance(layer, _DropoutNd) and layer.p:
            raise refused("A module must not draw random numbers itself", where, "leave it out, or set its p to 0")


def _check_parameters(name: str, part: nn.Module) -> None:
    for place, parameter in part.named_parameters():
        where = f"{name}.{place}"
        if isinstance(parameter, UninitializedParameter):
            raise refused("Sizes must be known when a module is built", f"{where} is lazy", "give its layer the sizes")
        if parameter.dtype not in (torch.float32, torch.float64):
            remedy = "build it in torch's default; `train.dtype` says what it is trained in"
            raise refused("Parameters must be float32 or float64", f"{where} is {parameter.dtype}", remedy)
        if not parameter.requires_grad:
            raise refused("Every parameter is trained", f"{where} is frozen", "register it as a buffer")
    for place, buffer in part.named_buffers():
        if isinstance(buffer, UninitializedBuffer):
            raise refused("Sizes must be known when a module is built", f"{name}.{place} is lazy", "give the sizes")


def _check_sharing(parts: dict[str, nn.Module]) -> None:
    """Every parameter has one name, and so one place in a slot's row."""
    known: dict[int, str] = {}
    for name, part in parts.items():
        for place, parameter in part.named_parameters(remove_duplicate=False):
            where = f"{name}.{place}"
            if id(parameter) in known:
                remedy = "give each its own"
                raise refused("Parameters cannot be shared", f"{known[id(parameter)]} is also {where}", remedy)
            known[id(parameter)] = where


def _rows(width: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(ROWS, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@torch.enable_grad()  # whoever asks: an output that depends on the parameters says so only then
def _try(what: str, module: nn.Module, rows: Tensor, width: int) -> None:
    """Runs the module on rows (ROWS, in) of numbers between 0 and 1."""
    buffers = [(name, buffer, buffer.clone()) for name, buffer in module.named_buffers()]
    state, given = torch.get_rng_state(), rows.clone()
    first = _run(what, module, given)
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        raise refused(
            "A module must not draw random numbers itself", f"{what} does", "the posterior's noise is all there is"
        )
    _check_output(what, first, rows, width, trained=any(True for _ in module.parameters()))
    if not torch.equal(given, rows):
        raise refused("A module must leave its input as it is", f"{what} changes it", "take no `inplace` at its start")
    changed = [name for name, buffer, before in buffers if not torch.equal(buffer, before)]
    if changed:
        raise refused("Buffers must stay as they are", f"{what} changes {changed[0]!r}", "keep no statistics in it")
    again = _run(what, module, rows)
    if not torch.equal(torch.nan_to_num(first), torch.nan_to_num(again)):
        raise refused(
            "The same rows must give the same numbers", f"{what} gives others each time", "let it keep no state"
        )
    _check_rows(what, first, _run(what, module, torch.cat([rows[:1], 1 - rows[1:3]])))


def _run(what: str, module: nn.Module, rows: Tensor) -> Tensor:
    try:
        output: Tensor = module(rows)
    except Exception as error:  # the user's code
        shown = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        rule = f"A module takes any number of rows, here a tensor {tuple(rows.shape)}"
        raise refused(rule, f"{what} raised {shown}", "see that its layers fit") from error
    return output


def _check_output(what: str, output: object, rows: Tensor, width: int, *, trained: bool) -> None:
    wanted = (ROWS, width)
    if not isinstance(output, Tensor):
        remedy = f"return one tensor (B, {width})"
        raise refused(f"A module returns a tensor {wanted}", f"{what} returns {type(output).__name__}", remedy)
    if tuple(output.shape) != wanted:
        came = f"{what} returns {tuple(output.shape)} for {ROWS} rows"
        raise refused(f"The output must have shape {wanted}", came, f"end in {width} numbers a row")
    if output.dtype != rows.dtype:
        came = f"{what} returns {output.dtype}"
        raise refused(f"The output must have the input's dtype, {rows.dtype}", came, "convert nothing")
    if trained and not output.requires_grad:
        came = f"{what} detaches its output from them"
        raise refused("The output must depend on the parameters", came, "leave out `detach` and `no_grad`")


def _check_rows(what: str, first: Tensor, other: Tensor) -> None:
    """The first row is the same one; all the others differ."""
    before, after = first[0].detach(), other[0].detach()
    size = float(before.abs().max())
    if float((before - after).abs().max()) > TOLERANCE * size:
        raise refused(
            "An image's numbers must not depend on the others of its batch",
            f"{what} gives a row other numbers beside other rows",
            "take nn.GroupNorm or nn.LayerNorm, and no mean over rows",
        )
