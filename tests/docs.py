"""Code blocks of the documentation, for the tests that try them."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str, heading: str = "") -> list[str]:
    """Fenced blocks of a language, of the whole page or below one heading."""
    text = page.read_text()
    if heading:
        text = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Words of every `vae-sweep` or `python -m pipeline` command in a text."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.search(r"(?:vae-sweep|python -m pipeline) ([a-z].*?)(?:`|#|>|&|\||$)", line)
        if found:
            yield found[1].replace('"', "").split()


def shell(folder: Path) -> dict[str, str]:
    """An environment in which `vae-sweep` and `python` are this tree's."""
    programs = folder / "programs"
    programs.mkdir()
    python = shlex.quote(sys.executable)
    for name, words in (("vae-sweep", f"{python} -m pipeline"), ("python", python)):
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
