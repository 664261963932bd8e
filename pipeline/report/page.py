"""The report page: one HTML file that needs no network, answers first, evidence after.

Puts the sections together and renders page.html, which escapes all text: names and questions are written by users.
The same results give the same bytes. plotly.js travels packed and is unpacked by the reader's browser.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..analysis import Analysis, analyse
from ..comparison import Comparison
from ..paths import WorkPaths
from ..results import Results
from . import page_files, page_learned, page_searches, page_sections
from .drawing import plotly_source
from .page_answer import answers, banners
from .page_parts import Section
from .panels import Style, styles

_FOLDER = Path(__file__).parent
SHORT_TABLE = 15
"""rows of a table that is shown without being asked for, in a section without charts"""
_DASHES = {
    "solid": "none", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "11 4", "longdashdot": "11 3 2 3",
}  # fmt: skip
_SHAPES = {
    "circle": "M13 8a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "square": "M13.5 3.5h9v9h-9z",
    "diamond": "M18 2l6 6l-6 6l-6 -6z",
    "hourglass": "M13 3h10l-10 10h10z",
    "cross": "M16 3h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
    "star": "M18 2l1.6 4h4.2l-3.3 2.7l1.2 4.3l-3.7 -2.5l-3.7 2.5l1.2 -4.3l-3.3 -2.7h4.2z",
}


def report_page(results: Results, paths: WorkPaths, analysis: Analysis | None = None) -> str:
    """The page of a sweep, finished or not, as HTML.

    Files of trials are read below `paths`; where one is missing the page says so. `analysis`: made here unless given.
    """
    sections = _sections(results, analysis or analyse(results), paths)
    packed, digest = _packed_plotly()
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["data"] = _data
    return environment.get_template("page.html").render(
        name=results.sweep.name,
        question=results.study.question or f"Sweep {results.sweep.name}",
        banners=banners(results),
        answers=answers(results),
        sections=sections,
        legend=_legend(results.comparison),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=_digest(script),
        short_table=SHORT_TABLE,
        plotly=packed,
        plotly_digest=digest,
    )


def _sections(results: Results, analysis: Analysis, paths: WorkPaths) -> tuple[Section, ...]:
    comparison = results.comparison
    return (
        page_sections.intervals(comparison),
        page_sections.all_arms(comparison),
        page_sections.divergence(comparison),
        page_searches.tuning(comparison, analysis),
        page_searches.sensitivity(results, analysis),
        page_files.learning(results),
        page_sections.rate_distortion(comparison, analysis),
        page_learned.learned(comparison),
        page_files.sigmas(results, paths),
        page_sections.spread(comparison, analysis),
        page_files.pictures(results, paths),
        page_sections.budget(comparison),
        page_sections.reproduce(results),
    )


def _legend(comparison: Comparison) -> list[dict[str, str]]:
    """Compared levels with the line and the mark that stand for them in all charts."""

    def entry(level: str, style: Style) -> dict[str, str]:
        dashes = _DASHES.get(style.dash, style.dash.replace("px", ""))
        shape = style.symbol.removesuffix("-open")
        fill = style.colour if shape == style.symbol else "#fff"
        return {"level": level, "colour": style.colour, "dashes": dashes, "shape": _SHAPES[shape], "fill": fill}

    return [entry(level, style) for level, style in styles(comparison).items()]


def _data(value: Any) -> Markup:
    """JSON inside a script element: no text in it can end the element."""
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(plain)


@functools.cache
def _packed_plotly() -> tuple[str, str]:
    """plotly.js, gzip in base64, and the digest of its source."""
    source = plotly_source()
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return base64.encodebytes(packed).decode(), _digest(source)  # in lines: logs and mails cut very long ones


def _digest(source: str) -> str:
    """What a content security policy names a script by."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
