"""One timed run of one side: prepared before the clock, timed from outside, checked after it.

The clock runs from the start of a fresh process to its end. MLflow's store is made once and copied for every run of
every side, in WAL mode: nobody starts with an empty database every day, and making one takes seconds.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ours

ROOT = Path(__file__).parent.parent
TIMEOUT_SECONDS = 3600.0
OURS = {"vae-sweep": "ray", "vae-sweep-processes": "processes"}
"""side -> its `--executor`"""
PEERS = {
    "tune-function": ("peer_tune", "function"),
    "tune-class": ("peer_tune", "class"),
    "optuna-epoch": ("peer_optuna", "epoch"),
    "optuna-best": ("peer_optuna", "best"),
}
"""side -> (module, mode)"""


@dataclass(frozen=True, slots=True)
class Workload:
    """What every side does in one run."""

    name: str
    trials: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Timed:
    """How a run went."""

    side: str
    seconds: float
    busy_before: float
    """share of all cores that others used just before it"""
    problem: str
    """why it does not count; empty when all is in MLflow"""


def make_store(path: Path) -> None:
    """An empty MLflow store in WAL mode."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    make = "import sys, mlflow; mlflow.MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", make, f"sqlite:///{path}"], check=True, capture_output=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def run_side(side: str, work: Workload, *, data: Path, store: Path, folder: Path, cores: int) -> Timed:
    """Runs one side in the new `folder`. Raises RuntimeError when it fails."""
    folder.mkdir(parents=True)
    shutil.copy(store, folder / "mlflow.db")
    command = _command(side, work, data, folder, cores)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "VAE_SWEEP_"))}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log, busy = folder / "output.txt", busy_share()
    with log.open("wb") as output:
        began = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"A side must end well, but {side} ended with exit code {done.returncode}:\n{tail}")
    problem = missing(folder, work) or (ours.differences(folder) if side in OURS else "")
    return Timed(side, seconds, busy, problem)


def _command(side: str, work: Workload, data: Path, folder: Path, cores: int) -> list[str]:
    if side in OURS:
        file = folder / "study.yaml"
        ours.write_study(file, ours.study(data, trials=work.trials, epochs=work.epochs))
        return ours.command(file, folder, cores, OURS[side])
    module, mode = PEERS[side]
    return [
        *(sys.executable, "-m", f"benchmarks.{module}", "--mode", mode),
        *("--data", str(data), "--store", f"sqlite:///{folder / 'mlflow.db'}", "--folder", str(folder / "scratch")),
        *("--trials", str(work.trials), "--epochs", str(work.epochs), "--processes", str(cores)),
    ]


def missing(folder: Path, work: Workload) -> str:
    """What MLflow lacks of `trials` finished runs, each with two full curves and two pictures."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        points = connection.execute(
            "SELECT r.status, m.key, COUNT(DISTINCT m.step) FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid "
            "WHERE m.key IN ('train/elbo', 'val/elbo') GROUP BY m.run_uuid, m.key"
        ).fetchall()
    curves = Counter(key for status, key, count in points if status == "FINISHED" and count == work.epochs)
    pictures = Counter(
        file.name for file in folder.rglob("*.png") if file.parent.name == "artifacts" and file.stat().st_size
    )
    found = {**curves, **pictures}
    wanted = ("train/elbo", "val/elbo", "samples.png", "reconstructions.png")
    wrong = [f"{name} {found.get(name, 0)} times" for name in wanted if found.get(name, 0) != work.trials]
    return f"each must be there {work.trials} times, but: {', '.join(wrong)}" if wrong else ""


def busy_share(seconds: float = 0.5) -> float:
    """Share of all cores in use right now; call it when nothing of ours runs. 0 where /proc is not."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    samples = []
    for pause in (seconds, 0.0):
        ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
        samples.append((sum(ticks), ticks[3] + ticks[4]))
        time.sleep(pause)
    total, idle = (after - before for before, after in zip(*samples, strict=True))
    return 1 - idle / total if total else 0.0
