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
from pipeline.vae.model import draw
from pipeline.vae.networks import ACTIVATIONS
from pipeline.vae.objectives import OBJECTIVES, Draws, Numbers, Objective
from pipeline.vae.posterior import POSTERIORS, diagonal
from pipeline.vae.scales import SCALES, Scale

from .kit import task, tiny_dataset, train_all

FORM_OF_KIND = {"counts": "counts", "binary": "binarised", "real": "grey"}
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
ROWS, REAL = 16, 13


def curious(draws: Draws, numbers: Numbers) -> Tensor:
    """An objective that is not linear in the terms and looks at all of the posterior."""
    posterior = draws.posterior
    free_bits = draws.rate().clamp_min(0.1).sum(-1) * numbers["beta"] * numbers["warmup"]
    return draws.distortion().sqrt() + free_bits + (posterior.sigma * posterior.mean).sum(-1).squeeze(-2)


CURIOUS = Objective(formula="", source="", loss=curious)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """One activation and one objective that the step knows nothing of."""
    monkeypatch.setitem(cast(MutableMapping[str, Any], ACTIVATIONS), "gelu", nn.GELU)
    monkeypatch.setitem(cast(MutableMapping[str, Any], OBJECTIVES), "curious", CURIOUS)


def pack_of(dtype: torch.dtype, **structure: Value) -> Pack:
    """A slot for each scale, σ far from where it may not be."""
    tasks = []
    for i, (name, scale) in enumerate(SCALES.items()):
        own: dict[str, Any] = {
            "scale": name,
            "initial_sigma": 2.0 if scale.reaches(2.0) else 0.6,
            "beta": 1 + 0.1 * i,
            "beta_warmup_epochs": 2 * i,
        }
        tasks.append(task(i, dtype=DTYPES[dtype], **(structure | own)))
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
    """x (M, R, D), noise (M, K, R, L), weight (R,) with padding at its end."""
    slots, generator = len(pack.slots), torch.Generator().manual_seed(3)
    x = pack.data.train_x[:ROWS].expand(slots, -1, -1)
    shape = (slots, pack.structure.samples, ROWS, pack.structure.latent_dim)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(x.dtype)
    weight = torch.full((ROWS,), 1 / REAL, dtype=x.dtype)
    weight[REAL:] = 0
    return x, noise, weight


def step_of(pack: Pack, rows: Tensor, gradient: Tensor) -> Step:
    structure = pack.structure
    return Step(pack.stack, pack._maths, rows, gradient, samples=structure.samples, images=pack._batches.images)


def by_autograd(pack: Pack, i: int) -> tuple[Tensor, Tensor]:
    """Slot i's mean loss over the real images and its gradient (P,), from its model alone and as a whole."""
    slot, (x, noise, _) = pack.slots[i], batch_of(pack)
    model = pack._fresh_model()
    model.load_state_dict(pack.stack.named_tensors(pack.rows_MP[i]), strict=False)  # buffers are as built
    hyper = {name: values[i] for name, values in pack._maths.hyper.items()}
    numbers = {name: values[i] for name, values in pack._maths.numbers.items()}
    scale, images = SCALES[slot.scale], pack._batches.images
    draws = draw(model, scale, x[i, :REAL], noise[i, :, :REAL], hyper, images=images)
    loss = pack._maths.objective.loss(draws, numbers).mean()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return loss.detach(), pack.stack.row_of(dict(zip(parameters, found, strict=True)))


CASES: list[dict[str, Value]] = [
    {"likelihood": likelihood, "activation": activation, "hidden": hidden, "latent_dim": latent_dim}
    for likelihood, activation, hidden, latent_dim in [
        ("binomial", "relu", (101,), 5),
        ("binomial", "tanh", (33, 8), 20),
        ("bernoulli", "gelu", (33, 17), 3),
        ("bernoulli", "relu", (), 2),
        ("gaussian", "tanh", (19,), 5),
        ("gaussian_learned", "relu", (19, 40), 16),
        ("beta_binomial", "tanh", (19,), 3),
        ("categorical", "relu", (19,), 3),
        ("continuous_bernoulli", "relu", (19,), 3),
        ("discretized_logistic", "tanh", (19,), 3),
    ]
]


WAYS: list[dict[str, Value]] = [
    {},
    {"objective": "beta"},
    {"objective": "curious"},
    {"samples": 3},
    {"posterior": "shared_scale"},
    *[dict[str, Value](objective=name, samples=4) for name in OBJECTIVES],
    *[dict[str, Value](posterior=name) for name in POSTERIORS],
    {"posterior": "full", "objective": "iwae", "samples": 3},
    {"posterior": "full", "objective": "stl"},
    {"posterior": "natural", "objective": "tcvae"},
]
"""what decides how a step goes back"""


