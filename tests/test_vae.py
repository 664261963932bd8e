"""The VAE kit against independent references: torch.distributions, torch.nn.functional, exact decimals.

The contract tests run over the kit's tables, so a new scale, likelihood, objective or activation joins by itself.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Distribution,
    Normal,
    kl_divergence,
)
from torch.nn import functional

from pipeline.vae.functions import (
    counts_log_kernel,
    gaussian_kl,
    log_softplus,
    log_softplus_slope,
    sigmoid,
    softplus,
)
from pipeline.vae.likelihoods import LIKELIHOODS, NATURAL_LIKELIHOOD, LikelihoodModule
from pipeline.vae.metrics import (
    CHUNK_ROWS,
    SIGMA_LOG10_EDGES,
    ImageDetails,
    active_units,
    evaluate,
    evaluation_set,
)
from pipeline.vae.model import VAE, build_vae, draw, initialise, standard_normal_bank, start_from
from pipeline.vae.networks import ACTIVATIONS
from pipeline.vae.pictures import GAP, PAPER, pairs_grid, square_grid, to_bytes
from pipeline.vae.posterior import POSTERIORS
from pipeline.vae.scales import SCALES, Scale

F64 = torch.float64
LEVELS = 16
every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def log_prob(distribution: Distribution, x: Tensor) -> Tensor:
    value: Tensor = distribution.log_prob(x)
    return value


def pieces_agree(function: Callable[[Tensor], Tensor], a: Tensor) -> bool:
    """Whether value and gradient of each element are bit for bit the same alone and inside a tensor of odd length."""

    def run(part: Tensor) -> tuple[Tensor, Tensor]:
        leaf = part.clone().requires_grad_()
        value = function(leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    value, gradient = run(a)
    alone = [run(a[i : i + 1]) for i in range(len(a))]
    return torch.equal(value, torch.cat([v for v, _ in alone])) and torch.equal(
        gradient, torch.cat([g for _, g in alone])
    )


def test_the_place_test_can_fail() -> None:
    assert not pieces_agree(functional.softplus, randn(259, dtype=torch.float32) * 5)


# ---------------------------------------------------------------------------------------- functions

EXTREMES = torch.cat(
    [torch.linspace(-40, 40, 321, dtype=F64), torch.tensor([-1e4, -800.0, -1e-300, 1e-300, 800.0, 1e4], dtype=F64)]
)


def test_softplus_and_sigmoid() -> None:
    a = EXTREMES.clone().requires_grad_()
    reference = functional.softplus(a, threshold=40)
    (slope,) = torch.autograd.grad(softplus(a).sum(), a)
    torch.testing.assert_close(softplus(a), reference, rtol=1e-14, atol=0)
    torch.testing.assert_close(slope, torch.sigmoid(a), rtol=1e-14, atol=0)
    torch.testing.assert_close(sigmoid(EXTREMES), torch.sigmoid(EXTREMES), rtol=1e-14, atol=0)


def test_log_softplus() -> None:
    a = EXTREMES.clone().requires_grad_()
    naive = functional.softplus(a, threshold=40).log()
    reference = torch.where(a < -40, a, naive)
    (slope,) = torch.autograd.grad(log_softplus(a).sum(), a)
    (expected,) = torch.autograd.grad(naive.sum(), a)
    torch.testing.assert_close(log_softplus(a), reference, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(slope, torch.where(a < -40, 1.0, expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("trials", [1, LEVELS])
def test_counts_log_kernel(trials: int) -> None:
    logits = torch.cat([EXTREMES, torch.zeros(5, dtype=F64)]).expand(trials + 1, -1).clone().requires_grad_()
    counts = torch.arange(trials + 1, dtype=F64).unsqueeze(-1).expand_as(logits)
    value = counts_log_kernel(logits, counts, float(trials))
    reference = -trials * functional.binary_cross_entropy_with_logits(logits, counts / trials, reduction="none")
    (slope,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(value, reference.sum(-1), rtol=1e-13, atol=0)
    torch.testing.assert_close(slope, counts - trials * torch.sigmoid(logits.detach()), rtol=1e-13, atol=1e-14)


class Copy(nn.Module):
    """Some activations work in place, which a leaf would not bear."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("length", [37, 259])
def test_function_bits_do_not_depend_on_place(dtype: torch.dtype, length: int) -> None:
    a, counts = randn(length, dtype=dtype) * 5, torch.tensor(3, dtype=dtype)
    functions: list[Callable[[Tensor], Tensor]] = [softplus, log_softplus]
    functions += [nn.Sequential(Copy(), build()) for build in ACTIVATIONS.values()]
    for function in functions:
        assert pieces_agree(function, a), function
    assert pieces_agree(lambda x: counts_log_kernel(x.unsqueeze(-1), counts, 16.0), a)
    assert torch.equal(sigmoid(a), torch.cat([sigmoid(a[i : i + 1]) for i in range(length)]))


