"""The delivery process of a run: told which sweep to deliver beside its training, waited for while it gets on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..execution.environment import HURRIED
from ..ledger.store import Ledger
from ..report.progress import Progress
from .where import Where, tracking_target

DELIVERY_PATIENCE_SECONDS = 600.0
NOT_TOLD = "-"
"""as the name of a sweep: the one that standard input names"""


@contextmanager
def delivery_process(where: Where) -> Iterator[subprocess.Popen[bytes] | None]:
    """A process that loads MLflow while the study is read, and leaves unless it is told a sweep; None: no tracker.

    It is `vae-sweep sync --follow`: nothing it does can stall the loop of a sweep.
    """
    target = tracking_target(where)
    if target is None:
        yield None
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "sync", NOT_TOLD, "--follow", "--workdir", str(where.paths.workdir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is not for it; in a session of its own its niceness would mean nothing to others
        # While Ray starts there is time to spare; worker processes start at once.
        env={
            **({HURRIED: "1"} if where.executor == "processes" else {}),
            **os.environ,
            "MLFLOW_TRACKING_URI": target,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )
    try:
        yield process
    finally:
        if process.stdin and not process.stdin.closed:  # it has not touched anything
            process.kill()
            process.communicate()


def begin_delivery(process: subprocess.Popen[bytes] | None, name: str, where: Where) -> None:
    """Tells the process of `delivery_process` its sweep."""
    if process is None or process.stdin is None:
        return
    log = where.paths.delivery_log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")  # a former run's last words are not this one's
    with suppress(BrokenPipeError):  # it is no more: `await_delivery` will say so
        process.stdin.write(f"{name}\n".encode())
        process.stdin.flush()
    with suppress(BrokenPipeError):
        process.stdin.close()


def told(where: Where) -> str:
    """In that process: the sweep, empty if there is none to deliver. What is said from now on goes to its log."""
    name = sys.stdin.readline().strip()
    if name:
        with where.paths.delivery_log(name).open("ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
    return name


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
    name: str, process: subprocess.Popen[bytes] | None, ledger: Ledger, where: Where, progress: Progress
) -> str:
    """Waits while deliveries go on arriving; returns why it stopped waiting, empty when all is delivered."""
    if process is None:
        return ""
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
