"""The contract between the driver and whatever trains its trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..records import Event, TrialKey, TrialTask


class Executor(Protocol):
    """Workers that train trials.

    Workers announce themselves by `WorkerJoined` and go by `WorkerLost` (some before they have joined); trials of a
    lost worker are the driver's to hand out again. Every trial that was submitted to a live worker ends in exactly
    one `TrialEnded`, or is returned.
    """

    @property
    def workers(self) -> int:
        """Workers that are there or on their way."""

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Hands trials to a worker that has joined. May be more than its slots; never blocks."""

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        """Asks a worker for trials back; those it has not begun come by `TrialsReturned`, the others go on."""

    def poll(self, timeout_seconds: float) -> list[Event]:
        """What has happened since the last call; waits up to the timeout for the first event.

        Raises ExecutionError when no worker is left and none can be started.
        """

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        """Ends all workers; unfinished trials are dropped. May be called twice.

        With notice, workers first say how far they are: what comes of it in time, checkpoints above all, is returned.
        """
