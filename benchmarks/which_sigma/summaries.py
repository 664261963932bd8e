"""What is kept of each study: the paired values of `vae-sweep compare --json`, small enough for a repository.

docs/which-sigma/NAME.json has an arm a line: its scientific values, the test ELBO of every replicate (null: diverged),
the configuration each search chose, and the mean of a few further metrics. `compared` is the SHA-256 of the whole
`compare --json`, for whoever runs the study again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .studies import QUESTIONS, ROOT

FOLDER = ROOT / "docs" / "which-sigma"
FURTHER = ("test/log_likelihood_iw", "test/rate", "test/active_units")
Values = tuple[float | None, ...]
"""by replicate; None: diverged"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm of one study."""

    values: Mapping[str, Any]
    """its scientific factors"""
    tests: Values
    """test ELBO by replicate, nats per image: the mean of its converged repeats"""
    lost: int
    """repeats that diverged"""
    image_se: float | None
    """standard error of one value over the test images"""
    further: Mapping[str, float | None]
    """means of other test metrics"""
    params: tuple[Mapping[str, Any] | None, ...]
    """what each search chose; empty where nothing was tuned"""


@dataclass(frozen=True, slots=True)
class Summary:
    """One study that ended."""

    name: str
    compared: str
    """SHA-256 of `compare --json`"""
    alpha: float
    margin_nats: float
    test_images: int
    cells: tuple[Cell, ...]

    def row(self, context: Mapping[str, Any]) -> dict[str, Cell]:
        """scale -> the arm that has these values, too; in the study's order."""
        return {
            cell.values["scale"]: cell
            for cell in self.cells
            if all(cell.values[key] == context[key] for key in context)
        }

    def levels(self, factor: str) -> list[Any]:
        """The values of one factor, as first seen."""
        return list(dict.fromkeys(cell.values[factor] for cell in self.cells))

    @property
    def trainings(self) -> int:
        """Repeats behind it."""
        return sum(len(cell.tests) for cell in self.cells)


def condensed(name: str, text: str) -> str:
    """What is kept of one `compare --json`."""
    found = json.loads(text)
    if found["missing_repeats"]:
        raise ValueError(f"{name} has not ended: {found['missing_repeats']} repeats are missing")
    head = {
        "study": name,
        "file": QUESTIONS[name].file,
        "sets": list(QUESTIONS[name].sets),
        "compared": hashlib.sha256(text.encode()).hexdigest(),
        **{key: found[key] for key in ("metric", "alpha", "margin_nats", "replicates", "repeats", "test_images")},
    }
    lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    arms = ",\n".join(json.dumps(_arm(arm), separators=(",", ":")) for arm in found["arms"])
    return "{\n" + ",\n".join(lines) + ',\n"arms": [\n' + arms + "\n]\n}\n"


def _arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    further = {key: _mean(arm.get("further", {}).get(key)) for key in FURTHER}
    params = [one["params"] for one in arm["replicates"]]
    kept = {
        "values": arm["values"],
        "tests": [one["mean"] for one in arm["replicates"]],
        "lost": arm["repeats_lost"],
        "image_se": arm["image_se"],
        "further": further,
    }
    return kept | ({"params": params} if any(params) else {})


def _mean(metric: Mapping[str, Any] | None) -> float | None:
    return metric["estimate"]["mean"] if metric and metric["estimate"] else None


def read(name: str, folder: Path = FOLDER) -> Summary:
    """A kept study; FileNotFoundError where there is none."""
    found = json.loads((folder / f"{name}.json").read_text())
    cells = tuple(
        Cell(
            values=arm["values"],
            tests=tuple(arm["tests"]),
            lost=arm["lost"],
            image_se=arm["image_se"],
            further=arm["further"],
            params=tuple(arm.get("params", ())),
        )
        for arm in found["arms"]
    )
    return Summary(name, found["compared"], found["alpha"], found["margin_nats"], found["test_images"], cells)


def all_kept(folder: Path = FOLDER) -> dict[str, Summary]:
    """Every study of the page."""
    return {name: read(name, folder) for name in QUESTIONS}


def mean(values: Sequence[float | None]) -> float | None:
    """Over the converged ones; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
