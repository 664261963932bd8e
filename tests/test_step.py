"""The packed step's gradients, put together by hand, against autograd over the same model as a whole."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pipeline.packed import layers
from pipeline.packed.device_data import DeviceData
from pipeline.packed.pack import Pack
from pipeline.packed.pieces import ByAutograd, Chain
from pipeline.packed.step import Step
from pipeline.packed.structure import structure_of
from pipeline.records import Value
from pipeline.vae.functions import counts_kernel_and_slope, counts_log_kernel
from pipeline.vae.likelihoods import LIKELIHOODS
from pipeline.vae.model import Terms, elbo_terms
from pipeline.vae.networks import ACTIVATIONS
from pipeline.vae.objectives import OBJECTIVES
from pipeline.vae.posterior import make_posterior
from pipeline.vae.scales import SCALES, Scale

from .kit import task, tiny_dataset, train_all

FORM_OF_KIND = {"counts": "counts", "binary": "binarised", "real": "grey"}
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
ROWS = 16


def curious(terms: Terms, *, beta: Tensor, warmup: Tensor) -> Tensor:
    """An objective that is not linear in the terms and looks at all of the posterior."""
    posterior = terms.posterior
    free_bits = terms.rate.clamp_min(0.1).sum(-1) * beta * warmup
    return terms.distortion.sqrt() + free_bits + (posterior.sigma * posterior.mean + terms.raw * 0.3).sum(-1)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """One activation and one objective that the step knows nothing of."""
    monkeypatch.setitem(cast(MutableMapping[str, Any], ACTIVATIONS), "gelu", nn.GELU)
    monkeypatch.setitem(cast(MutableMapping[str, Any], OBJECTIVES), "curious", curious)


def pack_of(dtype: torch.dtype, objectives: tuple[str, ...] = ("elbo", "beta"), **structure: Value) -> Pack:
    """A slot for each scale, the objectives in turn."""
    tasks = []
    for i, scale in enumerate(SCALES):
        own: dict[str, Any] = {
            "scale": scale,
            "objective": objectives[i % len(objectives)],
            "beta_warmup_epochs": 2 * i,
        }
        tasks.append(task(i, initial_sigma=2.0, beta=1.5, dtype=DTYPES[dtype], **(structure | own)))
    first = structure_of(tasks[0].hyperparameters)
    (kind,) = LIKELIHOODS[first.likelihood].kinds
    data = DeviceData(
        tiny_dataset(FORM_OF_KIND[kind]),
        likelihood=first.likelihood,
        dtype=dtype,
        device=torch.device("cpu"),
        bank_seed=0,
    )
    pack = Pack(first, data)
    pack.resettle(tasks)
    pack._maths.begin_epoch()
    return pack


def batch_of(pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
    """x (M, R, D), noise (M, R, L), weight (R,) with padding at its end."""
    slots, generator = len(pack.slots), torch.Generator().manual_seed(3)
    x = pack.data.train_x[:ROWS].expand(slots, -1, -1)
    shape = (slots, ROWS, pack.structure.latent_dim)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x.dtype)
    weight = torch.full((ROWS,), 1 / (ROWS - 3), dtype=x.dtype)
    weight[-3:] = 0
    return x, noise, weight


def by_autograd(pack: Pack, rows: Tensor) -> Tensor:
    """The weighted loss (M,), a function of the rows (M, P)."""
    x, noise, weight = batch_of(pack)
    stack, maths = pack.stack, pack._maths
    for view, (owner, attribute) in zip(stack.views(rows), stack._owners, strict=True):
        setattr(owner, attribute, view)
    terms = elbo_terms(stack.model, maths.scale, x, noise, maths.hyper)
    return (maths._loss(terms) * weight).sum(-1)


CASES: list[dict[str, Value]] = [
    {"likelihood": likelihood, "activation": activation, "hidden": hidden, "latent_dim": latent_dim}
    for likelihood, activation, hidden, latent_dim in [
        ("binomial", "relu", (101,), 5),
        ("binomial", "tanh", (33, 8), 20),
        ("bernoulli", "gelu", (33, 17), 3),
        ("bernoulli", "relu", (), 2),
        ("gaussian", "tanh", (19,), 5),
        ("gaussian_learned", "relu", (19, 40), 16),
    ]
]


@pytest.mark.parametrize("objectives", [("elbo", "beta"), ("curious",), ("elbo", "curious", "beta")], ids="-".join)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['likelihood']}-{case['activation']}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_gradients_are_autograds(
    case: dict[str, Value], objectives: tuple[str, ...], dtype: torch.dtype, tolerance: float, tables: None
) -> None:
    pack = pack_of(dtype, objectives, **case)
    found = torch.full_like(pack.rows_MP, 0)
    x, noise, weight = batch_of(pack)
    _, loss = Step(pack.stack, pack._maths, pack.rows_MP, found)(x, noise, weight)
    rows = pack.rows_MP.clone().requires_grad_()
    expected = by_autograd(pack, rows)
    (gradient,) = torch.autograd.grad(expected.sum(), rows)
    torch.testing.assert_close((loss * weight).sum(-1), expected.detach(), rtol=tolerance, atol=0)
    size = gradient.abs().amax()
    assert size > 0.1
    torch.testing.assert_close(found / size, gradient / size, rtol=tolerance, atol=tolerance)


def test_gradients_are_finite_differences() -> None:
    pack = pack_of(torch.float64, hidden=(6,), latent_dim=2, activation="tanh")
    batch = batch_of(pack)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rows: Tensor) -> Tensor:
            gradient = torch.zeros_like(rows)
            _, loss = Step(pack.stack, pack._maths, rows.detach(), gradient)(*batch)
            ctx.save_for_backward(gradient)
            return (loss * batch[2]).sum(-1)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return cast(Tensor, ctx.saved_tensors[0] * gradients[0].unsqueeze(-1))

    rows = pack.rows_MP.clone().requires_grad_()
    assert torch.autograd.gradcheck(cast(Callable[..., Tensor], Loss.apply), (rows,), fast_mode=True)


def test_what_goes_by_autograd(tables: None) -> None:
    for activation, kind in {"relu": Chain, "tanh": Chain, "gelu": ByAutograd}.items():
        pack = pack_of(torch.float32, activation=activation)
        step = Step(pack.stack, pack._maths, pack.rows_MP, torch.zeros_like(pack.rows_MP))
        assert type(step._encoder) is type(step._decoder) is kind


def test_an_objective_by_autograd_leaves_its_neighbours_alone(tables: None) -> None:
    gradients = []
    for objectives in (("elbo", "beta"), ("elbo", "curious")):
        pack = pack_of(torch.float32, objectives)
        found = torch.zeros_like(pack.rows_MP)
        Step(pack.stack, pack._maths, pack.rows_MP, found)(*batch_of(pack))
        gradients.append({slot.task.key: found[i] for i, slot in enumerate(pack.slots) if slot.objective == "elbo"})
    assert len(gradients[0]) == len(SCALES) // 2
    for key, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][key])


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_the_posteriors_way_back(scale: Scale) -> None:
    draw = torch.Generator().manual_seed(1)
    mean, noise, to_sample, to_kl, raw = torch.randn(5, 7, 3, generator=draw, dtype=torch.float64).unbind()
    raw = (raw.abs() + 0.1) if scale.outside else raw * 3
    leaves = [mean.requires_grad_(), raw.requires_grad_()]
    posterior = make_posterior(scale.forward, mean, raw)
    total = (posterior.sample(noise) * to_sample + posterior.kl() * to_kl).sum()
    expected = torch.autograd.grad(total, leaves)
    with torch.no_grad():
        to_mean, to_log_sigma = posterior.back(noise, to_sample, to_kl)
        found = to_mean, to_log_sigma * scale.jacobian(raw)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, scale in SCALES.items() if not scale.outside])
def test_slopes_of_scales_are_finite_far_out(name: str) -> None:
    a = torch.tensor([-3e38, -1e4, -104.0, -89.0, -34.5, -15.0, 0.0, 15.0, 89.0, 1e4, 3e38]).requires_grad_()
    (of_log,) = torch.autograd.grad(SCALES[name].forward(a)[1].sum(), a)
    torch.testing.assert_close(SCALES[name].jacobian(a.detach()), of_log, rtol=1e-6, atol=0)


@pytest.mark.parametrize("trials", [1.0, 16.0, 255.0])
def test_counts_slope_keeps_its_precision(trials: float) -> None:
    logits = torch.tensor([-100.0, -87.0, -40.0, -17.0, -1e-6, 0.0, 1e-6, 17.0, 40.0, 87.0, 100.0])
    for counts in (torch.zeros_like(logits), torch.full_like(logits, trials)):
        kernel, slope = counts_kernel_and_slope(logits.unsqueeze(-1), counts.unsqueeze(-1), trials)
        exact = logits.double().requires_grad_()
        expected = counts_log_kernel(exact.unsqueeze(-1), counts.double().unsqueeze(-1), trials)
        (expected_slope,) = torch.autograd.grad(expected.sum(), exact)
        torch.testing.assert_close(kernel.double(), expected.detach(), rtol=1e-6, atol=trials * 1e-6)
        torch.testing.assert_close(slope[:, 0].double(), expected_slope, rtol=2e-7, atol=trials * 6e-8)
    zero = torch.zeros_like(logits).unsqueeze(-1)
    tail = -counts_kernel_and_slope(logits[:4].unsqueeze(-1), zero[:4], trials)[1][:, 0].double() / trials
    torch.testing.assert_close(tail, torch.sigmoid(logits[:4].double()), rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("hidden", [(101,), (33, 17)])
def test_gradients_of_large_weights_are_written_in_place(
    hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pack_of(torch.float64, hidden=hidden)
    copied, written = torch.zeros_like(pack.rows_MP), torch.zeros_like(pack.rows_MP)
    Step(pack.stack, pack._maths, pack.rows_MP, copied)(*batch_of(pack))
    monkeypatch.setattr(layers, "LARGE", 1)
    Step(pack.stack, pack._maths, pack.rows_MP, written)(*batch_of(pack))
    torch.testing.assert_close(written, copied, rtol=1e-12, atol=1e-12)


def test_large_weights_train_to_the_same_bits_in_a_pack() -> None:
    tasks = [task(number, epochs=2, hidden=(1900,)) for number in range(3)]
    assert tiny_dataset().train.shape[1] * 1900 >= layers.LARGE
    packed = train_all(tasks, slots=3)
    for one in tasks:
        alone = train_all([one], slots=1)[one.key]
        assert packed[one.key].largest_pack == 3
        assert dict(alone.curves) == dict(packed[one.key].curves) and alone.files == packed[one.key].files
