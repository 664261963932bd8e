"""Every posterior family under every scale against torch.distributions; new ones join by themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal, kl_divergence

from pipeline.vae.posterior import POSTERIORS, Posterior, detached, diagonal
from pipeline.vae.scales import SCALES, Scale

from .test_vae import F64, every_scale, log_prob, randn

every_family = pytest.mark.parametrize("family", POSTERIORS)
LATENTS = 5


def outputs_of(family: str, scale: Scale, rows: int, dtype: torch.dtype = F64, latents: int = LATENTS) -> list[Tensor]:
    """The heads' outputs for features that are drawn, σ spread about what the scale reaches."""
    heads, features = POSTERIORS[family].heads(7, latents), randn(rows, 7, seed=4)
    centre = scale.inverse(0.5 if scale.reaches(0.5) else 1.0)
    found = []
    for name, head in heads.items():
        head.double()
        for i, parameter in enumerate(head.parameters()):
            parameter.data = randn(*parameter.shape, seed=10 + i) * 0.4
        output = head(features).detach()
        found.append(centre * (1 + 0.1 * output.tanh()) + 0.01 * output.tanh() if name == "raw_scale" else output)
    return [one.to(dtype) for one in found]


def reference(family: str, scale: Scale, outputs: list[Tensor]) -> Distribution:
    """What the posterior should be, by the definitions in the module's text."""
    mean, raw, *below = (output.double() for output in outputs)
    sigma = scale.forward(raw)[0]
    if family == "natural":
        precision = sigma**-2
        return Normal(mean / precision, sigma)
    if family == "full":
        cholesky = torch.diag_embed(sigma)
        if below:
            i, j = torch.tril_indices(sigma.shape[-1], sigma.shape[-1], -1)
            cholesky[..., i, j] = below[0]
        return MultivariateNormal(mean, scale_tril=cholesky, validate_args=False)
    return Normal(mean, sigma)


def posterior_of(family: str, scale: Scale, outputs: list[Tensor]) -> Posterior:
    return POSTERIORS[family].posterior(scale.forward, *outputs)


def summed(values: Tensor) -> Tensor:
    return values.sum(-1) if values.dim() == 2 else values


