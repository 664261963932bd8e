"""Raw images by name or from the user's file, as they were stored.

Knows neither what form the pixels are wanted in nor how the images are divided: see dataset.py. A new
bundled data set is one function and one line in LOADERS. Nothing is downloaded or unpickled.
"""

from __future__ import annotations

import difflib
import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Images = NDArray[Any]
"""(N, D), (N, H, W) or (N, H, W, C), any real dtype"""

SINGLE = ("x", "images", "data")
"""names under which an .npz may hold all images"""
PARTS = ("train", "val", "test")
"""names under which an .npz holds images that are divided already"""


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


def load_digits() -> Raw:
    """1797 hand-written digits, 8 x 8 pixels, 0..16 (Alpaydin and Kaynak, UCI 1998)."""
    return Raw("digits", (_bundled_digits(),), levels=16, threshold=8)


def _bundled_digits() -> Images:
    """scikit-learn's copy, read from its folder: importing the library takes 1.5 s, and this 0.02 s."""
    package = find_spec("sklearn")
    for place in (package and package.submodule_search_locations) or ():
        file = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",")[:, :-1].reshape(-1, 8, 8)
    from sklearn.datasets import load_digits as load  # it has moved

    return np.asarray(load().images)


LOADERS: Mapping[str, Callable[[], Raw]] = {"digits": load_digits}
"""Name in `data.name` -> loader."""


def load_named(name: str) -> Raw:
    """A bundled data set. Raises DataError for an unknown name."""
    if name not in LOADERS:
        raise DataError(
            f"data.name must be one of {', '.join(LOADERS)}, but got {name!r}{_near(name, LOADERS)}; "
            "for your own images give data.path instead"
        )
    return LOADERS[name]()


def load_file(path: Path) -> Raw:
    """The user's .npy or .npz. Raises DataError when it is missing, unreadable or holds no images."""
    shown = repr(str(path))
    try:
        path = path.expanduser()
        _check_path(path, shown)
        with path.open("rb") as file:  # numpy.load leaves a broken file open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return Raw(path.stem, (loaded,))
            return Raw(path.stem, tuple(loaded[key] for key in _keys(loaded.files, shown)))
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{shown} must hold plain numbers, but it holds Python objects or is no NumPy file, and "
                "those are never unpickled: save one array of numbers with numpy.save or numpy.savez"
            ) from None
        raise DataError(f"data.path {shown} must be a readable NumPy file, but: {error}; save it anew") from None
    except MemoryError:
        raise DataError(f"the images in {shown} must fit into memory, but do not: save fewer") from None


def _check_path(path: Path, shown: str) -> None:
    if path.is_dir():
        raise DataError(f"data.path must be a .npy or .npz file, but {shown} is a directory")
    if not path.exists():
        found = path.parent.is_dir()
        hint = _near(path.name, [entry.name for entry in path.parent.iterdir()]) if found else ", nor its folder"
        raise DataError(f"data.path must name an existing file, but there is no {shown}{hint}")
    if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
        raise DataError(
            f"data.path must be a .npy or .npz file, but got {shown}: save the array with numpy.save or numpy.savez"
        )


def _keys(files: list[str], shown: str) -> tuple[str, ...]:
    if set(PARTS) <= set(files):
        return PARTS
    single = [key for key in SINGLE if key in files]
    if len(single) != 1:
        raise DataError(
            f"an .npz must hold either exactly one of {', '.join(SINGLE)}, or all of {', '.join(PARTS)}, "
            f"but {shown} holds: {', '.join(map(repr, files)) or 'nothing'}"
        )
    return (single[0],)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=3)
    return f" (near: {', '.join(map(repr, near))})" if near else ""
