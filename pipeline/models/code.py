"""The part of this package that a script needs, copied: what travels with a registered model.

Follows imports in the source; imports nothing itself.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path


def copy_code(script: Path, folder: Path) -> Path:
    """Copies what `script` imports of this package, all of it and no more, below `folder`; the package's place."""
    root = Path(__file__).parent.parent
    for file in sorted(_closure(script, root) - {script}):
        target = folder / root.name / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return folder / root.name


def _closure(script: Path, root: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [folder / "__init__.py" for folder in file.parents if folder.is_relative_to(root)]
        if file == root / "__init__.py":
            continue  # what users of the whole package may ask of it, and no model does
        waiting += [module for name in _imports(file, root) if (module := _module(name, root)) is not None]
    return found


def _imports(file: Path, root: Path) -> Iterator[str]:
    """Absolute dotted names of the modules of ours that a file may import, also inside functions."""
    package = (root.name, *file.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _module(name: str, root: Path) -> Path | None:
    top, *parts = name.split(".")
    if top != root.name:
        return None
    place = root.joinpath(*parts)
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
