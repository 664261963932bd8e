"""What repeats are measured by beside the ELBO, and their pictures: recomputed from their weights, slot against solo.

The computations themselves are tested against closed forms in test_bounds.py.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.distributions import Binomial, Normal

from pipeline.data.dataset import DataSet, Factors
from pipeline.delivery.records import CURVE_POINTS, FULL_CURVES, MAX_KEYS, Subject, run_record
from pipeline.packed.device_data import DeviceData
from pipeline.packed.portraits import STEPS
from pipeline.paths import WorkPaths
from pipeline.records import State, TrialOutcome, TrialRecord
from pipeline.report.further import MEASURES, NUMBERS_OF
from pipeline.tracking.base import SweepRun
from pipeline.vae.aggregate import mutual_information_gap
from pipeline.vae.model import VAE, build_vae
from pipeline.vae.pictures import GAP, histogram_png, rows_within, to_bytes
from pipeline.vae.scales import NEAR_LIMIT, SCALES, Scale
from pipeline.vae.walks import interpolations, manifold, traversals

from .kit import LEVELS, dataset_of, numbers, task, tiny_dataset, train_all
from .test_vae import F64, every_scale, log_prob, randn

SIZES = (3, 2, 1)


def with_factors() -> DataSet:
    """Images of 5 x 7 pixels whose upper and lower halves are lit by two factors, and a third that has one value."""
    rng = np.random.default_rng(1)

    def part(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        factors = np.stack([rng.integers(size, size=count) for size in SIZES], axis=1)
        light = np.concatenate([np.repeat(factors[:, :1] / 2, 17, 1), np.repeat(factors[:, 1:2], 18, 1)], 1)
        return rng.binomial(LEVELS, 0.1 + 0.8 * light), factors

    (train, a), (val, b), (test, c) = part(300), part(37), part(45)
    dataset = dataset_of(train, val, test, form="counts", image_shape=(5, 7))
    return replace(dataset, factors=Factors(("upper", "lower", "none"), SIZES, a, b, c))


@cache
def trained(**changes: object) -> TrialOutcome:
    one = task(3, epochs=30, hidden=(33,), learning_rate=1e-2, **changes)  # type: ignore[arg-type]
    (outcome,) = train_all([one], 1, with_factors()).values()
    assert outcome.state is State.COMPLETE, outcome
    return outcome


def model_of(outcome: TrialOutcome, latent_dim: int) -> VAE:
    model = build_vae(
        network="mlp", pixels=35, hidden=(33,), activation="relu", posterior="diagonal", latent_dim=latent_dim,
        likelihood="binomial", levels=LEVELS,
    )  # fmt: skip
    model.load_state_dict(load_tensors(outcome.files["model.safetensors"]))
    return model


def device_data(dataset: DataSet) -> DeviceData:
    return DeviceData(dataset, likelihood="binomial", dtype=torch.float32, device=torch.device("cpu"), bank_seed=0)


def test_every_metric_has_a_name_for_people_and_every_name_a_metric() -> None:
    found = {name for name in trained().metrics if name.startswith("test/")}
    shown = (MEASURES.keys() | NUMBERS_OF.keys()) | {"test/elbo", "test/elbo_se", "test/log_likelihood_iw_se"}
    assert found == shown
    assert all(math.isfinite(value) for value in trained().metrics.values())


@torch.no_grad()
def test_metrics_are_what_the_weights_say() -> None:
    outcome, dataset = trained(), with_factors()
    metrics, model = outcome.metrics, model_of(outcome, 5).double()
    x, bank = torch.tensor(dataset.test).double(), device_data(dataset).bound(5).noise[:, :45].double()
    mean, raw = model.encode(x)
    q = Normal(mean, (raw / 2).exp())
    assert metrics["test/iw_samples"] == len(bank) == 128 and metrics["test/frechet_images"] == 45
    z = q.mean + q.stddev * bank
    log_p = log_prob(Binomial(LEVELS, logits=model.decode(z)), x).sum(-1)
    weights = log_p + (log_prob(Normal(0.0, 1.0), z) - log_prob(q, z)).sum(-1)
    each = weights.logsumexp(0) - math.log(128)
    assert metrics["test/log_likelihood_iw"] == pytest.approx(float(each.mean()), rel=1e-5)
    assert metrics["test/log_likelihood_iw_se"] == pytest.approx(float(each.std() / math.sqrt(45)), rel=1e-4)
    assert metrics["test/log_likelihood_iw"] > metrics["test/elbo"]
    assert 1 / 128 <= metrics["test/iw_ess"] <= 1
    assert metrics["test/bits_per_dim"] == pytest.approx(-metrics["test/elbo"] / 35 / math.log(2), rel=1e-12)
    rate = (log_prob(q, z[0]) - log_prob(Normal(0.0, 1.0), z[0])).sum(-1).mean()
    parts = sum(metrics[f"test/{part}"] for part in ("mutual_information", "total_correlation", "dimension_kl"))
    assert parts == pytest.approx(float(rate), rel=1e-5)
    assert dataset.factors is not None
    gap = mutual_information_gap(mean, torch.tensor(dataset.factors.test), SIZES)
    assert metrics["test/mig"] == pytest.approx(gap, abs=1e-9) and 0 <= gap <= 1


def test_the_parts_sum_to_the_rate_of_the_same_draws() -> None:
    """In float64 to 1e-6: the identity does not hang on the estimator."""
    outcome = trained(dtype="float64")
    model, bank = model_of_double(outcome), device_data64(with_factors()).bound(5).noise[0, :45]
    with torch.no_grad():
        mean, raw = model.encode(torch.tensor(with_factors().test).double())
        q = Normal(mean, (raw / 2).exp())
        z = q.mean + q.stddev * bank
        rate = float((log_prob(q, z) - log_prob(Normal(0.0, 1.0), z)).sum(-1).mean())
    metrics = outcome.metrics
    parts = sum(metrics[f"test/{part}"] for part in ("mutual_information", "total_correlation", "dimension_kl"))
    assert parts == pytest.approx(rate, abs=1e-6)


def model_of_double(outcome: TrialOutcome) -> VAE:
    model = build_vae(
        network="mlp", pixels=35, hidden=(33,), activation="relu", posterior="diagonal", latent_dim=5,
        likelihood="binomial", levels=LEVELS,
    ).double()  # fmt: skip
    model.load_state_dict(load_tensors(outcome.files["model.safetensors"]))
    return model


def device_data64(dataset: DataSet) -> DeviceData:
    return DeviceData(dataset, likelihood="binomial", dtype=F64, device=torch.device("cpu"), bank_seed=0)


def test_slots_have_the_metrics_and_pictures_of_solo_runs() -> None:
    """With factors and two latents, which test_packed.py's zoo has not."""
    dataset = with_factors()
    tasks = [task(i, latent_dim=2, epochs=1 + i % 2, scale=scale) for i, scale in enumerate(list(SCALES)[:6])]
    packed = train_all(tasks, 6, dataset)
    for one in tasks:
        (solo,) = train_all([one], 1, dataset).values()
        assert numbers(packed[one.key]) == numbers(solo)
        assert "test/mig" in solo.metrics and "manifold.png" in solo.files


