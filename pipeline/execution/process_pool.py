"""The process pool: worker processes of this machine, one a CPU core, without Ray.

Each trains on by itself, so it never waits for the driver, and two threads here carry what is said, so the driver
never waits for it. What a lost worker was training is the driver's to hand out again.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..data.dataset import DataSet
from ..errors import ExecutionError
from ..own_code import Parcel
from ..records import Event, TrialKey, TrialTask, WorkerJoined, WorkerLost
from .base import Executor
from .health import LOSSES_IN_A_ROW, PULSE_SECONDS, START_SECONDS, Listening, Losses
from .worker_server import WorkerServer

GONE = ""
"""in the place of a word: the worker has ended"""

Message = tuple[str, Any]
"""a word and what belongs to it"""


@dataclass(slots=True)
class _Worker:
    name: str
    era: int
    """of its start, as `Losses` counts"""
    outbox: SimpleQueue[Message | None] = field(default_factory=SimpleQueue)
    """what it is still to be told; None: nothing any more"""
    pid: int | None = None
    """None: it has said nothing yet"""
    joined: bool = False
    quiet_seconds: float = 0.0
    """since it last said something, as far as the driver was there to hear it"""


class ProcessPool:
    """Workers that `server` forks."""

    def __init__(
        self,
        server: WorkerServer,
        dataset: DataSet,
        *,
        workers: int,
        slots: int | None,
        bank_seed: int,
        log: Path,
        checkpoint_seconds: float = math.inf,
        silence_seconds: float = 60.0,
        code: Sequence[Parcel] = (),
    ) -> None:
        """`log`: takes what workers print. `silence_seconds`: a worker that has given no sign of life for so long is
        given up. `code`: the user's own, for every worker. The server is closed with the pool.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self._server, self._wanted, self._log = server, workers, log
        self._load = (log, dataset, slots, bank_seed, checkpoint_seconds, tuple(code))
        self._silence_seconds, self._listening, self._losses = silence_seconds, Listening(), Losses()
        self._workers: dict[str, _Worker] = {}
        self._heard: SimpleQueue[tuple[str, str, Any]] = SimpleQueue()
        """(worker, word, content)"""
        self._started = 0
        self._fill_up()

    @property
    def workers(self) -> int:
        """Those that are there or are starting."""
        return len(self._workers)

    def submit(self, worker: str, tasks: Sequence[TrialTask]) -> None:
        """Hands trials to a worker; it takes them between two rounds of training."""
        self._workers[worker].outbox.put(("tasks", tasks))

    def withdraw(self, worker: str, keys: Sequence[TrialKey]) -> None:
        """Asks a worker for trials back, between two rounds of training."""
        self._workers[worker].outbox.put(("withdraw", keys))

    def poll(self, timeout_seconds: float) -> list[Event]:
        """News of all workers that have some."""
        events: list[Event] = []
        with suppress(Empty):
            events += self._read(*self._heard.get(timeout=timeout_seconds))
            while True:
                events += self._read(*self._heard.get_nowait())
        events += self._silent()
        self._fill_up()
        return events

    def close(self, notice_seconds: float = 0.0) -> list[Event]:
        """Kills the workers and their server. With notice, after the rounds under way."""
        events: list[Event] = self._leave(notice_seconds) if notice_seconds else []
        self._server.close()
        for worker in self._workers.values():
            worker.outbox.put(None)
        self._workers.clear()
        return events

    def _leave(self, notice_seconds: float) -> list[Event]:
        """What the workers have to say at the end, as far as it comes in time."""
        deadline, events = time.monotonic() + notice_seconds, list[Event]()
        awaited = {worker.name for worker in self._workers.values() if worker.joined}
        for name in awaited:
            self._workers[name].outbox.put(("leave", None))
        with suppress(Empty):
            while awaited:
                name, word, content = self._heard.get(timeout=max(deadline - time.monotonic(), 0.0))
                events += content if name in awaited and word in ("news", "left") else ()
                if word in ("left", GONE):
                    awaited.discard(name)
        return events

    def _fill_up(self) -> None:
        while len(self._workers) < self._wanted:
            worker = _Worker(f"process-{self._started}", self._losses.era)
            connection = self._server.fork()
            self._started += 1
            self._workers[worker.name] = worker
            worker.outbox.put(("load", self._load))
            for carry in (
                threading.Thread(target=_carry_out, args=(worker.outbox, connection), daemon=True),
                threading.Thread(target=_carry_in, args=(worker.name, connection, self._heard), daemon=True),
            ):
                carry.start()

    def _read(self, name: str, word: str, content: Any) -> list[Event]:
        worker = self._workers.get(name)
        if worker is None:  # it was given up, and had this to say before
            return []
        worker.quiet_seconds = 0.0
        match word:
            case "here":
                worker.pid = content
            case "joined":
                worker.joined = True
                return [WorkerJoined(name, *content)]
            case "refused":
                raise ExecutionError(f"A worker process cannot train this study: {content}")
            case "news":
                if content:
                    self._losses.trained()
                return list(content)
            case "":
                return self._lose(worker, "its process has ended: killed, out of memory, or crashed")
        return []

    def _silent(self) -> list[Event]:
        """Workers that train, or so it seems, but give no sign of life."""
        heard_seconds, events = self._listening.seconds(), list[Event]()
        joined_seconds = max(self._silence_seconds, 2 * PULSE_SECONDS)
        for worker in list(self._workers.values()):
            worker.quiet_seconds += heard_seconds
            if worker.quiet_seconds >= (joined_seconds if worker.joined else START_SECONDS):
                if worker.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
                events += self._lose(worker, f"no sign of life for {worker.quiet_seconds:.0f} s")
        return events

    def _lose(self, worker: _Worker, reason: str) -> list[Event]:
        del self._workers[worker.name]
        worker.outbox.put(None)
        losses = self._losses.lost(worker.era)
        if losses >= LOSSES_IN_A_ROW:
            raise ExecutionError(
                f"Worker processes were lost {losses} times in a row before they had trained an epoch, at last: "
                f"{reason}. See {self._log}; `--executor inline` trains in the driver's own process."
            )
        return [WorkerLost(worker.name, reason)]


def _carry_out(outbox: SimpleQueue[Message | None], connection: Connection) -> None:
    """In a thread of its own: a worker that is stopped, or far from its next look, holds nobody up."""
    with suppress(OSError):  # it is gone, which the other thread says
        while (message := outbox.get()) is not None:
            connection.send(message)


def _carry_in(name: str, connection: Connection, heard: SimpleQueue[tuple[str, str, Any]]) -> None:
    """In a thread of its own: a worker that is stopped in the middle of a word holds nobody up."""
    with suppress(EOFError, OSError):
        while True:
            heard.put((name, *connection.recv()))
    heard.put((name, GONE, None))


_static_check: type[Executor] = ProcessPool
