"""Forms: what the numbers of an image are, and so which likelihood is exact for them.

A new form is one function and one line in FORMS. Noise that a form needs is drawn once, from the seed of the division,
and then belongs to the data: every trial sees the same. Knows no file and no division.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..records import derive_seed
from .raw import Images, Raw

EXACT = 2**24
"""float32 holds every whole number up to here"""


@dataclass(frozen=True, slots=True)
class Converted:
    """Images in a form."""

    parts: Sequence[Images]
    levels: int | None = None
    """of counts: the highest one"""
    bins: int | None = None
    """of dequantised ones: how many values a pixel had"""


@dataclass(frozen=True, slots=True)
class Form:
    """One row of FORMS."""

    kind: str
    """what a likelihood must take: `counts`, `binary` or `real`"""
    convert: Callable[[Raw, int | None, int], Converted]
    """(images, levels or None, seed of its noise); its docstring's first line is the catalogue's"""


def value_range(raw: Raw) -> tuple[float, float]:
    """The lowest and the highest pixel."""
    return min(float(part.min()) for part in raw.parts), max(float(part.max()) for part in raw.parts)


def _counts(raw: Raw, levels: int | None, seed: int) -> Converted:
    """Whole numbers 0..levels."""
    lowest, highest = value_range(raw)
    top = levels or raw.levels or math.ceil(highest)
    if not all(np.array_equal(part, np.floor(part)) for part in raw.parts):
        raise DataError(
            f"counts must be whole numbers, but {raw.name!r} has others: multiply them back to counts, or "
            "take data.form: grey"
        )
    if lowest < 0 or highest > top:
        raise DataError(
            f"counts must lie in 0..{top}, but {raw.name!r} goes from {lowest:g} to {highest:g}: set "
            "data.levels to the highest value a pixel can have, and shift negative ones"
        )
    if top > EXACT:
        raise DataError(f"counts must be at most {EXACT} to be exact in float32, but got {top}: rescale them")
    return Converted(raw.parts, levels=top)


def _binarised(raw: Raw, levels: int | None, seed: int) -> Converted:
    """1 from the data set's threshold on, else 0; a file's own zeros and ones."""
    if raw.threshold is not None:
        return Converted([part >= raw.threshold for part in raw.parts])
    if not all(((part == 0) | (part == 1)).all() for part in raw.parts):
        lowest, highest = value_range(raw)
        raise DataError(
            f"binarised pixels must be 0 or 1 in the file itself, but {raw.name!r} has others from {lowest:g} "
            f"to {highest:g}: save `(x >= {(lowest + highest) / 2:g}).astype('uint8')` or take another form"
        )
    return Converted(raw.parts)


def _binary_sampled(raw: Raw, levels: int | None, seed: int) -> Converted:
    """1 with the probability x/levels, else 0; drawn once (Salakhutdinov & Murray 2008)."""
    grey = _grey(raw, levels, seed).parts
    lowest, highest = min(float(part.min()) for part in grey), max(float(part.max()) for part in grey)
    if lowest < 0 or highest > 1:
        raise DataError(
            f"pixels must be probabilities 0..1 to be sampled, but {raw.name!r} goes from {lowest:g} to {highest:g}: "
            "set data.levels to the highest value a pixel can have, or rescale them"
        )
    rng = _generator(seed, "binary_sampled")
    return Converted([rng.random(part.shape) < part for part in grey])


def _grey(raw: Raw, levels: int | None, seed: int) -> Converted:
    """Real numbers: divided by the highest possible value; floating-point numbers of unknown levels as they are."""
    top, (lowest, highest) = levels or raw.levels, value_range(raw)
    dtype = np.result_type(*raw.parts)
    if top is None and dtype.kind == "f":
        return Converted(raw.parts)
    if top is None and dtype.itemsize > 2:
        raise DataError(
            f"whole numbers need a scale to become grey, but dtype {dtype} of {raw.name!r} tells none: set "
            f"data.levels to the highest value a pixel can have (the highest there is: {highest:g})"
        )
    if top is None:
        top = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)
    if lowest < 0 or highest > top:
        raise DataError(
            f"grey pixels must lie in 0..{top} before they are divided by it, but {raw.name!r} goes from "
            f"{lowest:g} to {highest:g}: correct data.levels, or save floating-point numbers"
        )
    return Converted([part.astype(np.float32) / np.float32(top) for part in raw.parts])


def _dequantised(raw: Raw, levels: int | None, seed: int) -> Converted:
    """(x + u)/(levels + 1) with u uniform in 0..1, drawn once for every pixel (Theis et al. 2016, arXiv 1511.01844)."""
    counts = _counts(raw, levels, seed)
    bins = (counts.levels or 0) + 1
    rng = _generator(seed, "dequantised")
    return Converted([(part + rng.random(part.shape)) / bins for part in counts.parts], bins=bins)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose)))


FORMS: Mapping[str, Form] = {
    "counts": Form("counts", _counts),
    "binarised": Form("binary", _binarised),
    "binary_sampled": Form("binary", _binary_sampled),
    "grey": Form("real", _grey),
    "dequantised": Form("real", _dequantised),
}
"""Every form that `data.form` may name."""
