"""A curve as lines of braille, for terminals. Knows numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""dot bits by column, then row from the top"""


def curve(values: Sequence[float], width: int = 56, height: int = 8) -> list[str]:
    """A braille plot as lines, highest and lowest finite value beside it."""
    points = _resampled(values, 2 * width)
    finite = [value for value in points if math.isfinite(value)]
    if not finite:
        return ["no finite value"]
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    cells = [[0] * -(-len(points) // 2) for _ in range(height)]
    for x, value in enumerate(points):
        if math.isfinite(value):
            y = round((max(finite) - value) / span * (4 * height - 1))
            cells[y // 4][x // 2] |= _BRAILLE[x % 2][y % 4]
    labels = {0: f"{max(finite):.2f}", height - 1: f"{low:.2f}"}
    margin = max(map(len, labels.values()))
    return [
        f"{labels.get(row, ''):>{margin}} ┤" + "".join(chr(0x2800 + bits) for bits in line)
        for row, line in enumerate(cells)
    ]


def _resampled(values: Sequence[float], width: int) -> list[float]:
    """At most `width` of the values, evenly spread, first and last kept."""
    if len(values) <= width:
        return list(values)
    return [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
