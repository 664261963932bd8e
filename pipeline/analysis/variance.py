"""Where the spread of an arm's test values comes from: independent searches, training seeds, the test images.

One-way random effects by the method of moments: value = arm + search + training seed. Numbers in, numbers out.

- Searle, Casella & McCulloch, Variance Components, 1992, section 3.6 (unbalanced data)
- Bouthillier et al., Accounting for variance in machine learning benchmarks, MLSys 2021
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .shapes import VarianceSplit


def variance_split(arm: str, searches: Sequence[Sequence[float]], image_errors: Sequence[float]) -> VarianceSplit:
    """The split by the values of each search's repeats; `image_errors`: the repeats' standard errors over test images.

    Searches without a value are left out. Nothing can be told apart unless some search has two values.
    """
    groups = [values for values in searches if values]
    between, within = components(groups)
    return VarianceSplit(
        arm=arm,
        search=None if between is None else math.sqrt(between),
        training_seed=None if within is None else math.sqrt(within),
        images=math.fsum(image_errors) / len(image_errors) if image_errors else None,
    )


def components(groups: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Variances (between groups, within them) of non-empty groups; a negative estimate is 0.

    None: between needs two groups, and both need a group of two.
    """
    count, total = len(groups), sum(map(len, groups))
    if total == count:
        return None, None
    means = [math.fsum(values) / len(values) for values in groups]
    squares = math.fsum((value - mean) ** 2 for values, mean in zip(groups, means, strict=True) for value in values)
    within = squares / (total - count)
    if count < 2:
        return None, within
    grand = math.fsum(value for values in groups for value in values) / total
    spread = math.fsum(len(values) * (mean - grand) ** 2 for values, mean in zip(groups, means, strict=True))
    size = (total - sum(len(values) ** 2 for values in groups) / total) / (count - 1)  # repeats of a typical search
    return max(0.0, (spread / (count - 1) - within) / size), within
