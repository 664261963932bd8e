"""The delivery process of a run: told which sweep to deliver beside its training, waited for while it gets on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..execution.environment import HURRIED
from ..ledger.store import Ledger
from ..report.final import final_files
from ..report.progress import Progress
from ..results import load_results
from .where import Where, open_ledger, tracking_target

DELIVERY_PATIENCE_SECONDS = 600.0
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

    def give_files(self) -> None:
        """Makes what the sweep's own run ends with, beside whatever this process does next, and hands it over.

        The delivery is busy with the last trials then, and needs neither the time nor the libraries.
        """
        if self._giving is None:
            self._giving = threading.Thread(target=self._give_files, daemon=True)  # it writes until it is read
            self._giving.start()

    def close(self) -> None:
        """Ends it, where it was told nothing; else it goes on by itself."""
        if not self._name:
            self.process.kill()
            self.process.communicate()
            return
        if self._giving is None:
            self._hang_up()

    def _give_files(self) -> None:
        try:
            with open_ledger(self._where) as ledger:
                files = final_files(load_results(ledger, self._name), self._where.paths)
            self._say(json.dumps(files))
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


def told(where: Where) -> str:
    """In that process: the sweep, empty if there is none to deliver. What is said from now on goes to its log."""
    name = sys.stdin.readline().strip()
    if name:
        with where.paths.delivery_log(name).open("ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
    return name


def files_told() -> Mapping[str, str] | None:
    """In that process: what its driver made for the end of the sweep's run; None: it must make that itself."""
    ready, _, _ = select.select([sys.stdin], [], [], FILES_PATIENCE_SECONDS)
    line = sys.stdin.readline() if ready else ""
    if not line.endswith("\n"):  # the driver has ended, perhaps in the middle of it
        return None
    files: dict[str, str] = json.loads(line)
    return files


def undelivered(ledger: Ledger, name: str, where: Where) -> int | None:
    """How many trials the tracker has not got; None without a tracker."""
    from ..tracking.mlflow_tracker import target_of

    target = tracking_target(where)
    return None if target is None else ledger.count_undelivered(name, target_of(target))


def is_delivered(ledger: Ledger, name: str, where: Where) -> bool:
    """Whether the tracker has every ended trial and the end of the sweep's own run; so too without a tracker."""
    from ..delivery import PARENT
    from ..tracking.mlflow_tracker import target_of

    target = tracking_target(where)
    if target is None:
        return True
    done = ledger.deliveries(name, target_of(target), state="done")
    return PARENT in done and not undelivered(ledger, name, where)


def await_delivery(
    name: str, delivery: DeliveryProcess | None, ledger: Ledger, where: Where, progress: Progress
) -> str:
    """Waits while deliveries go on arriving; returns why it stopped waiting, empty when all is delivered."""
    if delivery is None:
        return ""
    delivery.give_files()
    process = delivery.process
    left = undelivered(ledger, name, where)
    if left:
        progress.message(f"delivering the last {left} trials to MLflow")
    deadline = time.monotonic() + DELIVERY_PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        now_left = undelivered(ledger, name, where)
        if now_left != left:
            left, deadline = now_left, time.monotonic() + DELIVERY_PATIENCE_SECONDS
        if _says_away(where.paths.delivery_log(name)):
            process.terminate()
            return "MLflow is away"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    if process.poll() not in (0, None):
        lines = where.paths.delivery_log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the delivery ended with exit code {process.returncode}"
    return ""


def _says_away(log: Path) -> bool:
    lines = log.read_text(errors="replace").strip().splitlines()
    return bool(lines) and "away" in lines[-1]
