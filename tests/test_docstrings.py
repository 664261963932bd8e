"""Everything public says what it is; what computes on tensors says their shapes.

Ruff's D1 wants docstrings too; here are the house's conventions that it does not know: tables say what they map, and
tensors have a shape, in the function's own words or in its file's legend.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_architecture import FILES, PACKAGE

SHAPE = re.compile(r"\((?:\.\.\.|[A-Z])[^()]*\)|[Ee]lementwise")
"""(..., B, D), (N, L), (M,)"""
MAPPINGS = re.compile(r"(?:Mapping|dict)\b")
TENSORS = re.compile(r"\b(?:Tensor|NDArray)\b")
VAE = [path for path in FILES if path.parent == PACKAGE / "vae"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes, and the public methods of these, by dotted name."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield owner + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{owner}{node.name}.")


def undescribed(tree: ast.Module) -> list[str]:
    """What is public and has no docstring."""
    names = [name for name, node in definitions(tree.body) if not ast.get_docstring(node)]
    return names if ast.get_docstring(tree) else ["the module", *names]


def silent_tables(tree: ast.Module) -> list[str]:
    """Public mappings without a string below them that says what they map."""
    described: dict[str, bool] = {}
    target: ast.expr
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            target, is_table = node.target, MAPPINGS.search(ast.unparse(node.annotation)) is not None
        elif isinstance(node, ast.Assign):
            target, is_table = node.targets[0], isinstance(node.value, ast.Dict | ast.DictComp)
        else:
            continue
        if is_table and isinstance(target, ast.Name) and not target.id.startswith("_"):
            has_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            described[target.id] = described.get(target.id, False) or has_text
    return [name for name, has_text in described.items() if not has_text]


def tensors_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of the arguments that are tensors or arrays, and `return` for such a result."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    annotations = {one.arg: one.annotation for one in given} | {"return": node.returns}
    words = {name: ast.unparse(kind) for name, kind in annotations.items() if kind is not None}
    return [name for name, kind in words.items() if TENSORS.search(kind) and not kind.startswith("Callable")]


def shapeless(tree: ast.Module) -> list[str]:
    """Public functions on tensors of which nobody says the shapes, or of a function's argument not even the name."""
    legend, found = ast.get_docstring(tree) or "", []
    for name, node in definitions(tree.body):
        if isinstance(node, ast.ClassDef) or not (tensors := tensors_of(node)):
            continue
        text = f"{ast.get_docstring(node) or ''}\n{legend}"
        if not SHAPE.search(text):
            found.append(name)
        elif "." not in name:  # a method's arguments are its protocol's
            found += [f"{name}: {one}" for one in tensors if one != "return" and not re.search(rf"\b{one}\b", text)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_public_is_described(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert undescribed(tree) + silent_tables(tree) == []


@pytest.mark.parametrize("path", VAE, ids=lambda path: path.name)
def test_tensors_have_shapes(path: Path) -> None:
    assert shapeless(ast.parse(path.read_text())) == []


def test_these_tests_can_fail() -> None:
    mute = ast.parse("class A:\n    '''.'''\n    def b(self) -> None: ...\nT: Mapping[str, int] = {}\n_T = {}\nU = {}")
    assert undescribed(mute) == ["the module", "A.b"]
    assert silent_tables(mute) == ["T", "U"]
    f, g = "def f(x: Tensor) -> float:\n    '''Size.'''", "def g(y: Tensor) -> Tensor:\n    '''(N, D).'''"
    assert shapeless(ast.parse(f"{f}\n{g}")) == ["f", "g: y"]
