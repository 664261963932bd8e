"""Importance-weighted bounds, the aggregated posterior, MIG and Fréchet distance against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor
from torch.distributions import Binomial, MultivariateNormal, Normal, kl_divergence

from pipeline.vae.aggregate import (
    MIG_BINS,
    code_information,
    collapsed_units,
    decompose,
    frechet_distance,
    gaussian_total_correlation,
    mutual_information_gap,
    principal_features,
)
from pipeline.vae.bounds import (
    BOUND_IMAGES,
    BOUND_ROWS,
    BOUND_SAMPLES,
    bound_samples,
    head_signal_to_noise,
    importance_weighted,
)
from pipeline.vae.metrics import evaluation_set
from pipeline.vae.model import VAE, build_vae
from pipeline.vae.objectives import log_sum_exp
from pipeline.vae.posterior import POSTERIORS, Diagonal, Full
from pipeline.vae.scales import SCALES

from .test_vae import F64, LEVELS, log_prob, pixels_for, randn, small_vae

SCALE = SCALES["softplus_std"]


def ppca_vae(values: Tensor, *, rotation: Tensor | None = None) -> tuple[VAE, Tensor]:
    """A linear VAE at its optimum for x = W z + noise, W diagonal with `values`; and the covariance of x."""
    latents, pixels = len(values), len(values) + 2
    model = build_vae(
        network="mlp", pixels=pixels, hidden=(), activation="relu", posterior="diagonal", latent_dim=latents,
        likelihood="gaussian", levels=None,
    ).to(F64)  # fmt: skip
    loadings = torch.zeros(pixels, latents, dtype=F64)
    loadings[:latents] = values.diag() @ (rotation if rotation is not None else torch.eye(latents, dtype=F64))
    precision = loadings.T @ loadings + torch.eye(latents, dtype=F64)
    tensors = {
        "decoder.0.weight": loadings, "mean.weight": torch.linalg.solve(precision, loadings.T),
        "raw_scale.bias": torch.tensor([SCALE.inverse(float(p) ** -0.5) for p in precision.diagonal()], dtype=F64),
    }  # fmt: skip
    state = {name: tensors.get(name, torch.zeros_like(old)) for name, old in model.state_dict().items()}
    model.load_state_dict(state)
    return model, loadings @ loadings.T + torch.eye(pixels, dtype=F64)


ONE = {"observation_std": torch.tensor(1.0, dtype=F64)}


def bound(model: VAE, x: Tensor, samples: int, seed: int = 0) -> dict[str, float]:
    data = evaluation_set(x, model.observation.log_base(x), randn(samples, len(x), model.latent_dim, seed=seed))
    found = importance_weighted(model, SCALE.forward, data, ONE, 1)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_the_bound_is_the_likelihood_where_the_posterior_is_exact(samples: int) -> None:
    """Oracle O11."""
    model, covariance = ppca_vae(torch.tensor([2.0, 0.7, 1.1], dtype=F64))
    reference = MultivariateNormal(torch.zeros(5, dtype=F64), covariance)
    x = reference.sample((37,))
    found = bound(model, x, samples)
    exact = log_prob(reference, x)
    assert found["iw_elbo"] == pytest.approx(float(exact.mean()), abs=1e-9)
    assert found["iw_elbo_se"] == pytest.approx(float(exact.std() / math.sqrt(37)), rel=1e-6)
    assert found["ess"] == pytest.approx(1.0, abs=1e-9)


def test_the_bound_rises_with_its_samples_and_stays_below_the_likelihood() -> None:
    angle = torch.tensor(0.7, dtype=F64)
    rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    model, covariance = ppca_vae(torch.tensor([2.0, 0.5], dtype=F64), rotation=rotation)
    x = MultivariateNormal(torch.zeros(4, dtype=F64), covariance).sample((400,))
    exact = float(log_prob(MultivariateNormal(torch.zeros(4, dtype=F64), covariance), x).mean())
    found = [np.mean([bound(model, x, samples, seed)["iw_elbo"] for seed in range(5)]) for samples in (1, 5, 50)]
    assert found[0] < found[1] < found[2] < exact + 0.01
    assert exact - found[0] > 0.2 and exact - found[2] < 0.03


def test_the_bound_against_a_plain_computation() -> None:
    model, x, noise = small_vae(), pixels_for("counts", (13, 35)), randn(6, 13, 3, seed=8)
    data = evaluation_set(x, model.observation.log_base(x), noise)
    found = importance_weighted(model, SCALE.forward, data, {}, 1)
    with torch.no_grad():
        q = model.posterior(x, SCALE.forward)
        z = q.mean + q.sigma * noise
        weights = log_prob(Binomial(LEVELS, logits=model.decode(z)), x).sum(-1)
        weights += (log_prob(Normal(0.0, 1.0), z) - log_prob(Normal(q.mean, q.sigma), z)).sum(-1)
    each = weights.logsumexp(0) - math.log(6)
    share = (weights.softmax(0) ** 2).sum(0).reciprocal().mean() / 6
    assert float(found["iw_elbo"]) == pytest.approx(float(each.mean()), rel=1e-12)
    assert float(found["ess"]) == pytest.approx(float(share), rel=1e-9)


def test_samples_depend_on_the_number_of_images_alone() -> None:
    assert bound_samples(270) == BOUND_ROWS // 270 and bound_samples(10**6) == 1 and bound_samples(1) == BOUND_SAMPLES
    assert bound_samples(BOUND_IMAGES) >= 50


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_signal_to_noise(posterior: str) -> None:
    """Of ∂ELBO/∂μ and ∂ELBO/∂a, by hand for a diagonal posterior: the decoder's gradient g at z gives g - μ."""
    model, x, noise = small_vae(posterior=posterior), pixels_for("counts", (9, 35)), randn(7, 9, 3)
    mean, raw = head_signal_to_noise(model, SCALE, x.unsqueeze(0), noise, {})
    assert mean.shape == raw.shape == (1,) and float(mean) > 0 and float(raw) > 0
    if posterior == "diagonal":
        outputs = [output.detach() for output in model.encode(x)]
        drawn = []
        for one in noise:
            z = (outputs[0] + SCALE.forward(outputs[1])[0] * one).requires_grad_()
            kernel = model.observation.log_kernel(x, model.decode(z), {}).sum()
            drawn.append(torch.autograd.grad(kernel, z)[0] - outputs[0])
        stacked = torch.stack(drawn)
        assert float(mean) == pytest.approx(float((stacked.mean(0).abs() / stacked.std(0)).mean()), rel=1e-9)


