"""Pictures: grids of images as PNG bytes. Knows no model; takes arrays of pixel values.

Shapes: images (N, D) numpy in the data's units, `image_shape` (H, W) or (H, W, C) with C of 1 or 3.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GAP = 1
"""pixels between images, before enlarging"""
WANTED_WIDTH = 320
"""small grids are enlarged by a whole factor to about this many pixels"""
PAPER = 64
"""grey level of the gaps, distinct from black background and white ink"""
MOST_PIXELS = 1 << 20
"""of the pictures that only repeats have, before enlarging: rows that do not fit are left out"""


def to_bytes(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Maps [low, high] to 0..255, clipped; non-finite values become mid-grey."""
    span = high - low if high > low else 1.0
    scaled = np.nan_to_num((values - low) / span, nan=0.5, posinf=1.0, neginf=0.0)
    pixels: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels


def grid_png(rows: Sequence[NDArray[np.uint8]], image_shape: tuple[int, ...]) -> bytes:
    """PNG of rows of flat images, each row (n, D) uint8, laid out as given."""
    height, width = image_shape[0], image_shape[1]
    channels = image_shape[2] if len(image_shape) > 2 else 1
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), PAPER, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            canvas[top : top + height, left : left + width] = image.reshape(height, width, channels)
    picture = Image.fromarray(canvas if channels == 3 else canvas[:, :, 0])
    factor = max(1, math.ceil(WANTED_WIDTH / picture.width))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return _png(picture)


def square_grid(images: NDArray[np.uint8], image_shape: tuple[int, ...]) -> bytes:
    """PNG of N images (N, D) in a square of √N columns."""
    columns = math.ceil(math.sqrt(len(images)))
    return grid_png([images[i : i + columns] for i in range(0, len(images), columns)], image_shape)


def pairs_grid(
    originals: NDArray[np.uint8], copies: NDArray[np.uint8], image_shape: tuple[int, ...], columns: int = 8
) -> bytes:
    """PNG in which each row of originals (N, D) stands above the row of its copies (N, D)."""
    rows: list[NDArray[np.uint8]] = []
    for start in range(0, len(originals), columns):
        rows += [originals[start : start + columns], copies[start : start + columns]]
    return grid_png(rows, image_shape)


def rows_within(rows: int, columns: int, image_shape: tuple[int, ...]) -> int:
    """How many of so many rows of images fit into MOST_PIXELS, at least one."""
    return max(min(rows, MOST_PIXELS // (columns * image_shape[0] * image_shape[1])), 1)


def histogram_png(edges: Sequence[int], counts: Sequence[int]) -> bytes:
    """PNG of a histogram whose equal bins lie between whole-numbered `edges`, each named under its tick.

    The highest bin has the full height. Grey on black, as the grids are.
    """
    height, thick, margin = 160, max(round(360 / max(len(counts), 1)), 1), 16
    width = thick * len(counts)
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), dtype=np.uint8)
    top = max(*counts, 1)
    for i, count in enumerate(counts):
        filled = -(-count * height // top)  # what is not nothing is seen
        left = margin + i * thick
        canvas[margin + height - filled : margin + height, left : left + max(thick - 1, 1)] = 220
    canvas[margin + height, margin : margin + width] = PAPER * 2
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for i, edge in enumerate(edges):
        x = margin + round(i * width / (len(edges) - 1))
        draw.line([(x, margin + height), (x, margin + height + 3)], fill=PAPER * 2)
        draw.text((x, margin + height + 4), str(edge), fill=220, anchor="ma")
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Enlarged images are runs of one pixel: a quarter of the default's time, and digits take less room (docs/log.md).
    picture.save(buffer, format="PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()
