"""What a report page is made of: sections with a reading, charts, tables and pictures; and how numbers are written.

Frozen records of plain text; the template turns them into HTML and escapes all of it. Knows no results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "—"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first `headers` cells of a row are its headers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    headers: int = 1


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawn panel."""

    id: str
    title: str
    """what sets it apart from its neighbours; may be empty"""
    label: str
    """what it shows, for those who cannot see it"""
    figure: dict[str, Any]
    """as plotly.js takes it"""


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts side by side, with what they have in common."""

    title: str
    charts: tuple[Chart, ...]
    legend: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a trial."""

    title: str
    alt: str
    source: str
    """a data URI; empty: there is none"""
    missing: str = ""
    """why there is none"""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures side by side."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One question to the evidence, and its answer."""

    id: str
    title: str
    reading: str
    """one or two sentences: what is to be seen"""
    lines: tuple[str, ...] = ()
    charts: tuple[Charts, ...] = ()
    pictures: tuple[Pictures, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    code: str = ""
    """a file in full"""


@dataclass(frozen=True, slots=True)
class Item:
    """A line of an answer: a word in front, and what is said of it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the reader's three questions."""

    id: str
    question: str
    headline: str
    lines: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    commands: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    """on request"""
    more_title: str = ""
    code: str = ""
    code_title: str = ""


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`−110.24`; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return ("0" if digits == 0 else f"0.{'0' * digits}") if float(text) == 0 else text.replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`[−0.71, +1.89]`; a dash where there is none."""
    if low is None or high is None:
        return MISSING
    return f"[{number(low, digits, signed=signed)}, {number(high, digits, signed=signed)}]"


def digits_of(size: float) -> int:
    """Decimals of a difference in a sentence: about three significant digits, two decimals at the most."""
    return 0 if abs(size) >= 100 else 1 if abs(size) >= 10 else 2


def typeset(text: str) -> str:
    """The text with true minus signs before its numbers."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "−", text)


def share(part: float) -> str:
    """`37%`."""
    return MISSING if math.isnan(part) else f"{100 * part:.0f}%"


def count(amount: int, word: str, plural: str = "") -> str:
    """`1 arm`, `1 440 trials`."""
    return f"{thousands(amount)} {word if amount == 1 else plural or word + 's'}"


def thousands(amount: int) -> str:
    """`1 440`."""
    return f"{amount:,}".replace(",", "\u202f")


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