# ------------------------------------------------------------------------------- aggregated posterior


def gaussian(mean: Tensor, sigma: Tensor) -> Diagonal:
    return Diagonal(mean, sigma, sigma.log())


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_the_parts_of_the_rate(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.vae.aggregate.CHUNK_ELEMENTS", chunk)
    q = gaussian(randn(2, 40, 3), 0.2 + randn(2, 40, 3, seed=1).abs())
    z = q.sample(randn(2, 40, 3, seed=2))
    found = decompose(q, z)
    log_q = q.log_q(z).sum(-1)
    rate = (log_q - log_prob(Normal(0.0, 1.0), z).sum(-1)).mean(-1)
    torch.testing.assert_close(sum(found.values()), rate, rtol=0, atol=1e-9)
    each = log_prob(Normal(q.mean[:, None], q.sigma[:, None]), z[:, :, None])
    joint = each.sum(-1).logsumexp(-1) - math.log(40)
    torch.testing.assert_close(found["mutual_information"], (log_q - joint).mean(-1))
    assert (found["mutual_information"] <= math.log(40) + 1e-9).all()


def test_parts_of_the_rate_where_they_are_known() -> None:
    """Posteriors that are the prior carry nothing; copies of one latent are all total correlation and information."""
    nothing = decompose(gaussian(torch.zeros(60, 2, dtype=F64), torch.ones(60, 2, dtype=F64)), randn(60, 2))
    assert all(abs(float(value)) < 1e-12 for value in nothing.values())
    mean, noise = randn(60, 1).repeat(1, 2) * 1e3, randn(60, 2)
    q = gaussian(mean, torch.full_like(mean, 1e-3))
    parts = decompose(q, q.sample(noise))
    assert float(parts["mutual_information"]) == pytest.approx(math.log(60), abs=1e-9)
    assert float(parts["total_correlation"]) == pytest.approx(math.log(60), abs=1e-9)
    one = gaussian(mean[:, :1], torch.full_like(mean[:, :1], 1e-3))
    assert float(decompose(one, one.sample(noise[:, :1]))["total_correlation"]) == pytest.approx(0, abs=1e-9)


def test_correlation_inside_every_posterior_is_no_information() -> None:
    """q(z|x) = N(0, S) for every x: nothing is told of x, and the latents' correlation is S's."""
    rows = 2000
    cholesky = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=F64).expand(rows, 2, 2)
    q = Full(torch.zeros(rows, 2, dtype=F64), cholesky, cholesky.diagonal(dim1=-2, dim2=-1).log())
    z = q.sample(randn(rows, 2))
    parts = decompose(q, z)
    assert abs(float(parts["mutual_information"])) < 1e-9
    exact = log_prob(MultivariateNormal(torch.zeros(2, dtype=F64), scale_tril=cholesky[0]), z)
    expected = (exact - log_prob(Normal(0.0, 1.0), z).sum(-1)).mean()
    assert float(parts["total_correlation"]) == pytest.approx(float(expected), abs=1e-9)
    assert float(parts["total_correlation"]) == pytest.approx(0.2231, abs=0.04)
    assert int(collapsed_units(q)) == 2, "each by itself is the prior"


