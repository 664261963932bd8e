"""The verbs that look at the program and its surroundings: doctor, selfcheck."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .common import SWEEPS, AsJson, Mlflow, Workdir, app, escaped, make_console, make_where

if TYPE_CHECKING:
    from rich.table import Table

    from ..doctor import Finding
    from ..selfcheck import Examined

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


@app.command()
def doctor(
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|URL",
            help="Of a Ray cluster, or its dashboard's; default: VAE_SWEEP_ADDRESS, RAY_ADDRESS.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="That `ui` is to have.")] = 5000,
    as_json: AsJson = False,
) -> None:
    """Check versions, ports, permissions, disk, memory, servers, logins and leftovers; exit 1 if anything failed."""
    from ..browse import OPTUNA_VARIABLE
    from ..doctor import Scope, diagnose
    from ..launch.where import tracking_target

    where = make_where(workdir, tracking=mlflow)
    found = diagnose(
        Scope(
            paths=where.paths,
            ledger_url=where.ledger_url,
            tracking=tracking_target(where),
            ray_address=address or os.environ.get("VAE_SWEEP_ADDRESS") or os.environ.get("RAY_ADDRESS"),
            optuna_url=os.environ.get(OPTUNA_VARIABLE),
            ui_port=port,
            environment=os.environ,
        )
    )
    if as_json:
        facts = [
            {"check": name, "state": one.level, "found": one.found, "remedy": one.remedy} for name, one in found.items()
        ]
        print(json.dumps(facts))
    else:
        make_console().print(_table(found))
    raise typer.Exit(int(any(one.level == "failed" for one in found.values())))


def _table(found: Mapping[str, Finding]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    for name, one in found.items():
        remedy = f"\n[bold]{escaped(one.remedy)}[/]" if one.remedy else ""
        table.add_row(name, f"[{_COLOURS[one.level]}]{one.level}[/]", escaped(one.found) + remedy)
    return table


@app.command()
def selfcheck(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ORACLE", help="Such as O8; may be given several times.")
    ] = None,
    every_line: Annotated[bool, typer.Option("--all", help="Every comparison, not the nearest to failing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold this program's numbers to closed forms, on this machine, in under a minute; exit 1 if one fails."""
    from ..execution.environment import fingerprint, prepare_process
    from ..execution.selfchecked import note_selfcheck

    prepare_process()
    from ..selfcheck import ORACLES, examine

    if unknown := set(only or ()) - ORACLES.keys():
        raise UserError(f"--only takes {', '.join(ORACLES)}, but got {', '.join(sorted(unknown))}.")
    found = []
    console = make_console()
    for one in examine({name: oracle for name, oracle in ORACLES.items() if not only or name in only}):
        found.append(one)
        if not as_json:
            console.print(_examined(one, every_line))
    if as_json:
        print(json.dumps([_facts(one) for one in found]))
    else:
        held, seconds = sum(one.holds for one in found), sum(one.seconds for one in found)
        console.print(f"\n{held} of {len(found)} oracles hold, in {seconds:.0f} s")
    note_selfcheck(fingerprint("cpu"), {one.name: one.holds for one in found})
    raise typer.Exit(int(not all(one.holds for one in found)))


def _examined(one: Examined, every_line: bool) -> str:
    lines = one.lines if every_line else [one.shown] if one.shown else []
    state = "[green]holds[/]" if one.holds else "[bold red]FAILS[/]"
    text = f"{one.name:4s}{state}  {escaped(one.claim)}"
    for line in lines:
        mark = "" if line.holds else "[bold red]! [/]"
        rule = "" if line.rule == "equal" else f"{line.rule} "
        measured = f"{line.measured:.9g}, expected {rule}{line.expected:.9g} ± {line.tolerance:.1g}"
        text += f"\n           {mark}{escaped(line.what)}: {measured}"
    return text + (f"\n           [bold red]{escaped(one.error)}[/]" if one.error else "")


def _facts(one: Examined) -> dict[str, object]:
    lines = [
        {"what": line.what, "rule": line.rule, "expected": line.expected, "measured": line.measured,
         "tolerance": line.tolerance, "holds": line.holds}
        for line in one.lines
    ]  # fmt: skip
    return {"oracle": one.name, "claim": one.claim, "holds": one.holds, "error": one.error, "lines": lines}
