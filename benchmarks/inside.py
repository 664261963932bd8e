"""What our own parts cost: the start, the use of the workers, the delivery to MLflow.

`python -m benchmarks.inside [--only start|use|delivery] [--json FILE]`. Start and delivery run two sides in turn in one
session; the use of the workers is a share and has no other side. About a quarter of an hour on two cores; run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.session import OURS, ROOT, busy_share, make_store
from benchmarks.workload import write_digits
from pipeline.launch.sweeping import run as run_sweep
from pipeline.launch.where import Where, open_ledger
from pipeline.paths import WorkPaths
from pipeline.report.progress import ProgressSnapshot, SilentProgress

CORES = 2
START_MARGIN_SECONDS = 3.0
"""the first step may come so much later than that of a bare Ray actor that has imported torch"""
LONG = {"trials": 64, "epochs": 200}
DELIVERY_RATIO = 1.25
OCCUPANCY, STEP_SHARE = 0.90, 0.85
STUDY = ROOT / "configs" / "which_sigma.yaml"

BARE = """
import os, sys, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
ray.init(num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False, logging_level="error")

@ray.remote(num_cpus=1)
class Actor:
    def ready(self):
        import torch
        return time.time()

print("READY", ray.get(Actor.remote().ready.remote()))
"""


def start(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the start of a process to the first training step, and to a bare actor that has torch."""
    data, store = folder / "digits.npz", folder / "empty.db"
    write_digits(data)
    make_store(store)
    file = folder / "study.yaml"
    ours.write_study(file, ours.study(data, trials=8, epochs=2))
    times: dict[str, list[float]] = {"bare": [], **{side: [] for side in OURS}}
    for turn in range(rounds):
        began = time.time()
        done = subprocess.run([sys.executable, "-c", BARE, str(CORES)], capture_output=True, text=True, check=True)
        times["bare"].append(float(done.stdout.split()[-1]) - began)
        for side, executor in OURS.items():
            place = folder / f"{side}-{turn}"
            place.mkdir()
            shutil.copy(store, place / "mlflow.db")
            began = time.time()
            subprocess.run(ours.command(file, place, CORES, executor), check=True, capture_output=True, cwd=ROOT)
            with open_ledger(Where(WorkPaths(place))) as ledger:
                trials = ledger.trials(ours.NAME)
            times[side].append(min(t.outcome.started_at for t in trials if t.outcome) - began)
    later = {side: statistics.median(times[side]) - statistics.median(times["bare"]) for side in OURS}
    return {"seconds": times, "later_by": later, "met": max(later.values()) <= START_MARGIN_SECONDS}


class Until(SilentProgress):
    """Stops the sweep of this process when it has run for so long; keeps the last snapshot."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.last: ProgressSnapshot | None = None

    def start(self, snapshot: ProgressSnapshot) -> None:
        self.last = snapshot

    def update(self, snapshot: ProgressSnapshot) -> None:
        self.last = snapshot
        if snapshot.elapsed_seconds > self._seconds:
            self._seconds = float("inf")
            os.kill(os.getpid(), signal.SIGTERM)  # a clean stop, as a user would ask for it


def use(folder: Path, seconds: float) -> dict[str, Any]:
    """Occupancy of the slots and share of the workers' time in steps, in the steady state of which_sigma.yaml."""
    until = Until(seconds)
    run_sweep(STUDY, [], Where(WorkPaths(folder / "use"), workers=CORES), until)
    assert until.last is not None
    steady = until.last.steady_use
    return {
        "worker_seconds": steady.seconds,
        "occupancy": steady.occupancy,
        "step_share": steady.step_share,
        "epochs_per_second": until.last.epochs_per_second,
        "met": steady.occupancy >= OCCUPANCY and steady.step_share >= STEP_SHARE,
    }


def delivery(folder: Path, rounds: int) -> dict[str, Any]:
    """The long workload with MLflow, everything delivered, over the same without."""
    data, store = folder / "digits-long.npz", folder / "empty-long.db"
    write_digits(data)
    make_store(store)
    file = folder / "long.yaml"
    ours.write_study(file, ours.study(data, **LONG))
    times: dict[str, list[float]] = {"on": [], "off": []}
    for turn in range(rounds):
        for side in sorted(times, reverse=bool(turn % 2)):
            place = folder / f"delivery-{side}-{turn}"
            place.mkdir()
            shutil.copy(store, place / "mlflow.db")
            command = [*ours.command(file, place, CORES), *(["--mlflow", "none"] if side == "off" else [])]
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            times[side].append(time.perf_counter() - began)
            if side == "on" and (problem := ours.differences(place)):
                raise RuntimeError(f"Everything must be in MLflow, but: {problem}")
    ratio = statistics.median(times["on"]) / statistics.median(times["off"])
    return {"seconds": times, "ratio": ratio, "met": ratio <= DELIVERY_RATIO}


def main() -> None:
    """Measures what was asked for and prints it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["start", "use", "delivery"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=150.0, help="how long which_sigma.yaml is run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"busy_before": busy_share()}
    with tempfile.TemporaryDirectory(prefix="inside-") as name:
        folder = Path(name)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "start": lambda: start(folder, args.rounds),
            "use": lambda: use(folder, args.seconds),
            "delivery": lambda: delivery(folder, args.rounds),
        }
        for part, measure in parts.items():
            if args.only in (None, part):
                report[part] = measure()
    text = json.dumps(report, indent=1)
    if args.json:
        args.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
