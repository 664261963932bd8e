"""Raw images by name or from the user's path, as they were stored.

Knows neither what form the pixels are wanted in nor how the images are divided: see dataset.py. A new
data set is one function and one line in LOADERS. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import DataError, UserError
from ..own_code import Table, is_own
from .bundled import load_digits, load_photos
from .known import load_curve, load_linear_gaussian
from .openml import PREFIX, load_fashion_mnist, load_kmnist, load_mnist, load_openml
from .raw import PARTS, Raw, near
from .sprites import load_sprites

__all__ = ["DOWNLOADED", "LOADERS", "PARTS", "SIDED", "SINGLE", "Raw", "load_named", "load_path"]

SINGLE = ("x", "images", "data")
"""names under which an .npz may hold all images"""


_ENTRIES: dict[str, Callable[..., Raw]] = {
    "digits": load_digits,
    "photos": load_photos,
    "sprites": load_sprites,
    "linear_gaussian": load_linear_gaussian,
    "curve": load_curve,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "kmnist": load_kmnist,
}

LOADERS = Table("a function that returns a Raw of pipeline.data.raw", None, _ENTRIES)
"""Name in `data.name` -> loader; beside these, `openml/...` names any table of OpenML."""
SIDED = frozenset({"photos"})
"""data sets of patches, whose loaders take `data.side`"""
DOWNLOADED = frozenset({"mnist", "fashion_mnist", "kmnist"})
"""from OpenML, once"""


def load_named(name: str, side: int | None = None) -> Raw:
    """A data set by its name, or the user's own by its loader's. `side`: of patches, in pixels. Raises DataError."""
    if is_own(name) and side is None:
        return _load_own(name)
    if side is not None and name not in SIDED:
        sided = ", ".join(sorted(SIDED))
        raise DataError(f"data.side is the side of patches, for {sided} only, but got {side} with {name!r}: remove it")
    if name.startswith(PREFIX):
        return load_openml(name)
    if name not in LOADERS:
        raise DataError(
            f"data.name must be one of {', '.join(LOADERS)}, or openml/ID, but got {name!r}{near(name, LOADERS)}; "
            "for your own images give data.path instead"
        )
    return LOADERS[name]() if side is None else LOADERS[name](side)


def _load_own(name: str) -> Raw:
    try:
        loader = LOADERS[name]
    except UserError as error:
        raise DataError(f"data.name {name!r}: {error}") from error
    try:
        raw = loader()
    except Exception as error:  # it is anybody's code
        raise DataError(f"data.name {name} must return images, but raised {type(error).__name__}: {error}") from error
    if not isinstance(raw, Raw) or not all(isinstance(part, np.ndarray) for part in raw.parts):
        raise DataError(
            f"data.name {name} must return a Raw of NumPy arrays, but returned something of type {type(raw).__name__}"
        )
    if len(raw.parts) not in (1, len(PARTS)):
        raise DataError(f"data.name {name} must return one array or {', '.join(PARTS)}, but returned {len(raw.parts)}")
    return raw


def load_path(path: Path) -> Raw:
    """The user's .npy, .npz or folder of images. Raises DataError when it is missing, unreadable or holds no images."""
    shown = repr(str(path))
    try:
        path = path.expanduser()
        if path.is_dir():
            return _load_folder(path, shown)
        _check_file(path, shown)
        return _load_file(path, shown)
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{shown} must hold plain numbers, but it holds Python objects or is no NumPy file, and "
                "those are never unpickled: save one array of numbers with numpy.save or numpy.savez"
            ) from None
        raise DataError(f"data.path {shown} must be a readable NumPy file, but: {error}; save it anew") from None
    except MemoryError:
        raise DataError(f"the images in {shown} must fit into memory, but do not: save fewer") from None


def _load_folder(path: Path, shown: str) -> Raw:
    from .image_files import load_folder

    try:
        return load_folder(path)
    except OSError as error:
        raise DataError(f"data.path {shown} must be a folder that can be read, but: {error}") from None


def _load_file(path: Path, shown: str) -> Raw:
    with path.open("rb") as file:  # numpy.load leaves a broken file open
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return Raw(path.stem, (loaded,))
        return Raw(path.stem, tuple(loaded[key] for key in _keys(loaded.files, shown)))


def _check_file(path: Path, shown: str) -> None:
    if not path.exists():
        found = path.parent.is_dir()
        hint = near(path.name, [entry.name for entry in path.parent.iterdir()]) if found else ", nor its folder"
        raise DataError(f"data.path must name an existing file or folder, but there is no {shown}{hint}")
    if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
        raise DataError(
            f"data.path must be a .npy or .npz file or a folder of images, but got {shown}: save the array with "
            "numpy.save or numpy.savez"
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
