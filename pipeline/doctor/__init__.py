"""Whether a sweep could run here: one table of checks, each of which says what it found and what to do.

Changes nothing but for temporary files that go at once. Knows no study and no option of a verb.
"""

from .base import Finding, Scope
from .table import CHECKS, diagnose

__all__ = ["CHECKS", "Finding", "Scope", "diagnose"]
