"""One data set as the trainers see it: flat float32 images in a form, divided into three parts.

A form says what the numbers are, and so which likelihood is exact for them. Division is a pure function
of (number of images, split, split_seed). Knows no trial, no config and no torch.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..records import canonical_json, derive_seed
from .loaders import PARTS, Images, Raw, load_file, load_named

EXACT = 2**24
"""float32 holds every whole number up to here"""


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Images in one form, divided. The arrays may be read-only and shared: copy before writing."""

    name: str
    form: str
    """a key of FORMS"""
    kind: str
    """what a likelihood must take: `counts`, `binary` or `real`"""
    levels: int | None
    """counts: the highest one, so that Binomial(levels) is exact; else None"""
    image_shape: tuple[int, ...]
    """(H, W) or (H, W, C); its product is `pixels`"""
    train: NDArray[np.float32]
    """(N, D)"""
    val: NDArray[np.float32]
    """(N, D)"""
    test: NDArray[np.float32]
    """(N, D)"""
    sha256: str
    """of everything that can influence a number: form, shape, division and pixels"""

    @property
    def pixels(self) -> int:
        """D, numbers per image."""
        return int(self.train.shape[1])

    @property
    def id(self) -> str:
        """`digits:counts:1257/270/270:ab12cd34`"""
        sizes = "/".join(str(len(part)) for part in (self.train, self.val, self.test))
        return f"{self.name}:{self.form}:{sizes}:{self.sha256[:8]}"


