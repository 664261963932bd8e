"""Every posterior scale against its own formula, to 60 digits; a new one joins by itself."""

from __future__ import annotations

import math
import re
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from pipeline.vae.posterior import diagonal
from pipeline.vae.scales import SCALES, Scale

from .test_vae import F64, every_scale, pieces_agree, randn

LARGEST_F32 = Decimal(float(torch.finfo(torch.float32).max))


def inside(scale: Scale, a: Tensor) -> Tensor:
    """The elements of a where the scale is defined."""
    return a[~scale.outside(a)] if scale.outside else a


def grid(scale: Scale, dtype: torch.dtype = F64) -> Tensor:
    """Raw values in [-20, 20], inside the domain and away from kinks."""
    a = inside(scale, torch.linspace(-20, 20, 164, dtype=dtype))
    return a[~torch.isin(a, torch.tensor(scale.kinks, dtype=dtype))]


def tanh(x: Decimal) -> Decimal:
    e = (2 * x).exp()
    return (e - 1) / (e + 1)


WORDS = {
    "Decimal": Decimal,
    "exp": Decimal.exp,
    "log": Decimal.ln,
    "abs": abs,
    "tanh": tanh,
    "clamp": lambda x, low, high: min(max(x, low), high),
}


def exact_sigma(scale: Scale, a: Decimal) -> Decimal:
    """σ by the formula that the scale shows to people."""
    left, right = scale.formula.split(" = ")
    numbers = re.sub(r"\d+(\.\d+)?", lambda number: f"Decimal('{number[0]}')", right.replace("|a|", "abs(a)"))
    value = Decimal(eval(numbers, {"__builtins__": {}}, {**WORDS, "a": a}))
    if left == "1/σ²":
        return 1 / value.sqrt() if value else Decimal("Infinity")
    return value if left == "σ" else value.sqrt()


def by_formula(scale: Scale, a: float) -> tuple[float, float, float]:
    """σ, log σ and J at a."""
    step = Decimal("1e-20")
    with localcontext() as context:
        context.prec = 60
        sigma = exact_sigma(scale, Decimal(a))
        above, below = (exact_sigma(scale, Decimal(a) + sign * step).ln() for sign in (1, -1))
        return float(sigma), float(sigma.ln()), float((above - below) / (2 * step))


@every_scale
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 5e-15), (torch.float32, 3e-6)])
def test_it_is_its_formula(scale: Scale, dtype: torch.dtype, tolerance: float) -> None:
    a = grid(scale, dtype)
    sigma, log_sigma = scale.forward(a)
    exact = [by_formula(scale, float(value)) for value in a]
    assert sigma.tolist() == pytest.approx([row[0] for row in exact], rel=tolerance)
    assert log_sigma.tolist() == pytest.approx([row[1] for row in exact], rel=tolerance, abs=tolerance)
    slopes = pytest.approx([row[2] for row in exact], rel=200 * tolerance, abs=tolerance)
    assert scale.jacobian(a).tolist() == slopes
    assert all(scale.lowest <= row[0] <= scale.highest for row in exact)


@every_scale
def test_autograd_goes_back_by_the_jacobian(scale: Scale) -> None:
    a = grid(scale).requires_grad_()
    assert torch.autograd.gradcheck(scale, (a,))


@every_scale
def test_inverse_undoes_the_scale(scale: Scale) -> None:
    for a in grid(scale).tolist():
        here = torch.tensor([a], dtype=F64)
        sigma, slope = float(scale.forward(here)[0]), abs(float(scale.jacobian(here)))
        if slope < 1e-5:  # where σ hardly changes, a cannot be told from it
            continue
        mirrored = float(scale.forward(-here)[0])
        found = scale.inverse(sigma)
        assert found == pytest.approx(abs(a) if sigma == mirrored else a, abs=1e-9 + 1e-15 / slope)


@every_scale
def test_the_range_is_that_of_far_values(scale: Scale) -> None:
    a = inside(scale, torch.tensor([-1e30, -1e3, -80.0, -1e-30, 1e-30, 80.0, 1e3, 1e30], dtype=F64))
    sigma = scale.forward(a)[0]
    assert float(sigma.min()) == pytest.approx(scale.lowest, rel=1e-9, abs=1e-12)
    if scale.highest == math.inf:
        assert float(sigma.max()) > 1e14
    else:
        assert float(sigma.max()) == pytest.approx(scale.highest, rel=1e-9)
    for sigma0 in (1e-3, 0.05, 0.5, 1.0, 2.0, 10.0, 200.0):
        if scale.reaches(sigma0):
            at = torch.tensor([scale.inverse(sigma0)], dtype=F64)
            assert float(scale.forward(at)[0]) == pytest.approx(sigma0, rel=1e-9)


@every_scale
@pytest.mark.parametrize("size", [1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e1, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_float_fuzz(scale: Scale, size: float, sign: int) -> None:
    """Oracle O22: float32 loss and gradient are finite, or divergence is seen, and only where σ² overflows."""
    a = torch.tensor([sign * size], requires_grad=True)
    posterior = diagonal(scale, torch.tensor([0.3]), a)
    loss = (posterior.kl() + posterior.sample(torch.tensor([-0.7])) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, a)
    value = a.detach()
    allowed = inside(scale, value).numel() == 1 and exact_sigma(scale, Decimal(float(value))) ** 2 < LARGEST_F32
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


@every_scale
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("length", [37, 259])
def test_bits_do_not_depend_on_place(scale: Scale, dtype: torch.dtype, length: int) -> None:
    a = inside(scale, randn(2 * length, dtype=dtype) * 5)
    a = a[: min(len(a), length) // 2 * 2 - 1]  # odd, so that vector kernels leave a tail
    assert pieces_agree(lambda x: scale(x)[0] * 1.7 + scale(x)[1], a)


def test_values_that_the_literature_gives() -> None:
    """VAE.md's table: dσ/da and dKL/da where σ is 0.1 and 3."""
    given = {
        "log_variance": (0.05, -0.495, 1.5, 4.0), "log_std": (0.1, -0.99, 3.0, 8.0),
        "softplus_std": (0.0952, -0.942, 0.950, 2.53), "softplus_variance": (0.0498, -0.4925, 0.167, 0.444),
        "raw_std": (1.0, -9.9, 1.0, 2.67), "elu_std": (0.1, -0.99, 1.0, 2.67),
    }  # fmt: skip
    for name, row in given.items():
        found = []
        for sigma in (0.1, 3.0):
            slope = float(SCALES[name].jacobian(torch.tensor([SCALES[name].inverse(sigma)], dtype=F64)))
            found += [slope * sigma, (sigma * sigma - 1) * slope]
        assert found == pytest.approx(row, rel=6e-3), name
