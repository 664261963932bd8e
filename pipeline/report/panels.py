"""How a comparison is laid out in figures: panels of arms, the look of each compared level, ranges that show most.

Knows no plotting library. Colours: after Okabe and Ito, Color universal design (2008), darkened to a contrast of at
least 3 to 1 on white.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..comparison import ArmResult, Comparison, Estimate
from ..records import Params
from .numbers import params_text

DWARFS = 3.0
"""a range leaves out what is so many medians away"""
COLOURS = ("#1b1b1b", "#0072b2", "#d55e00", "#00805e", "#9b4f96", "#a06c00", "#2a86b3", "#7b2d42")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "4px 2px 1px 2px")
SYMBOLS = (
    "circle", "square", "diamond", "cross", "circle-open", "star", "square-open", "hourglass", "diamond-open",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """How a compared level is drawn, in every figure."""

    colour: str
    dash: str
    symbol: str


@dataclass(frozen=True, slots=True)
class Panel:
    """The arms that are compared with one another."""

    context: Params
    """the scientific values that they share; empty where all are compared"""
    arms: tuple[ArmResult, ...]

    @property
    def title(self) -> str:
        """`latent_dim=2`; empty where all arms are compared."""
        return params_text(self.context)


def level_of(arm: ArmResult, factors: Sequence[str]) -> str:
    """The compared values of an arm as people write them: `log_std`, `latent_dim=8`."""
    return spelled({name: value for name, value in arm.values.items() if name in factors}) or "(one arm)"


def spelled(level: Params) -> str:
    """Compared values in words: a name stands for itself, a number needs to be told what of."""
    values = list(level.values())
    return values[0] if len(values) == 1 and isinstance(values[0], str) else params_text(level)


def styles(comparison: Comparison) -> dict[str, Style]:
    """Style by compared level, in the order of the arms. The three lists of unequal length repeat late."""
    levels = dict.fromkeys(level_of(arm, comparison.factors) for arm in comparison.arms)
    return {
        level: Style(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], SYMBOLS[i % len(SYMBOLS)])
        for i, level in enumerate(levels)
    }


def panels(comparison: Comparison, only: Params | None = None) -> tuple[Panel, ...]:
    """Arms by context, in the order of the arms; `only`: the context to keep."""
    found: dict[str, list[ArmResult]] = {}
    contexts: dict[str, Params] = {}
    for arm in comparison.arms:
        context = {name: value for name, value in arm.values.items() if name not in comparison.factors}
        found.setdefault(params_text(context), []).append(arm)
        contexts[params_text(context)] = context
    kept = [name for name in found if only is None or contexts[name] == dict(only)]
    return tuple(Panel(contexts[name], tuple(found[name])) for name in kept)


def bounds(found: Estimate) -> tuple[float, float]:
    """The interval, or the value twice where there is none."""
    return (found.mean, found.mean) if found.low is None or found.high is None else (found.low, found.high)


def spread(sizes: Sequence[float]) -> float:
    """A size that shows most of `sizes` well: the largest, unless it dwarfs the median."""
    known = [size for size in sizes if math.isfinite(size)] or [1.0]
    return min(max(known), max(DWARFS * statistics.median(known), 1e-9)) or 1.0


def visible(values: Sequence[float], *, top: bool = False) -> tuple[float, float]:
    """Lowest and highest, without what would flatten the rest; `top`: only the low side may be cut."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    middle = max(known) if top else statistics.median(known)
    low = middle - spread([middle - value for value in known if value < middle] or [0.0])
    high = max(known) if top else middle + spread([value - middle for value in known if value > middle] or [0.0])
    low, high = max(low, min(known)), min(high, max(known))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def padded(low: float, high: float) -> list[float]:
    """The range with a twentieth of it on either side."""
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)]
