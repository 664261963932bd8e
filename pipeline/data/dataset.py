"""One data set as the trainers see it: flat float32 images in a form, divided into three parts.

A form says what the numbers are, and so which likelihood is exact for them. Division is a pure function
of (number of images, split, split_seed). Knows no trial, no config and no torch.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..records import canonical_json, derive_seed
from .forms import FORMS, value_range
from .loaders import load_named, load_path
from .raw import PARTS, Density, Raw, RawFactors


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """What images were made from, where that is known; the metrics of disentanglement read it."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """how many values each factor has; a value is a whole number below it"""
    train: NDArray[np.int64]
    """(N, F)"""
    val: NDArray[np.int64]
    """(N, F)"""
    test: NDArray[np.int64]
    """(N, F)"""


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
    """of everything that can influence a number: form, shape, division, pixels and factors"""
    factors: Factors | None = None
    bins: int | None = None
    """dequantised images: how many values a pixel had, which bits per dimension are counted in; else None"""
    log_likelihood: tuple[float, float, float] | None = None
    """mean log p(x) of train, val and test in nats, where it is known exactly: what no model's expectation exceeds"""
    facts: tuple[tuple[str, str], ...] = ()
    """(word, sentence) about where the images come from, for people; of no influence on numbers"""

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
    side: int | None = None,
    take: int | None = None,
    split: Sequence[float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
) -> DataSet:
    """A data set by `name` or the user's file or folder (`path`), in `form`, divided.

    `levels`: the highest value a pixel can have; None: the data set's own, for a file its maximum.
    `side`: of patches. `take`: only so many images, drawn by `split_seed`.
    `split`: train, validation, test as fractions that sum to 1 or as numbers of images; what comes as
    `train`, `val` and `test` is taken as it is divided. Raises DataError.
    """
    if (name is None) == (path is None):
        raise DataError(f"exactly one of data.name and data.path must be given, but got {name!r} and {path!r}")
    if form not in FORMS:
        raise DataError(f"data.form must be one of {', '.join(FORMS)}, but got {form!r}")
    if name is None and side is not None:
        raise DataError(
            f"data.side is the side of patches of a named data set, but got {side} with data.path: remove it"
        )
    raw = load_named(name, side) if name is not None else load_path(Path(path or ""))
    _check(raw)
    raw = raw if take is None else _taken(raw, take, split_seed)
    converted = FORMS[form].convert(raw, levels, split_seed)
    shape = _image_shape(raw.parts[0].shape[1:])
    with np.errstate(over="ignore"):
        flat = [np.ascontiguousarray(part.reshape(len(part), -1), dtype=np.float32) for part in converted.parts]
    if not all(np.isfinite(part).all() for part in flat):
        raise DataError(f"pixels of {raw.name!r} must fit into float32, but some are larger than 3.4e38")
    factors = None
    if len(flat) == 1:
        divided = divide(len(flat[0]), split, split_seed)
        flat = [flat[0][rows] for rows in divided]
        factors = _divided_factors(raw.factors, divided)
    return DataSet(
        name=re.sub(r"[^\w.-]+", "_", raw.name),  # the id is one line, its fields stand between colons
        form=form,
        kind=FORMS[form].kind,
        levels=converted.levels,
        image_shape=shape,
        train=flat[0],
        val=flat[1],
        test=flat[2],
        sha256=_sha256([FORMS[form].kind, converted.levels, shape], flat, factors),
        factors=factors,
        bins=converted.bins,
        log_likelihood=_log_likelihood(raw.log_density, flat) if form == "grey" else None,
        facts=raw.facts,
    )


def _taken(raw: Raw, take: int, seed: int) -> Raw:
    """`take` of the images, in their order. Raises DataError where there are fewer, or none to choose from."""
    if len(raw.parts) > 1:
        raise DataError(
            f"data.take draws from images that are not divided yet, but {raw.name!r} holds train, val and test: "
            "remove it"
        )
    count = len(raw.parts[0])
    if take > count:
        raise DataError(f"data.take must be at most the {count} images of {raw.name!r}, but got {take}")
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, "take")))
    rows = np.sort(rng.permutation(count)[:take])
    factors = raw.factors and replace(raw.factors, values=raw.factors.values[rows])
    return replace(raw, parts=(raw.parts[0][rows],), factors=factors)


def _divided_factors(raw: RawFactors | None, divided: Sequence[NDArray[np.int64]]) -> Factors | None:
    if raw is None:
        return None
    train, val, test = (raw.values[rows] for rows in divided)
    return Factors(raw.names, raw.sizes, train, val, test)


def _log_likelihood(
    log_density: Density | None, parts: Sequence[NDArray[np.float32]]
) -> tuple[float, float, float] | None:
    if log_density is None:
        return None
    train, val, test = (float(log_density(part.astype(np.float64)).mean()) for part in parts)
    return train, val, test


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
    lowest, highest = value_range(raw)
    if lowest == highest:
        raise DataError(f"images must differ somewhere, but every pixel of {raw.name!r} is {lowest:g}")


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W) or (H, W, C) as it is; D pixels as a square where that is possible, else as one row."""
    if len(shape) > 1:
        return shape
    side = math.isqrt(shape[0])
    return (side, side) if side * side == shape[0] else (1, shape[0])


def _sha256(description: object, parts: Sequence[NDArray[np.float32]], factors: Factors | None) -> str:
    """Hexadecimal digits; equal pixels give equal bytes, whatever file, dtype or machine they came from."""
    state = hashlib.sha256(canonical_json([description, [part.shape for part in parts]]).encode())
    for part in parts:
        # + 0.0: -0.0 equals 0.0 and must hash as it does
        state.update((part + np.float32(0)).astype("<f4").tobytes())
    if factors is not None:
        state.update(canonical_json([factors.names, factors.sizes]).encode())
        for values in (factors.train, factors.val, factors.test):
            state.update(values.astype("<i8").tobytes())
    return state.hexdigest()
