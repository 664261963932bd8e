"""Image data sets of openml.org, through scikit-learn's loader: the only data here that is downloaded.

Everything that came is kept in scikit-learn's data folder (`SCIKIT_LEARN_DATA`, else ~/scikit_learn_data), so that a
second load needs no network. Each load compares the file with the MD5 checksum that OpenML publishes for it.
"""

from __future__ import annotations

import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import DataError
from .raw import Raw

PREFIX = "openml/"
NETWORK_SECONDS = 30.0
"""without a byte"""
RETRIES = 1
PLAIN = {"dtype": None}
"""columns as pandas infers them: of classes 0..9, told to be categories, scikit-learn 1.9 on pandas 3.1 fails"""
_SPELLING = re.compile(
    r"(?P<id>[1-9][0-9]{0,9})|(?P<name>[A-Za-z0-9][\w.-]{0,99})@(?P<version>[1-9][0-9]{0,5})", re.ASCII
)


def load_mnist() -> Raw:
    """70,000 hand-written digits, 28 x 28 pixels, 0..255 (LeCun et al. 1998); OpenML's mnist_784."""
    return _squares("mnist", "mnist_784")


def load_fashion_mnist() -> Raw:
    """70,000 pieces of clothing, 28 x 28 pixels, 0..255 (Xiao et al. 2017); OpenML's Fashion-MNIST."""
    return _squares("fashion_mnist", "Fashion-MNIST")


def load_kmnist() -> Raw:
    """70,000 Japanese characters, 28 x 28 pixels, 0..255 (Clanuwat et al. 2018); OpenML's Kuzushiji-MNIST."""
    return _squares("kmnist", "Kuzushiji-MNIST")


def _squares(name: str, there: str) -> Raw:
    table, facts = _fetch(f"{there} version 1", name=there, version=1)
    if table.shape[1] != 28 * 28:
        raise DataError(
            f"{name} must have 784 pixels an image, but OpenML's {there} has {table.shape[1]}: name it by id"
        )
    return Raw(name, (table.reshape(-1, 28, 28),), levels=255, threshold=128, facts=facts)


def load_openml(name: str) -> Raw:
    """Any table of numbers of OpenML, a row an image: `openml/554`, or `openml/mnist_784@1` by name and version."""
    found = _SPELLING.fullmatch(name.removeprefix(PREFIX))
    if not found:
        raise DataError(
            f"a data set of OpenML is named openml/ID or openml/NAME@VERSION, as openml/554 or openml/mnist_784@1, but "
            f"got {name!r} (a name without a version may mean another table tomorrow)"
        )
    if found["id"]:
        table, facts = _fetch(f"data set {found['id']}", data_id=int(found["id"]))
    else:
        words = f"{found['name']} version {found['version']}"
        table, facts = _fetch(words, name=found["name"], version=int(found["version"]))
    return Raw(name, (table,), facts=facts)


def _fetch(words: str, **which: Any) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """The numbers of a data set, (N, D), and where they came from. Raises DataError."""
    from sklearn.datasets import fetch_openml, get_data_home

    with _patience(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each try: what came of it is said below
        try:
            home = get_data_home()
            bunch = fetch_openml(**which, as_frame=False, n_retries=RETRIES, read_csv_kwargs=PLAIN)
        except OSError as error:  # URLError, HTTPError and time-outs are some
            raise DataError(
                f"OpenML's {words} must be downloaded once, but that failed: {error}. Try again where there is a "
                f"network; or copy the folder `openml` of another machine's scikit-learn data folder into "
                f"{_home_words()}; or save the images as .npz and give data.path"
            ) from None
        except (ValueError, TypeError, KeyError) as error:  # a checksum, an unknown name, columns of text
            raise DataError(f"OpenML's {words} must be a whole table of numbers, but: {error}") from None
    table = bunch.data
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "buif":
        what = f"dtype {table.dtype}" if isinstance(table, np.ndarray) else "a sparse table"
        raise DataError(
            f"OpenML's {words} must be a table of numbers, but it is {what}: save it as .npz, give data.path"
        )
    details = bunch.details
    source = f"{details['name']} version {details['version']}, {bunch.url}; MD5 {details['md5_checksum']} verified"
    return table, (("source", f"{source}; kept in {home}/openml"),)


def _home_words() -> str:
    from sklearn.datasets import get_data_home

    try:
        return str(get_data_home())
    except OSError:
        return "~/scikit_learn_data"


@contextmanager
def _patience() -> Iterator[None]:
    """scikit-learn's loader sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