def test_collapse() -> None:
    mean = torch.zeros(200, 3, dtype=F64)
    mean[:, 0] = 2.0
    mean[:2, 1] = 3.0  # 1% of the images
    mean[:3, 2] = 3.0
    assert int(collapsed_units(gaussian(mean, torch.ones_like(mean)))) == 1
    both = torch.stack([mean, mean * 0])
    assert collapsed_units(gaussian(both, torch.ones_like(both))).tolist() == [1, 3]


def test_a_weight_of_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_vae(), pixels_for("counts", (16, 35))
    data = evaluation_set(x, model.observation.log_base(x), randn(4, 16, 3))
    lost = {0, 2}

    def kernel(x: Tensor, output: Tensor, hyper: object) -> Tensor:
        sample = torch.arange(output.shape[-2]) // 16
        return torch.where(torch.isin(sample, torch.tensor(sorted(lost))), -math.inf, -9.0).expand(output.shape[:-1])

    monkeypatch.setattr(model.likelihood, "log_kernel", kernel)
    found = importance_weighted(model, SCALE.forward, data, {}, 1)
    assert math.isfinite(float(found["iw_elbo"])) and 0 < float(found["ess"]) <= 0.5
    lost |= {1, 3}
    assert float(importance_weighted(model, SCALE.forward, data, {}, 1)["iw_elbo"]) == -math.inf


def test_gaussian_total_correlation() -> None:
    """Oracle O19."""
    covariance = torch.tensor([[1, 0.6], [0.6, 1]], dtype=F64)
    codes = MultivariateNormal(torch.zeros(2, dtype=F64), covariance).sample((400_000,))
    assert float(gaussian_total_correlation(codes)) == pytest.approx(0.2231436, abs=4e-3)
    rho = np.corrcoef(codes.T.numpy())[0, 1]
    assert float(gaussian_total_correlation(codes)) == pytest.approx(-0.5 * math.log(1 - rho**2), abs=1e-9)


# ------------------------------------------------------------------------------------------- factors

SIZES = (3, 40, 16)


def factors_of() -> Tensor:
    """Every combination equally often, so that factors know nothing of each other."""
    return torch.cartesian_prod(*(torch.arange(size) for size in SIZES)).repeat(5, 1)


def test_a_perfect_code_scores_one_whatever_its_order_and_sign() -> None:
    """Oracle O23; with 20 bins a factor of 40 values could not."""
    factors = factors_of()
    codes = factors.double()[:, [2, 0, 1]] * torch.tensor([-0.3, 7.0, 1e-3], dtype=F64) + 5
    codes = torch.cat([codes, torch.zeros(len(codes), 1, dtype=F64)], -1)
    assert mutual_information_gap(codes, factors, SIZES) == pytest.approx(1.0, abs=1e-12)
    assert max(SIZES) > MIG_BINS


def test_a_copied_code_scores_nothing_and_noise_next_to_nothing() -> None:
    factors = factors_of()
    assert mutual_information_gap(factors.double().repeat(1, 2), factors, SIZES) == pytest.approx(0.0, abs=1e-12)
    assert abs(mutual_information_gap(randn(len(factors), 5), factors, SIZES)) < 0.02
    constant = torch.zeros_like(factors[:, :1])
    assert math.isnan(mutual_information_gap(randn(len(factors), 5), constant, (1,)))


def test_information_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import mutual_info_score

    factors, codes = factors_of()[:2000], randn(2000, 4)
    codes[:, 1] += factors[:, 1] * 0.1
    found = code_information(codes, factors, SIZES)
    for j in range(4):
        edges = np.linspace(float(codes[:, j].min()), float(codes[:, j].max()), max(SIZES) + 1)
        binned = np.clip(np.digitize(codes[:, j].numpy(), edges) - 1, 0, max(SIZES) - 1)
        for f in range(3):
            expected = mutual_info_score(factors[:, f].numpy(), binned)
            assert float(found[f, j]) == pytest.approx(expected, abs=5e-3)


