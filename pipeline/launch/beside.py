"""What runs beside a sweep, started before anything heavy is loaded: a delivery process, the server of workers.

Imports nothing heavy at the top: both load while the driver does. Knows no ledger and no study.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from ..execution.environment import HURRIED
from ..execution.worker_server import WorkerServer
from .where import Where, tracking_target

FILES_PATIENCE_SECONDS = 60.0
"""how long the delivery waits for what its driver makes; a driver may be stopped"""
NOT_TOLD = "-"
"""as the name of a sweep: the one that standard input names"""


class DeliveryProcess:
    """Loads MLflow while the study is read, and leaves unless it is told a sweep; standard input tells it.

    It is `vae-sweep sync --follow`: nothing it does can stall the loop of a sweep.
    """

    def __init__(self, where: Where, target: str) -> None:
        self._where, self._name = where, ""
        self._giving: threading.Thread | None = None
        # While Ray starts there is time to spare; worker processes start at once.
        hurried = {HURRIED: "1"} if where.executor == "processes" else {}
        paths = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "sync", NOT_TOLD, "--follow", "--workdir", str(where.paths.workdir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is not for it; in a session of its own its niceness would mean nothing to others
            env={**hurried, **os.environ, "MLFLOW_TRACKING_URI": target, "PYTHONPATH": paths},
        )

    def begin(self, name: str) -> None:
        """Tells it its sweep."""
        self._name, log = name, self._where.paths.delivery_log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")  # a former run's last words are not this one's
        self._say(name)

    def give_files(self, make: Callable[[], Mapping[str, str]]) -> None:
        """Makes what the sweep's own run ends with, beside whatever this process does next, and hands it over; once.

        The delivery is busy with the last trials then, and needs neither the time nor the libraries.
        """
        if self._giving is None:
            self._giving = threading.Thread(target=self._give_files, args=[make], daemon=True)  # it writes until read
            self._giving.start()

    def close(self) -> None:
        """Ends it, where it was told nothing; else it goes on by itself."""
        if not self._name:
            self.process.kill()
            self.process.communicate()
            return
        if self._giving is None:
            self._hang_up()

    def _give_files(self, make: Callable[[], Mapping[str, str]]) -> None:
        try:
            self._say(json.dumps(make()))
        except Exception:  # it makes its own then, and its log has what is wrong
            pass
        finally:
            self._hang_up()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is no more: `await_delivery` will say so
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def _hang_up(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


class Helpers(NamedTuple):
    """What runs beside a sweep."""

    delivery: DeliveryProcess | None
    """None: no tracker"""
    server: WorkerServer | None
    """what worker processes are copies of; None: other workers are asked for"""


@contextmanager
def helpers_of(where: Where) -> Iterator[Helpers]:
    """Starts what runs beside a sweep; at the end the server is no more, nor a delivery that was told no sweep."""
    with delivery_process(where) as delivery, _server_of(where) as server:
        yield Helpers(delivery, server)


@contextmanager
def delivery_process(where: Where) -> Iterator[DeliveryProcess | None]:
    """The delivery of a run; None: no tracker."""
    target = tracking_target(where)
    if target is None:
        yield None
        return
    delivery = DeliveryProcess(where, target)
    try:
        yield delivery
    finally:
        delivery.close()


@contextmanager
def _server_of(where: Where) -> Iterator[WorkerServer | None]:
    if where.executor != "processes":
        yield None
        return
    with closing(WorkerServer()) as server:
        yield server


def told(where: Where) -> str:
    """In the delivery: the sweep, empty if there is none to deliver. What is said from now on goes to its log."""
    name = sys.stdin.readline().strip()
    if name:
        with where.paths.delivery_log(name).open("ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
    return name


def files_told() -> Mapping[str, str] | None:
    """In the delivery: what its driver made for the end of the sweep's run; None: it must make that itself."""
    ready, _, _ = select.select([sys.stdin], [], [], FILES_PATIENCE_SECONDS)
    line = sys.stdin.readline() if ready else ""
    if not line.endswith("\n"):  # the driver has ended, perhaps in the middle of it
        return None
    files: dict[str, str] = json.loads(line)
    return files
