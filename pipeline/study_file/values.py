"""The kinds of values that a study file holds: checked numbers and texts, and the domains a sampler searches.

Knows no section and no table of names.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
)

from ..records import Value, canonical_json

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_NAME = re.compile(r"(?!(?i:ledger\.db|mlflow\.db|mlartifacts))[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


TRUSTED = "read from the ledger"
"""Validation context in which names are not looked up again: that would load torch."""


def _part(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("must be a fraction or a count above zero")
    return value


def _value(value: Any) -> Value:
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("must be a plain value or a list of whole numbers")


def _number(value: Any) -> Any:
    # YAML 1.1 wants a dot and a signed exponent: PyYAML reads 1e-3 as text.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 is the same value and must have the same digest


def safe_name(name: str) -> str:
    """`name` when it may name a folder and an experiment; else raises ValueError."""
    if not _NAME.fullmatch(name):
        rule = "must be 1 to 64 letters, digits, `_`, `.` or `-`, the first a letter or digit"
        raise ValueError(f"{rule}, and not begin like a store's files (it names a folder and an experiment)")
    return name


def _readable(text: str, info: ValidationInfo) -> str:
    if (bad := _CONTROL.search(text)) and info.context != TRUSTED:
        raise ValueError(f"must hold no control characters and no halves of characters, such as {bad[0]!a}")
    return text


def known_version(version: int) -> int:
    """`version` when this program reads it; else raises ValueError."""
    if version != 1:
        raise ValueError("must be 1, the version this program reads")
    return version


Real = Annotated[
    float,
    BeforeValidator(_number),
    Field(strict=True, allow_inf_nan=False),
    AfterValidator(_positive_zero),
]
Text = Annotated[str, Field(strict=True), AfterValidator(_readable)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Whole = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Part = Annotated[float | int, PlainValidator(_part)]
Flag = Annotated[bool, Field(strict=True)]
Loose = Annotated[Value, PlainValidator(_value)]


class Section(BaseModel):
    """A frozen part of a study file that knows all its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FloatDomain(Section):
    """A range of real numbers."""

    low: Real
    """the smallest value"""
    high: Real
    """the largest"""
    log: Flag = False
    """search the logarithm"""
    step: Annotated[Real | None, Field(gt=0)] = None
    """only low, low + step, ... up to high"""

    @property
    def size(self) -> int | None:
        """How many values it has; None for a continuum."""
        if self.step is None:
            return None
        low, high, step = (Fraction(repr(number)) for number in (self.low, self.high, self.step))
        return (high - low) // step + 1

    def contains(self, value: Value) -> bool:
        """Whether `value` lies in the domain (and on its steps)."""
        if not isinstance(value, float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9 * max(1.0, steps)


class IntDomain(Section):
    """A range of whole numbers."""

    low: Annotated[int, Field(strict=True)]
    """the smallest value"""
    high: Annotated[int, Field(strict=True)]
    """the largest"""
    log: Flag = False
    """search the logarithm"""
    step: Count = 1
    """only low, low + step, ... up to high"""

    @property
    def size(self) -> int | None:
        """How many values it has."""
        return (self.high - self.low) // self.step + 1

    def contains(self, value: Value) -> bool:
        """Whether `value` lies in the domain (and on its steps)."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and value in range(self.low, self.high + 1, self.step)


class ChoiceDomain(Section):
    """Values without an order."""

    choices: tuple[Loose, ...]
    """one of these; the sampler sees no order among them"""

    @property
    def size(self) -> int | None:
        """How many values it has."""
        return len(self.choices)

    def contains(self, value: Value) -> bool:
        """Whether `value` is one of the choices."""
        return canonical_json(value) in map(canonical_json, self.choices)


Domain = FloatDomain | IntDomain | ChoiceDomain
"""The values among which the sampler chooses one for every trial."""
