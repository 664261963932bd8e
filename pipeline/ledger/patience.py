"""Waiting for a database that is away for a while, so that its restart does not end a sweep.

Knows no SQL and no ledger: it repeats whole actions, and whoever hands them in answers for that being safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import LedgerAway

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.2, 5.0

T = TypeVar("T")


class Patience:
    """Repeats actions that end in LedgerAway, for `seconds` after the last time that the database answered.

    Once it has run out, an action is tried once only, until the database answers again.
    """

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds, self._clock, self._sleep = seconds, clock, sleep
        self._since: float | None = None
        """when the database was first found away"""
        self.waited_seconds = 0.0
        """how long the present action has waited; above 0 in repetitions only"""

    def see_through(self, action: Callable[[], T], say: Callable[[str], None]) -> T:
        """The result of `action`. `say` gets one line when the database goes away, one when it answers again."""
        began = self._clock()
        pause, self.waited_seconds = FIRST_PAUSE_SECONDS, 0.0
        while True:
            try:
                result = action()
            except LedgerAway as error:
                now = self._clock()
                first, self._since = self._since is None, now if self._since is None else self._since
                if now - self._since >= self._seconds:
                    if self._seconds:
                        raise LedgerAway(f"{error} It has been away for {now - self._since:.0f} s.") from error
                    raise
                if first:
                    say(f"waiting up to {self._seconds:.0f} s for the database. {error}")
            else:
                if self._since is not None and self._seconds:
                    say(f"the database answers again, after {self._clock() - self._since:.0f} s")
                self._since = None
                return result
            self._sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
            self.waited_seconds = self._clock() - began
