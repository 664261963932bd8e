"""`make bench`: every side in turn in one session; ratios of medians, gates, verdicts; a table and a JSON file.

Knows neither what a side does nor how it is checked: see session.py, agreement.py and engine.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import engine
from benchmarks.ours import SWEPT
from benchmarks.peer_loop import Shape
from benchmarks.session import OURS, PEERS, Timed, Workload, busy_share, make_store, run_side
from benchmarks.workload import write_digits

CORES = 2
GATES = {
    "short": {"tune-function": 15.0, "tune-class": 8.0, "optuna-epoch": 4.0, "optuna-best": 1.5},
    "long": {"optuna-best": 3.0, "tune-function": 4.0},
}
"""workload -> side -> how many times slower than ours it must be"""
BUSY = 0.1
"""from this share of the cores on, what else the machine does is worth a warning"""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    label: str
    workloads: tuple[Workload, ...]
    rounds: int
    seeds: int
    """of the agreement"""
    engine_rounds: int
    engine_seconds: float


FULL = Extent("full", (Workload("short", 64, 20), Workload("long", 64, 200)), 3, 8, 7, 2.0)
QUICK = Extent("quick", (Workload("short", 16, 20), Workload("long", 16, 60)), 1, 4, 3, 1.0)
"""Fewer trials leave fixed costs a larger share: its ratios are not those of the full run, and not for quoting."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    what: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    gate: float
    void: str
    """why it does not count; empty when it does"""
    judged: bool = True

    @property
    def verdict(self) -> str:
        """met, missed, void, or not judged."""
        if self.void:
            return "VOID"
        return ("met" if self.ratio >= self.gate else "MISSED") if self.judged else "not judged"


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="minutes instead of an hour; not for quoting")
    parser.add_argument("--only", choices=["sweeps", "engine"], help="one of the two parts")
    parser.add_argument("--workload", choices=GATES, help="one of the two sizes of sweep")
    parser.add_argument("--peer", choices=PEERS, action="append", help="these only; may be given more than once")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/full.json or quick.json")
    args = parser.parse_args()
    extent = QUICK if args.quick else FULL
    out = args.out or Path(__file__).parent / "results" / f"{extent.label}.json"
    pin(CORES)
    report: dict[str, Any] = {"extent": asdict(extent), "machine": machine(), "began": time.strftime("%FT%T%z")}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if args.only != "engine":
            workloads = [work for work in extent.workloads if args.workload in (None, work.name)]
            rows += sweeps(Path(folder), extent, report, workloads, args.peer or list(PEERS))
        if args.only != "sweeps":
            rows += engines(Path(folder), extent, report)
    report |= {"ended": time.strftime("%FT%T%z"), "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows, report))
    print(f"\nwritten to {out}")


def sweeps(
    folder: Path, extent: Extent, report: dict[str, Any], workloads: Sequence[Workload], peers: Sequence[str]
) -> list[Row]:
    """Whole sweeps: every side once in every round, the order turned round by round."""
    data, store = folder / "digits.npz", folder / "empty.db"
    write_digits(data)
    make_store(store)
    load_once()
    rows = []
    for work in workloads:
        agreement = report.setdefault("agreement", {})[work.name] = agree(data, SWEPT, work.epochs, extent.seeds)
        sides = [*OURS, *(peer for peer in GATES[work.name] if peer in peers)]
        timed: list[Timed] = []
        for turn in range(extent.rounds):
            for side in turned(sides, turn):
                place = folder / f"{work.name}-{side}-{turn}"
                timed.append(run_side(side, work, data=data, store=store, folder=place, cores=CORES))
                say(f"{work.name} {turn + 1}/{extent.rounds} {side}: {timed[-1].seconds:.1f} s {timed[-1].problem}")
        report.setdefault("runs", {})[work.name] = [asdict(run) for run in timed]
        rows += sweep_rows(work, timed, agreement, judged=extent is FULL)
    return rows


def turned(sides: Sequence[str], turn: int) -> list[str]:
    """The sides, beginning with another one in every round."""
    start = turn % len(sides)
    return [*sides[start:], *sides[:start]]


def sweep_rows(work: Workload, timed: Sequence[Timed], agreement: dict[str, Any], *, judged: bool) -> list[Row]:
    """Ratios of medians of one workload."""

    def median(side: str) -> float:
        return statistics.median(run.seconds for run in timed if run.side == side)

    rows, sides = [], {run.side for run in timed}
    for (side, executor), (peer, gate) in product(OURS.items(), GATES[work.name].items()):
        if not {side, peer} <= sides:
            continue
        problems = [f"{run.side}: {run.problem}" for run in timed if run.side in (side, peer) and run.problem]
        if not agreement["agrees"]:
            problems.append(f"validation ELBOs differ by {agreement['gap_nats']:.2f} nats")
        mine, theirs = median(side), median(peer)
        what = f"{work.name}: {work.trials} trials x {work.epochs} epochs, {executor}"
        rows.append(Row(what, peer, mine, theirs, "s", theirs / mine, gate, "; ".join(problems), judged))
    return rows


def engines(folder: Path, extent: Extent, report: dict[str, Any]) -> list[Row]:
    """The packed engine against the plain loop, for each shape."""
    rows = []
    for case in engine.CASES:
        data = folder / f"digits{case.shape.side}.npz"
        if not data.exists():
            write_digits(data, side=case.shape.side)
        busy = busy_share()
        found = engine.measure(data, case, rounds=extent.engine_rounds, seconds=extent.engine_seconds)
        agreement = agree(data, case.shape, 2, extent.seeds)
        what = f"engine: {case.shape}, {found['slots']} slot{'s' if found['slots'] > 1 else ''}"
        say(f"{what}: {found['ratio']:.2f} of CPU time, {found['wall_ratio']:.2f} of wall time")
        report.setdefault("engine", []).append(
            asdict(case) | {"what": what, "busy_before": busy, "agreement": agreement} | found
        )
        void = "" if agreement["agrees"] else f"validation ELBOs differ by {agreement['gap_nats']:.2f} nats"
        mine, theirs = found["ours_cpu_ms"], found["plain_cpu_ms"]
        rows.append(Row(what, "plain loop", mine, theirs, "ms/step", found["ratio"], case.gate, void))
    return rows


def agree(data: Path, shape: Shape, epochs: int, seeds: int) -> dict[str, Any]:
    """The judgement of agreement.py, in a process of its own."""
    sizes = {"--epochs": epochs, "--seeds": seeds, **{f"--{k.replace('_', '-')}": v for k, v in asdict(shape).items()}}
    words = [word for name, value in sizes.items() for word in (name, str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.agreement", "--data", str(data), *words],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        raise RuntimeError(f"The agreement of both sides could not be measured: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    say(
        f"agreement at {shape}, {epochs} epochs, {seeds} seeds: {found['gap_nats']:+.4f} nats with the same draws, "
        f"{found['own_draws_gap_nats']:+.2f} ± {found['own_draws_gap_error_nats']:.2f} with each side's own"
    )
    return found


def load_once() -> None:
    """Reads every library from the disk once, so that the first side does not pay for the others."""
    subprocess.run([sys.executable, "-c", "import mlflow, optuna, torch, torch._dynamo, ray.tune, rich"], check=True)


def pin(cores: int) -> None:
    """This process and all it starts use the first `cores` cores only."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "cpu": models[0].split(":", 1)[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "cores_used": CORES,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "busy": busy_share(),
        **{name: version(name) for name in ("vae-sweep", "torch", "ray", "optuna", "mlflow", "numpy")},
    }


def table(rows: Sequence[Row], report: dict[str, Any]) -> str:
    """For people."""
    facts = report["machine"]
    lines = [
        f"{facts['cpu']}, {facts['cores_used']} of {facts['cores']} cores, torch {facts['torch']}, ray {facts['ray']}, "
        f"optuna {facts['optuna']}, mlflow {facts['mlflow']}; {report['extent']['rounds']} rounds",
        "",
        f"{'what':52} {'peer':14} {'ours':>9} {'peer':>9} {'':8} {'ratio':>6} {'gate':>6}  verdict",
    ]
    for row in rows:
        lines.append(
            f"{row.what:52} {row.peer:14} {row.ours:9.3g} {row.theirs:9.3g} {row.unit:8} "
            f"{row.ratio:6.2f} {row.gate:6.2f}  {row.verdict}{': ' + row.void if row.void else ''}"
        )
    if report["extent"]["label"] != "full":
        lines += ["", "QUICK RUN, NOT FOR QUOTING: fewer trials and rounds; the gates are those of the full run."]
    busy = [run["busy_before"] for runs in report.get("runs", {}).values() for run in runs]
    busy += [found["busy_before"] for found in report.get("engine", [])]
    if busy and max(busy) > BUSY:
        lines += ["", f"The machine was not quiet: others used up to {max(busy):.0%} of it just before a run."]
    return "\n".join(lines)


def say(line: str) -> None:
    print(f"{time.strftime('%T')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
