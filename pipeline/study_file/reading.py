"""From a study file to a Study: `--set`, roles, rules, and all mistakes at once.

A mistake is one line: its path in the file, the rule, what came, the valid names and a near match. Knows
no arm and starts nothing; the sections and what each field may hold are config.py's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..config import HYPERPARAMETERS, Study
from ..errors import StudyFileError
from ..records import Params, Value, canonical_json
from ..space import MAX_ARMS, broken_rules, with_defaults
from ..study_file.values import ChoiceDomain, Domain, FloatDomain, IntDomain
from .plain import HALF, MAX_DEPTH, parse_yaml, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_BYTES = 1 << 20


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a study file holds; keys with nothing behind them are left out.

    Raises StudyFileError when the file cannot be read or is no YAML mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise StudyFileError(str(path), ["no such file; give the path of a study file (.yaml)"]) from None
    except IsADirectoryError:
        raise StudyFileError(str(path), ["is a directory; give the path of a study file in it"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyFileError(str(path), [f"cannot be read: {reason}"]) from None
    if len(content) > MAX_BYTES:
        raise StudyFileError(str(path), [f"a study file must not be larger than {MAX_BYTES} bytes"])
    try:
        raw = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problem = f"must be UTF-8 text, got byte 0x{content[error.start]:02x} at offset {error.start}"
        raise StudyFileError(str(path), [f"{problem}; is this a study file?"]) from None
    except ValueError as error:
        raise StudyFileError(str(path), [f"not valid YAML: {error}"]) from None
    if raw is None:
        raise StudyFileError(str(path), ["is empty; a study needs `version`, `name`, `data` and a role"])
    if not isinstance(raw, dict):
        problem = f"must be a mapping of sections (`version: 1`, `name: ...`), got {shown(raw)}"
        raise StudyFileError(str(path), [problem])
    return {key: value for key, value in raw.items() if value is not None}


def unknown(what: str, got: Any, valid: Iterable[str]) -> str:
    """`unknown scale, got 'log_st'; valid: ...; did you mean 'log_std'?`"""
    names = tuple(valid)
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what}, got {shown(got)}; valid: {', '.join(names) or '(none)'}{hint}"


def _upwards(path: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


class Problems:
    """The mistakes found so far, one line each, with their path inside the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """of the study file, where code of the user's own may lie"""
        self.lines: list[str] = []
        self.origins: dict[str, str] = {}
        """path -> the `--set` that wrote it"""
        self._bad: set[str] = set()
        self._above_bad: set[str] = set()

    def add(self, path: str, text: str) -> None:
        """Notes that what stands at the dotted `path` is wrong."""
        near = _upwards(path)
        origins = [how for at, how in self.origins.items() if at in near or path in _upwards(at)]
        source = f" (from {origins[-1]})" if origins else ""
        self._bad.add(path)
        self._above_bad.update(near)
        self.lines.append(f"{path}{source}: {text}")

    def clean(self, *paths: str) -> bool:
        """Whether nothing at or around `paths` is wrong: a rule is judged only on sound values."""
        return not any(path in self._above_bad or not self._bad.isdisjoint(_upwards(path)) for path in paths)

    def add_errors(self, model: type[BaseModel], error: ValidationError, prefix: str = "", skip: int = 0) -> None:
        """Notes every error of a validation of `model`: at `prefix`, then pydantic's path from `skip` on."""
        for one in error.errors():
            path = ".".join(filter(None, [prefix, *map(str, one["loc"][skip:])]))
            self.add(path, _worded(model, one))


def _worded(model: type[BaseModel], error: ErrorDetails) -> str:
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is required, but missing"
    if kind == "extra_forbidden":
        return _unknown_field(model, error["loc"])
    if kind == "unknown_name":
        return unknown(context["what"], got, context["valid"])
    if kind == "literal_error" and isinstance(got, str):
        return unknown("value", got, re.findall(r"'([^']+)'", str(context["expected"])))
    if kind == "value_error":
        return f"{context['error']}, got {shown(got)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping of names to values, got {shown(got)}"
    rule = error["msg"].removeprefix("Input should ")
    rule = rule.replace("be a valid tuple", "be a list").replace("be a valid integer", "be a whole number")
    return f"must {rule}, got {shown(got)}"


def _unknown_field(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    sections = {name: info.annotation for name, info in model.model_fields.items()}
    holder: Any = sections.get(str(loc[0])) if len(loc) > 1 else model
    valid = tuple(holder.model_fields)
    homes = [
        name
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel) and loc[-1] in section.model_fields
    ]
    hint = f"; `{loc[-1]}` belongs under `{homes[0]}`" if homes else ""
    return unknown("name", loc[-1], valid) + hint


