"""docs/results.md against what `compare --json` really prints, and against the committed table of coverage."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.comparison import FurtherMetric, Verdict, compare_sweeps, to_json
from pipeline.comparison.coverage_table import BOOTSTRAP, COUNTS, STUDENT
from pipeline.report.further import MEASURES, NUMBERS_OF

from .docs import ROOT
from .test_against import side
from .test_calibration import simulated, study_of

PAGE = (ROOT / "docs" / "results.md").read_text()


def documented(heading: str) -> set[str]:
    """Keys in the first column of the table below a heading."""
    section = PAGE.split(f"\n### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([a-z_]+)`", row)}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = study_of(tmp_path_factory.mktemp("study"), momentum=[0.0, 0.5], streams="common")
    found = simulated(study, 0)
    first, *others = found.arms
    assert first.estimate is not None
    told = replace(first, further={"test/mig": FurtherMetric(first.estimate, (0.5, None))})
    printed: dict[str, Any] = json.loads(to_json(replace(found, arms=(told, *others))))
    assert all("further" not in arm for arm in printed["arms"][1:])
    return printed


def test_every_key_is_documented_and_no_other(comparison: dict[str, Any], tmp_path: Path) -> None:
    arm, pair = comparison["arms"][0], comparison["pairs"][0]
    against = json.loads(to_json(compare_sweeps(side(tmp_path), side(tmp_path, "old"))))
    printed = {
        "Comparison": comparison,
        "Arm": arm,
        "Replicate": arm["replicates"][0],
        "FurtherMetric": arm["further"]["test/mig"],
        "Estimate": arm["estimate"],
        "Pair": pair,
        "Probability": pair["probability"],
        "Against": against,
    }
    for heading, record in printed.items():
        assert documented(heading) == set(record), heading
    assert f"## JSON, version {comparison['version']}\n" in PAGE and against["version"] == comparison["version"]
    assert all(f"`{verdict}`" in PAGE for verdict in Verdict)


def test_every_further_metric_is_explained() -> None:
    section = PAGE.split("\n## Further metrics\n", 1)[1].split("\n#", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_/]+)`", row)} == MEASURES.keys() | NUMBERS_OF.keys()


@pytest.mark.parametrize(("table", "last"), [(STUDENT, 50), (BOOTSTRAP, 100)])
def test_coverage_is_that_of_the_committed_table(table: dict[str, tuple[float, ...]], last: int) -> None:
    blocks = re.findall(r"\| values \|(.*)\n.*\n((?:\|.*\n)+)", PAGE)
    ((head, body),) = [(head, body) for head, body in blocks if head.split("|")[-2].strip() == str(last)]
    counts = [int(count) for count in head.split("|")[:-1]]
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in body.splitlines()}
    assert rows.keys() == table.keys()
    for name, cells in rows.items():
        shown = [f"{100 * table[name][COUNTS.index(count)]:.1f}" for count in counts]
        assert [cell.strip() for cell in cells] == shown, name
