"""What a sweep's own run in the tracker ends with: texts and the report page. Knows no tracker."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping

from ..comparison import to_json
from ..paths import WorkPaths
from ..results import Results
from ..tracking.base import REPORT_FILE, SUMMARY_FILE
from .comparison import comparison_table
from .tables import render_text
from .verdicts import verdict_sentences


def final_files(results: Results, paths: WorkPaths) -> Mapping[str, str]:
    """Comparison, table and report page, by file name."""
    table = render_text(comparison_table(results.comparison, width=110), width=110)
    sentences = verdict_sentences(results.comparison)
    text = "\n".join([results.study.question, "", table, *(textwrap.fill(line, 110) for line in sentences), ""])
    return {
        SUMMARY_FILE: "\n\n".join(sentences) + "\n",
        **_page_file(results, paths),
        "compare.txt": text,
        "compare.json": to_json(results.comparison),
    }


def _page_file(results: Results, paths: WorkPaths) -> Mapping[str, str]:
    """The report page; left out, with a line that says why, where it cannot be made: the delivery goes on."""
    try:
        from .page import report_page

        return {REPORT_FILE: report_page(results, paths)}
    except Exception as error:
        print(
            f"{REPORT_FILE} is left out: {type(error).__name__}: {error}".replace("\n", " "),
            file=sys.stderr,
            flush=True,
        )
        return {}
