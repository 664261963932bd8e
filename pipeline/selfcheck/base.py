"""What an oracle says: a claim, and lines of what was expected, what was measured, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

F64_SEED = 7_226_341
"""of everything that an oracle draws"""


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison."""

    what: str
    expected: float
    measured: float
    tolerance: float
    rule: Literal["equal", "at most", "at least"] = "equal"
    """`at most`: measured <= expected + tolerance; `at least`: measured >= expected - tolerance"""

    @property
    def holds(self) -> bool:
        """Whether what was measured is as expected; never for NaN."""
        return self.excess <= self.tolerance

    @property
    def excess(self) -> float:
        """How far the measured value is off."""
        if self.measured == self.expected:
            return 0.0
        gap = self.measured - self.expected
        off = {"equal": abs(gap), "at most": max(gap, 0.0), "at least": max(-gap, 0.0)}[self.rule]
        return math.inf if math.isnan(gap) else off


@dataclass(frozen=True, slots=True)
class Oracle:
    """One claim about the program's numbers."""

    claim: str
    measure: Callable[[], Sequence[Line]]


def worst(lines: Sequence[Line]) -> Line:
    """The line nearest to failing, or failing most."""
    return max(
        lines, key=lambda line: line.excess / line.tolerance if line.tolerance else math.copysign(line.excess, 1)
    )
