"""What two trials must have in common to share a pack, and what each slot may have of its own.

Structural hyperparameters decide shapes and kernels; all others become one value a slot. Knows no torch, so that
the spine may ask without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..records import Params


@dataclass(frozen=True, slots=True)
class Structure:
    """The structural hyperparameters, under their study-file names."""

    network: str
    hidden: tuple[int, ...]
    activation: str
    posterior: str
    latent_dim: int
    likelihood: str
    objective: str
    samples: int
    batch_size: int
    optimizer: str
    dtype: str


STRUCTURAL: tuple[str, ...] = tuple(field.name for field in fields(Structure))
"""Names of the structural hyperparameters; every other one is numeric."""


def structure_of(hyperparameters: Params) -> Structure:
    """The structure of a flat and complete set of hyperparameters."""
    values: dict[str, Any] = {name: hyperparameters[name] for name in STRUCTURAL}
    values["hidden"] = tuple(values["hidden"])
    return Structure(**values)
