"""What a repeat is measured by beside its ELBO, on test images: bounds, what the latents carry, samples, factors.

Tells of models and decides nothing: what is not finite is left out, and a trial's end does not depend on it. All but
the bound is computed slot by slot, so that no number depends on a neighbour; of a large test set the first
BOUND_IMAGES images are looked at (the pairs of images are what it costs).

Axes: N images, L latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..vae.aggregate import collapsed_units, decompose, frechet_distance, mutual_information_gap
from ..vae.bounds import head_signal_to_noise, importance_weighted
from ..vae.metrics import EvaluationSet
from ..vae.posterior import in_float64
from ..vae.scales import SCALES
from .pack import Pack
from .slots import Slot, SlotMaths

SNR_IMAGES, SNR_DRAWS = 64, 8
"""images, the first, and draws that a gradient's signal-to-noise ratio is taken from"""
DISCRETE = frozenset({"counts", "binary"})
"""kinds of data whose likelihoods are probabilities"""


@torch.no_grad()
def further_metrics(pack: Pack, slots: Sequence[Slot]) -> list[dict[str, float]]:
    """For each of some slots, in pack order, what there is of it, as `test/...`."""
    if not slots:
        return []
    found = [{**bound, **_of(pack, slot)} for slot, bound in zip(slots, _bounds(pack, slots), strict=True)]
    return [{f"test/{name}": value for name, value in one.items() if math.isfinite(value)} for one in found]


def bits_per_dim(pack: Pack, elbo: float) -> dict[str, float]:
    """-ELBO in bits per dimension, for likelihoods that are probabilities."""
    if not pack.stack.model.observation.kinds <= DISCRETE:
        return {}
    return {"test/bits_per_dim": -elbo / (pack.data.pixels * math.log(2))}


def _bounds(pack: Pack, slots: Sequence[Slot]) -> list[dict[str, float]]:
    maths, data = pack.subset(slots), pack.data.bound(pack.structure.latent_dim)
    found = importance_weighted(pack.stack.model, maths.scale, data, maths.hyper, len(slots))
    names = {"iw_elbo": "log_likelihood_iw", "iw_elbo_se": "log_likelihood_iw_se", "ess": "iw_ess"}
    return [
        {"iw_samples": float(len(data.noise)), **{names[name]: values[i].item() for name, values in found.items()}}
        for i in range(len(slots))
    ]


def _of(pack: Pack, slot: Slot) -> dict[str, float]:
    """All that one slot alone is bound for."""
    maths, data = pack.subset([slot]), pack.data.bound(pack.structure.latent_dim)
    return {
        **_latents(pack, slot, maths, data),
        **_samples(pack, data),
        **_gradients(pack, maths, data),
        **_disentanglement(pack, maths),
    }


def _latents(pack: Pack, slot: Slot, maths: SlotMaths, data: EvaluationSet) -> dict[str, float]:
    outputs = pack.stack.model.encode(data.x[: data.count].unsqueeze(0))
    posterior = in_float64(pack.stack.model.family.posterior(maths.scale, *outputs))
    parts = decompose(posterior, posterior.sample(data.noise[0, : data.count].double()))
    return {
        **{name: value.item() for name, value in parts.items()},
        "collapsed_units": float(collapsed_units(posterior)),
        "scale_at_limit": SCALES[slot.scale].at_limit(outputs[1]).double().mean().item(),
    }


def _samples(pack: Pack, data: EvaluationSet) -> dict[str, float]:
    """Fréchet distance of as many prior samples (expected pixel values) as test images, on principal axes."""
    model, (mean, axes) = pack.stack.model, pack.data.features()
    z = pack.data.picture_noise(data.count, pack.structure.latent_dim)
    made = model.observation.mean(model.decode(z.unsqueeze(0))).squeeze(0)
    one, other = ((images.cpu().double() - mean) @ axes for images in (made, data.x[: data.count]))
    return {"frechet_pca": frechet_distance(one, other), "frechet_images": float(data.count)}


def _gradients(pack: Pack, maths: SlotMaths, data: EvaluationSet) -> dict[str, float]:
    rows = min(data.count, SNR_IMAGES)
    x, noise = data.x[:rows].unsqueeze(0), data.noise[:SNR_DRAWS, :rows]
    of_mean, of_scale = head_signal_to_noise(pack.stack.model, maths.scale, x, noise, maths.hyper)
    return {"mean_head_snr": of_mean.item(), "scale_head_snr": of_scale.item()}


def _disentanglement(pack: Pack, maths: SlotMaths) -> dict[str, float]:
    known = pack.data.test_factors()
    if known is None:
        return {}
    factors, sizes = known
    data = pack.data.evaluation("test", pack.structure.latent_dim)
    codes = [pack.stack.model.posterior(data.x[rows].unsqueeze(0), maths.scale).mean for rows in data.chunks()]
    means: Tensor = torch.cat(codes, 1)[0, : data.count].cpu().double()
    return {"mig": mutual_information_gap(means, factors, sizes)} if bool(means.isfinite().all()) else {}
