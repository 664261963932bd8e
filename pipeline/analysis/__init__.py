"""What a sweep's trials say beyond the verdicts: how tuning went, what it depends on, where the spread comes from.

shapes.py has the results; the other files compute them, and are loaded only when that is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .shapes import Analysis

if TYPE_CHECKING:
    from ..results import Results

__all__ = ["Analysis", "analyse"]


def analyse(results: Results) -> Analysis:
    """All analyses of a sweep, finished or not; the same for the same records, whatever order they come in.

    Arms are in the study's order; those of which nothing can be said yet are left out.
    """
    from .parts import analysis_of

    return analysis_of(results)