def test_what_is_not_finite_is_left_out_and_ends_no_trial() -> None:
    (outcome,) = train_all([task(0, epochs=1, scale="fixed")], 1).values()
    assert outcome.state is State.COMPLETE
    assert "test/scale_head_snr" not in outcome.metrics and outcome.metrics["test/scale_at_limit"] == 1.0
    (one_image,) = train_all([task(0, epochs=1)], 1, tiny_dataset(test=1)).values()
    assert one_image.state is State.COMPLETE and "interpolations.png" not in one_image.files
    assert not {"test/log_likelihood_iw_se", "test/frechet_pca", "test/mig"} & one_image.metrics.keys()


def test_densities_have_no_bits() -> None:
    dataset = tiny_dataset("grey")
    (outcome,) = train_all([task(0, epochs=1, likelihood="gaussian_learned")], 1, dataset).values()
    assert "test/bits_per_dim" not in outcome.metrics and "test/log_likelihood_iw" in outcome.metrics


def test_nothing_is_left_out_of_mlflow() -> None:
    outcome = trained()
    record = TrialRecord(task(3).key, {}, 0, State.COMPLETE, outcome=outcome)
    subject = Subject("s", WorkPaths.at("/nowhere"), lambda _: {}, str)
    run = run_record(record, subject, parent=SweepRun("s", "id", "", "", 0, {}, None), reproducible=True)
    points: Mapping[str, int] = {key: sum(p.key == key for p in run.metrics) for key in {p.key for p in run.metrics}}
    assert points.keys() >= outcome.metrics.keys() and len(points) <= MAX_KEYS
    assert all(count <= CURVE_POINTS for key, count in points.items() if key not in FULL_CURVES)


# -------------------------------------------------------------------------------------------- scales


@every_scale
def test_where_a_scale_is_at_its_limit(scale: Scale) -> None:
    a = torch.cat([torch.linspace(-60, 60, 1200, dtype=F64), torch.zeros(1, dtype=F64)])
    sigma, found = scale.forward(a)[0], scale.at_limit(a)
    bounded = scale.lowest > 0 or scale.highest < math.inf or scale.outside is not None
    assert bool(found.any()) == bounded
    if scale.outside is not None:
        assert bool(found[scale.outside(a)].all())
    dead = scale.jacobian(a) == 0
    assert bool(found[dead & sigma.isfinite() & (sigma > 0)].all()), "where a clamp holds σ, it acts"
    free = scale.lowest * NEAR_LIMIT * 1.01, scale.highest / NEAR_LIMIT / 1.01
    if free[0] < 0.5 < free[1]:
        assert not bool(scale.at_limit(torch.tensor(scale.inverse(0.5), dtype=F64)))


# ------------------------------------------------------------------------------------------ pictures


