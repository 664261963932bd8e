"""vae-sweep: distributed hyperparameter sweeps of variational autoencoders.

Importing this package has no side effects and loads no heavy library.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .frames import LoadedSweep

__version__ = "0.1.0"


def load_sweep(name: str, workdir: str | PathLike[str] = "sweeps") -> LoadedSweep:
    """Results of a sweep, finished or not, as pandas frames and plotly figures: docs/python.md.

    Raises UserError when there is no such sweep. VAE_SWEEP_DATABASE_URL, where set, says where the ledger is.
    """
    from pathlib import Path

    from .frames import load_sweep as load

    return load(name, Path(workdir))
