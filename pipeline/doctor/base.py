"""What every check is given, and what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..paths import WorkPaths

Level = Literal["ok", "warning", "failed"]

ANSWER_SECONDS = 4.0
"""how long a server is waited for"""
CLOCK_SECONDS = 5.0
"""from this difference on two clocks are worth a warning: leases are told dead after 30 s"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to."""

    level: Level
    found: str
    remedy: str = ""
    """what to do; empty where all is well"""

    @classmethod
    def worst(cls, parts: Sequence[Finding]) -> Finding:
        """One finding of one or more: all of them where all is well, else those that are not."""
        bad = [part for part in parts if part.level != "ok"]
        level: Level = "ok" if not bad else "failed" if any(part.level == "failed" for part in bad) else "warning"
        said = "; ".join(part.found for part in bad or parts)
        return cls(level, said, " ".join(dict.fromkeys(part.remedy for part in bad)))


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a sweep would run. No field is ever shown as it is: URLs may hold passwords."""

    paths: WorkPaths
    ledger_url: str
    tracking: str | None
    """MLflow's tracking URI; None: nothing is tracked"""
    ray_address: str | None = None
    """HOST:PORT, `auto`, or the URL of a dashboard; None: one would be started here"""
    optuna_url: str | None = None
    ui_port: int = 5000
    environment: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.time


Check = Callable[[Scope], Finding]


def clock_finding(theirs: float, ours: float, whose: str) -> Finding | None:
    """A warning where two clocks (Unix seconds) differ so much that leases are misjudged."""
    off = theirs - ours
    if abs(off) < CLOCK_SECONDS:
        return None
    ahead = "ahead of" if off > 0 else "behind"
    remedy = "Set both clocks (chronyd, ntpd, timedatectl): with 30 s a living driver is taken for dead."
    return Finding("warning", f"the clock of {whose} is {abs(off):.0f} s {ahead} this machine's", remedy)
