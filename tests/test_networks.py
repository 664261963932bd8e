"""Networks in packs: every entry of the table and ordinary modules of a user through one contract; what is refused.

The modules stand for what users bring: residual blocks, parameters in containers, convolutions, recurrence, attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import load_study
from pipeline.data.dataset import DataSet
from pipeline.errors import StudyFileError, UserError
from pipeline.launch.where import load_study_data
from pipeline.packed import trainer as trainer_module
from pipeline.packed.device_data import DeviceData
from pipeline.packed.exactness import packs_exactly, runs_across
from pipeline.packed.pack import Pack
from pipeline.packed.pieces import ByAutograd, Chain, EachByAutograd, Series
from pipeline.packed.structure import structure_of
from pipeline.packed.trainer import Trainer
from pipeline.records import State, TrialKey, TrialOutcome, TrialTask
from pipeline.serving.model import ModelCard, ServedModel
from pipeline.vae import admission
from pipeline.vae.model import VAE, build_vae, initialise
from pipeline.vae.networks import NETWORKS, Network, ToChannels, ToRows

from .kit import LEVELS, drive, numbers, task, tiny_dataset, train_all
from .sweeps import study_file
from .test_checkpoints import resumed
from .test_step import batch_of, by_autograd, pack_of, step_of

SHAPE = (5, 7)


class Residual(nn.Module):
    """A normalised residual block, as in many an MLP."""

    def __init__(self, before: int, width: int, after: int) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(before, width), nn.Linear(width, width), nn.Linear(width, after)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return cast(Tensor, self.last(h + torch.relu(self.inner(self.norm(h)))))


class Nested(nn.Module):
    """Parameters of its own in containers, drawn by itself, and a buffer."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({"w": nn.Parameter(torch.randn(after, before) / before)})
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(after))])
        self.angles: Tensor
        self.register_buffer("angles", torch.randn(after))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weights["w"].t() + self.shifts[0]) + self.angles


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.cell = nn.GRU(SHAPE[1], after, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.cell(x.view(len(x), *SHAPE))[0][:, -1])


