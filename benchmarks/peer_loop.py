"""Peer (d): the plain PyTorch loop, one trial after the other, timed without evaluation.

A process of its own: what our engine sets for its process (MKL's branch, the allocator) must not touch this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.common import SEED, quiet_environment


@dataclass(frozen=True, slots=True)
class Shape:
    """A network pixels-hidden-latent on images of side x side, and how it is trained."""

    side: int
    hidden: int
    latent_dim: int
    batch_size: int
    levels: int = 0
    """of convolutions, each with twice the channels of the one before, the last with `hidden`; 0: fully connected"""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.hidden >> level for level in reversed(range(self.levels)))

    def __str__(self) -> str:
        name = f"{self.side**2}-{self.hidden}-{self.latent_dim}"
        if self.levels:
            name = f"conv {self.side}x{self.side} {'-'.join(map(str, self.channels))}-{self.latent_dim}"
        return f"{name} batch {self.batch_size}"


def timed(epoch: Callable[[], object], steps: int, seconds: float) -> tuple[float, float]:
    """CPU and wall seconds of a step: whole epochs of `steps` steps for about `seconds`."""
    wall, cpu, epochs = time.perf_counter(), time.process_time(), 0
    while not epochs or time.perf_counter() - wall < seconds:
        epoch()
        epochs += 1
    return (time.process_time() - cpu) / (epochs * steps), (time.perf_counter() - wall) / (epochs * steps)


def serve(connection: Connection, data: Path, shape: Shape) -> None:
    """Answers every `seconds` that comes with the CPU and wall seconds of a step; ends on None."""
    quiet_environment()
    from benchmarks import workload

    training = workload.Training(
        workload.load_images(data),
        scale="log_variance",
        learning_rate=1e-3,
        seed=SEED,
        hidden=shape.hidden,
        latent_dim=shape.latent_dim,
        batch_size=shape.batch_size,
        channels=shape.channels,
    )
    steps = -(-len(training.images.train) // shape.batch_size)
    timed(training.steps, steps, 0.0)
    while (seconds := connection.recv()) is not None:
        connection.send(timed(training.steps, steps, seconds))
