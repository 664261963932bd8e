"""How a trial leaves its pack: final metrics, the spread of its σ, pictures, weights.

Prior samples are decoded from one bank of fixed z common to all runs; reconstructions are decoded from the posterior's
mean. What only repeats have is further.py's and portraits.py's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import save as save_tensors

from ..records import State, TrialOutcome, canonical_json
from ..vae.metrics import SIGMA_LOG10_EDGES
from ..vae.pictures import pairs_grid, to_bytes
from .further import bits_per_dim, further_metrics
from .pack import Pack
from .portraits import portraits, sigma_picture
from .slots import Slot
from .snapshots import as_array, prior_samples

RECONSTRUCTIONS = 32
SIGMA_FILE = "sigma_histogram.json"
"""How many of a repeat's σ, over test images and latents, lie in each bin of log10 σ."""


def finish_slots(pack: Pack, ended: Sequence[Slot]) -> list[TrialOutcome]:
    """Outcomes of ended slots, in pack order; `ended` must be given in pack order."""
    complete = [slot for slot in ended if slot.state in (State.COMPLETE, State.STOPPED)]
    test, seen = _examine(pack, [slot for slot in complete if slot.task.evaluate_test])
    files = _pictures(pack, complete)
    outcomes = []
    for slot in ended:
        metrics = {name: values[-1] for name, values in slot.curves.items()} | test.get(id(slot), {})
        if not all(math.isfinite(value) for value in metrics.values()):
            slot.end(State.DIVERGED, "non-finite test metrics")
            metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        kept = {**files.get(id(slot), {}), **slot.snapshots}
        if slot.state is not State.DIVERGED:
            kept |= seen.get(id(slot), {})
        if slot.task.keep_weights and slot.state is State.COMPLETE:
            row = pack.rows_MP[pack.slots.index(slot)]
            kept["model.safetensors"] = save_tensors(pack.stack.named_tensors(row))
        outcomes.append(_outcome(slot, metrics, kept))
    return outcomes


def failed_outcome(slot: Slot, cause: str) -> TrialOutcome:
    """The outcome of a trial whose model or code raised."""
    slot.end(State.FAILED, cause)
    return _outcome(slot, {name: values[-1] for name, values in slot.curves.items()}, {})


def _outcome(slot: Slot, metrics: Mapping[str, float], files: Mapping[str, bytes]) -> TrialOutcome:
    return TrialOutcome(
        state=slot.state,
        curves={name: tuple(values) for name, values in slot.curves.items()},
        metrics=dict(metrics),
        cause=slot.cause,
        epochs=slot.epoch,
        files=files,
        epoch_times=tuple(slot.epoch_times),
        started_at=slot.started_at,
        ended_at=max(time.time(), slot.started_at),  # a clock may be set back
        worker_seconds=slot.worker_seconds,
        largest_pack=slot.largest_pack,
    )


def _examine(pack: Pack, slots: Sequence[Slot]) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, bytes]]]:
    """Test metrics, and what is kept of the test images: σ as a histogram, pictures."""
    if not slots:
        return {}, {}
    metrics, details = pack.examine(slots, "test")
    names = ["elbo", "rate", "distortion", "active_units"]
    if pack.data.test_images > 1:
        metrics["elbo_se"] = details.elbo_se().tolist()
        names.append("elbo_se")
    found = {id(slot): {f"test/{name}": metrics[name][i] for name in names} for i, slot in enumerate(slots)}
    sound = [slot for slot in slots if all(math.isfinite(value) for value in found[id(slot)].values())]
    for slot, further in zip(sound, further_metrics(pack, sound), strict=True):
        found[id(slot)] |= bits_per_dim(pack, found[id(slot)]["test/elbo"]) | further
    files = {}
    for slot, counts in zip(slots, details.sigma_counts().tolist(), strict=True):
        if slot in sound:
            pictures = {"sigma_histogram.png": sigma_picture(counts), **portraits(pack, slot)}
            files[id(slot)] = {SIGMA_FILE: _histogram(counts), **pictures}
    return found, files


def _histogram(counts: Sequence[int]) -> bytes:
    content = {
        "log10_edges": SIGMA_LOG10_EDGES,
        "counts": counts[1:-1],
        "below": counts[0],
        "above": counts[-1],
    }
    return (canonical_json(content) + "\n").encode()


@torch.no_grad()
def _pictures(pack: Pack, slots: Sequence[Slot]) -> dict[int, dict[str, bytes]]:
    if not slots:
        return {}
    model, data = pack.stack.model, pack.data
    low, high = data.value_range
    samples = prior_samples(pack, slots)
    val = data.evaluation("val", pack.structure.latent_dim)
    x, shown = val.x[:RECONSTRUCTIONS], min(val.count, RECONSTRUCTIONS)  # x may end in padding
    mean = model.posterior(x.expand(len(slots), -1, -1), pack.subset(slots).scale).mean
    originals = to_bytes(as_array(x), low, high)
    copies = to_bytes(as_array(model.observation.mean(model.decode(mean))), low, high)
    return {
        id(slot): {
            "samples.png": samples[i],
            "reconstructions.png": pairs_grid(originals[:shown], copies[i][:shown], data.image_shape),
        }
        for i, slot in enumerate(slots)
    }
