"""Do both sides train the same thing? Final validation ELBOs of one configuration on both, several seeds each.

Paired: the plain loop starts from our engine's initial weights and is fed its batches and noise, so any difference is
one of model, loss or optimizer. Free: each side draws for itself, as in the timed runs; these means also carry the
luck of the seeds, whose standard error is reported with them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours, workload
from benchmarks.peer_loop import Shape
from pipeline.config import Study
from pipeline.execution.environment import prepare_process
from pipeline.launch.where import load_study_data
from pipeline.packed.device_data import DeviceData
from pipeline.packed.draws import batch_order, epoch_noise
from pipeline.packed.pack import Pack
from pipeline.packed.structure import structure_of
from pipeline.records import Phase, TrialKey, TrialTask, Value
from pipeline.results import trial_of

LIMIT_NATS = 0.3


def new_pack(data: Path, shape: Shape, slots: int, *, epochs: int = 1_000_000, **changes: Value) -> Pack:
    """A pack of `slots` trials of the agreed configuration with `changes`, seeds 0, 1, ..."""
    study = Study.model_validate(ours.single(data, shape, epochs))
    params = {**trial_of(study)[1], **changes}
    tasks = [TrialTask(TrialKey("bench", 0, Phase.SEARCH, seed), params, seed) for seed in range(slots)]
    structure = structure_of(params)
    device_data = DeviceData(
        load_study_data(study),
        likelihood=structure.likelihood,
        dtype=torch.float32,
        device=torch.device("cpu"),
        bank_seed=0,
    )
    pack = Pack(structure, device_data)
    pack.resettle(tasks)
    return pack


def twin(pack: Pack, slot: int, images: workload.Images, shape: Shape) -> workload.Training:
    """The plain loop with the weights that a slot has now, and the pack's validation noise."""
    training = _plain(images, shape, seed=0, scale=pack.slots[slot].scale)
    named = pack.stack.named_tensors(pack.rows_MP[slot])
    encoder = training.model.encoder
    for kind in ("weight", "bias"):
        heads = [named.pop(f"{head}.{kind}") for head in ("mean", "raw_scale")]
        named[f"encoder.{len(encoder) - 1}.{kind}"] = torch.cat(heads)
    if shape.levels:  # our rows have the channels of a pixel side by side
        place = f"encoder.{len(encoder) - 3}.weight"
        named[place] = _channels_first(named[place].t(), shape).t()
        for kind in ("weight", "bias"):
            named[f"decoder.2.{kind}"] = _channels_first(named[f"decoder.2.{kind}"], shape)
    training.model.load_state_dict(named)
    val = pack.data.evaluation("val", shape.latent_dim)
    training.val_noise = val.noise[0, : val.count].clone()
    return training


def _channels_first(rows: Tensor, shape: Shape) -> Tensor:
    """Rows in the order H, W, C as rows in the order C, H, W."""
    return rows.view(-1, shape.hidden, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def draws(pack: Pack, slot: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Batch order (N,) and noise (N, L) of a slot's epoch. Batch sizes must be multiples of 16: no padding between."""
    images, batch_size = len(pack.data.train_x), pack.structure.batch_size
    steps, latent_dim = -(-images // batch_size), pack.structure.latent_dim
    seed = pack.slots[slot].task.seed
    noise = epoch_noise(seed, epoch, (steps, batch_size, latent_dim), pack.data.dtype)
    return batch_order(seed, epoch, images), noise.view(-1, latent_dim)[:images]


def paired(data: Path, shape: Shape, *, epochs: int, seeds: int) -> tuple[list[float], list[float]]:
    """Final validation ELBOs: ours, and the plain loop's from the same start with the same draws."""
    images, pack = workload.load_images(data), new_pack(data, shape, seeds, epochs=epochs)
    theirs = []
    for slot in range(seeds):
        training = twin(pack, slot, images, shape)
        for epoch in range(epochs):
            training.steps(*draws(pack, slot, epoch))
        theirs.append(training.model.elbo(images.val, training.val_noise))
    for _ in range(epochs):
        pack.train_epoch()
    return [slot.curves["val/elbo"][-1] for slot in pack.slots], theirs


def free(data: Path, shape: Shape, *, epochs: int, seeds: int) -> list[float]:
    """Final validation ELBOs of the plain loop with its own draws."""
    images, values = workload.load_images(data), []
    for seed in range(seeds):
        training = _plain(images, shape, seed)
        for _ in range(epochs):
            training.steps()
        values.append(training.model.elbo(images.val, training.val_noise))
    return values


def _plain(images: workload.Images, shape: Shape, seed: int, **changes: Any) -> workload.Training:
    return workload.Training(
        images,
        **{**ours.AGREED, **changes},
        seed=seed,
        hidden=shape.hidden,
        latent_dim=shape.latent_dim,
        batch_size=shape.batch_size,
        channels=shape.channels,
    )


def judge(mine: list[float], twins: list[float], others: list[float]) -> dict[str, Any]:
    """The figures, and `agrees`: pairs within LIMIT_NATS on average, free means within that and three errors."""
    gap = statistics.fmean(mine) - statistics.fmean(twins)
    free_gap = statistics.fmean(mine) - statistics.fmean(others)
    error = ((statistics.variance(mine) + statistics.variance(others)) / len(mine)) ** 0.5
    return {
        "ours": mine,
        "same_draws": twins,
        "own_draws": others,
        "gap_nats": gap,
        "own_draws_gap_nats": free_gap,
        "own_draws_gap_error_nats": error,
        "agrees": abs(gap) <= LIMIT_NATS and abs(free_gap) <= LIMIT_NATS + 3 * error,
    }


def main() -> None:
    """Prints the judgement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    for name in ("--epochs", "--seeds", "--side", "--hidden", "--latent-dim", "--batch-size"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--levels", type=int, default=0)
    args = parser.parse_args()
    prepare_process()
    shape = Shape(args.side, args.hidden, args.latent_dim, args.batch_size, args.levels)
    mine, twins = paired(args.data, shape, epochs=args.epochs, seeds=args.seeds)
    others = free(args.data, shape, epochs=args.epochs, seeds=args.seeds)
    json.dump(judge(mine, twins, others), sys.stdout)


if __name__ == "__main__":
    main()
