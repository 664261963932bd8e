"""Delivery: what the ledger has and the tracker has not, is recorded there, once, behind the training.

Knows the ledger and the `Tracker` protocol; no MLflow, no study file and no training. Runs in its own process:
whatever happens to it or to the tracker, the ledger says what is left.
"""

from .check import check
from .deliver import DeliveryReport, deliver_pending, finish, follow, hold_lease
from .records import PARENT, Subject, run_record, sweep_run

__all__ = [
    "PARENT",
    "DeliveryReport",
    "Subject",
    "check",
    "deliver_pending",
    "finish",
    "follow",
    "hold_lease",
    "run_record",
    "sweep_run",
]
