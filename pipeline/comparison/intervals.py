"""Intervals and tests for a handful of values: t intervals, equivalence, Holm, what more replicates would show.

Plain numbers in, plain numbers out; knows no arm and no sweep.

- Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 1979
- Schuirmann, two one-sided tests of equivalence, J. Pharmacokin. Biopharm. 1987
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

POWER = 0.8
"""Power that "n more replicates" and the detectable difference are stated for."""
MANY_REPLICATES = 100
"""Beyond so many further replicates the answer is "many"."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its t interval; spread and interval are None for a single value."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    count: int


def estimate(values: Sequence[float], alpha: float) -> Estimate | None:
    """Mean and 1 - alpha t interval (n - 1 degrees of freedom); None without values."""
    count = len(values)
    if count == 0:
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, None, None, 1)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, 1 - alpha / 2)) * sd / math.sqrt(count)
    return Estimate(mean, sd, mean - half, mean + half, count)


def p_two_sided(values: Sequence[float]) -> float:
    """p-value of "the mean is 0" by the t test; 1 below two values."""
    found = estimate(values, 0.5)
    return 1.0 if found is None else min(1.0, 2 * _tail(abs(found.mean), found))


def p_equivalence(values: Sequence[float], margin: float) -> float:
    """p-value of "the mean is outside +-margin" by two one-sided t tests; 1 below two values."""
    found = estimate(values, 0.5)
    return 1.0 if found is None else _tail(margin - abs(found.mean), found)


def _tail(distance: float, found: Estimate) -> float:
    """P(T >= distance / standard error); no evidence (1) where the spread is unknown."""
    if found.sd is None or found.sd == 0:
        return 0.0 if found.sd == 0 and distance > 0 else 1.0
    return float(stdtr(found.count - 1, -distance * math.sqrt(found.count) / found.sd))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def detectable_difference(*, sd: float, replicates: int, alpha: float, pairs: int) -> float:
    """Smallest true difference (in `sd`'s unit) found with power `POWER`, `sd` that of a paired difference.

    Bonferroni over `pairs`, so a little pessimistic; infinite below two replicates.
    """
    if replicates < 2:
        return math.inf
    quantiles = stdtrit(replicates - 1, 1 - alpha / 2 / max(pairs, 1)) + stdtrit(replicates - 1, POWER)
    return float(quantiles) * sd / math.sqrt(replicates)


def more_replicates(found: Estimate, *, alpha: float, margin: float, pairs: int) -> int:
    """Further replicates after which a true difference as observed is shown, or shown equivalent.

    Whichever takes fewer, with power `POWER` and Bonferroni over `pairs`; at most `MANY_REPLICATES`.
    """
    totals = np.arange(found.count + 1, found.count + MANY_REPLICATES)
    error = (found.sd or 0.0) / np.sqrt(totals)
    power = stdtrit(totals - 1, POWER)
    shown = abs(found.mean) >= (stdtrit(totals - 1, 1 - alpha / 2 / pairs) + power) * error
    equal = margin - abs(found.mean) >= (stdtrit(totals - 1, 1 - alpha / pairs) + power) * error
    settled = np.flatnonzero(shown | equal)
    return int(settled[0]) + 1 if len(settled) else MANY_REPLICATES
