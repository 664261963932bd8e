"""YAML as plain values only: no tags, no duplicate names, aliases written out and counted, bounded in depth and size.

Knows nothing of what a file is to mean.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_DEPTH = 20
MAX_NODES = 100_000
MAX_DIGITS = 400
"""of a number: Python takes quadratic time for longer ones, and refuses to print them"""

HALF = re.compile("[\ud800-\udfff]")
"""half a character: of an escape, or a byte on the command line that is no text"""
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))


class _Loader(yaml.SafeLoader):
    """SafeLoader that stops at MAX_DEPTH and MAX_NODES while it composes, before Python's stack ends."""

    # Dates stay text: nothing here is a date, and `name: 2026-01-31` is a fine name.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        _check_size(self.depth, self.nodes, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and HALF.search(node.value):  # no file and no terminal takes it
            problem = f"text must be whole characters, got half of one in {shown(node.value)}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        self.depth -= 1
        return node


def _check_size(depth: int, nodes: int, mark: yaml.Mark) -> None:
    if depth > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
    if nodes > MAX_NODES:
        problem = f"more than {MAX_NODES} values, aliases written out"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _Builder:
    """Plain values from composed nodes, every alias written out and counted."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.nodes = 0

    def build(self, node: yaml.Node, depth: int = 1) -> Any:
        self.nodes += 1
        _check_size(depth, self.nodes, node.start_mark)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.build(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
            try:
                if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
                    raise ValueError(f"more than {MAX_DIGITS} characters")
                return self.loader.construct_object(node)
            except (ValueError, OverflowError, KeyError) as error:
                problem = f"not a {node.tag.rpartition(':')[2]} ({error})"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        problem = f"only plain values, lists and mappings may stand here, got {node.tag}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name must be a plain word", problem_mark=mark)
            key = key_node.value  # as written: `on` and `1` are names here, not a truth value and a number
            if key in built:
                problem = f"`{key}` is given twice, first on line {lines[key]}; remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
            lines[key] = mark.line + 1
            built[key] = self.build(value_node, depth + 1)
        return built


def parse_yaml(text: str) -> Any:
    """Nested dictionaries, lists and scalars of one YAML document; None for an empty one.

    Raises ValueError with line and column for a syntax error, a duplicate key, a tag, or a document
    over MAX_DEPTH or MAX_NODES.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _Builder(loader).build(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{where}{what}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def shown(value: Any, length: int = 60) -> str:
    """`value` as a message shows it, at most `length` characters."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
