"""The delivery process of a run: started beside the training, waited for at the end while it gets on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..ledger.store import Ledger
from ..report.progress import Progress
from .where import Where, tracking_target

DELIVERY_PATIENCE_SECONDS = 600.0


def start_delivery(name: str, where: Where) -> subprocess.Popen[bytes] | None:
    """Delivery runs beside the training as `vae-sweep sync --follow`: nothing it does can stall the loop."""
    target = tracking_target(where)
    if target is None:
        return None
    command = [sys.executable, "-m", "pipeline", "sync", name, "--follow", "--workdir", str(where.paths.workdir)]
    log = where.paths.delivery_log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:  # a former run's last words are not this one's
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": target, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )


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
