"""Launching: a study is registered, trained and delivered; or one configuration is trained alone."""

from .registering import register
from .single import same_numbers, save_outcome, train_again, train_single
from .sweeping import RunReport, run
from .where import LEDGER_VARIABLE, Where, load_study_data, open_ledger, tracking_target
from .workers import AUTOMATIC_SLOTS, make_executor

__all__ = [
    "AUTOMATIC_SLOTS",
    "LEDGER_VARIABLE",
    "RunReport",
    "Where",
    "load_study_data",
    "make_executor",
    "open_ledger",
    "register",
    "run",
    "same_numbers",
    "save_outcome",
    "tracking_target",
    "train_again",
    "train_single",
]
