"""What a user's own entry of a table must keep to, tried in a few milliseconds before a sweep starts.

A wrong J, a loss that reads rows which only fill a batch up, a mass that does not sum to one: none of them raises,
and each spoils a sweep in silence. Knows no name and no study; networks are tried where images are known.

Shapes: M slots, K samples of z, B images, L latents, D pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .likelihoods import Sloped
from .objectives import NUMBERS, Draws, Objective
from .posterior import Diagonal, Family
from .scales import Scale

NEARLY = 1e-5
"""relative; float64 throughout"""
FAR_SIGMAS = (1e-3, 1e2)
"""σ are tried between these, and within the scale's bounds"""
SLOTS, SAMPLES, IMAGES, LATENTS, PIXELS = 2, 2, 5, 3, 7
KINDS = ("counts", "binary", "real")
LEVELS = 4


def broken_contract(field: str, entry: Any) -> str:
    """The first thing that an own entry of a study-file field gets wrong; empty where nothing was found."""
    check = _CHECKS.get(field)
    if check is None:
        return ""
    try:
        return next(check(entry), "")
    except Exception as error:  # it is anybody's code
        return f"tried on small tensors it raised {type(error).__name__}: {error}"


def _close(found: Tensor, expected: Tensor, tolerance: float = NEARLY) -> bool:
    return torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- scales


def _scale(scale: Scale) -> Iterator[str]:
    if not 0 <= scale.lowest < scale.highest:
        yield f"0 <= lowest < highest must hold, but they are {scale.lowest} and {scale.highest}"
    sigmas = _sigmas(scale)
    raw = torch.tensor([scale.inverse(sigma) for sigma in sigmas], dtype=torch.float64)
    sigma, _ = scale.forward(raw)
    for wanted, a, found in zip(sigmas, raw.tolist(), sigma.tolist(), strict=True):
        if not math.isclose(wanted, found, rel_tol=NEARLY):
            yield f"forward must undo inverse, but inverse({wanted:.6g}) = {a:.6g}, whose σ is {found:.6g}"
    yield from _forward_faults(scale, raw, "of its inverse")
    anywhere = torch.linspace(-6, 6, 24, dtype=torch.float64)
    inside = anywhere if scale.outside is None else anywhere[~scale.outside(anywhere)]
    yield from _forward_faults(scale, inside, "inside its domain")
    yield from _slope_faults(scale, inside)
    yield from _slope_faults(scale, raw)


def _sigmas(scale: Scale) -> list[float]:
    low, high = max(scale.lowest * 1.01, FAR_SIGMAS[0]), min(scale.highest / 1.01, FAR_SIGMAS[1])
    if low >= high:
        return [math.sqrt(scale.lowest * scale.highest)]
    return torch.logspace(math.log10(low), math.log10(high), 20, dtype=torch.float64).tolist()


def _forward_faults(scale: Scale, a: Tensor, where: str) -> Iterator[str]:
    """Finite, of a's shape and dtype, and log σ the log of σ."""
    if not bool(a.isfinite().all()):
        yield "inverse must be finite for every σ between lowest and highest"
    for dtype in (torch.float64, torch.float32):
        given = a.to(dtype).view(1, -1, 1)
        for what, values in (*zip(("σ", "log σ"), scale.forward(given), strict=True), ("J", scale.jacobian(given))):
            if not isinstance(values, Tensor) or values.shape != given.shape or values.dtype != dtype:
                yield f"{what} must have a's shape and dtype, but {dtype} {tuple(given.shape)} gave {_seen(values)}"
            wrong = given[~values.isfinite()]
            if len(wrong):
                yield f"{what} must be finite for every a {where}, but is not at a = {float(wrong[0]):.6g}"
    sigma, log_sigma = scale.forward(a)
    wrong = a[(sigma <= 0) | ((sigma.log() - log_sigma).abs() > NEARLY)]
    if len(wrong):
        yield f"σ must be positive and log σ its logarithm, but they are not at a = {float(wrong[0]):.6g}"


def _slope_faults(scale: Scale, a: Tensor) -> Iterator[str]:
    """J against a central difference of log σ; not where a kink lies within the step."""
    step = 1e-5 * a.abs().clamp(1e-7, 1.0)
    kinked = torch.zeros_like(a, dtype=torch.bool)
    for kink in scale.kinks:
        kinked |= (a - kink).abs() <= 2 * step
    difference = (scale.forward(a + step)[1] - scale.forward(a - step)[1]) / (2 * step)
    jacobian = scale.jacobian(a)
    allowed = 1e-3 * difference.abs().clamp_min(1e-3)
    wrong = ((jacobian - difference).abs() > allowed) & ~kinked & difference.isfinite()
    for at, found, expected in zip(
        a[wrong].tolist(), jacobian[wrong].tolist(), difference[wrong].tolist(), strict=True
    ):
        yield f"jacobian must be d log σ / d a, but at a = {at:.6g} it is {found:.6g} and the slope is {expected:.6g}"


