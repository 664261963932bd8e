"""`python -m tests.mutation`: draws mutants, holds each against the quickest tests first, says what killed it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .mutants import Mutant, draw
from .server import Server, Verdict

ROOT = Path(__file__).parent.parent.parent
FILES = tuple(
    str(path.relative_to(ROOT))
    for path in (*sorted((ROOT / "pipeline" / "vae").glob("*.py")), ROOT / "pipeline" / "packed" / "optimizers.py")
)
MODEL = ("tests/test_vae.py", "-k", "evaluate or images or step or weights or start or heads or banks or shares")
OWN: Mapping[str, tuple[str, ...]] = {
    "aggregate.py": ("tests/test_bounds.py",),
    "bounds.py": ("tests/test_bounds.py",),
    "functions.py": ("tests/test_vae.py", "tests/test_scales.py"),
    "likelihoods.py": ("tests/test_vae.py", "-k", "likelihood"),
    "metrics.py": ("tests/test_vae.py", "-k", "evaluate or images or sigma or step or units"),
    "model.py": MODEL,
    "networks.py": MODEL,
    "objectives.py": ("tests/test_objectives.py",),
    "optimizers.py": ("tests/test_oracles.py", "-k", "torchs_own or same_bits"),
    "pictures.py": ("tests/test_vae.py", "-k", "grid or pixels"),
    "posterior.py": ("tests/test_posterior.py",),
    "scales.py": ("tests/test_scales.py",),
}
"""the tests beside each file, as pytest takes them; a file without an entry has those of the whole kit"""
NUMERICAL = tuple(
    f"tests/test_{name}.py"
    for name in (
        "vae",
        "scales",
        "posterior",
        "objectives",
        "bounds",
        "step",
        "oracles",
        "divergence",
        "packed",
        "model",
    )
)
ORACLES = ("tests/test_selfcheck.py", "-k", "test_holds")
"""`selfcheck`, one test an oracle"""
ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class Outcome:
    """One mutant and what came of it."""

    name: str
    path: str
    line: int
    operator: str
    before: str
    after: str
    killed_by: str
    seconds: float


def main() -> int:
    """Exit code 1 when fewer than 95% are killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of mutants of the draw, with commas")
    parser.add_argument("--out", type=Path, help="JSON of the outcomes, written after each")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="leave out mutants that --out has killed")
    parser.add_argument("--list", action="store_true", help="print the draw, run nothing")
    given = parser.parse_args()
    mutants = draw(ROOT, FILES, given.count, given.seed)
    if given.only:
        mutants = [one for one in mutants if one.place.name in given.only.split(",")]
    if given.list:
        for one in mutants:
            print(f"{one.place.name} {one.place.path}:{one.place.line}  {one.before}  =>  {one.after}")
        return 0
    os.nice(10)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="vae-sweep-mutants-") as folder:
        known = json.loads(given.out.read_text()) if given.go_on and given.out.exists() else []
        outcomes = _hold(Server(ROOT, Path(folder)), mutants, given.out, known)
        os.chdir(ROOT)
    print(table(outcomes))
    return int(sum(bool(one.killed_by) for one in outcomes) < ENOUGH * len(outcomes))


def _hold(
    server: Server, mutants: Sequence[Mutant], out: Path | None, known: Sequence[Mapping[str, Any]]
) -> list[Outcome]:
    """All mutants before one kind of tests, then those left before the next."""
    verdicts = {one.place.name: Verdict() for one in mutants}
    verdicts |= {one["name"]: Verdict(one["killed_by"], one["seconds"]) for one in known if one["killed_by"]}
    for kind in (_own, _oracles, _others):
        limits: dict[tuple[str, ...], float] = {}
        left = [one for one in mutants if not verdicts[one.place.name].killed_by]
        for number, one in enumerate(left, 1):
            tests = kind(one.place.path)
            if tests not in limits:
                limits[tests] = _limit(server, tests)
            verdict = server.hold(one.place.path, one.code, tests, limits[tests])
            seconds = verdicts[one.place.name].seconds + verdict.seconds
            verdicts[one.place.name] = Verdict(verdict.killed_by, seconds, verdict.passed)
            end = verdict.killed_by or "LIVES"
            where = f"{one.place.path}:{one.place.line}"
            print(f"{kind.__name__[1:]} {number}/{len(left)}  {one.place.name} {where}  {one.after}  {end}")
            if out:
                found = [asdict(_outcome(each, verdicts[each.place.name])) for each in mutants]
                out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return [_outcome(one, verdicts[one.place.name]) for one in mutants]


def _own(path: str) -> tuple[str, ...]:
    return OWN.get(Path(path).name, NUMERICAL)


def _oracles(path: str) -> tuple[str, ...]:
    return ORACLES


def _others(path: str) -> tuple[str, ...]:
    own = _own(path)
    return tuple(name for name in NUMERICAL if name not in own or "-k" in own)


def _limit(server: Server, tests: Sequence[str]) -> float:
    """Ten times what the tests take of the code as it is, and a minute; they must pass on it."""
    began = time.monotonic()
    verdict = server.holds(tests, 3600)
    if verdict.killed_by or not verdict.passed:
        raise SystemExit(f"fails without any mutant: {verdict.killed_by or 'no test'}")
    print(f"{' '.join(tests)}: {verdict.passed} tests, {verdict.seconds:.0f} s")
    return 60 + 10 * (time.monotonic() - began)


def _outcome(mutant: Mutant, verdict: Verdict) -> Outcome:
    place = mutant.place
    return Outcome(
        place.name,
        place.path,
        place.line,
        place.operator.removeprefix("core/"),
        mutant.before,
        mutant.after,
        verdict.killed_by.removeprefix("tests/"),
        round(verdict.seconds, 1),
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Numbers for each file and the survivors, as Markdown."""
    rows = []
    for path in dict.fromkeys(one.path for one in outcomes):
        here = [one for one in outcomes if one.path == path]
        rows.append(f"| `{path.removeprefix('pipeline/')}` | {_shares(here)} |")
    survivors = [_row(one) for one in outcomes if not one.killed_by]
    head = "| file | mutants | own tests | selfcheck | other tests | time-out | killed |\n|---|---|---|---|---|---|---|"
    minutes = sum(one.seconds for one in outcomes) / 60
    return "\n".join(
        [head, *rows, f"| all | {_shares(outcomes)} |", "", f"{minutes:.0f} minutes", "",
         "| survivor | place | operator | before | after |", "|---|---|---|---|---|", *survivors]
    )  # fmt: skip


def _row(one: Outcome) -> str:
    place, sides = f"{one.path.removeprefix('pipeline/')}:{one.line}", (one.before, one.after)
    before, after = (side.replace("|", "\\|") for side in sides)
    return f"| {one.name} | `{place}` | {one.operator} | `{before}` | `{after}` |"


def _shares(outcomes: Sequence[Outcome]) -> str:
    kinds: dict[str, Any] = dict.fromkeys(("own", "selfcheck", "others", "time-out"), 0)
    for one in outcomes:
        if one.killed_by:
            kinds[_kind(one)] += 1
    killed = sum(kinds.values())
    return " | ".join(str(part) for part in (len(outcomes), *kinds.values(), f"{killed / len(outcomes):.1%}"))


def _kind(one: Outcome) -> str:
    if one.killed_by == "time-out":
        return "time-out"
    if one.killed_by.startswith("test_selfcheck.py"):
        return "selfcheck"
    return "own" if f"tests/{one.killed_by}".startswith(_own(one.path)) else "others"
