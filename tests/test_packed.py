"""Promise 2, a slot equals a solo run, and what else the packed engine owes: refill, divergence, stopping, blame.

"Equal" is bit for bit: curves, final metrics, causes, pictures and weights (`kit.numbers`).
"""

from __future__ import annotations

import io
import math
import random
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from kit import dataset_of, drive, hyperparameters, numbers, task, tiny_dataset, train_all
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.distributions import Binomial, Normal, kl_divergence

from pipeline.config import HYPERPARAMETERS
from pipeline.data.dataset import DataSet
from pipeline.packed.device_data import DeviceData
from pipeline.packed.draws import batch_order, epoch_noise
from pipeline.packed.exactness import packs_exactly
from pipeline.packed.optimizers import OPTIMIZERS, SlotHyper
from pipeline.packed.structure import STRUCTURAL, structure_of
from pipeline.packed.trainer import Trainer
from pipeline.records import State, TrialKey, TrialOutcome, TrialTask, Value
from pipeline.vae.likelihoods import LIKELIHOODS
from pipeline.vae.model import Terms, build_vae, initialise, standard_normal_bank
from pipeline.vae.objectives import OBJECTIVES, elbo
from pipeline.vae.scales import SCALES, Scale

FORM_OF_KIND = {"counts": "counts", "binary": "binarised", "real": "grey"}


