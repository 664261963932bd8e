"""A trained VAE read from its two files: `model.safetensors` and `model.json`, what it is beside its weights.

Computes with the packed engine's layers, so that its bits are those of the training process: the test ELBO and the
prior samples are the recorded ones. Nothing is unpickled. Knows no sweep and no MLflow.

Axes: N images, D pixels, L latents, S samples of z. Images are in the units of the sweep's data (`model.json`
says which: counts 0..levels, 0 and 1, or real numbers).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..own_code import Table, is_own
from ..packed.device_data import evaluation_noise, picture_bank
from ..packed.stack import Stack
from ..records import derive_seed
from ..vae.likelihoods import LIKELIHOODS
from ..vae.metrics import evaluation_set
from ..vae.model import VAE, build_vae, standard_normal_bank
from ..vae.networks import ACTIVATIONS, NETWORKS
from ..vae.posterior import POSTERIORS, Posterior
from ..vae.scales import SCALES

WEIGHTS, CARD = "model.safetensors", "model.json"
"""names of the two files, side by side in one folder"""
BLOCK = 64
"""samples of the fixed bank that `samples.png` shows"""
MAX_SAMPLES = 100_000

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All that a trained model is beside its weights; ready for JSON."""

    network: str
    hidden: tuple[int, ...]
    activation: str
    posterior: str
    latent_dim: int
    scale: str
    likelihood: str
    observation_std: float
    dtype: str
    form: str
    """of the images: what data.form of the study was"""
    levels: int | None
    """highest count of a pixel"""
    image_shape: tuple[int, ...]
    """(H, W) or (H, W, C)"""
    value_range: tuple[float, float]
    """what pictures show as black and white"""
    bank_seed: int
    """of the sweep's evaluation noise"""
    test_images: int
    """of the sweep"""

    @property
    def pixels(self) -> int:
        """D."""
        return math.prod(self.image_shape)

    def dump(self) -> str:
        """As a JSON file."""
        return json.dumps({"version": 1, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, text: str) -> ModelCard:
        """The inverse of `dump`. Raises ValueError."""
        plain: Any = json.loads(text)
        names = {field.name for field in fields(cls)}
        if isinstance(plain, dict):
            plain.setdefault("posterior", "diagonal")  # cards from before there were others
        if not isinstance(plain, dict) or plain.pop("version", None) != 1 or plain.keys() != names:
            raise ValueError(f"it must hold version 1 and {', '.join(sorted(names))}")
        wrong = [name for name, is_right in _RULES.items() if not is_right(plain[name])]
        if own := [name for name in wrong if is_own(plain[name])]:
            raise ValueError(
                f"{own[0]} names its author's own code, {plain[own[0]]!r:.60}, which no model brings along"
            )
        if wrong:
            raise ValueError("; ".join(f"{name} cannot be {plain[name]!r:.60}" for name in wrong))
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in plain.items()}
        return cls(**values)


def _whole(value: Any, low: int) -> bool:
    return type(value) is int and low <= value < 2**63


