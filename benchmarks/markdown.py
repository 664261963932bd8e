"""Prose with made parts: Markdown tables, and blocks from `<!-- generated: NAME -->` to `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

BLOCK = re.compile(r"(?<=<!-- generated: )(?P<name>\S+)(?P<head> -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; `|` in cells is escaped."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """The page with every block's content as `blocks` has it; KeyError where there is none of its name."""
    return BLOCK.sub(lambda found: f"{found['name']}{found['head']}\n{blocks[found['name']]}\n", text)