# ------------------------------------------------------------------------------------------ objectives


def _objective(objective: Objective) -> Iterator[str]:
    unknown = sorted(objective.reads - {*NUMBERS, "warmup"})
    if unknown:
        yield f"reads must be of {', '.join((*NUMBERS, 'warmup'))}, but names {', '.join(unknown)}"
    leaves = _leaves(SAMPLES)
    numbers = {name: torch.full((SLOTS, 1), 0.7, dtype=torch.float64) for name in (*NUMBERS, "warmup")}
    loss = objective.loss(_draws(*leaves), numbers)
    if not isinstance(loss, Tensor) or loss.shape != (SLOTS, IMAGES):
        yield f"loss must be one number an image, {(SLOTS, IMAGES)} for {SLOTS} slots, but is {_seen(loss)}"
    if not loss.requires_grad:
        yield "loss must have a gradient, but depends on nothing of the model"
    given = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = torch.autograd.grad(loss.sum(), given, allow_unused=True)
    if not all(bool(one.isfinite().all()) for one in (loss, *(g for g in gradients if g is not None))):
        yield "loss and gradient must be finite for ordinary draws, but are not"
    yield from _reading_faults(objective, numbers, loss)
    yield from _filling_faults(objective, numbers, loss)
    if objective.rate_weight is not None:
        draws = _draws(*_leaves(1))
        expected = draws.distortion() + objective.rate_weight(numbers) * draws.rate().sum(-1)
        if not _close(objective.loss(draws, numbers), expected):
            yield "with rate_weight, loss must be distortion + rate_weight · rate for one sample, but is not"


def _leaves(samples: int) -> list[Tensor]:
    """Arguments of `_draws`."""
    kernel, noise = _randn(SLOTS, samples, IMAGES, seed=1) - 3, _randn(SLOTS, samples, IMAGES, LATENTS, seed=2)
    mean, log_sigma = _randn(SLOTS, 1, IMAGES, LATENTS, seed=3), _randn(SLOTS, 1, IMAGES, LATENTS, seed=4) / 2
    return [kernel.requires_grad_(), noise, mean.requires_grad_(), log_sigma.requires_grad_()]


def _draws(kernel: Tensor, noise: Tensor, mean: Tensor, log_sigma: Tensor) -> Draws:
    """The last image only fills the batch up."""
    posterior = Diagonal(mean, log_sigma.exp(), log_sigma)
    weight = torch.tensor([1.0 / (IMAGES - 1)] * (IMAGES - 1) + [0.0], dtype=torch.float64)
    return Draws(kernel, posterior.sample(noise), posterior, weight, 40)


def _reading_faults(objective: Objective, numbers: Mapping[str, Tensor], loss: Tensor) -> Iterator[str]:
    for name in sorted(numbers.keys() - objective.reads):
        if not _close(objective.loss(_draws(*_leaves(SAMPLES)), {**numbers, name: numbers[name] + 1}), loss):
            yield f"reads must name every number that changes the loss, but leaves out {name}"


def _filling_faults(objective: Objective, numbers: Mapping[str, Tensor], loss: Tensor) -> Iterator[str]:
    leaves = [leaf.detach().clone() for leaf in _leaves(SAMPLES)]
    leaves[0][..., -1] += 5
    for leaf in leaves[2:]:
        leaf[..., -1, :] += 0.5
    if not _close(objective.loss(_draws(*leaves), numbers)[:, :-1], loss[:, :-1]):
        yield "an image of weight 0 only fills the batch up, but changes the loss of others: use draws.mean"
    alone = [leaf[1:].detach() for leaf in _leaves(SAMPLES)]
    if not _close(objective.loss(_draws(*alone), {k: value[1:] for k, value in numbers.items()}), loss[1:]):
        yield "a slot's loss must not depend on the slots beside it, but does"


# ---------------------------------------------------------------------------------------- likelihoods