# ------------------------------------------------------------------------------------- likelihoods

STD = torch.tensor(0.7, dtype=F64)
LEARNED = -0.4
"""value of a likelihood's own parameter, where it has one"""


def beta_binomial(output: Tensor, x: Tensor) -> NDArray[np.float64]:
    mean, total = torch.sigmoid(output).numpy(), math.exp(LEARNED)
    return np.asarray(stats.betabinom.logpmf(x.numpy(), LEVELS, mean * total, (1 - mean) * total))


def discretized_logistic(output: Tensor, x: Tensor) -> NDArray[np.float64]:
    reference = stats.logistic((output.numpy() + 0.5) * LEVELS, LEVELS * math.exp(LEARNED))
    lower = np.where(x == 0, 0.0, reference.cdf(x.numpy() - 0.5))
    upper = np.where(x == LEVELS, 1.0, reference.cdf(x.numpy() + 0.5))
    return np.asarray(np.log(upper - lower))


def of_torch(make: Callable[[Tensor], Distribution]) -> Callable[[Tensor, Tensor], NDArray[np.float64]]:
    return lambda output, x: log_prob(make(output), x).numpy()


REFERENCES: dict[str, Callable[[Tensor, Tensor], NDArray[np.float64]]] = {
    "binomial": of_torch(lambda output: Binomial(LEVELS, logits=output)),
    "bernoulli": of_torch(lambda output: Bernoulli(logits=output)),
    "beta_binomial": beta_binomial,
    "categorical": of_torch(lambda output: Categorical(logits=output.unflatten(-1, (-1, LEVELS + 1)))),  # type: ignore[no-untyped-call]
    "continuous_bernoulli": of_torch(lambda output: ContinuousBernoulli(logits=output)),
    "discretized_logistic": discretized_logistic,
    "gaussian": of_torch(lambda output: Normal(output, STD)),
    "gaussian_learned": of_torch(lambda output: Normal(output, math.exp(LEARNED))),
}
"""an entry here is all that a new likelihood must add to this file"""
HYPER = {"observation_std": STD}


def likelihood_of(name: str, dtype: torch.dtype = F64) -> LikelihoodModule:
    likelihood = LIKELIHOODS[name](levels=LEVELS).to(dtype)
    for parameter in likelihood.parameters():
        parameter.data.fill_(LEARNED)
    return likelihood


