"""Makes the kept ledger of this version: `python -m tests.ledgers.make` writes `version-.../`, with what it must give.

One finished sweep and one whose driver was killed in the middle, trained for real. Run it once for every release and
commit what it writes; files of former versions stay as they are (tests/test_kept_ledgers.py).
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pipeline
from pipeline.execution.environment import prepare_process
from pipeline.records import ENDED, State

from ..sweeps import MEDIAN, json_of, read, records, run_here, study_file, vae_sweep_started, wait_for

FOLDER = Path(__file__).parent
SMALL: dict[str, Any] = {
    "train": {"epochs": 3},
    "scientific": {"scale": ["log_variance", "log_std"], "latent_dim": [2]},
    "nuisance": {"learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True}, "activation": ["relu", "tanh"]},
    "search": {"trials": 5, "startup": 3, "lag": 2, "replicates": 2, **MEDIAN},
}
SWEEPS = ("finished", "interrupted")


def make() -> Path:
    """The ledger's file; beside it `<sweep>.json` of each of its sweeps, as `compare --json` prints it."""
    prepare_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workdir = folder / "work"
        run_here(study_file(folder, name="finished", **SMALL), workdir, slots=4)
        _interrupt(
            study_file(folder, name="interrupted", **{**SMALL, "train": {"epochs": 40}}), workdir, folder / "log"
        )
        _tidy(workdir / "ledger.db")
        kept = FOLDER / f"version-{pipeline.__version__}"
        kept.mkdir(exist_ok=True)
        (kept / "ledger.db").write_bytes((workdir / "ledger.db").read_bytes())
        for sweep in SWEEPS:
            (kept / f"{sweep}.json").write_text(json_of(read(workdir, sweep)))
    return kept


def _interrupt(file: Path, workdir: Path, log: Path) -> None:
    """Kills the driver while trials train, others have ended and others are still to be asked for."""
    words = ("run", file, "--workdir", workdir, "--mlflow", "none", "--executor", "inline", "--slots", "1")
    process = vae_sweep_started(*words, log=log)
    try:
        wait_for(lambda: sum(r.state in ENDED for r in records(workdir, "interrupted")) >= 6, process)
        wait_for(lambda: any(r.state is State.RUNNING for r in records(workdir, "interrupted")), process)
    finally:
        process.kill()
        process.wait()


def _tidy(ledger: Path) -> None:
    """Small, and without what is of the machine that made it."""
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("UPDATE trials SET host = 'host' WHERE host IS NOT NULL")
        database.execute("DELETE FROM lease")
        database.commit()
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("VACUUM")


if __name__ == "__main__":
    print(make())
