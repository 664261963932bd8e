"""The verbs about one configuration: best, which answers "what do I run now", and sample."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UserError
from .common import (
    SWEEPS,
    Address,
    AsJson,
    Mlflow,
    Name,
    OwnCode,
    Workdir,
    app,
    command,
    escaped,
    make_console,
    make_where,
    open_results,
    workdir_words,
    write_file,
)

if TYPE_CHECKING:
    from ..picking import Pick
    from ..results import Results
    from ..tracking.model_registry import RegisteredVersion


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
    register: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Register its weights in MLflow, alias `champion`.")
    ] = None,
    code: OwnCode = None,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """The configuration to take, why, what taking it gives up, how sure that is, and what to run now."""
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
        write_file("--export", export, text.encode())
    version = None if register is None else _registered(results, pick, workdir, mlflow, register, code)
    if as_json:
        facts = best_facts(results, pick)
        if version is not None:
            facts["registered"] = {"uri": version.uri, "version": version.version, "run": version.run_id}
        print(json.dumps(facts, sort_keys=True))
        return
    console.print(best_view(results, pick))
    again = ["best", name, *([] if rule == "max" else ["--rule", rule]), *_quoted("--objectives", asked)]
    for part in where or []:
        again += _quoted("--where", [part])
    _say_what_now(console, results, pick, again, export, workdir)
    if version is not None:
        _say_registered(console, version, [*workdir_words(workdir), *(["--mlflow", mlflow] if mlflow else [])])


def _registered(
    results: Results, pick: Pick, workdir: Path, mlflow: str | None, name: str, code: Path | None
) -> RegisteredVersion:
    from ..execution.environment import prepare_process
    from ..models import register

    prepare_process()
    return register(results, results.record(str(pick.trial)), make_where(workdir, tracking=mlflow), name, code)


def _say_registered(console: Console, version: RegisteredVersion, place: list[object]) -> None:
    said = "registered as" if version.is_new else "was registered before as"
    load = f"mlflow.pyfunc.load_model({version.uri!r}) where MLFLOW_TRACKING_URI={version.store}"
    samples = command("sample", version.name, *place, "--out", "grid.png")
    console.print(f"\n{said} {escaped(version.name)} version {version.version}, alias champion")
    for title, text in (("load it", load), ("see samples", samples)):
        console.print(f"{title + ':':<18}[bold]{escaped(text)}[/]", soft_wrap=True)


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


@app.command()
def sample(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A registered NAME or NAME@ALIAS, SWEEP/TRIAL, or `train`'s folder.")
    ],
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=10_000, help="How many pictures.")] = 64,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the grid goes (PNG).")] = Path("grid.png"),
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draw anew; without it from the fixed bank that all runs show.")
    ] = None,
    code: OwnCode = None,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
) -> None:
    """Pictures drawn from a trained model; the first 64 of the fixed bank are those of its run in MLflow."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out must be a .png file, but got {out}.")
    from ..execution.environment import prepare_process
    from ..models import open_model

    prepare_process()
    write_file("--out", out, open_model(model, make_where(workdir, tracking=mlflow), code).picture(count, seed))
    make_console().print(f"{count} samples written to {escaped(str(out))}")
