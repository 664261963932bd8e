"""How much of what a search promised its repeats kept. The best of many noisy values is too good to be true.

Numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..comparison import estimate
from .shapes import Optimism


def optimism(arm: str, searches: Sequence[tuple[float | None, Sequence[float]]], alpha: float) -> Optimism | None:
    """The gap by (highest validation value, validation values of the repeats) of each search; None without one.

    Searches without a converged trial or repeat are left out.
    """
    pairs = [(best, math.fsum(values) / len(values)) for best, values in searches if best is not None and values]
    gap = estimate([best - repeated for best, repeated in pairs], alpha)
    if gap is None:
        return None
    best, repeated = (math.fsum(side) / len(pairs) for side in zip(*pairs, strict=True))
    return Optimism(arm, best, repeated, gap.mean, gap.low, gap.high)