def pixels_for(kind: str, shape: tuple[int, ...]) -> Tensor:
    if kind == "real":
        return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=F64)
    levels = LEVELS if kind == "counts" else 1
    return torch.randint(0, levels + 1, shape, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_against_its_reference(name: str) -> None:
    likelihood = likelihood_of(name)
    (kind,) = likelihood.kinds
    x, output = pixels_for(kind, (9, 35)), randn(9, 35 * likelihood.outputs)
    found = likelihood.log_kernel(x, output, HYPER) + likelihood.log_base(x)
    np.testing.assert_allclose(found.detach().numpy(), REFERENCES[name](output, x).sum(-1), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_gradients(name: str) -> None:
    likelihood = likelihood_of(name)
    (kind,) = likelihood.kinds
    x = pixels_for(kind, (3, 4))
    parameters = list(cast(nn.Module, likelihood).parameters())
    output = (randn(3, 4 * likelihood.outputs) * 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf, *_: likelihood.log_kernel(x, leaf, HYPER), (output, *parameters))


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("logit", [-30.0, -1.0, -0.03, 0.0, 1e-9, 2.5, 30.0])
def test_likelihoods_sum_to_one_and_have_their_mean(name: str, logit: float) -> None:
    """Oracles O13 and O14."""
    likelihood = likelihood_of(name)
    (kind,) = likelihood.kinds
    if name.startswith("gaussian"):
        x, weight = torch.linspace(logit - 12, logit + 12, 200_001, dtype=F64), 24 / 200_000
    elif kind == "real":
        x, weight = torch.linspace(0, 1, 200_001, dtype=F64), 1 / 200_000
    else:
        x, weight = torch.arange((LEVELS if kind == "counts" else 1) + 1, dtype=F64), 1.0
    x = x.unsqueeze(-1)
    output = torch.full_like(x, logit).repeat(1, likelihood.outputs)
    output[:, 1:] *= 0.5
    with torch.no_grad():
        mass = (likelihood.log_kernel(x, output, HYPER) + likelihood.log_base(x)).exp() * weight
        if kind == "real":
            mass[[0, -1]] *= 0.5  # the trapezoidal rule
        assert float(mass.sum()) == pytest.approx(1, abs=1e-8 if kind == "real" else 1e-11)
        mean = float((mass * x.squeeze(-1)).sum())
        assert float(likelihood.mean(output[:1])) == pytest.approx(mean, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e-3, 0.099, 0.101, 1.0, 10.0, 100.0, 1e4])
def test_likelihoods_are_finite_far_out(name: str, size: float) -> None:
    """Oracle O22 for the decoder's side, in float32, where the data themselves are not far out."""
    likelihood = likelihood_of(name, torch.float32)
    (kind,) = likelihood.kinds
    x = pixels_for(kind, (2, 6)).float()
    x[0] = torch.tensor([0, 1, 0, 1, 0, 1]) * (LEVELS if kind == "counts" else 1)
    for sign in (-1, 1):
        output = torch.full((2, 6 * likelihood.outputs), sign * size).requires_grad_()
        value = likelihood.log_kernel(x, output, {"observation_std": STD.float()})
        (gradient,) = torch.autograd.grad(value.sum(), output)
        assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
        assert torch.isfinite(likelihood.mean(output.detach())).all()


def test_every_kind_of_data_has_a_natural_likelihood() -> None:
    assert all(kind in LIKELIHOODS[name].kinds for kind, name in NATURAL_LIKELIHOOD.items())


# ----------------------------------------------------------------------------------- model, metrics


def small_vae(
    latent_dim: int = 3,
    *,
    dtype: torch.dtype = F64,
    hidden: tuple[int, ...] = (19,),
    seed: int = 5,
    posterior: str = "diagonal",
) -> VAE:
    model = build_vae(
        network="mlp",
        pixels=35,
        hidden=hidden,
        activation="relu",
        posterior=posterior,
        latent_dim=latent_dim,
        likelihood="binomial",
        levels=LEVELS,
    ).to(dtype)
    initialise(model, seed)
    return model


@pytest.mark.parametrize("count", [1, 37, 530])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-11), (torch.float32, 1e-5)])
@torch.no_grad()
def test_evaluate_against_a_plain_computation(count: int, dtype: torch.dtype, tolerance: float) -> None:
    assert count < CHUNK_ROWS or count % 16, "one case must have several chunks and padding"
    model, samples = small_vae(dtype=dtype), 3
    x, noise = pixels_for("counts", (count, 35)).to(dtype), randn(samples, count, 3, dtype=dtype)
    data = evaluation_set(x, model.likelihood.log_base(x), noise)  # type: ignore[operator]
    scale = SCALES["softplus_std"].forward
    found = {name: float(value) for name, value in evaluate(model, scale, data, {}, 1).items()}
    exact, x, noise = small_vae(dtype=dtype).double(), x.double(), noise.double()
    mean, raw = exact.encode(x)
    q = Normal(mean, functional.softplus(raw))
    rate = kl_divergence(q, Normal(0.0, 1.0)).sum(-1).mean()
    logits = torch.stack([exact.decode(q.mean + q.stddev * eps) for eps in noise])
    distortion = -log_prob(Binomial(LEVELS, logits=logits), x).sum(-1).mean()
    active = int((mean.var(0) > 0.01).sum()) if count > 1 else 0
    expected = {
        "elbo": -float(rate + distortion),
        "rate": float(rate),
        "distortion": float(distortion),
        "active_units": active,
        "sigma_mean": float(q.stddev.mean()),
        "sigma_min": float(q.stddev.min()),
        "sigma_max": float(q.stddev.max()),
    }
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("count", [2, 37, 530])
@torch.no_grad()
def test_what_is_seen_of_single_images_against_a_plain_computation(count: int) -> None:
    model, samples = small_vae(), 3
    x, noise = pixels_for("counts", (count, 35)), randn(samples, count, 3)
    data = evaluation_set(x, model.likelihood.log_base(x), noise)  # type: ignore[operator]
    scale = SCALES["softplus_std"].forward
    details = ImageDetails(data, 1)
    watched = evaluate(model, scale, data, {}, 1, details)
    assert watched == evaluate(model, scale, data, {}, 1), "being watched changes no number"
    mean, raw = model.encode(x)
    q = Normal(mean, functional.softplus(raw))
    rate = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    logits = torch.stack([model.decode(q.mean + q.stddev * eps) for eps in noise])
    elbo = (log_prob(Binomial(LEVELS, logits=logits), x).sum(-1).mean(0) - rate).numpy()
    np.testing.assert_allclose(details.elbo()[0].numpy(), elbo, rtol=1e-12)
    assert float(details.elbo_se()) == pytest.approx(elbo.std(ddof=1) / math.sqrt(count), rel=1e-10)
    assert float(details.elbo().mean()) == pytest.approx(float(watched["elbo"]), rel=1e-12)
    sigma = q.stddev.numpy().ravel()
    counts, _ = np.histogram(sigma, np.power(10.0, SIGMA_LOG10_EDGES))
    assert details.sigma_counts()[0].tolist() == [0, *counts, 0] and counts.sum() == sigma.size


