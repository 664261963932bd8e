"""The mutants of a file: cosmic-ray's operators at all places where they change what the file does. Runs nothing.

What is not behaviour is left out by rule: a mutant counts only if its syntax tree differs from the original's after
docstrings, annotations, type aliases, protocols, text for people and the form of dataclasses are taken out of both.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"})
BITWISE = frozenset({"RShift", "LShift", "BitOr", "BitAnd", "BitXor"})
COMPARISONS = frozenset({"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"})
UNARY = frozenset({"Delete_USub", "Delete_Not", "Delete_Invert"})
"""cosmic-ray's +x in place of -x does the same as x"""
FOR_PEOPLE = frozenset({"formula", "source"})
"""keyword arguments that hold text of tables"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operator applies in a file."""

    path: str
    """within the repository"""
    line: int
    operator: str
    """as cosmic-ray names it"""
    occurrence: int
    """which of the operator's places in the file"""
    words: str
    """the place in words that stay when other parts of the file are edited"""

    def rank(self, seed: int) -> str:
        """Where it stands in the draw of a seed: edits elsewhere leave it there."""
        return hashlib.sha256(f"{seed}\0{self.path}\0{self.words}".encode()).hexdigest()

    @property
    def name(self) -> str:
        """Short, and the same as long as `words` are."""
        return hashlib.sha256(f"{self.path}\0{self.words}".encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file."""

    place: Place
    code: str
    """the whole file with the change"""
    before: str
    """the lines that change"""
    after: str


def draw(root: Path, paths: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants of these files, each as likely as any other, no two alike, in the order of their places."""
    places = sorted((place for path in paths for place in places_of(root, path)), key=lambda one: one.rank(seed))
    seen = {behaviour((root / path).read_text()) for path in paths}
    found: list[Mutant] = []
    for place in places:
        mutant = apply(root, place)
        kind = behaviour(mutant.code) if mutant else None
        if mutant and kind is not None and kind not in seen:
            seen.add(kind)
            found.append(mutant)
        if len(found) == count:
            break
    return sorted(found, key=lambda one: (one.place.path, one.place.line, one.place.occurrence, one.place.operator))


def apply(root: Path, place: Place) -> Mutant | None:
    """The change at a place; None where cosmic-ray makes none."""
    source = (root / place.path).read_text()
    code = mutate_code(source, get_operator(place.operator)(), place.occurrence)
    return Mutant(place, code, *_difference(source.splitlines(), code.splitlines())) if code else None


def places_of(root: Path, path: str) -> list[Place]:
    """Every place of a file where a wanted operator applies."""
    source = (root / path).read_text()
    lines, nodes = source.splitlines(), list(ast_nodes(get_ast(source)))
    found: list[Place] = []
    alike: dict[str, int] = {}
    for operator in filter(_wanted, sorted(operator_names())):
        mutate = get_operator(operator)()
        places = ((node, start) for node in nodes for start, _ in mutate.mutation_positions(node))
        for occurrence, (node, (line, column)) in enumerate(places):
            text = lines[line - 1]
            at = column - len(text) + len(text.lstrip())
            words = "\0".join((_definition(node), operator, text.strip(), str(at)))
            alike[words] = alike.get(words, 0) + 1  # a number changes up and down
            found.append(Place(path, line, operator, occurrence, f"{words}\0{alike[words]}"))
    return found


def _wanted(operator: str) -> bool:
    """Arithmetic for arithmetic and so on: a float shifted by bits is an error at once, whoever looks."""
    name = operator.removeprefix("core/")
    family, _, change = name.partition("_")
    both = set(change.split("_"))
    if family == "ReplaceBinaryOperator":
        return both <= ARITHMETIC or both <= BITWISE
    if family == "ReplaceComparisonOperator":
        return both <= COMPARISONS or both == {"Is", "IsNot"}
    if family == "ReplaceUnaryOperator":
        return change in UNARY
    return not family.startswith("Variable")


def _definition(node: Any) -> str:
    names = []
    while node is not None:
        if node.type in ("funcdef", "classdef"):
            names.append(node.name.value)
        node = node.parent
    return ".".join(reversed(names))


def _difference(source: list[str], code: list[str]) -> tuple[str, str]:
    """The lines that differ, each side joined."""
    first = next((i for i, (one, other) in enumerate(zip(source, code, strict=False)) if one != other), 0)
    same = 0
    while same < min(len(source), len(code)) - first and source[-1 - same] == code[-1 - same]:
        same += 1
    sides = (lines[first : len(lines) - same] for lines in (source, code))
    before, after = (" ".join(line.strip() for line in side) for side in sides)
    return before, after


# ------------------------------------------------------------------------------------ what is behaviour


def behaviour(code: str) -> str | None:
    """The code without what is none, as text to compare; None where it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # a mutant may call a number
        try:
            return ast.dump(_Behaviour().visit(ast.parse(code)))
        except SyntaxError:
            return None


class _Behaviour(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Docstrings, also those after a field."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """`__all__` and type aliases, which are nothing but names, `[]` and `|`."""
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        alias = names and names[0][:1].isupper() and not names[0].isupper() and _is_type(node.value)
        return None if names == ["__all__"] or alias else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Without the return type; that arguments must be named is for mypy to hold."""
        node.returns = None
        node.args.args = [*node.args.posonlyargs, *node.args.args]
        node.args.posonlyargs = []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """`*` between arguments is no operator: the names and defaults are what counts."""
        named = dict(zip([arg.arg for arg in node.kwonlyargs], node.kw_defaults, strict=True))
        node.args += node.kwonlyargs
        node.defaults += [default for default in named.values() if default is not None]
        node.kwonlyargs, node.kw_defaults = [], []
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST | None:
        """Protocols do nothing; slots, frozen and such of a dataclass are its form."""
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            return None
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name):
                decorator.keywords = [] if decorator.func.id == "dataclass" else decorator.keywords
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`cast` is for mypy, and some keyword arguments are for people."""
        if isinstance(node.func, ast.Name) and node.func.id == "cast":
            node.args = node.args[1:]
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in FOR_PEOPLE]
        return self.generic_visit(node)


def _is_type(node: ast.expr) -> bool:
    parts: Sequence[type[ast.AST]] = (
        ast.BinOp,
        ast.operator,
        ast.Subscript,
        ast.Name,
        ast.expr_context,
        ast.List,
        ast.Tuple,
    )
    return all(isinstance(part, tuple(parts)) for part in ast.walk(node)) and any(
        isinstance(part, ast.Subscript) for part in ast.walk(node)
    )