class Attentive(nn.Module):
    """Its rows look at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.look = nn.Linear(SHAPE[1], 6), nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.lift(x.view(len(x), *SHAPE))
        return cast(Tensor, self.look(rows, rows, rows, need_weights=False)[0].flatten(1))


Parts = Callable[[int, int, int], tuple[nn.Module, int, nn.Module]]
"""(pixels, outputs of the decoder, latents) -> encoder, features, decoder"""

USERS: dict[str, Parts] = {
    "residual": lambda d, o, latents: (Residual(d, 17, 19), 19, Residual(latents, 17, o)),
    "nested": lambda d, o, latents: (
        Nested(d, 19),
        19,
        nn.Sequential(nn.Linear(latents, 13), nn.GELU(), Nested(13, 9), nn.Linear(9, o)),
    ),
    "small convolution": lambda d, o, latents: (
        nn.Sequential(
            *(nn.Unflatten(1, (1, *SHAPE)), nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(60, 21), nn.Tanh(), nn.Linear(21, 11, bias=False)),
        ),
        11,
        nn.Linear(latents, o),
    ),
    "recurrent": lambda d, o, latents: (Recurrent(9), 9, nn.Linear(latents, o)),
    "attentive": lambda d, o, latents: (Attentive(), 30, nn.Sequential(nn.Linear(latents, 8), nn.ReLU(), Nested(8, o))),
}


def builder(parts: Parts) -> Callable[..., Network]:
    def build(*, pixels: int, outputs: int, latent_dim: int, **rest: object) -> Network:
        assert rest.keys() == {"image_shape", "hidden", "activation"}
        return Network(*parts(pixels, pixels * outputs, latent_dim))

    return build


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, parts in USERS.items():
        put(monkeypatch, name, parts)


def put(monkeypatch: pytest.MonkeyPatch, name: str, parts: Parts) -> None:
    monkeypatch.setitem(cast(MutableMapping[str, Any], NETWORKS), name, builder(parts))


every_network = pytest.mark.parametrize("network", [*NETWORKS, *USERS])


def mixture(network: str, count: int = 5, **changes: Any) -> list[TrialTask]:
    """Trials of one structure with scales, rates and lengths of their own; the fourth diverges at once."""
    scales = ("log_variance", "softplus_std", "elu_std")
    tasks = []
    for i in range(count):
        own: dict[str, Any] = {
            "scale": scales[i % 3],
            "learning_rate": 1e20 if i == 3 else 1e-3 * (1 + i),
            "epochs": 1 + i % 3,
            "beta_warmup_epochs": i % 2,
        }
        tasks.append(task(i, **{"network": network, "hidden": (6, 5), **own, **changes}))
    return tasks


def alone(tasks: list[TrialTask], dataset: DataSet | None = None) -> dict[TrialKey, TrialOutcome]:
    found: dict[TrialKey, TrialOutcome] = {}
    for one in tasks:
        found |= train_all([one], 1, dataset)
    return found


def data_of(dtype: torch.dtype = torch.float32) -> DeviceData:
    device = torch.device("cpu")
    return DeviceData(tiny_dataset(), likelihood="binomial", dtype=dtype, device=device, bank_seed=0)


def vae(network: str = "conv", shape: tuple[int, ...] = (9, 11), likelihood: str = "binomial", **changes: Any) -> VAE:
    given = {"hidden": (6, 5), "activation": "relu", "posterior": "diagonal", "latent_dim": 3, "levels": 4, **changes}
    return build_vae(
        network=network, pixels=math.prod(shape), image_shape=shape, likelihood=likelihood, **cast(Any, given)
    )


# ------------------------------------------------------------------------------------------ the contract


@every_network
def test_a_slot_is_a_solo_run(network: str) -> None:
    tasks = mixture(network)
    expected = alone(tasks)
    assert [outcome.state for outcome in expected.values()].count(State.DIVERGED) == 1
    found = train_all(tasks[::-1], 3)
    assert {outcome.largest_pack for outcome in found.values()} == {3}
    for key, outcome in expected.items():
        assert numbers(found[key]) == numbers(outcome), key


@every_network
@pytest.mark.parametrize("samples", [1, 3])
def test_gradients_are_autograds(network: str, samples: int) -> None:
    objective = "iwae" if samples > 1 else "elbo"
    pack = pack_of(torch.float64, network=network, hidden=(6, 5), samples=samples, objective=objective)
    batch = batch_of(pack)
    found = torch.full_like(pack.rows_MP, 0)
    step = step_of(pack, pack.rows_MP, found)
    step(*batch)
    expected = torch.stack([by_autograd(pack, i)[1] for i in range(len(pack.slots))])
    size = expected.abs().amax(1, keepdim=True)
    assert size.min() > 0.05
    torch.testing.assert_close(found / size, expected / size, rtol=1e-9, atol=1e-9)


@every_network
def test_a_checkpoint_goes_on_to_the_same_bytes(network: str) -> None:
    one, other = mixture(network, 2, epochs=3)
    first = Trainer(tiny_dataset(), slots=2, bank_seed=0)
    first.submit([one, other])
    first.advance(0.0)
    kept = {found.key: found.content for found in first.checkpoints()}
    second = Trainer(tiny_dataset(), slots=2, bank_seed=0)
    second.submit([resumed(one, kept[one.key]), task(9, network=network, hidden=(6, 5))])
    outcomes, reports, _ = drive(second)
    assert numbers(outcomes[one.key]) == numbers(alone([one])[one.key])
    assert min(report.epoch for report in reports if report.key == one.key) == 2


@every_network
def test_a_served_model_scores_what_was_recorded(network: str) -> None:
    dataset, (one,) = tiny_dataset(), mixture(network, 1)
    outcome = train_all([one], 1)[one.key]
    given = one.hyperparameters
    card = ModelCard(
        network=network,
        hidden=(6, 5),
        activation="relu",
        posterior="diagonal",
        latent_dim=5,
        scale=str(given["scale"]),
        likelihood="binomial",
        observation_std=1.0,
        dtype="float32",
        form="counts",
        levels=LEVELS,
        image_shape=dataset.image_shape,
        value_range=(0.0, float(LEVELS)),
        bank_seed=0,
        test_images=len(dataset.test),
    )
    served = ServedModel(card, _weights(outcome))
    assert float(np.mean(served.score(dataset.test))) == pytest.approx(outcome.metrics["test/elbo"], rel=1e-12)
    assert served.picture() == outcome.files["samples.png"]


def _weights(outcome: TrialOutcome) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(outcome.files["model.safetensors"])


@every_network
def test_weights_are_of_the_trials_seed_alone(network: str) -> None:
    rows = []
    for seed, elsewhere in ((1, 1), (1, 2), (2, 1)):
        torch.manual_seed(elsewhere)
        state = torch.get_rng_state()
        pack = Pack(structure_of(task(network=network, hidden=(6, 5)).hyperparameters), data_of())
        pack.resettle([task(seed, network=network, hidden=(6, 5))])
        assert torch.equal(state, torch.get_rng_state()), "somebody else's random numbers were drawn"
        rows.append(pack.rows_MP[0].clone())
    assert torch.equal(rows[0], rows[1])
    for leaf in pack.stack.leaves:
        a, b = (row[leaf.offset : leaf.offset + leaf.size] for row in rows[1:])
        assert not torch.equal(a, b) or a.min() == a.max(), leaf.name


# ------------------------------------------------------------------------------------- which way it runs


def kinds(network: str) -> tuple[str, str]:
    """What encoder and decoder are in a step."""
    pack = Pack(structure_of(task(network=network, hidden=(6, 5)).hyperparameters), data_of())
    pack.resettle([task(0, network=network, hidden=(6, 5))])
    step = step_of(pack, pack.rows_MP, torch.zeros_like(pack.rows_MP))
    names = {Chain: "chain", ByAutograd: "autograd", EachByAutograd: "each"}
    found = []
    for piece in (step._encoder, step._decoder):
        parts = piece.pieces if isinstance(piece, Series) else [piece]
        found.append(" ".join(names[type(part)] for part in parts))
    return found[0], found[1]


def test_linear_ends_are_batched_and_the_rest_runs_slot_by_slot() -> None:
    assert kinds("mlp") == ("chain", "chain")
    assert kinds("conv") == ("each chain", "chain each")
    assert kinds("residual") == ("each", "each")
    assert kinds("nested") == ("each", "autograd each"), "GELU is batched, but goes by autograd"
    assert kinds("small convolution") == ("each chain each", "chain")


def test_vmap_is_taken_where_it_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual network can go across slots here; a convolution is not tried on a CPU."""
    sample = task(network="residual").hyperparameters
    assert runs_across(structure_of(sample), data_of(), sample)
    conv = task(network="conv", hidden=(6, 5)).hyperparameters
    assert not runs_across(structure_of(conv), data_of(), conv) and packs_exactly(structure_of(conv), data_of(), conv)
    mlp = task().hyperparameters
    assert not runs_across(structure_of(mlp), data_of(), mlp), "all of it is batched anyway"
    monkeypatch.setattr(trainer_module, "across_pays", lambda *given: True)
    tasks, calls = mixture("residual"), 0
    vmap = torch.vmap

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return vmap(*given, **options)

    monkeypatch.setattr(torch, "vmap", counted)
    expected = alone(tasks)
    assert calls == 0, "one slot has nothing to go across"
    found = train_all(tasks, 5)
    assert calls > 20
    assert {k: numbers(one) for k, one in found.items()} == {k: numbers(one) for k, one in expected.items()}