def test_every_sigma_is_counted_once_in_its_bin() -> None:
    edges = [10.0**edge for edge in SIGMA_LOG10_EDGES]
    assert (len(edges), edges[0], edges[-1]) == (61, 1e-4, 100.0)
    inside = [math.sqrt(low * high) for low, high in pairwise(edges)]
    sigma = torch.tensor([[1e-9, *inside, *edges, 1e9, math.inf]], dtype=F64).unsqueeze(-1)
    data = evaluation_set(torch.zeros(sigma.shape[1], 2, dtype=F64), torch.zeros(sigma.shape[1]), randn(1, 124, 1))
    details = ImageDetails(data, 1)
    padded = torch.cat([sigma, torch.full((1, 128 - 124, 1), 1.0, dtype=F64)], 1)
    details.add_posterior(slice(0, 128), torch.zeros(1, 128, dtype=F64), padded)
    assert details.sigma_counts().tolist() == [[1, *[2] * 60, 3]]


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_what_a_step_draws_is_what_is_measured(posterior: str) -> None:
    model, scale = small_vae(posterior=posterior), SCALES["log_std"]
    x, noise = pixels_for("counts", (48, 35)), randn(5, 48, 3)
    draws = draw(model, scale, x, noise, {})
    log_base = model.likelihood.log_base(x)  # type: ignore[operator]
    found = evaluate(model, scale.forward, evaluation_set(x, log_base, noise), {}, 1)
    loss = draws.mean(draws.distortion() + draws.rate().sum(-1))
    assert float(loss.detach()) == pytest.approx(-float(found["elbo"]) + float(log_base.mean()), rel=1e-12)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_active_units_counts_latents_that_vary() -> None:
    mean = randn(200, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + torch.tensor([0.0, 5.0, 0.0, 5.0])
    weight = torch.ones(200, dtype=F64)
    assert int(active_units(mean, weight)) == 2
    mean[:10] = torch.tensor([0.0, 0.0, 0.0, 500.0])
    weight[:10] = 0
    assert int(active_units(mean, weight)) == 2, "padding must not count"


def test_models_of_other_latent_size_share_weights() -> None:
    small, large, other = (small_vae(n, seed=s).state_dict() for n, s in ((3, 5), (8, 5), (3, 6)))
    own = {"decoder.0.weight", "decoder.0.bias"}  # the latents are its inputs: other columns, another bound
    for name in small.keys() - own:
        shared = large[name][:3] if name.startswith(("mean.", "raw_scale.")) else large[name]
        assert torch.equal(small[name], shared), name
        assert not torch.equal(small[name], other[name]), "another seed, other weights"
    assert not torch.equal(small["mean.weight"], small["raw_scale.weight"])
    bound = 1 / math.sqrt(35)
    assert float(small["encoder.0.weight"].abs().max()) <= bound
    assert float(small["encoder.0.weight"].std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("posterior", ["diagonal", "shared_scale"])
@every_scale
def test_start_from_sets_sigma(scale: Scale, posterior: str) -> None:
    sigma = 1.0 if scale.reaches(1.0) else 0.25
    model = small_vae(posterior=posterior)
    start_from(model, scale, sigma)
    if posterior == "diagonal":
        model.get_submodule("raw_scale").weight.data.zero_()  # type: ignore[operator]
    found = model.posterior(pixels_for("counts", (4, 35)), scale).sigma
    torch.testing.assert_close(found, torch.full_like(found, sigma), rtol=1e-9, atol=0)


@torch.no_grad()
def test_matched_heads_start_with_equal_spread() -> None:
    """Oracle O1: W_v = 2 W_s and b_v = 2 b_s."""
    x, log_sigma = pixels_for("counts", (40, 35)), {}
    for name in ("log_variance", "log_std", "log_precision"):
        model = small_vae()
        start_from(model, SCALES[name], 0.25, matched=True)
        log_sigma[name] = SCALES[name].forward(model.encode(x)[1])[1]
    assert torch.equal(log_sigma["log_variance"], log_sigma["log_std"])
    assert torch.equal(log_sigma["log_precision"], log_sigma["log_std"])
    assert float(log_sigma["log_std"].std()) > 0.05


def test_noise_banks_share_columns() -> None:
    small, large = standard_normal_bank(7, "val noise", 101, 3), standard_normal_bank(7, "val noise", 101, 8)
    assert torch.equal(small, large[:, :3])
    assert not torch.equal(small, standard_normal_bank(7, "test noise", 101, 3))
    assert len({tuple(column.tolist()) for column in large.T}) == 8


# ----------------------------------------------------------------------------------------- pictures


def decoded(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (4, 6, 3), (4, 6, 1)])
def test_square_grid(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, int(np.prod(shape))), dtype=np.uint8)
    picture = decoded(square_grid(images, shape))
    height, width = 3 * (shape[0] + GAP) + GAP, 3 * (shape[1] + GAP) + GAP
    factor = picture.shape[1] // width
    assert picture.shape[:2] == (height * factor, width * factor) and picture.shape[1] >= 320
    assert picture.shape[2:] == ((3,) if shape[2:] == (3,) else ())
    small = picture[::factor, ::factor]
    for i, image in enumerate(images):
        top, left = GAP + i // 3 * (shape[0] + GAP), GAP + i % 3 * (shape[1] + GAP)
        tile = small[top : top + shape[0], left : left + shape[1]]
        assert (tile.reshape(-1) == image).all()
    assert (small[0] == PAPER).all() and (small[-shape[0] :, -shape[1] :] == PAPER).all()


