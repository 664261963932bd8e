"""What faults cost: MLflow stopped for the whole of a sweep, and three in ten slots of a pack that diverge.

`python -m benchmarks.faults [--only outage|divergence] [--json FILE]`. Both sides of each in turn, in one session;
ratios of medians. About ten minutes on two cores; run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.session import ROOT, busy_share
from benchmarks.workload import write_digits
from pipeline.execution.environment import prepare_process
from pipeline.launch.where import Where, open_ledger
from pipeline.paths import WorkPaths
from pipeline.records import State, TrialRecord

CORES = 2
SWEEP = {"trials": 64, "epochs": 100}
OUTAGE_RATIO = 1.05
"""seconds of training without MLflow over those with it: no longer, within what a machine's own noise is"""
SLOTS, DIVERGING, REFILLS, EPOCHS = 16, 5, 22, 20
DIVERGENCE_RATIO = 1.05
KINDS: dict[str, dict[str, Any]] = {"first step": {"scale": "raw_variance"}, "second step": {"learning_rate": 1e20}}
"""what makes a trial diverge, and when"""


# ------------------------------------------------------------------------------------------- outage


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A real server on `port`, with its store in `folder`."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"The MLflow server must start, but: {(folder / 'server.log').read_text()[-500:]}")
            time.sleep(0.3)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def outage(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of training and of the whole command, with a live MLflow server and with its port closed."""
    data, file = folder / "digits.npz", folder / "study.yaml"
    write_digits(data)
    ours.write_study(file, ours.study(data, **SWEEP))
    times: dict[str, dict[str, list[float]]] = {side: {"training": [], "command": []} for side in ("live", "closed")}
    for turn in range(rounds):
        for side in sorted(times, reverse=bool(turn % 2)):
            place = folder / f"{side}-{turn}"
            place.mkdir()
            training, command = _swept(file, place, 47_000 + 2 * turn + (side == "live"), is_live=side == "live")
            times[side]["training"].append(training)
            times[side]["command"].append(command)
            say(f"outage {turn + 1}/{rounds} {side}: training {training:.1f} s, command {command:.1f} s")
    ratios = {
        what: statistics.median(times["closed"][what]) / statistics.median(times["live"][what])
        for what in ("training", "command")
    }
    return {"seconds": times, "ratios": ratios, "met": ratios["training"] <= OUTAGE_RATIO}


def _swept(file: Path, place: Path, port: int, *, is_live: bool) -> tuple[float, float]:
    """One sweep: seconds from the first epoch's start to the last trial's end, and of the command.

    Where MLflow was away it is started afterwards, and everything is delivered and looked at.
    """
    url = f"http://127.0.0.1:{port}"
    command = [*ours.command(file, place, CORES), "--mlflow", url]

    def timed() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        return time.perf_counter() - began

    if is_live:
        with mlflow_server(place, port):
            seconds = timed()
    else:
        seconds = timed()
        with mlflow_server(place, port):
            sync = [sys.executable, "-m", "pipeline", "sync", ours.NAME, "--workdir", str(place), "--mlflow", url]
            subprocess.run(sync, check=True, capture_output=True, cwd=ROOT)
            checked = subprocess.run([*sync, "--check"], capture_output=True, cwd=ROOT, text=True)
            if checked.returncode:
                raise RuntimeError(f"MLflow and the ledger must agree, but: {checked.stdout[-1000:]}")
    with open_ledger(Where(WorkPaths.at(place))) as ledger:
        trials = ledger.trials(ours.NAME)
    if problem := untrue(place / "server.db", trials):
        raise RuntimeError(f"MLflow must have what happened, when it happened, once, but: {problem}")
    outcomes = [trial.outcome for trial in trials if trial.outcome]
    return max(one.ended_at for one in outcomes) - min(one.started_at for one in outcomes), seconds


def untrue(store: Path, trials: list[TrialRecord]) -> str:
    """What a server's store says otherwise than the ledger: runs, their times, the times and steps of val/elbo."""
    with closing(sqlite3.connect(store)) as connection:
        runs = connection.execute(
            "SELECT t.value, r.run_uuid, r.start_time, r.end_time FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE t.key = 'vae_sweep.ledger_id' AND t.value LIKE '%/%' AND r.lifecycle_stage = 'active'"
        ).fetchall()
        points = connection.execute(
            "SELECT run_uuid, step, timestamp, value FROM metrics WHERE key = 'val/elbo' ORDER BY run_uuid, step"
        ).fetchall()
    counts = Counter(ledger_id.partition("/")[2] for ledger_id, *_ in runs)
    if counts != Counter(str(trial.key) for trial in trials):
        return f"{sum(counts.values())} runs for {len(trials)} trials"
    by_run: dict[str, list[tuple[int, int, float]]] = {}
    for run_id, *point in points:
        by_run.setdefault(run_id, []).append((point[0], point[1], point[2]))
    known = {ledger_id.partition("/")[2]: (run_id, begun, ended) for ledger_id, run_id, begun, ended in runs}
    for trial in trials:
        outcome, (run_id, begun, ended) = trial.outcome, known[str(trial.key)]
        if outcome is None or (begun, ended) != (round(outcome.started_at * 1000), round(outcome.ended_at * 1000)):
            return f"the times of {trial.key}"
        curve = zip(outcome.epoch_times, outcome.curves.get("val/elbo", ()), strict=True)
        expected = [(step, round(at * 1000), value) for step, (at, value) in enumerate(curve, 1)]
        if by_run.get(run_id, []) != expected:
            return f"the curve of {trial.key}"
    return ""


# --------------------------------------------------------------------------------------- divergence


def divergence(folder: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of one core for an epoch of a healthy slot: none diverging, or three in ten slots of the pack."""
    prepare_process()  # before torch is imported
    data = folder / "digits.npz"
    write_digits(data)
    sides = ["none", *KINDS]
    times: dict[str, list[float]] = {side: [] for side in sides}
    rounds *= 3  # of four seconds each; three leave a noise of a tenth
    for turn in range(rounds + 1):
        for side in sides[turn % 3 :] + sides[: turn % 3]:
            milliseconds = _trained(data, KINDS.get(side))
            times[side] += [milliseconds] if turn else []  # the first turn of each is warm-up
            say(f"divergence {turn}/{rounds} {side}: {milliseconds:.3f} ms")
    medians = {side: statistics.median(found) for side, found in times.items()}
    ratios = {side: medians[side] / medians["none"] for side in KINDS}
    return {
        "slots": SLOTS,
        "diverging": DIVERGING,
        "milliseconds": times,
        "ratios": ratios,
        "met": max(ratios.values()) <= DIVERGENCE_RATIO,
    }


def _trained(data: Path, diverging: dict[str, Any] | None) -> float:
    """CPU milliseconds of a healthy trial's epoch, all else included: evaluation, pictures, what the diverged cost."""
    from benchmarks.agreement import new_pack
    from benchmarks.ours import SWEPT
    from pipeline.packed.trainer import Trainer
    from pipeline.records import TrialEnded, TrialKey

    single = new_pack(data, SWEPT, 1, epochs=EPOCHS)
    sample = single.slots[0].task
    healthy = SLOTS + REFILLS
    tasks = [_like(sample, number) for number in range(healthy)]
    for number in range(DIVERGING if diverging else 0):
        tasks.insert(3 * number, _like(sample, 1000 + number, **(diverging or {})))
    trainer = Trainer(_images(data), slots=SLOTS, bank_seed=0)
    trainer.submit(tasks)
    ended: dict[TrialKey, State] = {}
    began = time.process_time()
    while trainer.busy:
        ended |= {event.key: event.outcome.state for event in trainer.advance(0.0) if isinstance(event, TrialEnded)}
    seconds = time.process_time() - began
    counts = Counter(ended.values())
    if counts != Counter({State.COMPLETE: healthy, State.DIVERGED: len(tasks) - healthy}):
        raise RuntimeError(f"{healthy} trials must converge and {len(tasks) - healthy} diverge, but: {dict(counts)}")
    return 1e3 * seconds / (healthy * EPOCHS)


def _like(sample: Any, number: int, **changes: Any) -> Any:
    from dataclasses import replace

    parameters = {**sample.hyperparameters, **changes}
    return replace(sample, key=replace(sample.key, number=number), hyperparameters=parameters, seed=number)


def _images(data: Path) -> Any:
    from pipeline.config import Study
    from pipeline.launch.where import load_study_data

    return load_study_data(Study.model_validate(ours.single(data, ours.SWEPT, EPOCHS)))


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measures what was asked for and prints it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["outage", "divergence"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"busy_before": busy_share()}
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        parts: dict[str, Callable[[Path, int], dict[str, Any]]] = {"outage": outage, "divergence": divergence}
        for part, measure in parts.items():
            if args.only in (None, part):
                report[part] = measure(Path(name), args.rounds)
    text = json.dumps(report, indent=1)
    if args.json:
        args.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
