"""The generated parts of the reference pages; `python -m tests.reference` (`make docs`) writes them where they stand.

A page is prose with blocks between `<!-- generated: NAME -->` and `<!-- end -->`; the tables of docs/catalogue.md are
found below their headings. Everything comes from the models of the study file, the typer app and the tree of errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo

from benchmarks.markdown import filled, table
from pipeline import errors
from pipeline.cli import app
from pipeline.config import Numeric, Structural, Study, valid_names
from pipeline.data.loaders import LOADERS
from pipeline.study_file.values import ChoiceDomain, FloatDomain, IntDomain, Section

from . import test_catalogue
from .docs import ROOT

STUDY_FILE, CLI, CATALOGUE = (ROOT / "docs" / f"{name}.md" for name in ("study-file", "cli", "catalogue"))

# ------------------------------------------------------------------------------------- the study file

LOWEST = {"minimum": "≥ ", "ge": "≥ ", "exclusiveMinimum": "> ", "gt": "> "}
HIGHEST = {"maximum": "≤ ", "le": "≤ ", "exclusiveMaximum": "< ", "lt": "< "}
PLAIN = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def spelled(value: object) -> str:
    """A default as YAML has it."""
    text = json.dumps(value, ensure_ascii=False)
    return f"`{re.sub(r'(?<=e-)0+', '', text.strip(chr(34)))}`" if value != "" else "empty"


def limits(schema: Mapping[str, Any]) -> str:
    """` 1 to 1,000,000`, ` > 0`: what bounds a number."""
    low, high = ([(sign, schema[key]) for key, sign in signs.items() if key in schema] for signs in (LOWEST, HIGHEST))
    shown = {value: "2^63" if value == 2**63 else f"{value:,}" for _, value in (*low, *high)}
    if [sign for sign, _ in (*low, *high)] == ["≥ ", "≤ "]:
        return f" {shown[low[0][1]]} to {shown[high[0][1]]}"
    return "".join(f" {sign}{shown[value]}" for sign, value in (*low, *high)).replace(" <", ", <").replace(" ≤", ", ≤")


def type_text(schema: Mapping[str, Any]) -> str:
    """What may stand there, of the field's JSON schema."""
    if "anyOf" in schema:
        kinds = [type_text(one) for one in schema["anyOf"]]
        return f"{', '.join(kinds[:-1])}, or {kinds[-1]}"
    if "const" in schema or "enum" in schema:
        return " ".join(map(spelled, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}"
    if kind == "array":
        return f"list, each a {type_text(schema.get('items', {}))}"
    if kind == "object" or "$ref" in schema:
        return "mapping"
    return PLAIN.get(str(kind), "plain value") + limits(schema)


def role_of(info: FieldInfo) -> str:
    """What deciding mark a hyperparameter carries."""
    return "structural" if Structural() in info.metadata else "numeric" if Numeric() in info.metadata else ""


def fields_table(model: type[Section]) -> str:
    """One row a field; a column of roles only where fields have them."""
    properties = model.model_json_schema()["properties"]
    fields = model.model_fields
    has_roles = any(map(role_of, fields.values()))
    head = ["field", "what may stand there", "default", *(["role"] if has_roles else []), "what it is"]
    rows = []
    for name, info in fields.items():
        kind = type_text(properties[name])
        if name in valid_names():
            kind = "a [name](#valid-names)" + (", or null" if info.default is None else "")
        default = "required" if info.is_required() else _default(info.get_default(call_default_factory=True))
        model_text = (info.annotation.__doc__ or "") if name in sections() else ""
        text = re.sub(r"\bNone\b", "null", info.description or model_text).replace("\n", " ")
        rows.append([f"`{name}`", kind, default, *([role_of(info)] if has_roles else []), text])
    return table(head, rows)


def _default(value: Any) -> str:
    return "its own defaults" if isinstance(value, Section) else spelled(value)


def sections() -> dict[str, type[Section]]:
    """Name in the study file -> its model."""
    found = {name: info.annotation for name, info in Study.model_fields.items()}
    return {name: model for name, model in found.items() if isinstance(model, type) and issubclass(model, Section)}


def names_table() -> str:
    """Every name of the kits' tables."""
    tables = {"data.name": tuple(LOADERS), **valid_names()}
    return table(["field", "names"], [[f"`{f}`", " ".join(f"`{one}`" for one in names)] for f, names in tables.items()])


def study_file_blocks() -> dict[str, str]:
    """Block of docs/study-file.md -> its text."""
    domains: dict[str, type[Section]] = {"range": FloatDomain, "whole-range": IntDomain, "choices": ChoiceDomain}
    models: dict[str, type[Section]] = {"study": Study, **sections(), **domains}
    texts = {name: f"{(model.__doc__ or '').strip()}\n\n{fields_table(model)}" for name, model in models.items()}
    return {**texts, "names": names_table()}


# ----------------------------------------------------------------------------------- the command line

PLACES = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def verbs() -> dict[str, Any]:
    """Name -> command, in the order of `--help`."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def is_argument(one: Any) -> bool:
    """Whether it is given by its place, not by a name."""
    return not one.opts[0].startswith("-")


def place(one: Any) -> str:
    """What stands for a value in the usage."""
    if one.metavar is None and is_argument(one):
        return str(one.name).upper()
    return str(one.metavar or PLACES.get(one.type_descriptor.annotation, "TEXT"))


def parameter_row(one: Any) -> list[str]:
    """Name, default and help of an argument or option."""
    if is_argument(one):
        return [f"`{place(one)}`", "required" if one.required else "", one.help or ""]
    value = "" if one.is_flag else f" {place(one)}"
    name = ", ".join(f"`{option}{value}`" for option in (*one.opts, *one.secondary_opts))
    default = f"{one.default:g}" if isinstance(one.default, float) else one.default
    plain = "" if default in (None, False) or default == [] else f"`{default}`"
    plain = one.show_default if isinstance(one.show_default, str) else plain
    notes = [one.help or ""]
    limits = f"{one.min or 0:g} to {one.max:,g}" if one.max else f"at least {one.min:g}" if one.min else ""
    notes += [f"{limits[0].upper()}{limits[1:]}."] if limits else []
    notes += ["May be given several times."] if one.multiple else []
    notes += [f"Environment: `{one.envvar}`."] if one.envvar else []
    return [name, "required" if one.required else plain, " ".join(notes)]


def verb_text(name: str, verb: Any) -> str:
    """The section of one verb."""
    given = [one for one in verb.params if is_argument(one)]
    arguments = [place(one) if one.required else f"[{place(one)}]" for one in given]
    rows = [parameter_row(one) for one in verb.params if not one.hidden]
    usage = " ".join(["vae-sweep", name, *arguments, "[OPTIONS]"])
    parts = [f"## {name}", f"`{usage}`", verb.help.strip(), table(["argument or option", "default", ""], rows)]
    return "\n\n".join(parts)


def tree(error: type[errors.VaeSweepError]) -> Iterator[type[errors.VaeSweepError]]:
    """An error and all below it."""
    yield error
    for below in error.__subclasses__():
        yield from tree(below)


def exits_table() -> str:
    """Exit code -> when."""
    rows = [["0", "done; also where there was nothing left to do"]]
    for code in (1, 2):
        known = [f"`{one.__name__}`" for one in tree(errors.VaeSweepError) if one.exit_code == code]
        text = {1: "failed, or a check that it was asked for found something", 2: "what the user gave is wrong"}[code]
        rows.append([str(code), f"{text}: {', '.join(known)}"])
    rows += [
        ["3", "`run` stopped cleanly with work left: the same command goes on"],
        ["130", "interrupted from the keyboard"],
    ]
    return table(["code", "when"], rows)


def cli_blocks() -> dict[str, str]:
    """Block of docs/cli.md -> its text."""
    known = verbs()
    overview = table(["verb", "does"], [[f"[{name}](#{name})", verb.help.strip()] for name, verb in known.items()])
    return {
        "overview": overview,
        "exits": exits_table(),
        "verbs": "\n".join(verb_text(name, verb) for name, verb in known.items()),
    }


# -------------------------------------------------------------------------------------------- writing


def with_tables(text: str) -> str:
    """The catalogue with the rows below each table's head as they should be."""
    for rows in test_catalogue.tables().values():
        start = re.compile(re.escape(rows[0]) + r"\n(\|.*\n)*")
        text = start.sub(lambda _, rows=rows: "\n".join([*rows, ""]), text, count=1)  # type: ignore[misc]
    return text


def pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be."""
    return {
        STUDY_FILE: filled(STUDY_FILE.read_text(), study_file_blocks()),
        CLI: filled(CLI.read_text(), cli_blocks()),
        CATALOGUE: with_tables(CATALOGUE.read_text()),
    }


if __name__ == "__main__":
    for page, text in pages().items():
        if text != page.read_text():
            page.write_text(text)
            print(f"written: {page.relative_to(ROOT)}")