def apply_sets(raw: dict[str, Any], sets: Sequence[str], problems: Problems) -> None:
    """Writes each `a.b=value` of `sets` into `raw` (changed in place); mistakes go to `problems`."""
    for assignment in sets:
        path, equals, text = assignment.partition("=")
        path = path.strip()
        origin = f"--set {assignment[:200]}"
        keys = path.split(".")
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            problems.add(origin, "must read `section.field=value`")
            continue
        if HALF.search(path):
            problems.add(origin, f"a name must be whole characters, got {path!a}")
            continue
        try:
            value = parse_yaml(text)
        except ValueError as error:
            problems.add(origin, f"the value is not valid YAML: {error}")
            continue
        holder: Any = raw
        for depth, key in enumerate(keys[:-1], start=1):
            if holder.get(key) is None:
                holder[key] = {}
            holder = holder[key]
            if not isinstance(holder, dict):
                above = ".".join(keys[:depth])
                problems.add(origin, f"`{above}` has no named fields; set it whole: `{above}=...`")
                break
        else:
            holder[keys[-1]] = value
            problems.origins[path] = origin


def _checked(name: str, value: Any, path: str, problems: Problems) -> list[Value]:
    """[`value` as hyperparameter `name` holds it], or [] with its mistakes noted at `path`."""
    section: Any = Study.model_fields[HYPERPARAMETERS[name].section].annotation
    try:
        checked: Value = getattr(section.model_validate({name: value}, context=problems.folder), name)
    except ValidationError as error:
        problems.add_errors(section, error, path, skip=1)
        return []
    if checked is None:
        problems.add(path, "must be a value, got null")
        return []
    return [checked]


def _distinct(name: str, values: Any, path: str, problems: Problems) -> tuple[Value, ...]:
    """The checked members of a list of values of one hyperparameter."""
    if not isinstance(values, list) or not values:
        problems.add(path, f"must be a list of one or more values, got {shown(values)}")
        return ()
    if len(values) > MAX_ARMS:
        problems.add(path, f"may list at most {MAX_ARMS:,} values, got {len(values):,}")
        return ()
    kept: dict[str, Value] = {}
    for index, value in enumerate(values):
        for checked in _checked(name, value, f"{path}.{index}", problems):
            if canonical_json(checked) in kept:
                problems.add(f"{path}.{index}", f"every value may stand once, got {shown(value)} again")
            kept[canonical_json(checked)] = checked
    return tuple(kept.values())


def _role(raw: dict[str, Any], role: str, problems: Problems) -> dict[str, Any]:
    """The entries of one role under known names; takes the role out of `raw`."""
    entries = raw.pop(role, {})
    if not isinstance(entries, dict):
        problems.add(role, f"must be a mapping of hyperparameters, got {shown(entries)}")
        return {}
    for name in entries:
        path = f"{role}.{name}"
        if name == "seed":
            problems.add(path, "seeds carry no role: search.replicates and confirm.repeats vary them")
        elif name not in HYPERPARAMETERS:
            problems.add(path, unknown("hyperparameter", name, HYPERPARAMETERS))
    return {name: entry for name, entry in entries.items() if name in HYPERPARAMETERS}


def _domain(name: str, raw: Any, path: str, problems: Problems) -> Domain | None:
    """The domain written at `path`; None with its mistakes noted."""
    if isinstance(raw, list) or (isinstance(raw, dict) and set(raw) == {"choices"}):
        choices = _distinct(name, raw if isinstance(raw, list) else raw["choices"], path, problems)
        if len(choices) == 1 and problems.clean(path):
            problems.add(path, _single(name, choices[0]))
        return ChoiceDomain(choices=choices)
    if not isinstance(raw, dict):
        problems.add(path, f"must be a list of choices or {{low, high, log, step}}, got {shown(raw)}")
        return None
    ranges: dict[Any, type[FloatDomain] | type[IntDomain]] = {float: FloatDomain, int: IntDomain}
    model = ranges.get(HYPERPARAMETERS[name].type)
    if model is None:
        problems.add(path, f"has no order: must be a list of choices, got {shown(raw)}")
        return None
    try:
        domain = model.model_validate(raw)
    except ValidationError as error:
        problems.add_errors(model, error, path)
        return None
    for end in ("low", "high"):
        _checked(name, getattr(domain, end), f"{path}.{end}", problems)
    _check_range(name, domain, path, problems)
    return domain


def _single(name: str, value: Value) -> str:
    section = HYPERPARAMETERS[name].section
    return f"one value is no choice: put `{name}: {shown(value)}` under `{section}`, where values are fixed"


