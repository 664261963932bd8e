"""Small pictures of which every cause is known: three shapes in four sizes, eight directions and 16 x 16 places.

Made for measuring disentanglement; in the manner of dSprites, of which it shares no image. No shape has a symmetry of
rotation, so every direction can be told; no two images are equal. A pixel counts which of its 4 x 4 points lie inside.

Knows no file. Only +, *, comparisons and square roots are computed, which every machine rounds alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from .raw import Raw, RawFactors

Points = NDArray[np.float64]

POINTS = 4
"""a side: a pixel is the number of its POINTS² points inside the shape"""
RADII = (4.0, 5.5, 7.0, 8.5)
"""of the circle around a shape, in pixels"""
BOX = 17
"""pixels a side of a shape's own picture: twice the largest radius"""
PLACES = 16
SIDE = BOX + PLACES - 1
"""pixels a side of an image: a shape moves by whole pixels and never leaves it"""
DIAGONAL = math.sqrt(0.5)
DIRECTIONS = (
    (1.0, 0.0), (DIAGONAL, DIAGONAL), (0.0, 1.0), (-DIAGONAL, DIAGONAL),
    (-1.0, 0.0), (-DIAGONAL, -DIAGONAL), (0.0, -1.0), (DIAGONAL, -DIAGONAL),
)  # fmt: skip
"""cosine and sine of 0, 45, ... 315 degrees"""


def _heart(x: Points, y: Points) -> NDArray[np.bool_]:
    """(x² + y² - 1)³ < x² y³, drawn into the unit circle."""
    x, y = x * 1.3, y * 1.3 + 0.1
    inner = x * x + y * y - 1
    return inner * inner * inner < x * x * (y * y * y)


def _corner(x: Points, y: Points) -> NDArray[np.bool_]:
    """The letter L, of two bars."""
    upright = (x > -0.6) & (x < -0.15) & (y > -0.78) & (y < 0.78)
    return upright | ((x > -0.6) & (x < 0.6) & (y > -0.78) & (y < -0.33))


def _fan(x: Points, y: Points) -> NDArray[np.bool_]:
    """Three quarters of a disc."""
    return (x * x + y * y < 0.97) & ~((x > 0) & (y > 0))


SHAPES: Mapping[str, Callable[[Points, Points], NDArray[np.bool_]]] = {
    "heart": _heart,
    "corner": _corner,
    "fan": _fan,
}
"""Name -> which points of the unit circle are inside."""

FACTORS = ("shape", "scale", "orientation", "x", "y")
SIZES = (len(SHAPES), len(RADII), len(DIRECTIONS), PLACES, PLACES)


def load_sprites() -> Raw:
    """24,576 drawings, 32 x 32 pixels, 0..16, with factors: 3 shapes, 4 scales, 8 orientations, 16 x 16 places."""
    drawn = np.stack([_drawn(*cell) for cell in np.ndindex(SIZES[:3])]).reshape(*SIZES[:3], BOX, BOX)
    images = np.zeros((*SIZES, SIDE, SIDE), dtype=np.uint8)
    for x, y in np.ndindex(PLACES, PLACES):
        images[:, :, :, x, y, y : y + BOX, x : x + BOX] = drawn
    values = np.indices(SIZES).reshape(len(SIZES), -1).T
    return Raw(
        "sprites",
        (images.reshape(-1, SIDE, SIDE),),
        levels=POINTS * POINTS,
        threshold=POINTS * POINTS / 2,
        factors=RawFactors(FACTORS, SIZES, np.ascontiguousarray(values, dtype=np.int64)),
    )


def _drawn(shape: int, scale: int, orientation: int) -> NDArray[np.uint8]:
    """One shape in its box, (BOX, BOX)."""
    places = (np.arange(BOX * POINTS) + 0.5) / POINTS - BOX / 2
    right, down = places[None, :] / RADII[scale], places[:, None] / RADII[scale]
    cosine, sine = DIRECTIONS[orientation]
    inside = list(SHAPES.values())[shape](right * cosine + down * sine, down * cosine - right * sine)
    counts: NDArray[np.uint8] = inside.reshape(BOX, POINTS, BOX, POINTS).sum(axis=(1, 3)).astype(np.uint8)
    return counts