def spelled(values: dict[str, Value]) -> str:
    return "-".join(map(str, values.values())) or "plain"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize(
    "case",
    [*CASES, *(CASES[i % len(CASES)] | way for i, way in enumerate(WAYS))],
    ids=spelled,
)
def test_gradients_are_autograds(case: dict[str, Value], dtype: torch.dtype, tolerance: float, tables: None) -> None:
    pack = pack_of(dtype, **case)
    found = torch.full_like(pack.rows_MP, 0)
    x, noise, weight = batch_of(pack)
    computed = step_of(pack, pack.rows_MP, found)(x, noise, weight)
    losses = (computed.loss * weight).sum(-1)
    for i, slot in enumerate(pack.slots):
        loss, gradient = by_autograd(pack, i)
        torch.testing.assert_close(losses[i], loss, rtol=tolerance, atol=0, msg=slot.scale)
        size = gradient.abs().amax()
        assert size > 0.05
        torch.testing.assert_close(found[i] / size, gradient / size, rtol=tolerance, atol=tolerance, msg=slot.scale)


def test_gradients_are_finite_differences() -> None:
    pack = pack_of(torch.float64, hidden=(6,), latent_dim=2, activation="tanh")
    batch = batch_of(pack)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rows: Tensor) -> Tensor:
            gradient = torch.zeros_like(rows)
            computed = step_of(pack, rows.detach(), gradient)(*batch)
            ctx.save_for_backward(gradient)
            return (computed.loss * batch[2]).sum(-1)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return cast(Tensor, ctx.saved_tensors[0] * gradients[0].unsqueeze(-1))

    rows = pack.rows_MP.clone().requires_grad_()
    assert torch.autograd.gradcheck(cast(Callable[..., Tensor], Loss.apply), (rows,), fast_mode=True)


def test_what_goes_by_autograd(tables: None) -> None:
    for activation, kind in {"relu": Chain, "tanh": Chain, "gelu": ByAutograd}.items():
        pack = pack_of(torch.float32, activation=activation)
        step = step_of(pack, pack.rows_MP, torch.zeros_like(pack.rows_MP))
        assert type(step._encoder) is type(step._decoder) is kind


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_the_posteriors_way_back(scale: Scale) -> None:
    draw = torch.Generator().manual_seed(1)
    mean, noise, to_sample, to_kl, raw = torch.randn(5, 7, 3, generator=draw, dtype=torch.float64).unbind()
    raw = (raw.abs() + 0.1) if scale.outside else raw * 3
    leaves = [mean.requires_grad_(), raw.requires_grad_()]
    posterior = diagonal(scale, mean, raw)
    total = (posterior.sample(noise) * to_sample + posterior.kl() * to_kl).sum()
    expected = torch.autograd.grad(total, leaves)
    with torch.no_grad():
        to_mean, to_log_sigma = posterior.back(noise, to_sample, to_kl)
        found = to_mean, to_log_sigma * scale.jacobian(raw)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, scale in SCALES.items() if not scale.outside])
def test_slopes_of_scales_are_finite_far_out(name: str) -> None:
    a = torch.tensor([-3e38, -1e4, -104.0, -89.0, -34.5, -15.0, 0.0, 15.0, 89.0, 1e4, 3e38])
    slope, exact = SCALES[name].jacobian(a), SCALES[name].jacobian(a.double())
    torch.testing.assert_close(slope.double(), exact, rtol=2e-5, atol=1e-7)


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
    step_of(pack, pack.rows_MP, copied)(*batch_of(pack))
    monkeypatch.setattr(layers, "LARGE", 1)
    step_of(pack, pack.rows_MP, written)(*batch_of(pack))
    torch.testing.assert_close(written, copied, rtol=1e-12, atol=1e-12)


def test_large_weights_train_to_the_same_bits_in_a_pack() -> None:
    tasks = [task(number, epochs=2, hidden=(1900,)) for number in range(3)]
    assert tiny_dataset().train.shape[1] * 1900 >= layers.LARGE
    packed = train_all(tasks, slots=3)
    for one in tasks:
        alone = train_all([one], slots=1)[one.key]
        assert packed[one.key].largest_pack == 3
        assert dict(alone.curves) == dict(packed[one.key].curves) and alone.files == packed[one.key].files
