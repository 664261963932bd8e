"""The packed engine against the plain loop: seconds of one core for one optimizer step of one trial.

Two processes that take turns; evaluation is excluded on both sides, drawing batches and noise is not. Each side has
its process as its users have it. The ratio is of CPU seconds; wall seconds are reported beside it.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import peer_loop
from benchmarks.peer_loop import Shape, timed


@dataclass(frozen=True, slots=True)
class Case:
    """One shape with the ratio it must reach."""

    shape: Shape
    gate: float
    slots: int | None = None
    """of the pack; None: what `--slots auto` finds on this machine"""


CASES = (
    Case(Shape(side=8, hidden=128, latent_dim=8, batch_size=64), 3.5),
    Case(Shape(side=8, hidden=256, latent_dim=16, batch_size=128), 2.0),
    Case(Shape(side=28, hidden=400, latent_dim=20, batch_size=128), 0.98),
    Case(Shape(side=28, hidden=64, latent_dim=20, batch_size=64, levels=2), 0.98),
)


def serve(connection: Connection, data: Path, shape: Shape, slots: int | None) -> None:
    """Our side of `peer_loop.serve`: says how many slots there are; the seconds are of one slot's step."""
    from pipeline.execution.environment import prepare_process

    prepare_process()  # before torch is imported
    from benchmarks.agreement import new_pack
    from pipeline.packed.tuning import best_width

    if slots is None:
        single = new_pack(data, shape, 1)
        slots = best_width(single.structure, single.data, single.slots[0].task.hyperparameters)
    connection.send(slots)
    pack = new_pack(data, shape, slots)
    steps = slots * -(-len(pack.data.train_x) // shape.batch_size)
    timed(pack.train_steps, steps, 0.0)
    while (seconds := connection.recv()) is not None:
        connection.send(timed(pack.train_steps, steps, seconds))


def measure(data: Path, case: Case, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Both sides in turn, `rounds` times about `seconds` each: medians in milliseconds, and ratios."""
    sides: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
        "ours": (serve, (data, case.shape, case.slots)),
        "plain": (peer_loop.serve, (data, case.shape)),
    }
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, (target, arguments) in sides.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=target, args=(theirs, *arguments), daemon=True))
        processes[-1].start()
        theirs.close()  # so that its death is an EOFError here
    slots = pipes["ours"].recv()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for name in [name for _ in range(rounds + 1) for name in sides]:
        pipes[name].send(seconds)
        times[name].append(pipes[name].recv())
    for name, process in zip(sides, processes, strict=True):
        pipes[name].send(None)
        process.join()
    # the first turn of each is warm-up
    medians = {
        f"{name}_{kind}_ms": 1e3 * statistics.median(turn[place] for turn in turns[1:])
        for name, turns in times.items()
        for place, kind in enumerate(("cpu", "wall"))
    }
    return medians | {
        "slots": slots,
        "times_seconds": {name: turns[1:] for name, turns in times.items()},
        "ratio": medians["plain_cpu_ms"] / medians["ours_cpu_ms"],
        "wall_ratio": medians["plain_wall_ms"] / medians["ours_wall_ms"],
    }
