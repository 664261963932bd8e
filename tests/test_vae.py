"""The VAE kit against independent references: torch.distributions, torch.nn.functional, exact decimals.

The contract tests run over the kit's tables, so a new scale, likelihood, objective or activation joins by itself.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Bernoulli, Binomial, Distribution, Normal, kl_divergence
from torch.nn import functional

from pipeline.vae.functions import counts_log_kernel, log_softplus, sigmoid, softplus
from pipeline.vae.likelihoods import LIKELIHOODS, NATURAL_LIKELIHOOD
from pipeline.vae.metrics import (
    CHUNK_ROWS,
    SIGMA_LOG10_EDGES,
    ImageDetails,
    active_units,
    evaluate,
    evaluation_set,
)
from pipeline.vae.model import VAE, Terms, build_vae, elbo_terms, initialise, standard_normal_bank, start_from
from pipeline.vae.networks import ACTIVATIONS
from pipeline.vae.objectives import OBJECTIVES, warmup_weight
from pipeline.vae.pictures import GAP, PAPER, pairs_grid, square_grid, to_bytes
from pipeline.vae.posterior import Posterior, make_posterior
from pipeline.vae.scales import SCALES, Scale

F64 = torch.float64
LEVELS = 16
OVERFLOWS_ABOVE = {"log_variance": 88.0, "log_std": 44.0}
"""raw values above which σ² overflows float32: there, and only there, an allowed a may diverge"""
every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)


def inside(scale: Scale, a: Tensor) -> Tensor:
    """The elements of a where the scale is defined."""
    return a[~scale.outside(a)] if scale.outside else a


def grid(scale: Scale, dtype: torch.dtype = F64) -> Tensor:
    """Raw values in [-20, 20], inside the domain and away from kinks."""
    return inside(scale, torch.linspace(-20, 20, 164, dtype=dtype))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def log_prob(distribution: Distribution, x: Tensor) -> Tensor:
    value: Tensor = distribution.log_prob(x)
    return value


def by_formula(scale: Scale, a: float) -> tuple[float, float]:
    """σ and log σ at a to 60 digits, by the formula that the scale shows to people."""
    left, right = scale.formula.split(" = ")
    words = {"a": Decimal(a), "exp": Decimal.exp, "log": Decimal.ln, "abs": abs}
    with localcontext() as context:
        context.prec = 60
        value = eval(right.replace("|a|", "abs(a)"), {"__builtins__": {}}, words)
        sigma = {"σ": value, "σ²": value.sqrt()}[left]
        return float(sigma), float(sigma.ln())


# ------------------------------------------------------------------------------------------- scales


@every_scale
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 5e-15), (torch.float32, 2e-6)])
def test_scale_is_its_formula(scale: Scale, dtype: torch.dtype, tolerance: float) -> None:
    a = grid(scale, dtype)
    sigma, log_sigma = scale.forward(a)
    exact = [by_formula(scale, float(value)) for value in a]
    assert sigma.tolist() == pytest.approx([pair[0] for pair in exact], rel=tolerance)
    assert log_sigma.tolist() == pytest.approx([pair[1] for pair in exact], rel=tolerance, abs=tolerance)


@every_scale
def test_scale_derivatives(scale: Scale) -> None:
    a = grid(scale).requires_grad_()
    sigma, log_sigma = scale.forward(a)
    (of_log,) = torch.autograd.grad(log_sigma.sum(), a, retain_graph=True)
    (of_sigma,) = torch.autograd.grad(sigma.sum(), a)
    slope, step = scale.jacobian(a.detach()), 1e-6
    centre = (scale.forward(a.detach() + step)[1] - scale.forward(a.detach() - step)[1]) / (2 * step)
    torch.testing.assert_close(of_log, slope, rtol=1e-12, atol=0)
    torch.testing.assert_close(of_sigma, slope * sigma.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(centre, slope, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(scale.forward, (a,))


@every_scale
def test_inverse_undoes_the_scale(scale: Scale) -> None:
    for a in grid(scale).tolist():
        sigma = float(scale.forward(torch.tensor(a, dtype=F64))[0])
        mirrored = float(scale.forward(torch.tensor(-a, dtype=F64))[0])
        assert scale.inverse(sigma) == pytest.approx(abs(a) if sigma == mirrored else a, abs=1e-9)


@every_scale
@pytest.mark.parametrize("size", [1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e1, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_float_fuzz(scale: Scale, size: float, sign: int) -> None:
    """Oracle O22: float32 loss and gradient are finite, or divergence is seen, and only where it may be."""
    a = torch.tensor([sign * size], requires_grad=True)
    posterior = make_posterior(scale.forward, torch.tensor([0.3]), a)
    loss = (posterior.kl() + posterior.sample(torch.tensor([-0.7])) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, a)
    name = next(key for key, value in SCALES.items() if value is scale)
    allowed = inside(scale, a.detach()).numel() == 1 and float(a.detach()) <= OVERFLOWS_ABOVE.get(name, math.inf)
    assert bool(torch.isfinite(loss) and torch.isfinite(gradient)) == allowed


@every_scale
def test_outside_the_domain_is_never_repaired(scale: Scale) -> None:
    if scale.outside is None:
        assert scale.domain == ""
        return
    a = torch.tensor([-1.0, -0.0, 0.0], dtype=F64)
    a = a[scale.outside(a)]
    assert a.numel() > 0 and scale.domain
    assert not torch.isfinite(scale.forward(a)[1]).any()


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


@every_scale
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("length", [37, 259])
def test_scale_bits_do_not_depend_on_place(scale: Scale, dtype: torch.dtype, length: int) -> None:
    a = inside(scale, randn(2 * length, dtype=dtype) * 5)
    a = a[: min(len(a), length) // 2 * 2 - 1]  # odd, so that vector kernels leave a tail
    assert pieces_agree(lambda x: scale.forward(x)[0] * 1.7 + scale.forward(x)[1], a)


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


# ---------------------------------------------------------------------------------------- posterior


@every_scale
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(F64, 0, 1e-12), (torch.float32, 1e-6, 0)])
def test_kl_against_torch(scale: Scale, dtype: torch.dtype, rtol: float, atol: float) -> None:
    """Oracle O16, for sums over 8 latents as the loss takes them."""
    raw = torch.full((200, 8), scale.inverse(0.5), dtype=dtype) * (1 + 0.1 * randn(200, 8, dtype=dtype).tanh())
    mean = randn(200, 8, seed=1, dtype=dtype)
    kl = make_posterior(scale.forward, mean, raw).kl().sum(-1).double()
    sigma = scale.forward(raw.double())[0]
    reference = kl_divergence(Normal(mean.double(), sigma), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl, reference, rtol=rtol, atol=atol)


@every_scale
def test_log_q_entropy_and_samples_against_torch(scale: Scale) -> None:
    raw, mean, noise = torch.full((50, 4), scale.inverse(0.3), dtype=F64), randn(50, 4), randn(50, 4, seed=2)
    posterior = make_posterior(scale.forward, mean, raw)
    reference = Normal(mean, 0.3)
    z = posterior.sample(noise)
    torch.testing.assert_close(z, mean + 0.3 * noise, rtol=0, atol=1e-12)
    torch.testing.assert_close(posterior.log_q(z), log_prob(reference, z), rtol=0, atol=1e-12)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.3)
    torch.testing.assert_close(posterior.entropy(), torch.full_like(z, entropy), rtol=0, atol=1e-12)


@every_scale
def test_sampled_kl_agrees_with_the_closed_form(scale: Scale) -> None:
    """Oracle O17."""
    count = 100_000
    raw = torch.tensor([scale.inverse(sigma) for sigma in (0.2, 0.9, 1.7)], dtype=F64)
    posterior = make_posterior(scale.forward, torch.tensor([0.5, -1.0, 0.0], dtype=F64), raw)
    z = posterior.sample(randn(count, 3))
    ratio = posterior.log_q(z) - log_prob(Normal(0.0, 1.0), z)
    error = (ratio.mean(0) - posterior.kl()).abs() / (ratio.std(0) / math.sqrt(count))
    assert (error < 4).all(), error


# ------------------------------------------------------------------------------------- likelihoods

STD = torch.tensor(0.7, dtype=F64)
REFERENCES: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "binomial": lambda output, log_std: Binomial(LEVELS, logits=output),
    "bernoulli": lambda output, log_std: Bernoulli(logits=output),
    "gaussian": lambda output, log_std: Normal(output, STD),
    "gaussian_learned": lambda output, log_std: Normal(output, log_std.exp()),
}
"""an entry here is all that a new likelihood must add to this file"""


def pixels_for(kind: str, shape: tuple[int, ...]) -> Tensor:
    if kind == "real":
        return randn(*shape, seed=3)
    levels = LEVELS if kind == "counts" else 1
    return torch.randint(0, levels + 1, shape, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_contract(name: str) -> None:
    likelihood = LIKELIHOODS[name](levels=LEVELS).double()
    for parameter in likelihood.parameters():
        parameter.data.fill_(-0.4)
    (kind,) = likelihood.kinds
    x, output = pixels_for(kind, (9, 35)), (randn(9, 35) * 3).requires_grad_()
    log_std = torch.full((1, 1), -0.4, dtype=F64, requires_grad=True)
    reference = REFERENCES[name](output, log_std)
    value = likelihood.log_kernel(x, output, {"observation_std": STD}) + likelihood.log_base(x)
    expected = log_prob(reference, x).sum(-1)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(likelihood.mean(output.detach()), reference.mean.detach(), rtol=1e-12, atol=0)
    ours = torch.autograd.grad(value.sum(), [output, *likelihood.parameters()])
    theirs = torch.autograd.grad(expected.sum(), [output, *([log_std] if list(likelihood.parameters()) else [])])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name, kind in LIKELIHOODS.items() if "real" not in kind.kinds])
def test_discrete_likelihoods_sum_to_one(name: str) -> None:
    likelihood = LIKELIHOODS[name](levels=LEVELS)
    top = LEVELS if "counts" in likelihood.kinds else 1
    x = torch.arange(top + 1, dtype=F64).unsqueeze(-1)
    for logit in (-30.0, -1.0, 0.0, 2.5, 30.0):
        kernel = likelihood.log_kernel(x, torch.full_like(x, logit), {})
        assert float((kernel + likelihood.log_base(x)).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_every_kind_of_data_has_a_natural_likelihood() -> None:
    assert all(kind in LIKELIHOODS[name].kinds for kind, name in NATURAL_LIKELIHOOD.items())


# -------------------------------------------------------------------------------------- objectives


def test_objectives() -> None:
    rate, distortion = randn(2, 7, 3).abs(), randn(2, 7).abs()
    terms = Terms(distortion, rate, Posterior(rate, rate, rate), rate)
    beta, warmup = torch.tensor([[4.0], [0.5]], dtype=F64), torch.tensor([[0.25], [1.0]], dtype=F64)
    weights = {"elbo": warmup, "beta": beta * warmup}
    for name, objective in OBJECTIVES.items():
        expected = distortion + weights[name] * rate.sum(-1)
        torch.testing.assert_close(objective(terms, beta=beta, warmup=warmup), expected, rtol=1e-14, atol=0)


def test_warmup_rises_to_one_and_stays() -> None:
    assert [warmup_weight(epoch, 4) for epoch in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [warmup_weight(epoch, 0) for epoch in range(3)] == [1.0, 1.0, 1.0]
    assert warmup_weight(0, 1) == 1.0


# ----------------------------------------------------------------------------------- model, metrics


def small_vae(latent_dim: int = 3, *, dtype: torch.dtype = F64, hidden: tuple[int, ...] = (19,), seed: int = 5) -> VAE:
    model = build_vae(
        network="mlp",
        pixels=35,
        hidden=hidden,
        activation="relu",
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


def test_elbo_terms_are_the_metrics_with_gradient() -> None:
    model, scale = small_vae(), SCALES["log_std"].forward
    x, noise = pixels_for("counts", (48, 35)), randn(48, 3)
    terms = elbo_terms(model, scale, x, noise, {})
    log_base = model.likelihood.log_base(x)  # type: ignore[operator]
    found = evaluate(model, scale, evaluation_set(x, log_base, noise.unsqueeze(0)), {}, 1)
    loss = terms.distortion.mean() + terms.rate.sum(-1).mean()
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


@every_scale
def test_start_from_sets_sigma(scale: Scale) -> None:
    model = small_vae()
    start_from(model, scale, 0.25)
    model.raw_scale.weight.data.zero_()
    sigma, _ = scale.forward(model.encode(pixels_for("counts", (4, 35)))[1])
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.25), rtol=1e-9, atol=0)


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