@pytest.mark.parametrize("network", ["residual", "nested"])
def test_gradients_across_slots_are_autograds(network: str) -> None:
    pack = pack_of(torch.float64, network=network)
    pack.stack.run_across(True)
    found = torch.full_like(pack.rows_MP, 0)
    step = step_of(pack, pack.rows_MP, found)
    step(*batch_of(pack))
    expected = torch.stack([by_autograd(pack, i)[1] for i in range(len(pack.slots))])
    size = expected.abs().amax(1, keepdim=True)
    torch.testing.assert_close(found / size, expected / size, rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------- conv


@pytest.mark.parametrize("shape", [(8, 8), (28, 28, 1), (64, 64, 3), (33, 17, 2), (11, 64)], ids=str)
def test_conv_for_images_of_any_shape(shape: tuple[int, ...]) -> None:
    for likelihood in ("binomial", "categorical"):
        model = vae(shape=shape, likelihood=likelihood, hidden=(4, 6, 5))
        admission.admit(model, math.prod(shape))
        x = torch.rand(3, math.prod(shape))
        assert model.encoder(x).shape == (3, 256)
        assert model.decode(torch.randn(3, 3)).shape == (3, math.prod(shape) * model.observation.outputs)


def test_pixels_and_their_outputs_keep_their_places() -> None:
    x = torch.arange(2 * 3 * 4 * 2.0).view(2, -1)
    images = ToChannels(3, 4, 2)(x)
    assert images[1, 1, 2, 3] == x[1, (2 * 4 + 3) * 2 + 1] and torch.equal(ToRows()(images), x)
    outputs = torch.arange(2 * 3 * 1 * 1.0).view(1, 6, 1, 1)  # two channels of three outputs
    assert ToRows()(outputs).view(2, 3).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_bright_corner_is_seen_and_drawn_where_it_is() -> None:
    model = vae(shape=(8, 8), hidden=(3,))
    initialise(model, 0)
    first = cast(nn.Conv2d, cast(nn.Sequential, model.encoder)[1])
    x = torch.zeros(1, 64)
    x[0, 7] = 1.0  # the upper right pixel
    seen = first(ToChannels(8, 8, 1)(x)) - first(ToChannels(8, 8, 1)(torch.zeros(1, 64)))
    assert seen[0, :, 0, 3].abs().min() > 0 and seen[0, :, 1:].abs().max() == seen[0, :, :, :3].abs().max() == 0


def test_initial_weights_are_torchs_own_and_shared_by_name() -> None:
    wide, narrow = vae(latent_dim=7), vae(latent_dim=3)
    initialise(wide, 5), initialise(narrow, 5)
    torch.manual_seed(0)
    for name, layer in wide.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            drawn = [parameter.detach().abs().max() for parameter in layer.parameters()]
            layer.reset_parameters()
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert max(drawn) <= bound and layer.weight.abs().max() <= bound, name
            assert min(drawn[0], layer.weight.abs().max().detach()) > 0.8 * bound, name
    initialise(wide, 5)
    for name, parameter in wide.named_parameters():
        other = narrow.get_parameter(name)
        if other.shape == parameter.shape and not name.startswith("decoder.0"):  # whose bound depends on the latents
            assert torch.equal(other, parameter), name
    assert torch.equal(wide.get_parameter("mean.weight")[:3], narrow.get_parameter("mean.weight"))


@pytest.mark.parametrize(("hidden", "words"), [([4, 4, 4, 4], "1 to 3 numbers"), ([], "has 0 levels")])
def test_levels_that_do_not_fit_are_a_mistake_in_the_study(hidden: list[int], words: str, tmp_path: Path) -> None:
    file = study_file(tmp_path, model={"network": "conv", "hidden": hidden})
    with pytest.raises(StudyFileError, match="halves the images") as caught:
        load_study_data(load_study(file, []))
    assert words in str(caught.value) and "model.hidden" in str(caught.value)
    fitting = study_file(tmp_path, model={"network": "conv", "hidden": [4, 4]})
    assert load_study_data(load_study(fitting, [])).image_shape == (8, 8)


# ------------------------------------------------------------------------------------------ refusals


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(self.out_features)


class Counting(nn.Linear):
    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        cast(Tensor, self.calls).add_(1)
        return super().forward(x)


class Function(nn.Module):
    """A linear layer and any function of it."""

    def __init__(self, before: int, after: int, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(before, after), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.layer(x))


def frozen(layer: nn.Linear) -> nn.Linear:
    layer.weight.requires_grad_(False)
    return layer


def tied(d: int, o: int, latents: int) -> tuple[nn.Module, int, nn.Module]:
    first, last = nn.Linear(d, latents), nn.Linear(latents, o)
    last.weight = nn.Parameter(first.weight.t().detach().clone())
    last.bias = nn.Parameter(torch.zeros(o))
    first.weight = last.weight = nn.Parameter(torch.rand(latents, latents))
    return first, latents, last


def first(make: Callable[[int], nn.Module]) -> Parts:
    """A network with this encoder of 19 features."""
    return lambda d, o, latents: (make(d), 19, nn.Linear(latents, o))


REFUSED: dict[str, tuple[Parts, str]] = {
    "batch norm": (first(lambda d: nn.Sequential(nn.Linear(d, 19), nn.BatchNorm1d(19))), "GroupNorm or nn.LayerNorm"),
    "batch statistics": (first(lambda d: Function(d, 19, lambda y: y - y.mean(0))), "no mean over rows"),
    "dropout": (first(lambda d: nn.Sequential(nn.Linear(d, 19), nn.Dropout(0.2))), "random numbers itself"),
    "own noise": (first(lambda d: Noisy(d, 19)), "random numbers itself"),
    "changing buffers": (first(lambda d: Counting(d, 19)), "changes 'calls'"),
    "another width": (first(lambda d: nn.Linear(d, 18)), r"shape \(5, 19\), but .* returns \(5, 18\)"),
    "a rank too many": (first(lambda d: Function(d, 19, lambda y: y.unsqueeze(1))), r"returns \(5, 1, 19\)"),
    "no tensor": (first(lambda d: Function(d, 19, lambda y: (y, y))), "returns tuple"),
    "another dtype": (first(lambda d: Function(d, 19, lambda y: y.double())), "torch.float64"),
    "detached": (first(lambda d: Function(d, 19, lambda y: y.detach())), "leave out `detach`"),
    "layers that do not fit": (first(lambda d: nn.Sequential(nn.Linear(d, 4), nn.Linear(5, 19))), "layers fit"),
    "a fixed batch size": (first(lambda d: Function(d, 19, lambda y: y.view(64, 19))), "any number of rows"),
    "half precision": (first(lambda d: nn.Linear(d, 19).half()), "float16"),
    "lazy": (first(lambda d: nn.LazyLinear(19)), "lazy"),
    "frozen": (first(lambda d: frozen(nn.Linear(d, 19))), "register it as a buffer"),
    "overwriting its input": (
        first(lambda d: nn.Sequential(nn.Threshold(0.5, 0.0, True), nn.Linear(d, 19))),
        "inplace",
    ),
    "tied": (tied, "cannot be shared"),
    "a decoder without outputs": (
        lambda d, o, latents: (nn.Linear(d, 19), 19, nn.Linear(latents, d - 1)),
        "the decoder",
    ),
    "a builder that raises": (first(lambda d: nn.Linear(d, -19)), "that raised RuntimeError"),
    "no module": (
        lambda d, o, latents: (cast(nn.Module, torch.tanh), 19, nn.Linear(latents, o)),
        "module, int, module. But bad gave builtin_function_or_method, int, Linear",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_in_a_pack_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, words = REFUSED[case]
    put(monkeypatch, "bad", parts)
    with pytest.raises(UserError, match=words):
        structure = structure_of(task(network="bad").hyperparameters)
        Pack(structure, data_of())


def test_a_refused_network_fails_its_trials_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "bad", REFUSED["batch norm"][0])
    tasks = [task(0, network="bad"), task(1), task(2, network="bad")]
    found = train_all(tasks, 3)
    assert found[tasks[1].key].state is State.COMPLETE
    for bad in (tasks[0], tasks[2]):
        outcome = found[bad.key]
        assert outcome.state is State.FAILED and outcome.epochs == 0
        assert outcome.cause and "BatchNorm1d at '1': take nn.GroupNorm or nn.LayerNorm" in outcome.cause


def test_dropout_of_nothing_and_frozen_statistics_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "fine", first(lambda d: nn.Sequential(nn.Linear(d, 19), nn.Dropout(0.0), nn.LayerNorm(19))))
    (outcome,) = train_all([task(0, network="fine", epochs=1)], 1).values()
    assert outcome.state is State.COMPLETE
