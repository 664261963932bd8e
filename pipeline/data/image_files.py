"""PNG and JPEG files as arrays, and a folder of them as a data set. The only file here that decodes pictures.

A folder may be anybody's: only its own files are read (a link that leads out of it is refused), only as PNG or JPEG,
and never more pixels than a limit, which a file's header tells before anything is unpacked. Knows no form and no
division.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .raw import PARTS, Raw

T = TypeVar("T")

SUFFIXES = (".png", ".jpg", ".jpeg")
OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".heic", ".avif", ".ppm", ".pgm")
"""left out in silence they would be missed"""
MODES = {"1": "black and white", "L": "grey", "RGB": "colour"}
"""Pillow's mode -> what people call it; all that are read"""
MOST_PIXELS = 1 << 20
"""of one image"""
MOST_VALUES = 1 << 31
"""numbers in all images together: 8 GB when trained on"""
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""what Pillow raises for files that are broken or hostile"""
SHOWN = 3
"""files that a message names"""


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file's first bytes tell."""

    file: Path
    width: int
    height: int
    mode: str

    @property
    def kind(self) -> tuple[int, int, str]:
        return self.width, self.height, self.mode

    @property
    def words(self) -> str:
        return f"{self.file.name} ({self.width} x {self.height} pixels, {MODES[self.mode]})"


def load_folder(folder: Path) -> Raw:
    """The user's PNG and JPEG images, all of one size and mode, in the order of their names.

    Directly in the folder, or divided by the user in its folders `train`, `val` and `test`. Raises DataError.
    """
    divided = list_images(folder)
    headers = [[_header(file) for file in files] for files in divided]
    every = [header for part in headers for header in part]
    _check_alike(every)
    width, height, mode = every[0].kind
    channels = 3 if mode == "RGB" else 1
    if len(every) * width * height * channels > MOST_VALUES:
        raise DataError(
            f"the images of {str(folder)!r} must be at most {MOST_VALUES:,} numbers, but {len(every):,} of {width} x "
            f"{height} pixels are {len(every) * width * height * channels:,}: make them smaller, or take fewer"
        )
    shape = (height, width, 3) if channels == 3 else (height, width)
    parts = tuple(_decoded([header.file for header in part], shape) for part in headers)
    threshold = None if channels == 3 else 1 if mode == "1" else 128
    return Raw(folder.resolve().name or "images", parts, levels=1 if mode == "1" else 255, threshold=threshold)


def list_images(folder: Path) -> tuple[list[Path], ...]:
    """The folder's image files by name: one list, or train, val, test. Raises DataError.

    Hidden files and files of other kinds are left out; other kinds of pictures, other folders and links that lead out
    are named, since somebody might miss them.
    """
    root = folder.resolve()
    entries = sorted((entry for entry in root.iterdir() if not entry.name.startswith(".")), key=lambda e: e.name)
    folders = [entry for entry in entries if entry.is_dir()]
    direct = _images_among(entries, root)
    if {entry.name for entry in folders} == set(PARTS) and not direct:
        found = tuple(_images_among(sorted(_inside(root / part, root).iterdir()), root) for part in PARTS)
        empty = [part for part, files in zip(PARTS, found, strict=True) if not files]
        if empty:
            raise DataError(
                f"train, val and test must hold PNG or JPEG images each, but there are none in {', '.join(empty)} "
                f"of {str(folder)!r}: move some there, or put all into the folder itself to have them divided"
            )
        return found
    if folders or not direct:
        what = f"the folders {_some([entry.name for entry in folders])}" if folders else "no such image"
        raise DataError(
            f"a folder of images must hold PNG or JPEG images itself, or exactly the folders train, val and test, but "
            f"{str(folder)!r} holds {what}{' beside images' if folders and direct else ''}: move the images"
        )
    return (direct,)


def grey_of_file(file: Path) -> NDArray[np.uint8]:
    """A picture of ours in grey levels, (H, W)."""
    with Image.open(file, formats=("PNG", "JPEG")) as picture:
        return np.asarray(picture.convert("L"))


def grey_levels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours (H, W, 3) as grey levels (H, W), ITU-R 601 luma."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _images_among(entries: Sequence[Path], root: Path) -> list[Path]:
    others = [entry.name for entry in entries if entry.suffix.lower() in OTHER_PICTURES]
    if others:
        raise DataError(f"images must be PNG or JPEG files, but {str(root)!r} holds {_some(others)}: convert them")
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")]
    files = [entry for entry in files if not _inside(entry, root).is_dir()]
    odd = [entry.name for entry in files if not entry.is_file()]
    if odd:
        raise DataError(f"images must be files, but {_some(odd)} in {str(root)!r} are none: remove them")
    return files


def _inside(entry: Path, root: Path) -> Path:
    """`entry`, with its links followed, where that is in `root`."""
    try:
        target = entry.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise DataError(f"images must be files, but {str(entry)!r} leads nowhere ({error}): remove it") from None
    if not target.is_relative_to(root):
        raise DataError(
            f"images must lie in the folder that data.path names, but {entry.name!r} is a link out of it, to "
            f"{str(target)!r}: copy the file itself"
        )
    return target


def _header(file: Path) -> _Header:
    def read(picture: Image.Image) -> _Header:
        if picture.mode not in MODES or getattr(picture, "n_frames", 1) > 1:
            what = "several frames" if picture.mode in MODES else f"mode {picture.mode}"
            raise DataError(
                f"images must be black and white (1), grey (L) or RGB with 8 bits a channel, but {str(file)!r} has "
                f"{what}: convert it, as by Pillow's `image.convert('L')`"
            )
        if picture.width * picture.height > MOST_PIXELS:
            raise DataError(
                f"an image must have at most {MOST_PIXELS:,} pixels, but {str(file)!r} has {picture.width} x "
                f"{picture.height}: make it smaller"
            )
        return _Header(file, picture.width, picture.height, picture.mode)

    return _opened(file, read)


def _opened(file: Path, read: Callable[[Image.Image], T]) -> T:
    """What `read` makes of the picture. Raises DataError for a file that is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as picture:
                return read(picture)
    except UNREADABLE as error:
        raise DataError(
            f"images must be readable PNG or JPEG files, but {str(file)!r}: {error}; save it anew"
        ) from None


def _check_alike(headers: Sequence[_Header]) -> None:
    (usual, count), *others = Counter(header.kind for header in headers).most_common()
    if not others:
        return
    odd = [header.words for header in headers if header.kind != usual]
    width, height, mode = usual
    raise DataError(
        f"all images must be of one size and mode, but {count} are of {width} x {height} pixels, {MODES[mode]}, and "
        f"{len(odd)} are not: {_some(odd)}; resize or convert them"
    )


def _decoded(files: Sequence[Path], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    images = np.empty((len(files), *shape), dtype=np.uint8)
    for image, file in zip(images, files, strict=True):
        image[:] = _opened(file, np.asarray)
    return images


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
