"""docs/comparison.md and CONTRIBUTING.md: every place that they name in our code is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.selfcheck import ORACLES

from .docs import ROOT

PAGE = ROOT / "docs" / "comparison.md"
TEXT = PAGE.read_text() + (ROOT / "CONTRIBUTING.md").read_text()
PLACES = sorted(set(re.findall(r"`((?:pipeline|tests)/[^`\s]+)`", TEXT)))


def names(body: list[ast.stmt]) -> Iterator[str]:
    """What a file defines, methods included."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            yield from names(node.body)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def stands(place: str) -> bool:
    """Whether `path` is there, and of `path:name` the name in it."""
    path, _, name = place.partition(":")
    file: Path = ROOT / path
    if not name:
        return file.is_dir() if path.endswith("/") else file.is_file()
    return file.is_file() and name in names(ast.parse(file.read_text()).body)


@pytest.mark.parametrize("place", PLACES)
def test_the_place_is_there(place: str) -> None:
    assert stands(place)


def test_this_test_can_fail() -> None:
    assert len(PLACES) > 60
    assert stands("pipeline/vae/objectives.py:OBJECTIVES") and stands("tests/chaos/")
    for place in ("pipeline/vae/objective.py", "pipeline/vae/objectives.py:OBJECTIVE", "tests/chaos.py", "tests/chao/"):
        assert not stands(place), place


def test_its_oracles_are_ours() -> None:
    assert set(re.findall(r"\bO\d+\b", PAGE.read_text())) <= ORACLES.keys()


def test_every_row_has_every_column() -> None:
    widths: dict[int, int] = {}
    width = 0
    for number, line in enumerate(PAGE.read_text().splitlines()):
        columns = line.count("|") - line.count("\\|")
        width = (width or columns) if line.startswith("|") else 0
        if width and columns != width:
            widths[number + 1] = columns
    assert widths == {}
