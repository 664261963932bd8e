"""Runs the studies behind docs/which-sigma.md, and makes the page's tables and figures from what is kept of them.

python -m benchmarks.which_sigma                   the page from docs/which-sigma/*.json; seconds
python -m benchmarks.which_sigma --run             all studies again first; about an hour on two cores
python -m benchmarks.which_sigma --run adam sgd    only these
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..markdown import filled
from .headline import headline
from .studies import QUESTIONS, ROOT
from .summaries import FOLDER, all_kept, condensed
from .tables import Kept, tables

PAGE = ROOT / "docs" / "which-sigma.md"


def verb(*words: str) -> str:
    """The output of one `vae-sweep` command; CalledProcessError where it fails."""
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(name: str, workdir: Path, extra: Sequence[str]) -> None:
    """One study to its end (or on from where it was), and what is kept of it."""
    verb("run", *QUESTIONS[name].words(name), "--workdir", str(workdir), "--mlflow", "none", *extra)
    text = verb("compare", f"which-sigma-{name}", "--json", "--workdir", str(workdir))
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(condensed(name, text))
    print(f"kept: {name}", flush=True)


def parts(kept: Kept) -> dict[str, str]:
    """Every made part of the page, by its name."""
    return {"headline": headline(kept), **tables(kept)}


def write_page() -> None:
    """Tables and figures of the page."""
    from .figures import figures  # takes matplotlib, which runs do not need

    kept = all_kept()
    for path, content in figures(kept).items():
        path.write_bytes(content)
    PAGE.write_text(filled(PAGE.read_text(), parts(kept)))
    print(f"written: {PAGE.relative_to(ROOT)}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The studies behind docs/which-sigma.md, and the page.")
    parser.add_argument("--run", nargs="*", metavar="STUDY", help="run these first (none named: all)")
    parser.add_argument("--workdir", type=Path, default=ROOT / "sweeps")
    parser.add_argument("--workers", help="as vae-sweep run has it")
    options = parser.parse_args()
    names = [] if options.run is None else options.run or list(QUESTIONS)
    if unknown := set(names) - QUESTIONS.keys():
        parser.error(f"no study is called {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    for name in names:
        run(name, options.workdir, ("--workers", options.workers) if options.workers else ())
    missing = [name for name in QUESTIONS if not (FOLDER / f"{name}.json").exists()]
    if missing:
        print(f"no page yet: nothing is kept of {', '.join(missing)}")
    else:
        write_page()


if __name__ == "__main__":
    main()