@every_family
@every_scale
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("latents", [1, LATENTS])
def test_against_torch(family: str, scale: Scale, dtype: torch.dtype, tolerance: float, latents: int) -> None:
    """Oracle O16; log q and samples too."""
    outputs = outputs_of(family, scale, 60, dtype, latents)
    q, expected = posterior_of(family, scale, outputs), reference(family, scale, outputs)
    prior = Normal(torch.zeros(latents, dtype=F64), 1.0)
    if isinstance(expected, MultivariateNormal):
        kl = kl_divergence(expected, MultivariateNormal(prior.mean, torch.eye(latents, dtype=F64)))
    else:
        kl = kl_divergence(expected, prior).sum(-1)
    torch.testing.assert_close(q.kl().sum(-1).double(), kl, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(q.mean.double(), expected.mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(q.sigma.double(), expected.stddev, rtol=tolerance, atol=tolerance)
    noise = randn(60, latents, seed=2)
    z = q.sample(noise.to(dtype))
    density = summed(log_prob(expected, z.double()))
    torch.testing.assert_close(q.log_q(z).sum(-1).double(), density, rtol=tolerance, atol=30 * tolerance)
    if isinstance(expected, MultivariateNormal):
        drawn = expected.mean + (expected.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    else:
        drawn = expected.mean + expected.stddev * noise
    torch.testing.assert_close(z.double(), drawn, rtol=tolerance, atol=tolerance)


@every_family
def test_sampled_kl_agrees_with_the_closed_form(family: str) -> None:
    """Oracle O17."""
    count, scale = 100_000, SCALES["softplus_std"]
    q = posterior_of(family, scale, outputs_of(family, scale, 1))
    z = q.sample(randn(count, LATENTS))
    ratio = (q.log_q(z) - log_prob(Normal(0.0, 1.0), z)).sum(-1)
    error = (ratio.mean() - q.kl().sum()).abs() / (ratio.std() / math.sqrt(count))
    assert float(error) < 4
    spread = (z.std(0) - q.sigma[0]).abs() / (q.sigma[0] / math.sqrt(2 * count))
    assert float(spread.max()) < 4.5, "sigma is each latent's own"


@every_family
@every_scale
def test_gradients(family: str, scale: Scale) -> None:
    leaves = [output.requires_grad_() for output in outputs_of(family, scale, 3, latents=3)]
    noise = randn(3, 3, seed=5)

    def all_of_it(*outputs: Tensor) -> Tensor:
        q = POSTERIORS[family].posterior(scale, *outputs)
        return torch.cat([q.kl(), q.sample(noise), q.log_q(noise), q.sigma])

    assert torch.autograd.gradcheck(all_of_it, leaves)
    q = detached(POSTERIORS[family].posterior(scale, *leaves))
    assert not any(tensor.requires_grad for tensor in (q.kl(), q.sample(noise), q.log_q(noise)))


@every_family
def test_leading_axes_pass_through(family: str) -> None:
    scale = SCALES["log_std"]
    outputs = outputs_of(family, scale, 12)
    flat = posterior_of(family, scale, outputs)
    folded = posterior_of(family, scale, [one.view(2, 1, 6, -1) for one in outputs])
    noise = randn(2, 4, 6, LATENTS)
    z = folded.sample(noise)
    assert z.shape == noise.shape and folded.log_q(z).shape == noise.shape
    one = flat.sample(noise[:, 2].reshape(12, LATENTS))
    assert torch.equal(z[:, 2].reshape(12, LATENTS), one)
    assert torch.equal(folded.log_q(z)[:, 2].reshape(12, LATENTS), flat.log_q(one))
    assert torch.equal(folded.kl().reshape(12, LATENTS), flat.kl())


def test_the_diagonal_of_a_product_is_the_natural_mean() -> None:
    """Oracle O20: grad A(η) = (μ, μ² + σ²)."""
    first, second = randn(9, 4).requires_grad_(), (-randn(9, 4, seed=1).abs() - 0.1).requires_grad_()
    normalizer = (-(first * first) / (4 * second) - 0.5 * (-2 * second).log()).sum()
    to_first, to_second = torch.autograd.grad(normalizer, (first, second))
    raw = (-0.5 / second.detach()).log()  # log variance
    q = POSTERIORS["natural"].posterior(SCALES["log_variance"], first.detach(), raw)
    torch.testing.assert_close(q.mean, to_first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.mean**2 + q.sigma**2, to_second, rtol=1e-12, atol=1e-12)


@every_scale
def test_the_kl_of_a_pack_is_that_of_torch(scale: Scale) -> None:
    mean = randn(200, 8, seed=1)
    raw = torch.full((200, 8), scale.inverse(0.5 if scale.reaches(0.5) else 1.0), dtype=F64)
    found = diagonal(scale, mean, raw).kl().sum(-1)
    sigma = scale.forward(raw)[0]
    torch.testing.assert_close(found, kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0)).sum(-1), rtol=0, atol=1e-12)


@every_scale
def test_the_way_back_by_hand_is_that_of_autograd(scale: Scale) -> None:
    """`Diagonal.back` and then J: gradients by μ and the raw output of weighted samples and rates."""
    leaves = [one.requires_grad_() for one in outputs_of("diagonal", scale, 6)]
    noise, to_sample, to_kl = (randn(6, LATENTS, seed=seed) for seed in (5, 6, 7))
    q = diagonal(scale, *leaves)
    expected = torch.autograd.grad((q.sample(noise) * to_sample + q.kl() * to_kl).sum(), leaves)
    to_mean, to_log_sigma = diagonal(scale, *(leaf.detach() for leaf in leaves)).back(noise, to_sample, to_kl)
    torch.testing.assert_close(to_mean, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(to_log_sigma * scale.jacobian(leaves[1].detach()), expected[1], rtol=1e-9, atol=1e-12)