def _check_range(name: str, domain: FloatDomain | IntDomain, path: str, problems: Problems) -> None:
    low, high, step = domain.low, domain.high, domain.step
    if low == high:
        problems.add(path, _single(name, low))
    elif low > high:
        problems.add(path, f"low < high must hold, got low {low} and high {high}")
    elif step is not None and step > high - low:
        problems.add(f"{path}.step", f"must be at most high - low = {high - low}, got {step}")
    if domain.log and low <= 0 and problems.clean(f"{path}.low"):
        problems.add(f"{path}.low", f"must be above 0 where log is true, got {low}")
    if domain.log and step not in (None, 1):
        problems.add(f"{path}.step", f"does not go with log: true, got {step}; remove one")


def _read_roles(raw: dict[str, Any], problems: Problems) -> None:
    """Replaces the two roles in `raw` by what they mean; a name may carry one role only."""
    scientific = _role(raw, "scientific", problems)
    nuisance = _role(raw, "nuisance", problems)
    for name in {**scientific, **nuisance}:
        section = HYPERPARAMETERS[name].section
        fixed = raw.get(section)
        places = [
            place
            for place, holds in (
                (f"scientific.{name}", name in scientific),
                (f"nuisance.{name}", name in nuisance),
                (f"{section}.{name}", isinstance(fixed, dict) and name in fixed),
            )
            if holds
        ]
        if len(places) > 1:
            problems.add(places[-1], f"one role a name, but it also stands at {', '.join(places[:-1])}")
    raw["scientific"] = {
        name: _distinct(name, values, f"scientific.{name}", problems) for name, values in scientific.items()
    }
    domains = {name: _domain(name, nuisance[name], f"nuisance.{name}", problems) for name in sorted(nuisance)}
    raw["nuisance"] = {name: domain for name, domain in domains.items() if domain is not None}


def _settled(raw: dict[str, Any], problems: Problems) -> Study:
    """A Study in which every faulty value is noted and gives way to its default.

    So the rules that span sections can be judged in the same go.
    """
    required = {"version": 1, "name": "unnamed", "data": {"name": "digits"}}
    values = dict(raw)
    while True:
        try:
            return Study.model_validate(values, context=problems.folder)
        except ValidationError as error:
            problems.add_errors(Study, error)
            for top, *inner in {tuple(map(str, one["loc"][:2])) for one in error.errors()}:
                section = values.get(top)
                if inner and isinstance(section, dict) and inner[0] in section:
                    values[top] = {key: value for key, value in section.items() if key != inner[0]}
                else:
                    values.pop(top, None)
                    values |= {key: value for key, value in required.items() if key == top}


def _typed(given: Params, known: Collection[str], role: str, path: str, problems: Problems) -> dict[str, Value]:
    """`given` values of hyperparameters that must carry `role`, as those hold them."""
    typed: dict[str, Value] = {}
    for name, value in given.items():
        if name in known:
            typed.update((name, item) for item in _checked(name, value, f"{path}.{name}", problems))
        elif problems.clean(f"{role}.{name}"):
            problems.add(f"{path}.{name}", unknown(f"{role} hyperparameter", name, known))
    return typed


def _located(written: str | None, folder: Path, problems: Problems) -> str | None:
    """The absolute path that `data.path` means, seen from `folder`; as written, with the mistake noted, for none."""
    try:
        return None if written is None else str((folder / Path(written).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
        problems.add("data.path", f"must be a path that can be looked up, got {shown(written)}: {error}")
        return written


def load(path: Path, sets: Sequence[str] = ()) -> Study:
    """`config.load_study`."""
    raw = read_mapping(path)
    problems = Problems(path.absolute().parent)
    apply_sets(raw, sets, problems)
    raw = {key: value for key, value in raw.items() if value is not None}
    _read_roles(raw, problems)
    study = _settled(raw, problems)
    baseline = _typed(study.compare.baseline, study.scientific, "scientific", "compare.baseline", problems)
    start = tuple(
        _typed(given, study.nuisance, "nuisance", f"search.start.{i}", problems)
        for i, given in enumerate(study.search.start)
    )
    folder = Path() if "data.path" in problems.origins else path.parent
    located = _located(study.data.path, folder, problems)
    study = with_defaults(
        study.model_copy(
            update={
                "data": study.data.model_copy(update={"path": located}),
                "search": study.search.model_copy(update={"start": start}),
                "compare": study.compare.model_copy(update={"baseline": baseline}),
            }
        )
    )
    for broken in broken_rules(study):
        if problems.clean(broken.path, *broken.reads):
            problems.add(broken.path, broken.text)
    if problems.lines:
        raise StudyFileError(str(path), problems.lines)
    return study
