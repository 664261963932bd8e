"""Images as they were stored, before they have a form and are divided: what every loader gives.

Knows neither what form the pixels are wanted in nor how the images are divided: see dataset.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[Any]
"""(N, D), (N, H, W) or (N, H, W, C), any real dtype"""
Density = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""log p(x) of images, nats: (N, D) -> (N,)"""

PARTS = ("train", "val", "test")
"""names under which a file or a folder holds images that are divided already"""


@dataclass(frozen=True, slots=True, eq=False)
class RawFactors:
    """What every image was made from, in the order of the images."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """how many values each factor has"""
    values: NDArray[np.int64]
    """(N, F), whole numbers below the sizes"""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Images as they were stored."""

    name: str
    parts: tuple[Images, ...]
    """one array to be divided, or train, val, test"""
    levels: int | None = None
    """highest value a pixel can have; None: unknown"""
    threshold: float | None = None
    """where black ends and white begins (white from there on); None: not to be thresholded"""
    factors: RawFactors | None = None
    """of the one array, where they are known"""
    log_density: Density | None = None
    """exact log p(x), where the images were drawn from a known model"""
    facts: tuple[tuple[str, str], ...] = ()
    """(word, sentence) about where the images come from, for people"""


def near(name: str, names: Iterable[str]) -> str:
    """` (near: 'digits')`, or nothing."""
    found = difflib.get_close_matches(name, list(names), n=3)
    return f" (near: {', '.join(map(repr, found))})" if found else ""
