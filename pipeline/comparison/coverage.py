"""How often 95% intervals for a mean hold: by how many values there are, and how skewed they look.

Numbers in, a number out; the figures are those of coverage_table.py. A handful of values cannot show how skewed their
distribution is: a sample is given the least skewed distribution that is not at odds with it (that shows at least this
much skewness in one of ten samples). So a low coverage means that skewness was seen, and a high one only that it was
not; docs/results.md has the whole table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .coverage_table import BOOTSTRAP, COUNTS, SKEWED, SKEWNESS, STUDENT

LEAST_COUNT = 5
"""With fewer values, skewed distributions give samples that look like those of the others."""


def skewness(values: Sequence[float]) -> float:
    """|third central moment| / (second central moment)^1.5; 0 without spread."""
    mean = math.fsum(values) / len(values)
    second = math.fsum((value - mean) ** 2 for value in values) / len(values)
    third = math.fsum((value - mean) ** 3 for value in values) / len(values)
    return abs(third) / second**1.5 if second > 1e-300 else 0.0


def unseen_skewness(count: int) -> tuple[float, float] | None:
    """Coverage of t intervals for normal and for exponential values, where so few cannot show which they are."""
    if not COUNTS[0] <= count < LEAST_COUNT:
        return None
    column = COUNTS.index(count)
    return STUDENT["normal"][column], STUDENT["exponential"][column]


def measured_coverage(count: int, seen: float, *, bootstrap: bool = False) -> float:
    """Coverage measured with `count` values (the next lower count of the table), at least as skewed as `seen`."""
    column = max(i for i, n in enumerate(COUNTS) if n <= count)
    table = BOOTSTRAP if bootstrap else STUDENT
    rows = [row for row in SKEWED if count < LEAST_COUNT or seen <= SKEWNESS[row][column]]
    return table[rows[0] if rows else SKEWED[-1]][column]