def load_data(
    *,
    name: str | None = None,
    path: str | Path | None = None,
    form: str = "counts",
    levels: int | None = None,
    split: Sequence[float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
) -> DataSet:
    """A bundled data set (`name`) or the user's file (`path`), in `form`, divided.

    `levels`: the highest value a pixel can have; None: the data set's own, for a file its maximum.
    `split`: train, validation, test as fractions that sum to 1 or as numbers of images; a file that
    holds `train`, `val` and `test` is taken as it is divided. Raises DataError.
    """
    if (name is None) == (path is None):
        raise DataError(f"exactly one of data.name and data.path must be given, but got {name!r} and {path!r}")
    if form not in FORMS:
        raise DataError(f"data.form must be one of {', '.join(FORMS)}, but got {form!r}")
    raw = load_named(name) if name is not None else load_file(Path(path or ""))
    _check(raw)
    kind, convert = FORMS[form]
    parts, levels = convert(raw, levels)
    shape = _image_shape(raw.parts[0].shape[1:])
    with np.errstate(over="ignore"):
        flat = [np.ascontiguousarray(part.reshape(len(part), -1), dtype=np.float32) for part in parts]
    if not all(np.isfinite(part).all() for part in flat):
        raise DataError(f"pixels of {raw.name!r} must fit into float32, but some are larger than 3.4e38")
    if len(flat) == 1:
        flat = [flat[0][rows] for rows in divide(len(flat[0]), split, split_seed)]
    return DataSet(
        name=re.sub(r"[^\w.-]+", "_", raw.name),  # the id is one line, its fields stand between colons
        form=form,
        kind=kind,
        levels=levels,
        image_shape=shape,
        train=flat[0],
        val=flat[1],
        test=flat[2],
        sha256=_sha256([kind, levels, shape], flat),
    )


def divide(count: int, split: Sequence[float], split_seed: int) -> list[NDArray[np.int64]]:
    """Row numbers of train, validation and test, shuffled. Raises DataError when `split` cannot be.

    Fractions: validation and test are rounded to whole images, train takes the rest.
    """
    shown = ", ".join(map(str, split))
    if len(split) != 3 or not all(math.isfinite(part) and part > 0 for part in split):
        raise DataError(f"data.split must be three numbers above zero (train, val, test), but got ({shown})")
    if all(part >= 1 and part == int(part) for part in split):
        sizes = [int(part) for part in split]
        if sum(sizes) > count:
            raise DataError(f"data.split must sum to at most the {count} images there are, but got ({shown})")
    elif math.isclose(sum(split), 1.0, abs_tol=1e-9):
        val, test = (round(part * count) for part in split[1:])
        sizes = [count - val - test, val, test]
    else:
        raise DataError(
            f"data.split must be fractions that sum to 1 or whole numbers of images, but ({shown}) sums "
            f"to {sum(split):g}"
        )
    if min(sizes) < 1:
        raise DataError(
            f"every part must get at least one image, but data.split ({shown}) of {count} images gives "
            f"{'/'.join(map(str, sizes))}: more images, or larger fractions"
        )
    rows = np.random.Generator(np.random.PCG64(derive_seed(split_seed, "split"))).permutation(count)
    ends = np.cumsum(sizes)
    return np.split(rows[: ends[-1]], ends[:-1])


def _check(raw: Raw) -> None:
    """Raises DataError for what no form can use."""
    labels = PARTS if len(raw.parts) > 1 else ("array",)
    for label, part in zip(labels, raw.parts, strict=True):
        what = f"the {label} of {raw.name!r}"
        if part.dtype.kind not in "buif":
            raise DataError(f"pixels must be real numbers, but {what} has dtype {part.dtype}")
        if not 2 <= part.ndim <= 4:
            raise DataError(
                f"images must have shape (N, D), (N, H, W) or (N, H, W, C), but {what} has shape {part.shape}"
            )
        if part.size == 0:
            raise DataError(f"there must be images with pixels, but {what} is empty: shape {part.shape}")
        bad = int(part.size - np.isfinite(part).sum())
        if bad:
            raise DataError(f"pixels must be finite, but {what} has {bad} NaN or infinite values of {part.size}")
    shapes = {part.shape[1:] for part in raw.parts}
    if len(shapes) > 1:
        came = ", ".join(f"{label} {part.shape}" for label, part in zip(labels, raw.parts, strict=True))
        raise DataError(f"train, val and test must hold images of one shape, but got {came}")
    lowest, highest = _range(raw)
    if lowest == highest:
        raise DataError(f"images must differ somewhere, but every pixel of {raw.name!r} is {lowest:g}")


def _range(raw: Raw) -> tuple[float, float]:
    return min(float(part.min()) for part in raw.parts), max(float(part.max()) for part in raw.parts)


Converted = tuple[Sequence[Images], int | None]
"""parts in their form, and the levels of counts"""


def _counts(raw: Raw, levels: int | None) -> Converted:
    lowest, highest = _range(raw)
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
    return raw.parts, top


def _binarised(raw: Raw, levels: int | None) -> Converted:
    if raw.threshold is not None:
        return [part >= raw.threshold for part in raw.parts], None
    if not all(((part == 0) | (part == 1)).all() for part in raw.parts):
        lowest, highest = _range(raw)
        raise DataError(
            f"binarised pixels must be 0 or 1 in the file itself, but {raw.name!r} has others from {lowest:g} "
            f"to {highest:g}: save `(x >= {(lowest + highest) / 2:g}).astype('uint8')` or take another form"
        )
    return raw.parts, None


def _grey(raw: Raw, levels: int | None) -> Converted:
    """Divided by the highest possible value; floating-point numbers of unknown levels as they are."""
    top, (lowest, highest) = levels or raw.levels, _range(raw)
    dtype = np.result_type(*raw.parts)
    if top is None and dtype.kind == "f":
        return raw.parts, None
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
    return [part.astype(np.float32) / np.float32(top) for part in raw.parts], None


FORMS: Mapping[str, tuple[str, Callable[[Raw, int | None], Converted]]] = {
    "counts": ("counts", _counts),
    "binarised": ("binary", _binarised),
    "grey": ("real", _grey),
}
"""Name in `data.form` -> (kind, how raw images are brought into it)."""


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W) or (H, W, C) as it is; D pixels as a square where that is possible, else as one row."""
    if len(shape) > 1:
        return shape
    side = math.isqrt(shape[0])
    return (side, side) if side * side == shape[0] else (1, shape[0])


def _sha256(description: object, parts: Sequence[NDArray[np.float32]]) -> str:
    """Hexadecimal digits; equal pixels give equal bytes, whatever file, dtype or machine they came from."""
    state = hashlib.sha256(canonical_json([description, [part.shape for part in parts]]).encode())
    for part in parts:
        # + 0.0: -0.0 equals 0.0 and must hash as it does
        state.update((part + np.float32(0)).astype("<f4").tobytes())
    return state.hexdigest()