def test_pairs_grid_puts_copies_below_originals() -> None:
    originals, copies = (np.full((11, 4), value, dtype=np.uint8) for value in (10, 200))
    small = decoded(pairs_grid(originals, copies, (2, 2)))
    factor = small.shape[1] // (8 * 3 + 1)
    assert small[::factor, ::factor][1::3, 1].tolist() == [10, 200, 10, 200]


def test_pixels_that_are_not_finite_are_shown() -> None:
    values = np.array([[0, 8, 16, 40, -3, math.nan, math.inf, -math.inf]], dtype=np.float32)
    assert to_bytes(values, 0, 16).tolist() == [[0, 128, 255, 255, 0, 128, 255, 0]]
    assert to_bytes(values[:, :1], 0, 0).tolist() == [[0]]


# --------------------------------------------------------------------------------- found by mutants


def test_where_learned_likelihoods_start() -> None:
    """Their own parameters, before the first step: another start is another experiment."""
    found = {
        name: {own: value.tolist() for own, value in LIKELIHOODS[name](levels=LEVELS).named_parameters()}
        for name in LIKELIHOODS
    }
    assert {name: own for name, own in found.items() if own} == {
        "beta_binomial": {"log_concentration": [[2.0]]},
        "discretized_logistic": {"log_width": [[-2.0]]},
        "gaussian_learned": {"log_std": [[0.0]]},
    }


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_far_below_zero_log_softplus_is_the_line_itself(dtype: torch.dtype) -> None:
    """Value and slope exactly; at the threshold the closed form would still be some last bits off."""
    a = torch.tensor([-34.1, -40.0, -800.0, -1e4], dtype=dtype).requires_grad_()
    value = log_softplus(a)
    (slope,) = torch.autograd.grad(value.sum(), a)
    assert torch.equal(value, a) and torch.equal(slope, torch.ones_like(a))
    assert torch.equal(log_softplus_slope(a.detach()), torch.ones_like(a))


def test_gaussian_kl_goes_back_to_each_of_its_inputs() -> None:
    mean, sigma, log_sigma = randn(4, 3), randn(4, 3, seed=1).abs() + 0.1, randn(4, 3, seed=2)
    leaves = [one.requires_grad_() for one in (mean, sigma, log_sigma)]
    assert torch.autograd.gradcheck(gaussian_kl, leaves)


def test_counts_enter_the_encoder_as_shares_of_their_levels() -> None:
    x, grey = pixels_for("counts", (4, 35)), pixels_for("real", (4, 6))
    model = small_vae()
    features = model.encoder(x / LEVELS)
    for name, output in zip(("mean", "raw_scale"), model.encode(x), strict=True):
        torch.testing.assert_close(output, model.get_submodule(name)(features), rtol=1e-12, atol=1e-12)
    plain = build_vae(
        network="mlp", pixels=6, hidden=(5,), activation="tanh", posterior="diagonal", latent_dim=2,
        likelihood="gaussian", levels=None,
    ).to(F64)  # fmt: skip
    torch.testing.assert_close(plain.encode(grey)[0], plain.get_submodule("mean")(plain.encoder(grey)), rtol=0, atol=0)
