"""Promise 2, a slot equals a solo run, and what else the packed engine owes: refill, divergence, stopping, blame.

"Equal" is bit for bit: curves, final metrics, causes, pictures and weights (`kit.numbers`).
"""

from __future__ import annotations

import io
import json
import math
import random
import re
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import Tensor

from pipeline.config import HYPERPARAMETERS
from pipeline.data.dataset import DataSet
from pipeline.packed import tuning
from pipeline.packed.device_data import DeviceData
from pipeline.packed.draws import batch_order
from pipeline.packed.exactness import packs_exactly
from pipeline.packed.optimizers import OPTIMIZERS
from pipeline.packed.pack import Pack
from pipeline.packed.stopping import stop_cause
from pipeline.packed.structure import STRUCTURAL, structure_of
from pipeline.packed.trainer import Trainer
from pipeline.packed.tuning import WIDTHS
from pipeline.records import State, Stopping, TrialEnded, TrialKey, TrialOutcome, TrialTask, Value, WorkerUse
from pipeline.vae.likelihoods import LIKELIHOODS
from pipeline.vae.model import build_vae, standard_normal_bank
from pipeline.vae.objectives import OBJECTIVES, Draws, Numbers, Objective
from pipeline.vae.posterior import POSTERIORS
from pipeline.vae.scales import SCALES, Scale

from .kit import dataset_of, drive, hyperparameters, numbers, plain_elbo, task, tiny_dataset, train_all

LATE = task(1, scale="raw_variance", initial_sigma=1.0, learning_rate=1e-3, epochs=80)
"""diverges after some epochs: its variance crosses zero"""
FORM_OF_KIND = {"counts": "counts", "binary": "binarised", "real": "grey"}


