"""Our side: the study file that asks for the same trainings, the command, and the check that MLflow has them all.

Equal work: each posterior scale is an arm with one search, one of whose trainings is the repeat on test data (the
smallest confirmation there is), so `trials` trainings of `epochs` epochs are run, as on every other side.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import LEARNING_RATE, SCALES
from benchmarks.peer_loop import Shape

NAME = "bench"
AGREED: dict[str, Any] = {"scale": "log_variance", "learning_rate": 1e-3}
"""The configuration with which both sides must come to the same validation ELBO."""
SWEPT = Shape(side=8, hidden=128, latent_dim=8, batch_size=64)
"""The network of the sweeps."""


def study(data: Path, *, trials: int, epochs: int) -> dict[str, Any]:
    """The study of a sweep of `trials` trainings. Raises ValueError when they cannot be spread over the arms."""
    each, rest = divmod(trials, len(SCALES))
    if rest or each < 2:
        raise ValueError(
            f"trials must be a multiple of {len(SCALES)}, the number of arms, and at least {2 * len(SCALES)}, "
            f"but got {trials}."
        )
    low, high = LEARNING_RATE
    return {
        **_fixed(data, SWEPT, epochs),
        "scientific": {"scale": list(SCALES)},
        "nuisance": {"learning_rate": {"low": low, "high": high, "log": True}},
        # `startup` is Optuna's own default, as on the other sides.
        "search": {"sampler": "tpe", "trials": each - 1, "startup": min(10, each - 1), "lag": 5, "replicates": 1},
        "confirm": {"candidates": 1, "repeats": 1},
    }


def single(data: Path, shape: Shape, epochs: int) -> dict[str, Any]:
    """The agreed configuration alone."""
    fixed = _fixed(data, shape, epochs)
    fixed["model"]["scale"] = AGREED["scale"]
    fixed["train"]["learning_rate"] = AGREED["learning_rate"]
    return fixed


def _fixed(data: Path, shape: Shape, epochs: int) -> dict[str, Any]:
    network = {"network": "conv", "hidden": list(shape.channels)} if shape.levels else {"hidden": [shape.hidden]}
    return {
        "version": 1,
        "name": NAME,
        "data": {"path": str(data), "form": "counts", "levels": 16},
        "model": {**network, "latent_dim": shape.latent_dim, "likelihood": "binomial"},
        "train": {"epochs": epochs, "batch_size": shape.batch_size, "optimizer": "adam"},
    }


def command(file: Path, workdir: Path, workers: int, executor: str = "ray") -> list[str]:
    """What a user would type."""
    return [
        *(sys.executable, "-m", "pipeline", "run", str(file)),
        *("--workdir", str(workdir), "--workers", str(workers)),
        *(["--executor", executor] if executor != "ray" else []),
    ]


def differences(workdir: Path) -> str:
    """What `sync --check` has to complain of; empty when MLflow has exactly what the ledger has."""
    check = [sys.executable, "-m", "pipeline", "sync", NAME, "--check", "--workdir", str(workdir)]
    done = subprocess.run(check, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def write_study(file: Path, content: dict[str, Any]) -> None:
    """JSON is YAML."""
    file.write_text(json.dumps(content, indent=1))
