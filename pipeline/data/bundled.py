"""Data sets that scikit-learn brings along: digits, and patches of its two photographs. Nothing is downloaded."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import DataError
from .raw import Images, Raw

PATCH_SIDE = 8
"""pixels a side of a photograph's patch, unless told otherwise"""
LARGEST_SIDE = 128
"""larger patches would be too few to divide"""


def load_digits() -> Raw:
    """1797 hand-written digits, 8 x 8 pixels, 0..16 (Alpaydin and Kaynak, UCI 1998)."""
    return Raw("digits", (_bundled_digits(),), levels=16, threshold=8)


def _bundled_digits() -> Images:
    """scikit-learn's copy, read from its folder: importing the library takes 1.5 s, and this 0.02 s."""
    for file in _bundled("data", "digits.csv.gz"):
        with gzip.open(file, "rt") as lines:
            return np.loadtxt(lines, delimiter=",")[:, :-1].reshape(-1, 8, 8)
    from sklearn.datasets import load_digits as load  # it has moved

    return np.asarray(load().images)


def load_photos(side: int = PATCH_SIDE) -> Raw:
    """Grey patches of two photographs (a temple in China, a flower), 0..255; 8480 of 8 x 8 pixels, or of `data.side`.

    They stand side by side without overlap, so that no pixel is in two parts of the division.
    """
    if side > LARGEST_SIDE:
        raise DataError(f"data.side must be at most {LARGEST_SIDE} for photos of 427 x 640 pixels, but got {side}")
    patches = np.concatenate([_patches(_bundled_photo(name), side) for name in ("china.jpg", "flower.jpg")])
    return Raw("photos", (patches,), levels=255, threshold=128)


def _patches(photo: Images, side: int) -> Images:
    """(H, W) -> (N, side, side), row by row; what is left over at the right and the bottom is cut off."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    cut = photo[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return cut.swapaxes(1, 2).reshape(-1, side, side)


def _bundled_photo(name: str) -> Images:
    """Grey levels (ITU-R 601 luma, in whole numbers), (427, 640) uint8."""
    from .image_files import grey_levels, grey_of_file

    for file in _bundled("images", name):
        return grey_of_file(file)
    from sklearn.datasets import load_sample_image  # it has moved

    return grey_levels(np.asarray(load_sample_image(name)))


def _bundled(*path: str) -> Iterator[Path]:
    """A file of scikit-learn's data sets, where it is."""
    package = find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():
        file = Path(place).joinpath("datasets", *path)
        if file.is_file():
            yield file
