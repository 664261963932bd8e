"""Where a sweep runs and where its results go, and what is opened there. Never part of a study.

Imports nothing heavy at the top: what runs beside a sweep is started before all else is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..paths import WorkPaths

if TYPE_CHECKING:
    from ..config import Study
    from ..data.dataset import DataSet
    from ..ledger.store import Ledger

LEDGER_VARIABLE = "VAE_SWEEP_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Where:
    """Where a sweep runs and where its results go: never part of the study."""

    paths: WorkPaths
    workers: int | None = 1
    """None: all that the cluster at `address` has"""
    max_workers: int | None = None
    """of a cluster that grows; None: `workers`, or no more than the study can use"""
    device: str = "auto"
    """of Ray workers: `cpu`, `cuda`, or `auto`: GPUs where the cluster has some"""
    workers_per_gpu: int = 1
    slots: int | None = None
    """trials a worker trains at once; None: as many as pay, by measurement"""
    executor: str = "ray"
    """`ray`, `processes`, `inline` or, for tests of all but the training, `simulated`"""
    address: str | None = None
    """of a Ray cluster; None starts one here"""
    tracking: str | None = None
    """MLflow tracking URI; None: the embedded store; `none`: no tracker"""
    allow_mixed: bool = False
    hours: float | None = None
    """a clean stop after so long"""
    checkpoint_seconds: float = 60.0
    """how often the state of a trial in training is kept"""
    silence_seconds: float = 60.0
    """a Ray worker without a sign of life for so long is given up"""

    @property
    def ledger_url(self) -> str:
        """The ledger's database."""
        return os.environ.get(LEDGER_VARIABLE) or self.paths.ledger_url


def open_ledger(where: Where, *, create: bool = False, on_away: Callable[[str], None] | None = None) -> Ledger:
    """The working directory's ledger. `on_away`: it is waited for, from the start on, and this is told."""
    from ..ledger.patience import Patience
    from ..ledger.store import AWAY_SECONDS, Ledger

    if create:
        where.paths.workdir.mkdir(parents=True, exist_ok=True)
    if on_away is None:
        return Ledger.open(where.ledger_url, create=create)
    ledger = Patience(AWAY_SECONDS).see_through(lambda: Ledger.open(where.ledger_url, create=create), on_away)
    ledger.on_away = on_away
    return ledger


def load_study_data(study: Study) -> DataSet:
    """The study's data. Raises DataError, or StudyFileError where its networks do not fit them."""
    from ..data.dataset import load_data
    from ..space import refuse_networks

    data = study.data
    dataset = load_data(
        name=data.name,
        path=data.path,
        form=data.form,
        levels=data.levels,
        side=data.side,
        take=data.take,
        split=data.split,
        split_seed=study.seed if data.split_seed is None else data.split_seed,
    )
    refuse_networks(study, dataset)
    return dataset


def tracking_target(where: Where) -> str | None:
    """The tracking URI in force; None where nothing is tracked."""
    if where.tracking == "none":
        return None
    return where.tracking or os.environ.get("MLFLOW_TRACKING_URI") or where.paths.mlflow_url
