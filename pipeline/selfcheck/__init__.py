"""Closed forms that this program's numbers are held to, on the user's own machine: one table of oracles.

Imports the kits that compute numbers; knows no study, no sweep and no store.
"""

from .base import Line, Oracle
from .table import ORACLES, Examined, examine

__all__ = ["ORACLES", "Examined", "Line", "Oracle", "examine"]
