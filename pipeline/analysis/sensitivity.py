"""How easy an arm is to tune: which share of the nuisance space comes within x nats of the best.

By independent draws from the space, as the study file spans it: a share of 0.5 says that every other random
configuration is that good. Numbers in, numbers out.

- Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, Biometrika 1934
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .searches import SearchTrial
from .shapes import Sensitivity, Share

WITHIN_NATS = (0.5, 1.0, 2.0, 5.0, 10.0)


def sensitivity(arm: str, searches: Sequence[Sequence[SearchTrial]], alpha: float) -> Sensitivity | None:
    """Shares by all independent draws of an arm's searches; None without any. Lost trials are never within."""
    trials = [trial for search in searches for trial in search]
    draws = [trial.best_value for trial in trials if trial.independent]
    if not draws:
        return None
    best = max(trial.best_value for trial in trials)
    shares = tuple(_share(draws, best, within, alpha) for within in WITHIN_NATS)
    return Sensitivity(arm, len(draws), best if math.isfinite(best) else None, shares)


def _share(draws: Sequence[float], best: float, within: float, alpha: float) -> Share:
    inside = sum(math.isfinite(value) and value >= best - within for value in draws)
    low, high = clopper_pearson(inside, len(draws), alpha)
    return Share(within, inside / len(draws), low, high)


def clopper_pearson(successes: int, count: int, alpha: float) -> tuple[float, float]:
    """Exact 1 - alpha interval of a probability by `successes` of `count` independent trials."""
    from scipy.special import betaincinv

    failures = count - successes
    low = float(betaincinv(successes, failures + 1, alpha / 2)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - alpha / 2)) if failures else 1.0
    return low, high
