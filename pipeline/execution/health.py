"""What the pools of worker processes have in common: their rhythm, losses in a row, how long a worker has been quiet.

Knows no worker and no library.
"""

from __future__ import annotations

import time

ROUND_SECONDS = 0.2
"""how long a worker trains before it reports"""
START_SECONDS = 180.0
"""how long a worker that has a place may take to load everything"""
LOSSES_IN_A_ROW = 5
"""so many replacements lost, one after the other, with no epoch trained in between: something is wrong"""
PULSE_SECONDS = 5.0
"""how often a worker gives, or is asked for, a sign of life, which it can give while it trains"""


class Losses:
    """Counts losses in a row; those of workers that were started in one era count once."""

    def __init__(self) -> None:
        self.era = 0
        """how many losses came before what is started now"""
        self._trained_in = 0

    def trained(self) -> None:
        """Some worker has trained: the count begins anew."""
        self._trained_in = self.era

    def lost(self, era: int) -> int:
        """A worker that was started in `era` is lost; returns how many were, one after the other."""
        self.era += era == self.era
        return self.era - self._trained_in


class Listening:
    """Time in which this process could have heard a sign of life, had there been one."""

    def __init__(self) -> None:
        self._heard_at = time.monotonic()

    def seconds(self) -> float:
        """Since the last call; at most one: for longer, this process was stopped itself, and may be deaf yet."""
        now = time.monotonic()
        heard, self._heard_at = min(now - self._heard_at, 1.0), now
        return heard
