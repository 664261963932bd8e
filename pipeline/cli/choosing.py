"""The verb that answers "what do I run now": best."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .common import (
    SWEEPS,
    Address,
    AsJson,
    Name,
    Workdir,
    app,
    command,
    escaped,
    make_console,
    open_results,
    workdir_words,
)

if TYPE_CHECKING:
    from ..picking import Pick
    from ..results import Results


@app.command()
def best(
    name: Name,
    rule: Annotated[
        str,
        typer.Option(
            metavar="max|one_se|pareto|robust",
            help="Highest; smallest within one standard error; best trade-off of --objectives; best worst case nearby.",
        ),
    ] = "max",
    where: Annotated[
        list[str] | None, typer.Option(metavar="FACTOR=VALUE", help="Only arms with this scientific value.")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Of the rule pareto: elbo, size, units, rate, distortion, active_units, epochs; default: elbo,size.",
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it as a study file for `train`; - prints that only.")
    ] = None,
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """The configuration to take, why, what taking it gives up, how sure that is, and what to run now."""
    from ..paths import write_atomically
    from ..report.views import best_facts, best_view
    from ..results import export_yaml, single_study

    asked = [part.strip() for part in (objectives or "").split(",") if part.strip()]
    with open_results(name, workdir) as results:
        pick = results.pick(rule, where or [], asked)
    console = make_console()
    text = export_yaml(single_study(results, results.record(str(pick.trial)), f"{name}-best"))
    if export == Path("-"):
        sys.stdout.write(text)
        return
    if export is not None:
        write_atomically(export, text.encode())
    if as_json:
        print(json.dumps(best_facts(results, pick), sort_keys=True))
        return
    console.print(best_view(results, pick))
    again = ["best", name, *([] if rule == "max" else ["--rule", rule]), *_quoted("--objectives", asked)]
    for part in where or []:
        again += _quoted("--where", [part])
    _say_what_now(console, results, pick, again, export, workdir)


def _quoted(option: str, values: list[str]) -> list[str]:
    import shlex

    return [option, shlex.quote(",".join(values))] if values else []


def _say_what_now(
    console: Console, results: Results, pick: Pick, again: list[str], export: Path | None, workdir: Path
) -> None:
    """The commands that a reader wants next."""
    from ..comparison import MANY_REPLICATES
    from ..paths import WorkPaths
    from ..picking import RULES, where_text

    name = results.sweep.name
    place, replicates = workdir_words(workdir), results.study.search.replicates
    redirect = "- > " if "--address" in place else ""
    file = export or Path("best.yaml")
    lines: list[tuple[str, str]] = []
    if export is None:
        lines.append(("as a study file", command(*again, *place, "--export", f"{redirect}{file}")))
    else:
        lines.append(("written to", str(file)))
    lines.append(("train it again", command("train", file)))
    weights = WorkPaths.at(workdir).trial(name, pick.trial) / "model.safetensors"
    if not redirect and weights.exists():
        lines.append(("its weights", str(weights)))
    more = pick.sure.more_replicates
    if pick.sure.verdict == "undecided" and (more or 0) < MANY_REPLICATES:
        many = replicates + (more or max(4, replicates))
        words = ["submit" if "--address" in place else "run", "FILE", "--extend", "--set", f"search.replicates={many}"]
        lines.append(("to be surer", command(*words, *place)))
    others = [point for point in pick.front if not point.taken]
    if others:
        where = _quoted("--where", [where_text(others[0].values)])
        lines.append(("another of these", command("best", name, *where, *place)))
    if pick.rule == "max":
        first, *rest = (rule for rule in RULES if rule != "max")
        line = command(*again[:2], "--rule", first, *again[2:], *place)
        lines.append(("by another rule", f"{line}  (or {', '.join(rest)})"))
    console.print()
    for title, text in lines:
        console.print(f"{title + ':':<18}[bold]{escaped(text)}[/]", soft_wrap=True)