def _likelihood(build: Callable[..., Any]) -> Iterator[str]:
    kinds: Any = getattr(build, "kinds", None)
    if not isinstance(kinds, frozenset) or not kinds or not kinds <= set(KINDS):
        yield f"its class must have `kinds`, a frozenset of {', '.join(KINDS)}, but has {kinds!r}"
    for kind in sorted(kinds):
        levels = LEVELS if kind == "counts" else None
        module = build(levels=levels)
        if not isinstance(module, nn.Module) or type(getattr(module, "outputs", None)) is not int:
            yield "it must be an nn.Module with `outputs`, the decoder's numbers per pixel"
        module = module.double()
        top = levels or 1
        x = {"real": _randn(IMAGES, PIXELS).sigmoid()}.get(kind, (_randn(IMAGES, PIXELS).sigmoid() * top).round())
        output = _randn(SLOTS, IMAGES, PIXELS * module.outputs, seed=1).requires_grad_()
        hyper = {"observation_std": torch.full((SLOTS, 1, 1), 0.7, dtype=torch.float64)}
        kernel, base, mean = module.log_kernel(x, output, hyper), module.log_base(x), module.mean(output.detach())
        shapes = ((SLOTS, IMAGES), (IMAGES,), (SLOTS, IMAGES, PIXELS))
        for what, values, shape in zip(("log_kernel", "log_base", "mean"), (kernel, base, mean), shapes, strict=True):
            if not isinstance(values, Tensor) or values.shape != shape or not bool(values.isfinite().all()):
                yield f"{what} must be finite and {shape} for {kind} {tuple(x.shape)}, but is {_seen(values)}"
        (slope,) = torch.autograd.grad(kernel.sum(), output, allow_unused=True)
        if slope is None or not bool(slope.isfinite().all()):
            yield "log_kernel must have a finite gradient by the decoder's output"
        if isinstance(module, Sloped):
            along, given = module.log_kernel_and_slope(x, output.detach())
            if not _close(along, kernel.detach()) or not _close(given, slope):
                yield "log_kernel_and_slope must give log_kernel and its derivative, but does not"
        if kind != "real":
            yield from _mass_faults(module, top)


@torch.no_grad()
def _mass_faults(module: Any, top: int) -> Iterator[str]:
    """The masses of all values of one pixel sum to 1."""
    x = torch.arange(top + 1, dtype=torch.float64).unsqueeze(-1)
    output = _randn(1, module.outputs).expand(top + 1, -1).unsqueeze(0)
    hyper = {"observation_std": torch.full((1, 1, 1), 0.7, dtype=torch.float64)}
    total = float((module.log_kernel(x, output, hyper) + module.log_base(x)).exp().sum())
    if not math.isclose(total, 1, rel_tol=1e-4):
        yield f"the masses of a pixel's values 0..{top} must sum to 1, but sum to {total:.6g}"


# ------------------------------------------------------------------------------- posteriors, networks


def _family(family: Family) -> Iterator[str]:
    heads = family.heads(PIXELS, LATENTS)
    missing = {"mean", "raw_scale"} - set(heads)
    if missing:
        yield f"heads must have {' and '.join(sorted(missing))}, but are {', '.join(heads)}"
    features = _randn(1, IMAGES, PIXELS)
    outputs = [head.double()(features).detach() for head in heads.values()]
    q = family.posterior(lambda a: (a.exp(), a), *outputs)
    shape = (1, IMAGES, LATENTS)
    noise = _randn(4096, IMAGES, LATENTS, seed=1)
    z = q.sample(noise)
    for what, values in (("mean", q.mean), ("sigma", q.sigma), ("kl()", q.kl())):
        if values.shape != shape or not bool(values.isfinite().all()):
            yield f"{what} must be finite and {shape}, but is {_seen(values)}"
    if family.by_hand and not (_close(q.mean, outputs[0]) and _close(q.sigma, outputs[1].exp())):
        yield "by_hand is for μ and the raw scale as the heads give them, but this posterior's differ"
    terms = (q.log_q(z) + z * z * 0.5).sum(-1) + LATENTS * 0.5 * math.log(2 * math.pi)
    gap, error = (terms.mean(0) - q.kl().sum(-1)).abs(), terms.std(0) / math.sqrt(len(noise))
    if bool((gap > 5 * error + NEARLY).any()):
        yield f"kl() must be E[log q(z) - log p(z)], but is off by {float(gap.max()):.3g} nats over {len(noise)} draws"


_CHECKS: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "scale": _scale,
    "objective": _objective,
    "likelihood": _likelihood,
    "posterior": _family,
}
"""By the study file's field."""


def _seen(values: object) -> str:
    return f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
