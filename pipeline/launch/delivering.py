"""What a driver has to do with its delivery: it makes the files of the sweep's end, and waits while it gets on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..ledger.store import Ledger
from ..report.final import final_files
from ..report.progress import Progress
from ..results import load_results
from .beside import DeliveryProcess
from .where import Where, open_ledger, tracking_target

DELIVERY_PATIENCE_SECONDS = 600.0


def give_files(delivery: DeliveryProcess, name: str, where: Where) -> None:
    """Has this process make what the sweep's own run ends with, once."""

    def make() -> Mapping[str, str]:
        with open_ledger(where) as ledger:
            return final_files(load_results(ledger, name), where.paths)

    delivery.give_files(make)


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
    give_files(delivery, name, where)
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
