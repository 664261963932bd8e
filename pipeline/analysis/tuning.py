"""Tuning curves: the best validation value so far against trials and epochs spent, and what random search would give.

The curve is what the searches did; its interval is over them. The band is OPDA's, for the median of the best of n
random trials: it holds for all n at once, needs no assumption on the values, and rests on independent draws alone.
Numbers in, numbers out.

- Lourie, Cho & He, Show Your Work with Confidence: Confidence Bands for Tuning Curves, NAACL 2024, arXiv 2311.09480
- Learned-Miller & DeStefano, A Probabilistic Upper Bound on Differential Entropy, IEEE Trans. Inf. Theory 2008
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.random import Generator
from opda.nonparametric import EmpiricalDistribution

from ..comparison import estimate
from ..records import derive_seed
from .searches import SearchTrial
from .shapes import Band, TuningCurve

EXACT_DRAWS = 150
"""Up to so many draws the tightest bands are taken; they are simulated, which takes seconds from here on."""


def tuning_curve(arm: str, searches: Sequence[Sequence[SearchTrial]], alpha: float) -> TuningCurve | None:
    """The curve of an arm's searches, each in number order without a gap; None while one of them has no trial.

    It goes as far as the shortest search has come. A trial that did not complete leaves the best as it is, and costs.
    """
    length = min((len(search) for search in searches), default=0)
    if length == 0:
        return None
    best = [list(accumulate((trial.best_value for trial in search[:length]), max)) for search in searches]
    spent = [list(accumulate(trial.epochs for trial in search[:length])) for search in searches]
    means: list[float | None] = []
    lows: list[float | None] = []
    highs: list[float | None] = []
    for values in zip(*best, strict=True):
        known = estimate(values, alpha) if all(map(math.isfinite, values)) else None
        means.append(known.mean if known else None)
        lows.append(known.low if known else None)
        highs.append(known.high if known else None)
    return TuningCurve(
        arm=arm,
        trials=tuple(range(1, length + 1)),
        epochs=tuple(math.fsum(column) / len(column) for column in zip(*spent, strict=True)),
        mean=tuple(means),
        low=tuple(lows),
        high=tuple(highs),
        band=random_band(searches, 1 - alpha),
    )


def random_band(searches: Sequence[Sequence[SearchTrial]], confidence: float) -> Band | None:
    """OPDA's band by all independent draws of the searches, for as many trials as one search drew; None without any."""
    draws = [[trial.best_value for trial in search if trial.independent] for search in searches]
    trials = max(map(len, draws), default=0)
    if trials == 0:
        return None
    low, median, high = best_of_random([value for search in draws for value in search], trials, confidence)
    count = sum(map(len, draws))
    return Band(tuple(range(1, trials + 1)), low, median, high, confidence, count)


Curve = tuple[float, ...]


def best_of_random(values: Sequence[float], trials: int, confidence: float) -> tuple[Curve, Curve, Curve]:
    """Median of the best of 1, 2, ... `trials` draws from where `values` came from: lower bound, estimate, upper bound.

    Lost trials are -inf. Bounds are infinite where the values bound nothing. With ties the band is wider than it need
    be, never narrower.
    """
    exact = len(values) <= EXACT_DRAWS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicates detected", category=RuntimeWarning)
        below, empirical, above = EmpiricalDistribution.confidence_bands(
            sorted(values),
            confidence,
            generator=_generator(len(values), confidence),
            method="ld_equal_tailed" if exact else "ks",
            n_jobs=1,
        )
    # A distribution function that is bounded from above bounds its quantiles from below.
    numbers = np.arange(1, trials + 1)
    low, median, high = (one.quantile_tuning_curve(numbers).tolist() for one in (above, empirical, below))
    return tuple(low), tuple(median), tuple(high)


@cache
def _generator(draws: int, confidence: float) -> Generator:
    """The same object for the same question: opda keeps what it simulated by it."""
    return np.random.default_rng(derive_seed("tuning band", draws, str(confidence)))
