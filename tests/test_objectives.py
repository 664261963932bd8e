"""Every objective against its definition, and what theory says of it where the posterior is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pipeline.vae.model import VAE, build_vae, draw, initialise
from pipeline.vae.objectives import OBJECTIVES, Draws, Numbers, capacity_at, log_sum_exp, warmup_weight
from pipeline.vae.posterior import POSTERIORS, Diagonal
from pipeline.vae.scales import SCALES

from .test_vae import F64, log_prob, pixels_for, randn

IMAGES = 900


def numbers(**changes: float) -> dict[str, Tensor]:
    values = {"beta": 3.0, "warmup": 0.5, "free_bits": 0.4, "capacity": 1.5, "capacity_weight": 7.0, **changes}
    return {name: torch.tensor([value], dtype=F64) for name, value in values.items()}


def vae(posterior: str = "diagonal") -> VAE:
    model = build_vae(
        network="mlp", pixels=35, hidden=(19,), activation="tanh", posterior=posterior, latent_dim=3,
        likelihood="binomial", levels=16,
    ).to(F64)  # fmt: skip
    initialise(model, 5)
    return model


def drawn(samples: int = 1, posterior: str = "diagonal") -> Draws:
    x, noise = pixels_for("counts", (11, 35)), randn(samples, 11, 3)
    return draw(vae(posterior), SCALES["softplus_std"], x, noise, {}, images=IMAGES)


def loss(name: str, draws: Draws, values: Numbers | None = None) -> Tensor:
    found = OBJECTIVES[name].loss(draws, values or numbers())
    assert found.shape == draws.kernel.shape[:-2] + draws.kernel.shape[-1:]
    return found.detach()


def parts(draws: Draws) -> tuple[Tensor, Tensor]:
    return draws.distortion().detach(), draws.rate().detach()


def test_weighted_rates() -> None:
    draws = drawn(samples=4)
    distortion, rate = parts(draws)
    torch.testing.assert_close(distortion, -draws.kernel.detach().mean(0))
    torch.testing.assert_close(loss("elbo", draws), distortion + 0.5 * rate.sum(-1))
    torch.testing.assert_close(loss("beta", draws), distortion + 1.5 * rate.sum(-1))
    for name in ("elbo", "beta"):
        weight = OBJECTIVES[name].rate_weight
        assert weight is not None
        torch.testing.assert_close(loss(name, draws), distortion + weight(numbers()) * rate.sum(-1))


def test_free_bits_are_free() -> None:
    draws = drawn()
    distortion, rate = parts(draws)
    mean = rate.mean(0)
    threshold = float(mean.sort().values[1])  # one latent below it, one at it
    found = loss("free_bits", draws, numbers(free_bits=threshold, warmup=1.0))
    torch.testing.assert_close(found, distortion + mean.clamp_min(threshold).sum())
    torch.testing.assert_close(
        loss("free_bits", draws, numbers(free_bits=0.0, warmup=1.0)).mean(), (distortion + rate.sum(-1)).mean()
    )


@pytest.mark.parametrize("capacity", [0.0, 1e3])
def test_the_rate_is_drawn_to_the_capacity_from_both_sides(capacity: float) -> None:
    draws = drawn()
    distortion, rate = parts(draws)
    expected = distortion + 7 * (rate.sum(-1).mean() - capacity).abs()
    torch.testing.assert_close(loss("capacity", draws, numbers(capacity=capacity)), expected)


def log_weights(draws: Draws) -> Tensor:
    q, z = draws.posterior, draws.z.detach()
    prior = log_prob(Normal(0.0, 1.0), z).sum(-1)
    return draws.kernel.detach() + prior - log_prob(Normal(q.mean.detach(), q.sigma.detach()), z).sum(-1)


def test_importance_weighted_bound() -> None:
    draws = drawn(samples=7)
    torch.testing.assert_close(loss("iwae", draws), math.log(7) - log_weights(draws).logsumexp(0))
    one = drawn()
    torch.testing.assert_close(loss("iwae", one), -log_weights(one)[0])
    torch.testing.assert_close(loss("stl", draws), -log_weights(draws).mean(0))


def test_log_sum_exp() -> None:
    values = randn(4, 6) * 50
    values[1] = -1e30
    torch.testing.assert_close(log_sum_exp(values, 0), values.logsumexp(0), rtol=1e-14, atol=0)
    leaf = values[2:].clone().requires_grad_()
    (found,) = torch.autograd.grad(log_sum_exp(leaf, -1).sum(), leaf)
    torch.testing.assert_close(found, leaf.detach().softmax(-1), rtol=1e-12, atol=1e-15)


def gradient(model: VAE, value: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), materialize_grads=True, retain_graph=True)
    return dict(zip(named, found, strict=True))


def test_doubly_reparameterized_gradient_is_its_definition() -> None:
    """Tucker et al. 2018, eq. 6: the encoder's weights are w², the decoder's w."""
    x, noise = pixels_for("counts", (11, 35)), randn(6, 11, 3)
    model = vae()
    found = gradient(model, OBJECTIVES["dreg"].loss(draw(model, SCALES["log_std"], x, noise, {}), numbers()).sum())

    draws = draw(model, SCALES["log_std"], x, noise, {})
    q, z = draws.posterior, draws.z
    density = log_prob(Normal(q.mean.detach(), q.sigma.detach()), z).sum(-1)
    ratios = draws.kernel + log_prob(Normal(0.0, 1.0), z).sum(-1) - density
    weights = ratios.detach().softmax(0)
    decoder = gradient(model, -(weights * ratios).sum())
    encoder = gradient(model, -(weights * weights * ratios).sum())
    for name, one in found.items():
        torch.testing.assert_close(
            one, (decoder if name.startswith("decoder") else encoder)[name], rtol=1e-9, atol=1e-9
        )


def test_doubly_reparameterized_gradient_is_that_of_the_bound_on_average() -> None:
    model, x, generator = vae(), pixels_for("counts", (1, 35)), torch.Generator().manual_seed(1)
    noise = torch.randn(3, 30_000, 3, generator=generator, dtype=F64)
    estimates = {}
    for name in ("iwae", "dreg"):
        outputs = [output.unsqueeze(-3).expand(1, 30_000, -1).detach().requires_grad_() for output in model.encode(x)]
        q = POSTERIORS["diagonal"].posterior(SCALES["log_std"], *outputs)
        z = q.sample(noise)
        kernel = model.observation.log_kernel(x, model.decode(z), {})
        draws = Draws(kernel, z, q, torch.ones(30_000, dtype=F64), 1)
        (estimates[name],) = torch.autograd.grad(OBJECTIVES[name].loss(draws, numbers()).sum(), outputs[0])
    mean = {name: one[0].mean(0) for name, one in estimates.items()}
    error = sum(one[0].var(0) / 30_000 for one in estimates.values())
    assert ((mean["iwae"] - mean["dreg"]).abs() < 4 * torch.as_tensor(error).sqrt()).all()
    assert (estimates["dreg"][0].var(0) < estimates["iwae"][0].var(0)).all(), "what it is for"


def test_sticking_the_landing_is_silent_at_the_exact_posterior() -> None:
    """Oracle O10: x = z + noise; q = p(z|x) -> no gradient at all, where the plain estimator has noise."""
    x, noise = randn(1, 40, 1), randn(200, 40, 1, seed=2)
    mean, raw = (x * 0.5).requires_grad_(), torch.full_like(x, math.log(math.sqrt(0.5))).requires_grad_()
    q = POSTERIORS["diagonal"].posterior(SCALES["log_std"], mean, raw)
    z = q.sample(noise)
    kernel = (-0.5 * (x - z) ** 2).sum(-1)
    draws = Draws(kernel, z, q, torch.full((40,), 1 / 40, dtype=F64), 40)
    for name, silent in {"stl": True, "dreg": True, "iwae": False}.items():
        found = torch.autograd.grad(OBJECTIVES[name].loss(draws, numbers()).sum(), (mean, raw), retain_graph=True)
        size = max(float(one.abs().max()) for one in found)
        assert (size < 1e-12) == silent, (name, size)
    weights = kernel + draws.log_prior() - q.log_q(z).sum(-1)
    assert float(weights.detach().std(0).max()) < 1e-12, "oracle O11: every weight is equal"


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_total_correlation_against_a_plain_computation(samples: int, posterior: str) -> None:
    draws = drawn(samples, posterior)
    q, z = draws.posterior, draws.z.detach()
    mean, sigma, rows = q.mean.detach()[0], q.sigma.detach()[0], draws.z.shape[1]
    joint, product = torch.zeros(samples, rows, dtype=F64), torch.zeros(samples, rows, dtype=F64)
    for k in range(samples):
        for i in range(rows):
            each = torch.stack([log_prob(Normal(mean[j], sigma[j]), z[k, i]) for j in range(rows)])
            together = q.beside().log_q(draws.z[k, i].expand(1, 1, 1, -1)).detach().sum(-1).flatten()
            joint[k, i] = together.logsumexp(0) - math.log(rows * IMAGES)
            product[k, i] = (each.logsumexp(0) - math.log(rows * IMAGES)).sum()
    log_q = q.log_q(draws.z).sum(-1).detach()
    penalty = (log_q - joint) + 3 * (joint - product) + (product - draws.log_prior().detach())
    torch.testing.assert_close(loss("tcvae", draws), parts(draws)[0] + 0.5 * penalty.mean(0))
    plain = loss("tcvae", draws, numbers(beta=1.0, warmup=1.0))
    torch.testing.assert_close(plain, parts(draws)[0] + (log_q - draws.log_prior().detach()).mean(0)), "a sampled ELBO"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_that_fill_a_batch_up_do_not_count(name: str) -> None:
    draws = drawn(samples=2)
    q = draws.posterior
    assert isinstance(q, Diagonal)

    def padded(values: Tensor) -> Tensor:
        rows = values.detach()
        return torch.cat([rows, rows[..., :5, :] * 3 + 1], -2)

    kernel = torch.cat([draws.kernel.detach(), draws.kernel.detach()[:, :5] - 100], -1)
    weight = torch.cat([draws.weight, torch.zeros(5, dtype=F64)])
    posterior = Diagonal(padded(q.mean), padded(q.sigma), padded(q.log_sigma))
    found = loss(name, Draws(kernel, padded(draws.z), posterior, weight, IMAGES))
    torch.testing.assert_close(found[:11], loss(name, draws), rtol=1e-12, atol=1e-12)


def test_what_is_read_changes_the_loss_and_nothing_else_does() -> None:
    for name, objective in OBJECTIVES.items():
        draws = drawn(samples=2)
        plain = loss(name, draws)
        changing = {one for one in numbers() if not torch.equal(loss(name, draws, numbers(**{one: 2.25})), plain)}
        assert changing == objective.reads, name


def test_warmup_rises_to_one_and_stays() -> None:
    assert [warmup_weight(epoch, 9, 4) for epoch in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [warmup_weight(epoch, 9, 0) for epoch in range(3)] == [1.0, 1.0, 1.0]
    assert warmup_weight(0, 9, 1) == 1.0


def test_cycles() -> None:
    weights = [warmup_weight(epoch, 16, 0, 2) for epoch in range(16)]
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0] * 2
    assert all(0 <= warmup_weight(epoch, 7, 0, 3) <= 1 for epoch in range(7))


def test_capacity_rises_linearly() -> None:
    assert [capacity_at(epoch, 8.0, 4) for epoch in range(6)] == [0.0, 2.0, 4.0, 6.0, 8.0, 8.0]
    assert capacity_at(0, 8.0, 0) == 8.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_leading_axes_pass_through(name: str) -> None:
    """Two slots at once, of other draws and numbers, are as each by itself."""
    draws = drawn(samples=3)

    def both(values: Tensor) -> Tensor:
        return torch.stack([values.detach(), values.detach() * 0.7])

    kernel, z, sigma = both(draws.kernel), both(draws.z), both(draws.posterior.sigma)
    posterior = Diagonal(both(draws.posterior.mean), sigma, sigma.log())
    values = {one: torch.stack([value, value * 0.5]) for one, value in numbers().items()}
    found = loss(name, Draws(kernel, z, posterior, draws.weight, IMAGES), values)
    for slot in range(2):
        q = Diagonal(posterior.mean[slot], sigma[slot], posterior.log_sigma[slot])
        alone = Draws(kernel[slot], z[slot], q, draws.weight, IMAGES)
        expected = loss(name, alone, {one: value[slot] for one, value in values.items()})
        torch.testing.assert_close(found[slot], expected, rtol=1e-12, atol=1e-12)