def cells(content: bytes, shape: tuple[int, int] = (5, 7)) -> NDArray[np.uint8]:
    """The images of a grid, (rows, columns, D)."""
    picture = np.asarray(Image.open(io.BytesIO(content)))
    small = picture
    for factor in range(1, 50):
        height, width = picture.shape[0] / factor, picture.shape[1] / factor
        if (height - GAP) % (shape[0] + GAP) == 0 and (width - GAP) % (shape[1] + GAP) == 0:
            small = picture[::factor, ::factor]
            break
    rows, columns = (small.shape[0] - GAP) // (shape[0] + GAP), (small.shape[1] - GAP) // (shape[1] + GAP)
    found = [
        small[GAP + i * (shape[0] + GAP) :, GAP + j * (shape[1] + GAP) :][: shape[0], : shape[1]].reshape(-1)
        for i in range(rows)
        for j in range(columns)
    ]
    return np.stack(found).reshape(rows, columns, -1)


def decoded(model: VAE, z: Tensor) -> NDArray[np.uint8]:
    with torch.no_grad():
        return to_bytes(model.observation.mean(model.decode(z)).numpy(), 0.0, float(LEVELS))


def close(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> bool:
    """To a grey level: another batch may round otherwise."""
    return bool((np.abs(found.astype(int) - expected.astype(int)) <= 1).all())


def test_the_middle_of_a_traversal_is_its_base_and_its_ends_are_three_away() -> None:
    outcome = trained()
    model, found = model_of(outcome, 5), cells(outcome.files["traversals.png"])
    assert found.shape == (5, STEPS, 35)
    base = decoded(model, torch.zeros(1, 5))
    assert all(close(row[STEPS // 2], base[0]) for row in found)
    with torch.no_grad():
        mean, raw = model.encode(torch.tensor(with_factors().test))
    rate = (0.5 * (mean**2 + raw.exp() - 1 - raw)).mean(0)
    first = int(rate.argmax())
    for column, value in ((0, -3.0), (-1, 3.0)):
        z = torch.zeros(1, 5)
        z[0, first] = value
        assert close(found[0][column], decoded(model, z)[0])
    assert not close(found[0][0], found[0][-1])


def test_an_interpolation_leads_from_one_image_to_the_next() -> None:
    outcome, x = trained(), torch.tensor(with_factors().test)
    model, found = model_of(outcome, 5), cells(outcome.files["interpolations.png"])
    assert found.shape == (8, 11, 35)
    with torch.no_grad():
        mean = model.encode(x[:2])[0]
    assert (found[0, 0] == to_bytes(x[0].numpy(), 0, LEVELS)).all()
    assert (found[0, -1] == to_bytes(x[1].numpy(), 0, LEVELS)).all()
    assert close(found[0, 1], decoded(model, mean[:1])[0]) and close(found[0, -2], decoded(model, mean[1:])[0])
    assert close(found[0, 5], decoded(model, mean.mean(0, keepdim=True))[0])


def test_the_manifold_of_two_latents() -> None:
    outcome = trained(latent_dim=2)
    model, found = model_of(outcome, 2), cells(outcome.files["manifold.png"])
    assert found.shape == (20, 20, 35) and "manifold.png" not in trained().files
    corner = float(torch.special.ndtri(torch.tensor(0.975)))
    for row, column, z in ((0, 0, (-corner, corner)), (19, 19, (corner, -corner)), (19, 0, (-corner, -corner))):
        assert close(found[row, column], decoded(model, torch.tensor([z]))[0])


def test_walks() -> None:
    walk = traversals(randn(4), torch.tensor([2, 0]), 7)
    assert walk.shape == (2, 7, 4) and walk[0, :, 2].tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert (walk[0, :, [0, 1, 3]] == randn(4)[[0, 1, 3]]).all()
    between = interpolations(randn(3, 4), randn(3, 4, seed=1), 5)
    assert (between[:, 0] == randn(3, 4)).all() and (between[:, -1] == randn(3, 4, seed=1)).all()
    torch.testing.assert_close(between[:, 2], (randn(3, 4) + randn(3, 4, seed=1)) / 2)
    flat = torch.special.ndtr(manifold(4))
    torch.testing.assert_close(flat[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=F64))
    torch.testing.assert_close(flat[:, 0, 1], torch.tensor([0.875, 0.625, 0.375, 0.125], dtype=F64))


def test_large_images_get_fewer_rows() -> None:
    assert rows_within(16, 11, (64, 64, 3)) == 16 and rows_within(16, 11, (256, 256)) == 1
    assert rows_within(16, 11, (10**4, 10**4)) == 1, "one there always is"


def test_the_picture_of_a_histogram() -> None:
    picture = np.asarray(Image.open(io.BytesIO(histogram_png(range(3), [0, 1, 100, 0]))))
    lit = (picture[:, 16:-16] == 220)[:176].sum(0)
    assert lit[45] == 0 and lit[135] == 2 and lit[225] == 160 and lit[315] == 0
    kept = json.loads(trained().files["sigma_histogram.json"])["counts"]
    tallest = int(
        np.argmax((np.asarray(Image.open(io.BytesIO(trained().files["sigma_histogram.png"])))[:176] == 220).sum(0))
    )
    assert (tallest - 16) // 6 == int(np.argmax(kept))
