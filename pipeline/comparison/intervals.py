"""Intervals and tests for a handful of values: t, bootstrap and Welch, equivalence, Holm, what more replicates show.

Plain numbers in, plain numbers out; knows no arm and no sweep. Below `BOOTSTRAP_COUNT` values the mean is judged by
Student's t; from there on, where a seed is given, by a bootstrap of |t| (symmetric, studentised). A p-value and the
interval come from one reference, so a p-value of alpha or less is an interval without 0. `coverage.py` says how often
such intervals hold; one that held in under 90% of simulations is not given, and nothing is concluded without it.

- Hall, On symmetric bootstrap confidence intervals, J. R. Statist. Soc. B 1988
- Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 1979
- Schuirmann, two one-sided tests of equivalence, J. Pharmacokin. Biopharm. 1987
- Welch, The generalization of Student's problem, Biometrika 1947
- Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from .coverage import measured_coverage, skewness

POWER = 0.8
"""Power that "n more replicates" and the detectable difference are stated for."""
MANY_REPLICATES = 100
"""Beyond so many further replicates the answer is "many"."""
BOOTSTRAP_COUNT = 20
"""With so many values or more the reference is a bootstrap: with fewer it has too few distinct resamples."""
RESAMPLES = 9_999
LEAST_COVERAGE = 0.9
"""An interval that held less often than this, for values as skewed as these, is not given."""

Method = Literal["t", "bootstrap", "welch", "none"]
"""`none`: a single value"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval; spread and interval are None for a single value."""

    mean: float
    sd: float | None
    """of the values; None for a single one and for a difference of independent samples"""
    low: float | None
    high: float | None
    count: int
    """values; the smaller number where two independent samples are compared"""
    method: Method = "t"
    """how the interval was, or would have been, made"""
    coverage: float | None = None
    """share of 95% intervals that held in simulations with so many values, at least as skewed as these look"""

    @property
    def hidden(self) -> bool:
        """Whether there is no interval because it would hold too rarely."""
        return self.coverage is not None and self.coverage < LEAST_COVERAGE


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A mean and what is known of its error."""

    mean: float
    sd: float | None
    count: int
    error: float
    """standard error of the mean"""
    freedom: float
    """degrees of freedom of Student's t"""
    method: Method
    reference: NDArray[np.float64] | None
    """(R,) sorted |t| of resamples; None: Student's t is the reference"""
    coverage: float | None

    @property
    def judged(self) -> bool:
        """Whether anything may be concluded: there is a spread, and intervals hold for such values."""
        return self.method != "none" and (self.coverage is None or self.coverage >= LEAST_COVERAGE)

    def estimate(self, alpha: float) -> Estimate:
        """The mean with its 1 - alpha interval."""
        low = high = None
        if self.judged:
            half = self.quantile(alpha) * self.error if self.error else 0.0
            low, high = (self.mean - half, self.mean + half) if math.isfinite(half) else (None, None)
        return Estimate(self.mean, self.sd, low, high, self.count, self.method, self.coverage)

    def p_differs(self) -> float:
        """p-value of "the true mean is 0"; 1 where nothing may be concluded."""
        return min(1.0, 2 * self._tail(abs(self.mean)))

    def p_equivalent(self, margin: float) -> float:
        """p-value of "the true mean is outside +-margin" by two one-sided tests."""
        return self._tail(margin - abs(self.mean))

    def quantile(self, alpha: float) -> float:
        """|t| that is exceeded with probability `alpha`."""
        if self.reference is None:
            return float(stdtrit(self.freedom, 1 - alpha / 2))
        place = int(alpha * (len(self.reference) + 1))  # the place-th largest: p <= alpha exactly beyond it
        return float(self.reference[-place]) if place else math.inf

    def _tail(self, distance: float) -> float:
        """P(t >= distance / error), one side; no evidence (1) where nothing may be concluded."""
        if not self.judged or (self.error == 0 and distance <= 0):
            return 1.0
        if self.error == 0:
            return 0.0
        ratio = distance / self.error
        student = float(stdtr(self.freedom, -ratio))
        if self.reference is None or ratio <= 0:
            return student
        beyond = len(self.reference) - int(np.searchsorted(self.reference, ratio, side="left"))
        share = (beyond + 1) / (len(self.reference) + 1) / 2
        return share if beyond else min(share, student)  # farther out than the resamples reach: as t says


def sample(values: Sequence[float], seed: int | None = None, resamples: int = RESAMPLES) -> Sample | None:
    """What `values` say of their true mean; None without values. `seed`: of the bootstrap; None: always Student's t."""
    count = len(values)
    if count == 0:
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Sample(mean, None, 1, 0.0, 0.0, "none", None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    resampled = seed is not None and count >= BOOTSTRAP_COUNT and sd > 0
    method: Method = "bootstrap" if resampled else "t"
    reference = _resampled(values, seed or 0, resamples) if resampled else None
    coverage = measured_coverage(count, skewness(values), bootstrap=resampled)
    return Sample(mean, sd, count, sd / math.sqrt(count), count - 1, method, reference, coverage)


def welch(one: Sequence[float], other: Sequence[float]) -> Sample | None:
    """What two independent samples say of the difference of their means, `one` minus `other`; None if one is empty."""
    left, right = sample(one), sample(other)
    if left is None or right is None:
        return None
    difference, count = left.mean - right.mean, min(left.count, right.count)
    if count == 1:
        return Sample(difference, None, count, 0.0, 0.0, "none", None, None)
    parts = [side.error**2 for side in (left, right)]
    total = math.fsum(parts)
    terms = [part**2 / side.freedom for part, side in zip(parts, (left, right), strict=True)]
    freedom = total**2 / math.fsum(terms) if total else float(count - 1)
    coverage = min(side.coverage for side in (left, right) if side.coverage is not None)
    return Sample(difference, None, count, math.sqrt(total), freedom, "welch", None, coverage)


def _resampled(values: Sequence[float], seed: int, resamples: int) -> NDArray[np.float64]:
    """(R,) sorted |t| of resamples around the mean of `values`."""
    x = np.asarray(values, dtype=np.float64)
    x = x - x.mean()
    drawn = x[np.random.Generator(np.random.PCG64(seed)).integers(len(x), size=(resamples, len(x)))]
    means, errors = drawn.mean(1), drawn.std(1, ddof=1) / math.sqrt(len(x))
    alone = errors <= 1e-12 * np.abs(x).max()  # one value only, over and over: as far out as can be
    return np.sort(np.where(alone, np.inf, np.abs(means) / np.where(alone, 1.0, errors)))


def estimate(values: Sequence[float], alpha: float, seed: int | None = None) -> Estimate | None:
    """Mean and 1 - alpha interval; None without values. `seed`: as in `sample`."""
    found = sample(values, seed)
    return None if found is None else found.estimate(alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of one family."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, slots=True)
class Probability:
    """A probability with its Wilson interval."""

    value: float
    low: float
    high: float
    count: int
    """what it was counted over"""


def probability(wins: float, count: int, alpha: float) -> Probability | None:
    """Share of `wins` (a tie is half a win) and its 1 - alpha Wilson score interval; None where `count` is 0."""
    if count == 0:
        return None
    z = float(ndtri(1 - alpha / 2))
    share, spread = wins / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return Probability(share, max(centre - half, 0.0), min(centre + half, 1.0), count)


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