# ------------------------------------------------------------------------------------------- samples


def test_frechet_distance() -> None:
    one, other = randn(500, 4) @ randn(4, 4, seed=3), randn(300, 4, seed=1) @ randn(4, 4, seed=4) + 1
    covariances = [np.cov(values.T.numpy()) for values in (one, other)]
    cross = np.trace(linalg.sqrtm(covariances[0] @ covariances[1])).real
    gap = float(((one.mean(0) - other.mean(0)) ** 2).sum())
    expected = gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one[:, :1], other[:, :1]) > 0
    # Gaussians with independent coordinates: Σ (μ1 - μ2)² + (s1 - s2)².
    flat = torch.tensor([[1.0], [-1.0]], dtype=F64)
    assert frechet_distance(flat, 3 * flat + 2) == pytest.approx(4 + (3 * math.sqrt(2) - math.sqrt(2)) ** 2)


def test_principal_features() -> None:
    from sklearn.decomposition import PCA

    x = randn(60, 7) @ randn(7, 7, seed=3)
    mean, axes = principal_features(x, most=3)
    reference = PCA(3, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(mean.numpy(), reference.mean_, atol=1e-12)
    np.testing.assert_allclose(np.abs(axes.T.numpy()), np.abs(reference.components_), atol=1e-9)
    few, wide = x[:5], randn(5, 7) @ randn(7, 40, seed=3)
    for images in (few, wide):
        reference = PCA(4, svd_solver="full").fit(images.numpy())
        axes = principal_features(images)[1]
        np.testing.assert_allclose(np.abs(axes.T.numpy()), np.abs(reference.components_), atol=1e-7)
    assert principal_features(wide[[0, 1, 0, 1]])[1].shape == (40, 1), "as many as there is variance along"


def test_rates_of_a_posterior_and_their_kl_agree() -> None:
    """The parts of the rate sum to it on average: 40 draws an image against the closed form."""
    q = gaussian(randn(30, 3), 0.3 + randn(30, 3, seed=1).abs())
    totals = [float(sum(decompose(q, q.sample(randn(30, 3, seed=100 + seed))).values())) for seed in range(40)]
    exact = float(kl_divergence(Normal(q.mean, q.sigma), Normal(0.0, 1.0)).sum(-1).mean())
    assert abs(float(np.mean(totals)) - exact) < 4 * float(np.std(totals)) / math.sqrt(40)


# --------------------------------------------------------------------------------- found by mutants


@pytest.mark.parametrize("chunk", [1, 1000, 5000])
def test_no_table_is_larger_than_it_may_be(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or than one image's, which cannot be divided."""
    sizes: list[int] = []

    def recorded(values: Tensor, axis: int) -> Tensor:
        sizes.append(values.numel())
        return log_sum_exp(values, axis)

    monkeypatch.setattr("pipeline.vae.aggregate.CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr("pipeline.vae.aggregate.log_sum_exp", recorded)
    q = gaussian(randn(2, 40, 3), 0.2 + randn(2, 40, 3, seed=1).abs())
    decompose(q, q.sample(randn(2, 40, 3, seed=2)))
    one = 2 * 40 * 3
    assert max(sizes) == max(chunk // one, 1) * one


def test_factors_of_few_values_are_seen_through_twenty_bins() -> None:
    """21 codes at equal distances: the last two share a bin, and with it what tells them apart."""
    codes = torch.arange(21, dtype=F64).repeat(10).unsqueeze(1)
    parity = codes.long() % 2
    table, _, _ = np.histogram2d(codes[:, 0].clamp(max=19), parity[:, 0], bins=(20, 2), range=((0, 20), (0, 2)))
    joint = torch.from_numpy(table / table.sum())
    independent = joint.sum(0) * joint.sum(1, keepdim=True)
    expected = torch.special.xlogy(joint, joint / independent).nansum()
    assert float(code_information(codes, parity, (2,))) == pytest.approx(float(expected), rel=1e-12)


def test_frechet_distance_of_fewer_images_than_features() -> None:
    """Covariances without full rank, whose smallest eigenvalues come out below 0."""
    one, other = randn(4, 9), randn(5, 9, seed=1)
    covariances = [np.cov(values.T.numpy()) for values in (one, other)]
    both = linalg.eigvals(covariances[0] @ covariances[1]).real
    gap = float(((one.mean(0) - other.mean(0)) ** 2).sum())
    expected = gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.sqrt(both.clip(0)).sum()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
