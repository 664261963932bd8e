"""The import arrows, the one place of each heavy library, and the house's sizes."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"
FILES = sorted(PACKAGE.rglob("*.py"))
WORDS = {"records", "errors", "paths", "own_code"}
KITS = {
    "vae": set(),
    "data": set(),
    "packed": {"vae", "data"},
    "execution": {"packed", "data"},
    "tracking": set(),
    "ledger": set(),
    "doctor": {"execution", "ledger", "tracking"},
    "serving": {"vae", "data", "packed"},
    "selfcheck": {"vae", "data", "packed"},
}
"""kit -> the kits it may import"""
HOMES = {
    "ray": {"execution/ray_pool.py", "execution/ray_cluster.py", "execution/jobs.py"},
    "optuna": {"search/domains.py", "search/samplers.py", "search/export.py", "search/importance.py"},
    "mlflow": {"tracking/mlflow_tracker.py", "tracking/model_registry.py", "serving/mlflow_script.py"},
    "sqlalchemy": {"ledger/database.py", "ledger/store.py"},
    "sklearn": {"data/bundled.py", "data/openml.py"},
    "scipy": {"comparison/intervals.py", "analysis/sensitivity.py"},
    "opda": {"analysis/tuning.py"},
    "plotly": {"report/drawing.py", "report/figures.py", "report/further_figures.py", "report/gallery.py"},
    "jinja2": {"report/page.py"},
    "pandas": {"frames.py"},
    "safetensors": {"packed/checkpoint.py", "packed/finish.py", "serving/model.py"},
    "PIL": {"data/image_files.py", "vae/pictures.py", "tracking/mlflow_views.py"},
    "typer": {
        "cli/choosing.py",
        "cli/common.py",
        "cli/doctoring.py",
        "cli/launching.py",
        "cli/reading.py",
        "cli/removing.py",
    },
}
SCRIPTS = {"serving/mlflow_script.py"}
"""run by others, imported by nobody"""
MAX_SPINE_FILES = 12


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names of all that a file imports, also inside functions."""
    package = ("pipeline", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module,) if node.module else (f"{module}.{alias.name}" for alias in node.names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_kits_do_not_know_the_spine(path: Path) -> None:
    kit = path.relative_to(PACKAGE).parts[0]
    if kit not in KITS:
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("pipeline.")}
    assert ours <= WORDS | {kit} | KITS[kit] | {"__version__"}, path


@pytest.mark.parametrize("library", HOMES)
def test_each_heavy_library_has_one_home(library: str) -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.split(".")[0] == library for n in imports(p))}
    assert users <= HOMES[library], users - HOMES[library]


def test_torch_stays_in_the_kits() -> None:
    users = {p.relative_to(PACKAGE).parts[0] for p in FILES if any(n.split(".")[0] == "torch" for n in imports(p))}
    assert users == {"vae", "packed", "execution", "serving", "selfcheck"}


def test_sizes() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    assert {path: n for path, n in lines.items() if n > 450} == {}
    assert statistics.median(lines.values()) <= 200
    spine = [p for p in FILES if p.parent == PACKAGE and p.stem not in WORDS | {"__init__", "__main__"}]
    assert len(spine) <= MAX_SPINE_FILES, [p.name for p in spine]


def test_functions_are_short_and_modules_described() -> None:
    lengths = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
    assert statistics.quantiles(lengths, n=10)[-1] <= 40
    assert max(lengths) <= 70


def test_nothing_is_printed_or_set_at_import() -> None:
    for path in (path for path in FILES if str(path.relative_to(PACKAGE)) not in SCRIPTS):
        for node in ast.parse(path.read_text()).body:
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not called, f"{path}:{node.lineno}"