def zoo(count: int, **structure: Value) -> list[TrialTask]:
    """Trials of one structure that differ in all that a slot may have of its own; some of them diverge."""
    scales = list(SCALES)
    tasks = []
    for i in range(count):
        own: dict[str, Value] = {
            "scale": scales[i % len(scales)],
            "initial_sigma": None if i % 4 == 0 else 0.5 + 0.1 * (i % 7),
            "objective": ("elbo", "beta")[i // 3 % 2],
            "beta": (1.0, 4.0, 0.3)[i % 3],
            "beta_warmup_epochs": (0, 2, 5)[i // 2 % 3],
            "learning_rate": (1e-3, 3e-4, 1e-2, 2e-3)[i % 4],
            "weight_decay": (0.0, 1e-2)[i % 2],
            "momentum": (0.0, 0.9, 0.5)[i % 3],
            "adam_beta1": (0.9, 0.8)[i // 2 % 2],
            "epochs": (3, 1, 4, 2)[i // 2 % 4],
        }
        if i % 8 == 5:
            own["learning_rate"] = 1e20  # diverges after its first step
        tasks.append(task(i, **{**own, **structure}))
    return tasks


def alone(tasks: Sequence[TrialTask], dataset: DataSet | None = None) -> dict[TrialKey, TrialOutcome]:
    """The reference: each trial trained by a trainer of its own with one slot."""
    outcomes: dict[TrialKey, TrialOutcome] = {}
    for one in tasks:
        outcomes |= train_all([one], 1, dataset)
    return outcomes


def assert_same(found: Mapping[TrialKey, TrialOutcome], expected: Mapping[TrialKey, TrialOutcome]) -> None:
    for key, outcome in expected.items():
        assert numbers(found[key]) == numbers(outcome), f"{key} is not what it was"


def shuffled(tasks: Sequence[TrialTask], seed: int) -> list[TrialTask]:
    return random.Random(seed).sample(tasks, len(tasks))


def widest(outcomes: Mapping[TrialKey, TrialOutcome]) -> int:
    return max(outcome.largest_pack for outcome in outcomes.values())


def put(monkeypatch: pytest.MonkeyPatch, table: Mapping[str, Any], name: str, entry: object) -> None:
    monkeypatch.setitem(cast(MutableMapping[str, Any], table), name, entry)


# ------------------------------------------------------------------------------- a slot is a solo run


def test_the_tests_trials_are_complete() -> None:
    assert hyperparameters().keys() == HYPERPARAMETERS.keys()
    assert {name for name, row in HYPERPARAMETERS.items() if row.structural} == set(STRUCTURAL)


def test_many_trials_in_packs_of_any_size_and_order() -> None:
    tasks = zoo(32)
    expected = alone(tasks)
    states = [outcome.state for outcome in expected.values()]
    assert states.count(State.DIVERGED) >= 3 and states.count(State.COMPLETE) >= 20
    assert len({str(outcome.curves) for outcome in expected.values()}) >= 20
    for slots in (2, 5, 32):
        found = train_all(shuffled(tasks, slots), slots)
        assert widest(found) == slots
        assert_same(found, expected)


STRUCTURES: dict[str, dict[str, Value]] = {
    "latent 3, two layers, tanh": {"latent_dim": 3, "hidden": (33, 17), "activation": "tanh"},
    "float64": {"dtype": "float64"},
    "linear": {"hidden": (), "latent_dim": 7},
    "even": {"hidden": (128,), "latent_dim": 8, "batch_size": 64},
    "full batch": {"batch_size": 1000},
    "batch of one": {"batch_size": 1, "hidden": (9,)},
    **{f"optimizer {name}": {"optimizer": name, "learning_rate": 1e-3} for name in OPTIMIZERS},
    **{f"likelihood {name}": {"likelihood": name} for name in LIKELIHOODS},
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_every_structure_packs_to_the_bit(structure: dict[str, Value]) -> None:
    likelihood = str(structure.get("likelihood", "binomial"))
    (kind,) = LIKELIHOODS[likelihood].kinds
    dataset = tiny_dataset(FORM_OF_KIND[kind])
    tasks = zoo(7, **structure)
    expected = alone(tasks, dataset)
    assert sum(outcome.state is State.COMPLETE for outcome in expected.values()) >= 4
    for slots in (2, 7):
        found = train_all(shuffled(tasks, slots), slots, dataset)
        assert widest(found) == slots
        assert_same(found, expected)


def test_other_image_sizes() -> None:
    for shape, images in (((3, 3, 3), 76), ((1, 2), 41), ((1, 1), 41)):
        dataset = tiny_dataset("grey", train=images, val=530, test=1, image_shape=shape)
        tasks = zoo(5, likelihood="gaussian")
        found = train_all(shuffled(tasks, 1), 5, dataset)
        assert widest(found) == 5 or shape == (1, 1), "one pixel is like one latent: exact, but maybe not packed"
        assert_same(found, alone(tasks, dataset))


def test_a_latent_of_one_is_exact_whether_it_can_be_packed_or_not() -> None:
    tasks = zoo(7, latent_dim=1)
    assert_same(train_all(shuffled(tasks, 2), 7), alone(tasks))


def test_structures_side_by_side_share_the_slots() -> None:
    tasks = [*zoo(6), *(replace(t, key=replace(t.key, number=100 + i)) for i, t in enumerate(zoo(6, latent_dim=3)))]
    expected = alone(tasks)
    for slots in (3, 12):
        found = train_all(shuffled(tasks, slots), slots)
        assert 2 <= widest(found) <= min(6, slots)
        assert_same(found, expected)


def test_handing_trials_over_late_changes_nothing() -> None:
    tasks = zoo(9)
    trainer = Trainer(tiny_dataset(), slots=4, bank_seed=0)
    found: dict[TrialKey, TrialOutcome] = {}
    waiting = shuffled(tasks, 3)
    while waiting or trainer.busy:
        trainer.submit(waiting[:2])
        waiting = waiting[2:]
        found |= {event.key: event.outcome for event in trainer.advance(0.0) if hasattr(event, "outcome")}
    assert widest(found) == 4
    assert_same(found, alone(tasks))


# ---------------------------------------------------------------------------------- is it exact at all?


def exact(**structure: Value) -> bool:
    sample = hyperparameters(**structure)
    data = DeviceData(
        tiny_dataset(), likelihood="binomial", dtype=torch.float32, device=torch.device("cpu"), bank_seed=0
    )
    return packs_exactly(structure_of(sample), data, sample)


def test_the_check_at_start_up_finds_what_is_inexact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact()

    def names_a_leading_axis(a: Tensor) -> tuple[Tensor, Tensor]:
        return honest.forward(a + 1e-6 * a.shape[0])

    honest: Scale = SCALES["log_variance"]
    put(monkeypatch, SCALES, "log_variance", replace(honest, forward=names_a_leading_axis))
    assert not exact()
    tasks = [task(i) for i in range(5)]
    found = train_all(tasks, 5)
    assert widest(found) == 1, "what is inexact must run slot by slot"
    assert_same(found, alone(tasks))


# ---------------------------------------------------------------------------------------- the trainer


def test_freed_slots_are_refilled_at_once_and_every_epoch_is_reported() -> None:
    tasks = [task(i, epochs=1 + i % 4) for i in range(11)]
    trainer = Trainer(tiny_dataset(), slots=3, bank_seed=0)
    trainer.submit(tasks)
    rounds = 0
    outcomes: dict[TrialKey, TrialOutcome] = {}
    reported: dict[TrialKey, list[tuple[int, float]]] = {}
    while trainer.busy:
        rounds += 1
        for event in trainer.advance(0.0):
            if hasattr(event, "outcome"):
                outcomes[event.key] = event.outcome
            else:
                reported.setdefault(event.key, []).append((event.epoch, event.value))
    total = sum(1 + i % 4 for i in range(11))
    assert rounds <= math.ceil(total / 3) + 2, "a slot stood empty"
    for key, outcome in outcomes.items():
        assert reported[key] == list(enumerate(outcome.curves["val/elbo"], start=1))
        assert len(outcome.epoch_times) == outcome.epochs
        assert outcome.started_at <= outcome.epoch_times[0] <= outcome.ended_at
        assert outcome.worker_seconds > 0


def test_advance_trains_until_its_time_is_up() -> None:
    trainer = Trainer(tiny_dataset(), slots=2, bank_seed=0)
    trainer.submit([task(i, epochs=2) for i in range(4)])
    assert len([event for event in trainer.advance(300.0) if hasattr(event, "outcome")]) == 4
    assert not trainer.busy and trainer.advance(0.0) == []


def test_what_an_outcome_holds() -> None:
    dataset = tiny_dataset()
    (outcome,) = train_all([task(3, epochs=2)], 1, dataset).values()
    assert outcome.state is State.COMPLETE and outcome.cause is None and outcome.epochs == 2
    assert {"train/elbo", "val/elbo", "val/rate", "val/distortion", "val/active_units"} <= outcome.curves.keys()
    for name, curve in outcome.curves.items():
        assert len(curve) == 2 and outcome.metrics[name] == curve[-1]
    for split in ("val", "test"):
        parts = outcome.metrics[f"{split}/rate"] + outcome.metrics[f"{split}/distortion"]
        assert outcome.metrics[f"{split}/elbo"] == pytest.approx(-parts, rel=1e-12)
    model = build_vae(
        network="mlp",
        pixels=35,
        hidden=(101,),
        activation="relu",
        latent_dim=5,
        likelihood="binomial",
        levels=16,
    )
    model.load_state_dict(load_tensors(outcome.files["model.safetensors"]))
    x = torch.tensor(dataset.val)
    recovered = _plain_elbo(model, x, standard_normal_bank(0, "val noise", len(x), 5))
    assert recovered == pytest.approx(outcome.metrics["val/elbo"], rel=1e-5)
    for name in ("samples.png", "reconstructions.png"):
        assert Image.open(io.BytesIO(outcome.files[name])).width >= 320
    (bare,) = train_all([task(3, epochs=2, evaluate_test=False, keep_weights=False)], 1).values()
    assert not any(name.startswith("test/") for name in bare.metrics)
    assert bare.files.keys() == {"samples.png", "reconstructions.png"}
    assert bare.curves == outcome.curves


# --------------------------------------------------------------------------------------- divergence


def test_a_diverged_trial_says_where_and_why_and_keeps_its_curves() -> None:
    early, late = task(0, scale="raw_variance"), task(1, learning_rate=0.3, epochs=40, optimizer="sgd")
    (outcome,) = train_all([early], 1).values()
    assert (outcome.state, outcome.epochs) == (State.DIVERGED, 0)
    assert outcome.cause == "non-finite loss in epoch 1, step 1: raw_variance needs a > 0"
    assert outcome.curves == {} and outcome.metrics == {} and outcome.files == {}
    late = next(t for rate in (0.003, 0.01, 0.03, 0.1) if (t := _diverges_after_an_epoch(rate)))
    (outcome,) = train_all([late], 1).values()
    assert re.fullmatch(rf"non-finite (loss|gradient) in epoch {outcome.epochs + 1}, step [123]", outcome.cause or "")
    assert outcome.metrics == {name: curve[-1] for name, curve in outcome.curves.items()}
    shorter = replace(late, hyperparameters={**late.hyperparameters, "epochs": outcome.epochs})
    (finished,) = train_all([shorter], 1).values()
    assert finished.state is State.COMPLETE and finished.curves == outcome.curves


def _diverges_after_an_epoch(learning_rate: float) -> TrialTask | None:
    one = task(1, learning_rate=learning_rate, epochs=30, optimizer="sgd", momentum=0.9)
    (outcome,) = train_all([one], 1).values()
    return one if outcome.state is State.DIVERGED and outcome.epochs > 0 else None


def test_each_slot_diverges_at_the_step_its_own_order_says() -> None:
    clean = tiny_dataset()
    images = clean.train.copy()
    images[42, 7] = math.nan
    dataset = dataset_of(images, clean.val, clean.test, form="counts", image_shape=(5, 7))
    tasks = [task(i, batch_size=10) for i in range(6)]
    outcomes = train_all(tasks, 6, dataset)
    steps = [batch_order(t.seed, 0, len(images)).tolist().index(42) // 10 + 1 for t in tasks]
    assert len(set(steps)) > 2
    assert [outcomes[t.key].cause for t in tasks] == [f"non-finite loss in epoch 1, step {step}" for step in steps]


def test_non_finite_validation_is_divergence() -> None:
    clean = tiny_dataset()
    for split in ("val", "test"):
        parts = {"val": clean.val.copy(), "test": clean.test.copy()}
        parts[split][0, 0] = math.nan
        dataset = dataset_of(clean.train, parts["val"], parts["test"], form="counts", image_shape=(5, 7))
        (outcome,) = train_all([task(0, epochs=2)], 1, dataset).values()
        assert outcome.state is State.DIVERGED
        assert all(math.isfinite(value) for value in outcome.metrics.values())
        cause = {"val": "non-finite validation ELBO after epoch 1", "test": "non-finite test metrics"}
        assert outcome.cause == cause[split]


# ----------------------------------------------------------------------------------------- stopping


def test_thresholds_stop_in_their_epoch() -> None:
    (full,) = train_all([task(0, epochs=6)], 1).values()
    best = np.maximum.accumulate(full.curves["val/elbo"]).tolist()
    above = [value + 1e-9 for value in best]
    cases: list[tuple[tuple[float | None, ...], int]] = [
        ((None, above[1]), 2),
        ((above[0],), 1),
        ((None, None, best[2], above[3], above[4]), 4),  # exactly at its threshold a trial goes on
        (tuple(value - 1e-9 for value in best), 6),
        ((None,) * 6, 6),
        ((None,) * 5 + (above[5],), 6),  # the last epoch is the end, not a stop
        ((*best, 1e9, 1e9), 6),
        ((), 6),
    ]
    tasks = [task(i, seed=0, epochs=6, thresholds=thresholds) for i, (thresholds, _) in enumerate(cases)]
    outcomes = train_all(shuffled(tasks, 0), 5)
    for one, (thresholds, epochs) in zip(tasks, cases, strict=True):
        outcome = outcomes[one.key]
        assert outcome.epochs == epochs, thresholds
        assert outcome.curves == {name: curve[:epochs] for name, curve in full.curves.items()}
        assert outcome.state is (State.STOPPED if epochs < 6 else State.COMPLETE)
        if epochs < 6:
            shown = f"best {best[epochs - 1]:.3f} below {thresholds[epochs - 1]:.3f} after epoch {epochs}"
            assert outcome.cause == shown and "samples.png" in outcome.files
            assert "model.safetensors" not in outcome.files


# -------------------------------------------------------------------------------------------- blame


@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("slots", [1, 3, 6])
def test_only_the_trial_that_raises_fails(place: int, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def touchy(terms: Terms, *, beta: Tensor, warmup: Tensor) -> Tensor:
        if (beta == 13).any() and (warmup > 0.5).any():
            raise ValueError("thirteen")
        return elbo(terms, beta=beta, warmup=warmup)

    put(monkeypatch, OBJECTIVES, "touchy", touchy)
    tasks = [task(i, objective="touchy", beta=13.0 if i == place else 1.0, beta_warmup_epochs=3) for i in range(6)]
    bad = tasks[place].key
    expected = alone([t for t in tasks if t.key != bad])
    found = train_all(tasks, slots)
    assert_same(found, expected)
    assert (found[bad].state, found[bad].cause, found[bad].epochs) == (State.FAILED, "ValueError: thirteen", 1)
    assert len(found[bad].curves["val/elbo"]) == 1


# --------------------------------------------------------------------------------------- optimizers

HYPER = [
    SlotHyper(1e-2, 0.0, 0.0, 0.9, 0.999, 1e-8),
    SlotHyper(3e-3, 0.1, 0.9, 0.8, 0.99, 1e-6),
    SlotHyper(1e-3, 1e-2, 0.5, 0.0, 0.9, 1e-3),
]
PLAIN: dict[str, Callable[[list[Tensor], SlotHyper], torch.optim.Optimizer]] = {
    "sgd": lambda rows, h: torch.optim.SGD(
        rows, lr=h.learning_rate, momentum=h.momentum, weight_decay=h.weight_decay, foreach=False
    ),
    "adam": lambda rows, h: torch.optim.Adam(rows, **_adam(h)),
    "adamw": lambda rows, h: torch.optim.AdamW(rows, **_adam(h)),
}
"""an entry here is all that a new optimizer must add to this file"""


def _adam(h: SlotHyper) -> dict[str, Any]:
    betas, rest = (h.adam_beta1, h.adam_beta2), {"weight_decay": h.weight_decay, "foreach": False, "fused": False}
    return {"lr": h.learning_rate, "betas": betas, "eps": h.adam_epsilon, **rest}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs_own(name: str, dtype: torch.dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(len(HYPER), 48, generator=draw, dtype=torch.float64).to(dtype)
    curvature = torch.rand(48, generator=draw, dtype=torch.float64).to(dtype) * 2
    rows, plain = start.clone(), start.clone()
    state = [torch.zeros_like(rows) for _ in range(OPTIMIZERS[name].buffers)]
    steps = [torch.zeros(()) for _ in HYPER]
    leaves = [row.clone().requires_grad_() for row in plain]
    optimizers = [PLAIN[name]([leaf], hyper) for leaf, hyper in zip(leaves, HYPER, strict=True)]
    for _ in range(200):
        noise = torch.randn(48, generator=draw, dtype=torch.float64).to(dtype)
        for i, hyper in enumerate(HYPER):
            OPTIMIZERS[name].update(rows[i], rows[i] * curvature + noise, tuple(s[i] for s in state), steps[i], hyper)
            leaves[i].grad = (leaves[i] * curvature + noise).detach()
            optimizers[i].step()
    for row, leaf in zip(rows, leaves, strict=True):
        assert float((row - leaf.detach()).abs().max() / leaf.detach().abs().max()) <= tolerance
    assert float((rows - start).abs().min(1).values.max()) > 1e-3, "nothing moved"
    assert [float(step) for step in steps] == [200.0] * len(HYPER)


# ------------------------------------------------------------------------- an ordinary PyTorch loop


def _plain_elbo(model: nn.Module, x: Tensor, noise: Tensor) -> float:
    """Mean ELBO of images x (N, D) with noise (N, L), written down with torch.distributions alone."""
    parts = {name: cast(Callable[[Tensor], Tensor], part) for name, part in model.named_children()}
    with torch.no_grad():
        features = parts["encoder"](x / 16)
        q = Normal(parts["mean"](features), (parts["raw_scale"](features) / 2).exp())
        logits = parts["decoder"](q.mean + q.stddev * noise)
        kernel = Binomial(16, logits=logits).log_prob(x).sum(-1)  # type: ignore[no-untyped-call]
        return float((kernel - kl_divergence(q, Normal(0.0, 1.0)).sum(-1)).mean())


def _ordinary_training(one: TrialTask, dataset: DataSet, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Training and validation ELBO of every epoch, as anyone would write it; only the random draws are the kit's."""
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(35, 101), nn.ReLU())
    model.mean, model.raw_scale = nn.Linear(101, 5), nn.Linear(101, 5)
    model.decoder = nn.Sequential(nn.Linear(5, 101), nn.ReLU(), nn.Linear(101, 35))
    model.to(dtype)
    initialise(model, one.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train, val = (torch.tensor(part, dtype=dtype) for part in (dataset.train, dataset.val))
    bank = standard_normal_bank(0, "val noise", len(val), 5).to(dtype)
    train_elbo, val_elbo = [], []
    for epoch in range(17):
        order, noise = batch_order(one.seed, epoch, 75), epoch_noise(one.seed, epoch, (3, 48, 5), dtype)
        total = 0.0
        for step, batch in enumerate(order.split(37)):
            x, features = train[batch], model.encoder(train[batch] / 16)
            q = Normal(model.mean(features), (model.raw_scale(features) / 2).exp())
            p = Binomial(16, logits=model.decoder(q.mean + q.stddev * noise[step, : len(x)]))
            log_p = p.log_prob(x).sum(-1)  # type: ignore[no-untyped-call]
            loss = (kl_divergence(q, Normal(0.0, 1.0)).sum(-1) - log_p).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total -= float(loss.detach()) * len(x)
        train_elbo.append(total / 75)
        val_elbo.append(_plain_elbo(model, val, bank))
    return train_elbo, val_elbo


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_an_ordinary_loop_agrees_with_the_pack(dtype: str, tolerance: float) -> None:
    dataset = tiny_dataset()
    tasks = [task(i, dtype=dtype, epochs=17) for i in range(3)]
    outcomes = train_all(tasks, 3, dataset)
    assert widest(outcomes) == 3
    train_elbo, val_elbo = _ordinary_training(tasks[1], dataset, getattr(torch, dtype))
    assert train_elbo[-1] > train_elbo[0] + 5, "nothing was learned"
    assert outcomes[tasks[1].key].curves["train/elbo"] == pytest.approx(train_elbo, abs=tolerance)
    assert outcomes[tasks[1].key].curves["val/elbo"] == pytest.approx(val_elbo, abs=tolerance)
