"""What the peers have in common beside the workload: their command line and the quiet MLflow of a competent user.

Knows no `pipeline`. Imports nothing heavy: a peer must be free to set what Ray reads at its import.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

EXPERIMENT = "bench"
SEED = 0
SCALES = ("log_variance", "log_std", "softplus_std", "softplus_variance")
"""One factor of the search space; none of them diverges here, so every trial does its full work."""
LEARNING_RATE = (1e-4, 1e-2)
"""The other one, on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Job:
    """One sweep to be run by a peer."""

    mode: str
    data: Path
    """.npz of `workload.write_digits`"""
    store: str
    """MLflow tracking URI of a store that exists"""
    folder: Path
    """scratch space; artifacts go below it"""
    trials: int
    epochs: int
    processes: int
    """one a core"""


def parse_job(description: str, modes: list[str]) -> Job:
    """The job on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--mode", choices=modes, default=modes[0])
    for name in ("--data", "--folder"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--store", required=True)
    for name, default in (("--trials", 64), ("--epochs", 20), ("--processes", os.cpu_count() or 1)):
        parser.add_argument(name, type=int, default=default)
    return Job(**vars(parser.parse_args()))


def quiet_environment() -> None:
    """One thread a process, no telemetry, no banners. Call before torch, ray or mlflow is imported."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }
