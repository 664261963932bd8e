"""`--where`: text such as `latent_dim=8,scale=log_std` -> scientific values of a sweep. Knows no terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import UserError
from ..records import Params, Value


def parse_where(texts: Sequence[str], scientific: Mapping[str, Sequence[Value]]) -> Params:
    """The factors and values that `texts` name, each `name=value` or several with commas or blanks between.

    A value is spelled as in an arm's label or as in a study file. Raises UserError for a factor or value that
    the sweep does not have, and for a factor that is given twice.
    """
    found: dict[str, Value] = {}
    for part in (part for text in texts for part in re.split(r"[,\s]+(?=\w+=)", text.strip())):
        name, equals, spelled = part.partition("=")
        name, spelled = name.strip(), spelled.strip()
        if not equals or not name or not spelled:
            raise UserError(f"--where takes FACTOR=VALUE, but got {part!r}; {_valid(scientific)}")
        if name not in scientific:
            raise UserError(f"--where must name a scientific factor, but got {name!r}; {_valid(scientific)}")
        if name in found:
            raise UserError(f"--where takes one value a factor, but got {name} twice; name it once, or leave it out")
        values = [value for value in scientific[name] if _spells(spelled, value)]
        if not values:
            known = ", ".join(map(label_text, scientific[name]))
            raise UserError(f"--where must give {name} a value of this sweep, but got {spelled!r}; valid: {known}")
        found[name] = values[0]
    return found


def where_text(values: Params) -> str:
    """The text that `parse_where` reads back."""
    return ",".join(f"{name}={label_text(value)}" for name, value in values.items())


def label_text(value: Value) -> str:
    """A value as an arm's label has it: `64-32` for widths."""
    return "-".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _valid(scientific: Mapping[str, Sequence[Value]]) -> str:
    if not scientific:
        return "this sweep has no scientific factor, only one arm: leave --where out"
    return "valid: " + "; ".join(f"{name}={'|'.join(map(label_text, values))}" for name, values in scientific.items())


def _spells(text: str, value: Value) -> bool:
    if isinstance(value, tuple):
        return text == label_text(value) or re.findall(r"\d+", text) == [str(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    exact = isinstance(value, str)
    if value is None and text.lower() == "null":
        return True
    return text == value if exact else text.lower() == str(value).lower()