def _real(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _sizes(value: Any, lengths: Collection[int]) -> bool:
    return isinstance(value, list) and len(value) in lengths and all(_whole(size, 1) for size in value)


def _entry_of(table: Table[Any]) -> Callable[[Any], bool]:
    """Of this repository, or code of the user's own that this process has admitted: a card admits nothing."""
    return lambda value: table.find(value) is not None


def _one_of(table: Collection[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in table


_RULES: Mapping[str, Callable[[Any], bool]] = {
    "network": _entry_of(NETWORKS),
    "hidden": lambda value: _sizes(value, range(100)),
    "activation": _one_of(ACTIVATIONS),
    "posterior": _entry_of(POSTERIORS),
    "latent_dim": lambda value: _whole(value, 1),
    "scale": _entry_of(SCALES),
    "likelihood": _entry_of(LIKELIHOODS),
    "observation_std": lambda value: _real(value) and value > 0,
    "dtype": _one_of(("float32", "float64")),
    "form": lambda value: isinstance(value, str),
    "levels": lambda value: value is None or _whole(value, 1),
    "image_shape": lambda value: _sizes(value, (2, 3)),
    "value_range": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_real, value)),
    "bank_seed": lambda value: _whole(value, 0),
    "test_images": lambda value: _whole(value, 1),
}
"""What a card may say: it may come from anybody."""


class ServedModel:
    """One trained model. Methods take and give numpy arrays and keep no state."""

    def __init__(self, card: ModelCard, weights: Mapping[str, Tensor]) -> None:
        """Raises UserError where the weights are of another model than the card says."""
        self.card = card
        _check_sizes(card, weights)
        self._dtype = torch.float64 if card.dtype == "float64" else torch.float32
        try:
            model = _build(card).to(self._dtype)
        except (RuntimeError, TypeError, ValueError) as error:
            shown = str(error).splitlines()[0]
            raise UserError(f"{CARD} must describe a model that can be built, but: {shown}") from error
        self._stack = Stack(model)
        expected = {leaf.name: leaf.shape for leaf in self._stack.leaves}
        came = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if came != expected:
            wrong = sorted(name for name in expected.keys() | came.keys() if expected.get(name) != came.get(name))
            raise UserError(f"Weights must be those of the model that {CARD} describes, but differ in {wrong[:3]}.")
        row = torch.zeros(self._stack.row_length, dtype=self._dtype)
        for leaf in self._stack.leaves:
            row[leaf.offset : leaf.offset + leaf.size] = weights[leaf.name].to(self._dtype).reshape(-1)
        self._stack.bind(row.unsqueeze(0))
        self._scale: Callable[[Tensor], tuple[Tensor, Tensor]] = SCALES[card.scale].forward
        self._hyper = {"observation_std": torch.tensor(card.observation_std, dtype=self._dtype).view(1, 1, 1)}

    def encode(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of q(z|x): x (N, D) -> two (N, L)."""
        posterior = self._posterior(self._images(x))
        return posterior.mean[0].numpy(), posterior.sigma[0].numpy()

    def decode(self, z: Array) -> Array:
        """Expected pixel values E[x|z]: z (N, L) -> (N, D)."""
        return self._decode(self._table(z, self.card.latent_dim, "z"))

    def reconstruct(self, x: Array) -> Array:
        """Expected pixel values at the posterior's mean: x (N, D) -> (N, D)."""
        return self._decode(self._posterior(self._images(x)).mean[0])

    def sample(self, n: int = BLOCK, seed: int | None = None) -> Array:
        """Expected pixel values of n draws from the prior, (n, D).

        Without `seed` from the fixed bank of z: the first 64 are those of the run's `samples.png`.
        """
        if not 1 <= n <= MAX_SAMPLES:
            raise UserError(f"A model gives 1 to {MAX_SAMPLES:,} samples at once, but {n} were asked for.")
        blocks = [self._decode(self._prior(block, seed)) for block in range(-(-n // BLOCK))]
        return np.concatenate(blocks)[:n]

    @torch.no_grad()
    def score(self, x: Array) -> Array:
        """ELBO of every image at β = 1, nats: x (N, D) -> (N,) float64.

        Row i takes the noise that row i of the sweep's test images was evaluated with, so the mean over these is the
        recorded `test/elbo`, and the first rows of a table score as they do in the whole.
        """
        images = self._images(x)
        rows = torch.arange(len(images)) % self.card.test_images
        bank = evaluation_noise(self.card.bank_seed, "test", self.card.test_images, self.card.latent_dim)
        log_base = self._model.observation.log_base(images)
        data = evaluation_set(images, log_base, bank.to(self._dtype)[:, rows])
        parts = []
        for chunk in data.chunks():
            posterior = self._posterior(data.x[chunk])
            found = -posterior.kl().sum(-1).double()
            for noise in data.noise[:, chunk]:
                output = self._model.decode(posterior.sample(noise))
                kernel = self._model.observation.log_kernel(data.x[chunk].unsqueeze(0), output, self._hyper)
                found += kernel.double() / data.noise.shape[0]
            parts.append(found[0])
        return (torch.cat(parts)[: data.count] + log_base.double()).numpy()

    def picture(self, n: int = BLOCK, seed: int | None = None) -> bytes:
        """`sample` as PNG; with the defaults the bytes of the run's `samples.png`."""
        from ..vae.pictures import square_grid, to_bytes

        pixels = to_bytes(self.sample(n, seed).astype(np.float32), *self.card.value_range)
        return square_grid(pixels, self.card.image_shape)

    @property
    def _model(self) -> VAE:
        return self._stack.model

    @torch.no_grad()
    def _posterior(self, x: Tensor) -> Posterior:
        """x (N, D) -> (1, N, L)."""
        return self._model.posterior(x.unsqueeze(0), self._scale)

    @torch.no_grad()
    def _decode(self, z: Tensor) -> Array:
        pixels: Array = self._model.observation.mean(self._model.decode(z.unsqueeze(0)))[0].numpy()
        return pixels

    def _prior(self, block: int, seed: int | None) -> Tensor:
        """z of samples 64·block to 64·block + 63."""
        if seed is None and block == 0:
            return picture_bank(BLOCK, self.card.latent_dim).to(self._dtype)
        own = derive_seed("samples", "fixed bank" if seed is None else seed)
        return standard_normal_bank(own, f"samples {block}", BLOCK, self.card.latent_dim).to(self._dtype)

    def _images(self, x: Array) -> Tensor:
        return self._table(x, self.card.pixels, "images")

    def _table(self, values: Array, width: int, what: str) -> Tensor:
        array = np.asarray(values)
        array = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
        if array.size == 0 or array.shape[1] != width:
            raise UserError(f"{what} must be a table of rows of {width} numbers, but got shape {np.shape(values)}.")
        return torch.tensor(array, dtype=self._dtype)


def load_model(folder: Path) -> ServedModel:
    """The model of a folder that holds `model.json` and `model.safetensors`. Raises UserError."""
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"A model is a folder with {WEIGHTS} and {CARD}, but {folder} has no {name}.")
    try:
        card = ModelCard.read((folder / CARD).read_text())
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / CARD} must describe a model, but cannot be read: {error}") from error
    return model_of(card, folder / WEIGHTS)


def own_code_in(folder: Path) -> list[str]:
    """What the card of a folder names of its author's own code; nothing is imported, and a broken card names none."""
    try:
        plain = json.loads((folder / CARD).read_text())
        return sorted({plain[name] for name in ("network", "posterior", "scale", "likelihood") if is_own(plain[name])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def model_of(card: ModelCard, weights: Path) -> ServedModel:
    """The model of a card and a safetensors file. Raises UserError."""
    try:
        return ServedModel(card, load_file(weights))
    except SafetensorError as error:
        raise UserError(f"{weights} must be a safetensors file, but cannot be read: {error}") from error


def _check_sizes(card: ModelCard, weights: Mapping[str, Tensor]) -> None:
    """Raises UserError for a card that asks for a larger model than its weights are: it would take all memory."""
    largest = max((tensor.numel() for tensor in weights.values()), default=0)
    try:
        with torch.device("meta"):  # where a model takes no memory
            asked = max(parameter.numel() for parameter in _build(card).parameters())
    except (
        UserError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # not every module can be built there, and none beyond all sizes
        return
    if asked > largest:
        raise UserError(
            f"Weights must be those of the model that {CARD} describes, but that has a layer of {asked:,} numbers "
            f"and the largest there is {largest:,}."
        )


def _build(card: ModelCard) -> VAE:
    return build_vae(
        network=card.network,
        pixels=card.pixels,
        hidden=card.hidden,
        activation=card.activation,
        posterior=card.posterior,
        latent_dim=card.latent_dim,
        likelihood=card.likelihood,
        levels=card.levels,
        image_shape=card.image_shape,
    )
