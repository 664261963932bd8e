"""The mutants that `make mutants` draws: which are left out, and that edits elsewhere change no draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutation.mutants import apply, behaviour, draw, places_of

SOURCE = '''"""Half of 1 + 1."""
from typing import Protocol

Alias = type[int] | type[str]
__all__ = ["half" + "s"]


class Spoken(Protocol):
    def spoken(self, times: int = 3) -> str: ...


def half(value: float | None, *, of: float = 2.0) -> float | None:
    """Not 3 - 1."""
    return table(value / of, formula="a" + "b") if value is not None else None
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "half.py").write_text(SOURCE)
    return tmp_path


def test_only_what_is_behaviour_is_drawn(root: Path) -> None:
    mutants = draw(root, ["half.py"], 1000, 0)
    after = {one.after for one in mutants}
    body = 'return table(value {} of, formula="a" + "b") if value is not None else None'
    assert {body.format(operator) for operator in ("+", "-", "*", "//", "%", "**")} <= after
    assert body.format("/").replace("is not", "is") in after
    assert {"def half(value: float | None, *, of: float = 3.0) -> float | None:"} <= after
    assert {one.before for one in mutants} == {
        "def half(value: float | None, *, of: float = 2.0) -> float | None:",
        body.format("/"),
    }
    assert len({behaviour(one.code) for one in mutants}) == len(mutants)


def test_a_draw_is_the_same_again_and_stays_where_other_lines_are_edited(root: Path) -> None:
    drawn = draw(root, ["half.py"], 5, 0)
    assert drawn == draw(root, ["half.py"], 5, 0) != draw(root, ["half.py"], 5, 1)
    (root / "half.py").write_text(SOURCE.replace("3 - 1", "4 - 1, as before\n\n    or so"))
    assert [one.place.name for one in draw(root, ["half.py"], 5, 0)] == [one.place.name for one in drawn]


def test_every_place_can_be_changed(root: Path) -> None:
    places = places_of(root, "half.py")
    assert places and all((mutant := apply(root, place)) and mutant.code != SOURCE for place in places)
