"""Numbers and values as people read them: hyperparameters, means with their intervals, counts. Knows no table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..comparison import Estimate
from ..records import Params, Value


def value_text(value: Value) -> str:
    """A hyperparameter's value as people write it: `0.001`, `128-64`, `log_std`."""
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def params_text(params: Params, separator: str = ", ") -> str:
    """`learning_rate=0.001, beta_warmup_epochs=5`."""
    return separator.join(f"{name}={value_text(value)}" for name, value in params.items())


def level_text(level: Params) -> str:
    """Values of the compared factors: `log_std` of one factor, `scale=log_std, latent_dim=2` of several."""
    return value_text(next(iter(level.values()))) if len(level) == 1 else params_text(level)


def digits_of(found: Estimate) -> int:
    """Decimals that show two significant digits of the half width; 2 without an interval."""
    half = _half(found)
    return 2 if not half else min(max(1 - math.floor(math.log10(half)), 0), 6)


def _half(found: Estimate) -> float | None:
    return None if found.low is None or found.high is None else (found.high - found.low) / 2


def interval_text(found: Estimate, sign: str = "") -> str:
    """`[0.71, 1.89]`, empty without an interval."""
    digits = digits_of(found)
    return "" if found.low is None else f"[{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def plus_minus(found: Estimate | None, digits: int, sign: str = "") -> str:
    """`-108.70 ±0.29`; the mean alone without an interval."""
    half = None if found is None else _half(found)
    mean = "—" if found is None else f"{found.mean:{sign}.{digits}f}"
    return mean if half is None else f"{mean} ±{half:.{digits}f}"


def column_digits(column: Sequence[Estimate | None]) -> int:
    """One number of decimals for a column: two where its intervals allow."""
    digits = [digits_of(found) for found in column if found is not None] or [2]
    return max(min(digits), min(2, max(digits)))


def thousands(number: int) -> str:
    """`12 345`."""
    return f"{number:,}".replace(",", " ")


def count_text(number: int, word: str) -> str:
    """`1 arm`, `2 arms`."""
    return f"{thousands(number)} {word}{'' if number == 1 else 's'}"
