"""The studies behind docs/which-sigma.md: a file each, and what of it is set otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CONFIGS = Path("configs") / "which_sigma"

SGD = (
    "train.optimizer=sgd",
    "train.momentum=0.9",
    "scientific.learning_rate=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2]",
)
PHOTOS = (
    "data.name=photos",
    "data.side=8",
    "data.take=3000",
    "data.form=counts",
    "model.likelihood=discretized_logistic",
    "train.epochs=40",
)
SPRITES = (
    "data.name=sprites",
    "data.take=2000",
    "train.epochs=40",
    "search.replicates=8",
    "scientific.scale=[log_variance, log_std, softplus_std, elu_std, raw_std]",
    "scientific.learning_rate=[1e-3, 2e-3, 4e-3, 8e-3]",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One study and how it is told."""

    file: str
    """in configs/which_sigma/"""
    told: str
    """what it is, in a table's cell"""
    sets: tuple[str, ...] = ()
    """`--set` of `vae-sweep run`, without the name"""

    @property
    def path(self) -> Path:
        return ROOT / CONFIGS / self.file

    def words(self, name: str) -> list[str]:
        """`vae-sweep run`'s arguments."""
        return [str(CONFIGS / self.file), *(f"--set={one}" for one in (f"name=which-sigma-{name}", *self.sets))]


QUESTIONS: Mapping[str, Question] = {
    "adam": Question("grid.yaml", "Adam, as shipped"),
    "close": Question("close.yaml", "Adam, as shipped: fewer scales and rates, more seeds"),
    "adam-sigma0": Question("grid.yaml", "Adam, σ₀ matched", ("train.protocol=sigma0_matched",)),
    "adam-jacobian": Question("grid.yaml", "Adam, J matched", ("train.protocol=jacobian_matched",)),
    "sgd": Question("grid.yaml", "SGD with momentum, as shipped", SGD),
    "sgd-jacobian": Question("grid.yaml", "SGD with momentum, J matched", (*SGD, "train.protocol=jacobian_matched")),
    "tuned": Question("tuned.yaml", "tuned by TPE, as shipped; 2, 8 and 32 latents"),
    "binarised": Question("other_data.yaml", "digits in black and white, Bernoulli"),
    "photos": Question("other_data.yaml", "patches of photographs, discretised logistic", PHOTOS),
    "sprites": Question("other_data.yaml", "sprites, Bernoulli", SPRITES),
    "posteriors": Question("posteriors.yaml", "four families of posteriors"),
}
"""name -> study; the sweep is called which-sigma-NAME, what is kept of it docs/which-sigma/NAME.json"""
GRIDS = ("adam", "adam-sigma0", "adam-jacobian", "sgd", "sgd-jacobian")
OTHER_DATA = ("binarised", "photos", "sprites")
BASELINE = "log_variance"
