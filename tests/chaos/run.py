"""`python -m tests.chaos`: runs schedules, prints a line for each, and at the end what was tried and survived."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .faults import FAULTS, can_mount
from .schedule import Chaos, Result


def main() -> int:
    """Exit code 1 when a sweep did not come through."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", default="0-99", help="such as 0-99 or 3,7,20-29")
    parser.add_argument("--out", type=Path, help="JSON of the results; added to with --continue")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="leave out seeds that --out has")
    parser.add_argument("--worlds", type=int, default=2, help="schedules at once, each in a cluster of its own")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what failed")
    parser.add_argument("--table", type=Path, help="print the table of a JSON of results, run nothing")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.table.read_text())))
        return 0
    known: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.go_on and given.out.exists() else []
    seeds = [seed for seed in _seeds(given.seeds) if seed not in {one["seed"] for one in known}]
    if not can_mount():
        print("NOT ROOT: full disks are not tried")
    folder = Path(tempfile.mkdtemp(prefix="vae-sweep-chaos-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with all that was started
    spawn = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Result | None] = spawn.Queue()
    worlds = [
        spawn.Process(target=_play, args=(seeds[i :: given.worlds], folder / str(i), given.keep, results))
        for i in range(given.worlds)
    ]
    for world in worlds:
        world.start()
    left = len(worlds)
    try:
        while left:
            try:
                result = results.get(timeout=5)
            except queue.Empty:
                if not any(world.is_alive() for world in worlds):
                    break  # they could not even begin
                continue
            if result is None:
                left -= 1
                continue
            print(_line(result), flush=True)
            known.append(result.as_json())
            if given.out:
                given.out.write_text(json.dumps(known, indent=1) + "\n")
    finally:
        for world in worlds:
            world.join(60 if not left else 0)  # it ends what it started
            world.terminate()
            world.join(60)
        failed = [one for one in known if one["error"]]
        if not (given.keep and failed):
            shutil.rmtree(folder, ignore_errors=True)
    print(table(known))
    print(f"{len(known) - len(failed)} of {len(known)} schedules survived" + (f"; see {folder}" if failed else ""))
    return 1 if failed or set(seeds) - {one["seed"] for one in known} else 0


def _play(seeds: Sequence[int], folder: Path, keep: bool, results: multiprocessing.Queue[Result | None]) -> None:
    """One world's part of the seeds; None when it is through with them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder.mkdir(parents=True)
    try:
        chaos = Chaos(folder, disks=can_mount())
        try:
            for seed in seeds:
                results.put(chaos.play(seed, keep=keep))
        finally:
            chaos.end()
    finally:
        results.put(None)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Faults tried and survived, as Markdown."""
    tried, survived = Counter[str](), Counter[str]()
    for one in results:
        tried.update(one["faults"])
        survived.update([] if one["error"] else one["faults"])
    rows = [
        f"| `{name}` | {fault.does} | {fault.sees} | {tried[name]} | {survived[name]} |"
        for name, fault in FAULTS.items()
    ]
    return "\n".join(
        ["| fault | what is done | how it is seen to have hit | tried | survived |", "|---|---|---|---|---|", *rows]
    )


def _line(result: Result) -> str:
    end = "ok" if not result.error else f"FAILED {result.error}"
    redrawn = f", {result.redraws} redrawn ({'; '.join(result.missed)})" if result.redraws else ""
    return (
        f"seed {result.seed:3d}  {result.ledger:10s}  {result.seconds:5.1f} s  {result.drivers} drivers  "
        f"{result.attempts:2d} trials again{redrawn}  {' + '.join(result.faults)}  {end}"
    )


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