def zoo(count: int, **structure: Value) -> list[TrialTask]:
    """Trials of one structure that differ in all that a slot may have of its own; some of them diverge."""
    scales = list(SCALES)
    tasks = []
    for i in range(count):
        own: dict[str, Any] = {
            "scale": scales[i % len(scales)],
            "initial_sigma": None if i % 4 == 0 else 0.3 + 0.1 * (i % 7),
            "objective": "beta",
            "protocol": "as_shipped" if i % 4 == 0 else ("sigma0_matched", "jacobian_matched")[i // 4 % 2],
            "beta": (1.0, 4.0, 0.3)[i % 3],
            "beta_warmup_epochs": (0, 2, 5)[i // 2 % 3],
            "beta_cycles": (0, 0, 2)[i // 3 % 3],
            "free_bits": 0.1 * i,
            "capacity": float(i),
            "capacity_epochs": i % 3,
            "learning_rate": (1e-3, 3e-4, 1e-2, 2e-3)[i % 4],
            "weight_decay": (0.0, 1e-2)[i % 2],
            "momentum": (0.0, 0.9, 0.5)[i % 3],
            "adam_beta1": (0.9, 0.8)[i // 2 % 2],
            "epochs": (3, 1, 4, 2)[i // 2 % 4],
        }
        if i % 8 == 5:
            own["learning_rate"] = 1e20  # diverges after its first step
        tasks.append(task(i, **(own | structure)))
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
    **{f"posterior {name}": {"posterior": name} for name in POSTERIORS},
    **{f"objective {name}": {"objective": name, "samples": 3} for name in OBJECTIVES},
    "full covariance, importance-weighted": {"posterior": "full", "objective": "dreg", "samples": 2},
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_every_structure_packs_to_the_bit(structure: dict[str, Value]) -> None:
    likelihood = str(structure.get("likelihood", "binomial"))
    (kind,) = LIKELIHOODS[likelihood].kinds
    dataset = tiny_dataset(FORM_OF_KIND[kind], train=38 if structure.get("batch_size") == 1 else 75)
    tasks = zoo(6, **structure)
    expected = alone(tasks, dataset)
    assert sum(outcome.state is State.COMPLETE for outcome in expected.values()) >= 4
    found = train_all(shuffled(tasks, 2), 4, dataset)  # the last ones take freed slots
    assert widest(found) == 4
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
        found |= {event.key: event.outcome for event in trainer.advance(0.0) if isinstance(event, TrialEnded)}
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
    tasks = [LATE, *(task(i, epochs=1 + i % 4) for i in range(2, 24))]
    trainer = Trainer(tiny_dataset(), slots=3, bank_seed=0)
    trainer.submit(tasks)
    outcomes, reports, rounds = drive(trainer)
    assert outcomes.keys() == {one.key for one in tasks}
    rounds_of = [outcome.epochs + (outcome.state is State.DIVERGED) for outcome in outcomes.values()]
    assert rounds <= max(max(rounds_of), math.ceil(sum(rounds_of) / 3)) + 3, "a slot stood empty before the end"
    for key, outcome in outcomes.items():
        told = [(report.epoch, report.value) for report in reports if report.key == key]
        assert told == list(enumerate(outcome.curves["val/elbo"], start=1))
        assert len(outcome.epoch_times) == outcome.epochs
        assert outcome.started_at <= outcome.epoch_times[0] <= outcome.ended_at
        assert outcome.worker_seconds > 0


def test_a_worker_says_what_its_time_went_into() -> None:
    trainer = Trainer(tiny_dataset(), slots=4, bank_seed=0)
    trainer.submit([task(i, epochs=3) for i in range(4)])
    began = time.perf_counter()
    full = sum((e for e in trainer.advance(0.0) if isinstance(e, WorkerUse)), WorkerUse())
    assert 0 < full.step_seconds < full.seconds <= time.perf_counter() - began + 1
    while trainer.busy:
        trainer.advance(0.0)
    time.sleep(0.2)  # no work: its slots were free
    trainer.submit([task(9, epochs=1)])
    idle = sum((e for e in trainer.advance(0.0) if isinstance(e, WorkerUse)), WorkerUse())
    assert idle.seconds >= 0.2 and idle.occupancy < 0.25 and idle.capacity_seconds == pytest.approx(4 * idle.seconds)
    assert full.slot_seconds <= full.capacity_seconds and full.occupancy > idle.occupancy


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
        posterior="diagonal",
        latent_dim=5,
        likelihood="binomial",
        levels=16,
    )
    model.load_state_dict(load_tensors(outcome.files["model.safetensors"]))
    x = torch.tensor(dataset.val)
    recovered = plain_elbo(model, x, standard_normal_bank(0, "val noise", len(x), 5))
    assert float(recovered.detach()) == pytest.approx(outcome.metrics["val/elbo"], rel=1e-5)
    for name in ("samples.png", "reconstructions.png"):
        assert Image.open(io.BytesIO(outcome.files[name])).width >= 320
    (bare,) = train_all([task(3, epochs=2, evaluate_test=False, keep_weights=False)], 1).values()
    assert not any(name.startswith("test/") for name in bare.metrics)
    assert bare.files.keys() == {"samples.png", "reconstructions.png"}
    assert bare.curves == outcome.curves
    assert "sigma_histogram.json" in outcome.files and "test/elbo_se" in outcome.metrics


def test_spread_over_the_test_images() -> None:
    dataset = tiny_dataset(test=21)
    tasks = [task(i, epochs=1, initial_sigma=10.0**-i) for i in range(3)]
    outcomes = train_all(tasks, 3, dataset)
    for i, one in enumerate(tasks):
        outcome = outcomes[one.key]
        histogram = json.loads(outcome.files["sigma_histogram.json"])
        assert histogram.keys() == {"log10_edges", "counts", "below", "above"}
        edges, counts = np.array(histogram["log10_edges"]), np.array(histogram["counts"])
        assert edges.tolist() == [round(-4 + 0.1 * k, 1) for k in range(61)]
        assert counts.sum() + histogram["below"] + histogram["above"] == 21 * 5
        middle = float(((edges[:-1] + edges[1:]) / 2) @ counts / counts.sum())
        assert middle == pytest.approx(-i, abs=0.3), "σ starts near its initial value"
        assert 0 < outcome.metrics["test/elbo_se"] < abs(outcome.metrics["test/elbo"])
    (one_image,) = train_all([task(0, epochs=1)], 1, tiny_dataset(test=1)).values()
    assert one_image.state is State.COMPLETE and "test/elbo_se" not in one_image.metrics


def test_reconstructions_show_no_padding() -> None:
    (outcome,) = train_all([task(0, epochs=1)], 1, tiny_dataset(val=5)).values()
    picture = Image.open(io.BytesIO(outcome.files["reconstructions.png"]))
    factor = picture.width // (5 * 8 + 1)
    assert (picture.width, picture.height) == (factor * (5 * 8 + 1), factor * (2 * 6 + 1))


# --------------------------------------------------------------------------------------- divergence


def test_a_diverged_trial_says_where_and_why_and_keeps_its_curves() -> None:
    (outcome,) = train_all([task(0, scale="raw_variance")], 1).values()
    assert (outcome.state, outcome.epochs) == (State.DIVERGED, 0)
    assert outcome.cause == "non-finite loss in epoch 1, step 1: raw_variance needs a > 0"
    assert outcome.curves == {} and outcome.metrics == {} and outcome.files == {}
    (outcome,) = train_all([LATE], 1).values()
    assert outcome.state is State.DIVERGED and outcome.epochs > 0
    at = outcome.epochs + 1
    while_training = rf"non-finite (loss|gradient) in epoch {at}, step [123]: raw_variance needs a > 0"
    assert re.fullmatch(rf"{while_training}|non-finite validation ELBO after epoch {at}", outcome.cause or "")
    assert outcome.metrics == {name: curve[-1] for name, curve in outcome.curves.items()}
    shorter = replace(LATE, hyperparameters={**LATE.hyperparameters, "epochs": outcome.epochs})
    (finished,) = train_all([shorter], 1).values()
    assert finished.state is State.COMPLETE and finished.curves == outcome.curves


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


def test_patience_ends_after_the_same_epoch_alone_and_beside_others() -> None:
    rules = [Stopping(patience_epochs=p, min_delta_nats=d) for p in (0, 1, 3) for d in (0.0, 0.5)]
    tasks = [task(i, seed=0, epochs=12, learning_rate=0.05, stopping=rule) for i, rule in enumerate(rules)]
    (full,) = train_all([task(0, epochs=12, learning_rate=0.05)], 1).values()
    outcomes, ends = train_all(shuffled(tasks, 0), 4), set()
    for one in tasks:
        curve, epochs = full.curves["val/elbo"], outcomes[one.key].epochs
        assert outcomes[one.key].curves["val/elbo"] == curve[:epochs]
        assert epochs == next((e for e in range(1, 12) if stop_cause(one, curve[:e])), 12)
        assert outcomes[one.key].state is (State.STOPPED if epochs < 12 else State.COMPLETE)
        ends.add(epochs)
    assert len(ends) > 1 and min(ends) < 12, "the trainings test nothing"


# -------------------------------------------------------------------------------------------- blame


@pytest.mark.parametrize(("place", "slots", "epochs"), [(0, 6, 0), (0, 4, 1), (2, 4, 0), (5, 6, 1), (3, 1, 1)])
def test_only_the_trial_that_raises_fails(place: int, slots: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def touchy(draws: Draws, numbers: Numbers) -> Tensor:
        if ((numbers["beta"] == 13) & (numbers["warmup"] > 0.5)).any():
            raise ValueError("thirteen")
        return OBJECTIVES["elbo"].loss(draws, numbers)

    put(monkeypatch, OBJECTIVES, "touchy", Objective(formula="", source="", loss=touchy))
    betas = [13.0 if i == place else 1.0 for i in range(6)]
    tasks = [task(i, objective="touchy", beta=beta, beta_warmup_epochs=3 * epochs) for i, beta in enumerate(betas)]
    bad = tasks[place].key
    expected = alone([t for t in tasks if t.key != bad])
    found = train_all(tasks, slots)
    assert_same(found, expected)
    assert (found[bad].state, found[bad].cause, found[bad].epochs) == (State.FAILED, "ValueError: thirteen", epochs)
    assert len(found[bad].curves.get("val/elbo", ())) == epochs


@pytest.mark.parametrize(("place", "slots"), [(0, 6), (0, 2), (3, 2), (5, 6), (2, 1)])
def test_only_the_trial_that_cannot_start_fails(place: int, slots: int) -> None:
    tasks = [task(i, scale="softplus_variance", epochs=1 + i % 2, initial_sigma=0.5) for i in range(6)]
    tasks[place] = task(place, scale="softplus_variance", initial_sigma=1e-200)  # its square is 0
    found = train_all(tasks, slots)
    bad = found[tasks[place].key]
    assert (bad.state, bad.cause, bad.epochs) == (State.FAILED, "ValueError: math domain error", 0)
    assert_same(found, alone([t for i, t in enumerate(tasks) if i != place]))


# ------------------------------------------------------------------------------------------- slots


def test_automatic_slots_change_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tasks = [task(number) for number in range(12)]
    alone = train_all(tasks, slots=1)
    automatic = train_all(tasks, slots=None)
    assert {key: numbers(outcome) for key, outcome in automatic.items()} == {k: numbers(o) for k, o in alone.items()}
    kept = json.loads((tmp_path / "vae-sweep" / "slots.json").read_text())
    assert len(kept) == 1 and set(kept.values()) <= set(WIDTHS)
    (tmp_path / "vae-sweep" / "slots.json").write_text("damaged")
    again = train_all(tasks, slots=None)
    assert numbers(again[tasks[3].key]) == numbers(alone[tasks[3].key])


def test_out_of_memory_halves_the_pack_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task(number) for number in range(9)]
    alone, train_epoch = train_all(tasks, slots=1), Pack.train_epoch

    def too_little(pack: Pack) -> None:
        if len(pack.slots) > 2:
            raise MemoryError
        train_epoch(pack)

    monkeypatch.setattr(Pack, "train_epoch", too_little)
    halved = train_all(tasks, slots=8)
    assert {key: numbers(outcome) for key, outcome in halved.items()} == {k: numbers(o) for k, o in alone.items()}
    assert {outcome.largest_pack for outcome in halved.values()} == {2, 1}


def test_a_width_that_does_not_fit_in_memory_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = tuning._slot_step_seconds

    def too_little(pack: Pack) -> float:
        if len(pack.slots) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return measured(pack)

    monkeypatch.setattr(tuning, "_slot_step_seconds", too_little)
    outcomes = train_all([task(number) for number in range(9)], slots=None)
    assert max(outcome.largest_pack for outcome in outcomes.values()) <= 4


@pytest.mark.parametrize(
    ("costs", "width"),
    [
        ({1: 3.0, 2: 2.0, 4: 1.04, 8: 1.0, 16: 1.04, 32: 1.06}, 16),  # as wide as costs next to nothing
        ({1: 1.02, 2: 1.0, 4: 1.0, 8: 1.0}, 1),  # packs do not pay
        ({1: 1.04, 2: 1.0, 4: 1.04, 8: 1.2}, 4),
        ({1: 0.5}, 1),
        ({}, 1),
    ],
)
def test_the_width_that_is_taken(costs: dict[int, float], width: int) -> None:
    assert tuning._cheapest(costs) == width
