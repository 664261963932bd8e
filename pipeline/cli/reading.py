"""The verbs about what there is: list, status, show, stop, compare, ui, sync."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from ..execution.environment import in_spare_time, loading
from .common import (
    SWEEPS,
    Address,
    AsJson,
    Mlflow,
    Name,
    Workdir,
    app,
    command,
    escaped,
    make_console,
    make_where,
    open_results,
    print_comparison,
    refuse_login,
    workdir_words,
    write_file,
)

if TYPE_CHECKING:
    from ..browse import Given
    from ..launch.where import Where
    from ..results import Results


@app.command("list")
def list_(workdir: Workdir = SWEEPS, as_json: AsJson = False, address: Address = None) -> None:
    """The sweeps of a working directory."""
    from ..launch.where import open_ledger
    from ..records import ENDED
    from ..report.tables import SweepLine, list_table
    from ..results import asked
    from ..space import trial_counts

    with open_ledger(make_where(workdir)) as ledger:
        lines = []
        for sweep in ledger.sweeps():
            _, study = asked(sweep)
            done = sum(n for (_, _, state), n in ledger.counts(sweep.name).items() if state in ENDED)
            total = trial_counts(study).total
            lines.append(SweepLine(sweep.name, _standing(ledger, sweep), sweep.created_at, done, total, study.question))
    if as_json:
        fields = ("name", "status", "created_at", "done", "total", "question")
        print(json.dumps([{field: getattr(line, field) for field in fields} for line in lines]))
    else:
        make_console().print(list_table(lines))


def _standing(ledger: Any, sweep: Any) -> str:
    """The sweep's status; a running one without a live driver is interrupted."""
    if sweep.status != "running":
        return str(sweep.status)
    lease = ledger.lease(sweep.name, "driver")
    return "running" if lease is not None and lease.is_live(time.time()) else "interrupted"


@app.command()
def status(name: Name, workdir: Workdir = SWEEPS, as_json: AsJson = False, address: Address = None) -> None:
    """How far a sweep is."""
    from ..launch.where import open_ledger
    from ..report.views import status_facts, status_view
    from ..results import load_results

    with open_ledger(make_where(workdir)) as ledger:
        results = load_results(ledger, name)
        facts = status_facts(results, _standing(ledger, results.sweep))
    if as_json:
        print(json.dumps(facts, sort_keys=True))
    else:
        make_console().print(status_view(results, facts))


@app.command()
def show(
    name: Name,
    trial: Annotated[
        str | None, typer.Argument(help="ARM/REPLICATE/PHASE/NUMBER, or the beginning of it; without it, all trials.")
    ] = None,
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """One trial: configuration, seed, curve, how it ended, and the command that trains it alone; or a list of all."""
    from ..report.tables import trial_view
    from ..report.views import trial_facts

    with open_results(name, workdir) as results:
        if trial is None:
            _show_all(results, as_json)
            return
        record = results.record(trial)
    if as_json:
        print(json.dumps(trial_facts(results, record), sort_keys=True))
        return
    own = ["--code", "FOLDER"] if results.own_code else []
    alone = command("train", "--trial", f"{name}/{record.key}", *own, *workdir_words(workdir))
    label = results.arm(record.key.arm).label
    console = make_console()
    console.print(trial_view(record, label=label, hyperparameters=results.hyperparameters(record), command=alone))
    for file in record.files:
        from ..paths import WorkPaths

        console.print(f"[dim]file:[/]  {escaped(str(WorkPaths.at(workdir).trial(name, record.key) / file))}")


def _show_all(results: Results, as_json: bool) -> None:
    from ..report.tables import trials_table
    from ..report.views import trial_facts

    if as_json:
        print(json.dumps([trial_facts(results, record) for record in results.records], sort_keys=True))
        return
    labels = {arm.id: arm.label for arm in results.arms}
    make_console().print(trials_table(results.records, labels=labels, metric=results.study.search.metric))


@app.command()
def stop(name: Name, workdir: Workdir = SWEEPS, address: Address = None) -> None:
    """Ask a running sweep to stop cleanly; `run` goes on later."""
    from ..launch.where import open_ledger
    from ..results import load_results

    with open_ledger(make_where(workdir)) as ledger:
        sweep = load_results(ledger, name).sweep
        standing = _standing(ledger, sweep)
        if standing != "running":
            make_console().print(f"Sweep {name} is {standing}; there is nothing to stop.")
            return
        ledger.update_sweep(name, stop_requested=True)
    make_console().print(f"Sweep {name} will stop within seconds; unfinished trials are trained again on resume.")


@app.command()
def compare(
    name: Name,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Also every pair of arms that is matched.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Each arm against the same one of another sweep instead.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report page too; - prints that only.")
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Also what else was measured on test images.")] = False,
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """The comparison of all arms; provisional while the sweep runs."""
    from ..comparison import to_json

    if against is not None and (all_pairs or html or metrics):
        raise UserError("compare takes --against OTHER without --all-pairs, --html and --metrics: run it twice.")
    with open_results(name, workdir) as results:
        if against is not None:
            _compare_with(results, against, workdir, as_json)
            return
        found = results.every_pair() if all_pairs else results.comparison
        page = _page(results, workdir) if html is not None else ""
    if html == Path("-"):
        sys.stdout.write(page)
        return
    if html is not None:  # before anything is printed: it may not be possible
        write_file("--html", html, page.encode())
    if as_json:
        sys.stdout.write(to_json(found))
    else:
        console = make_console()
        print_comparison(console, results)
        if all_pairs:
            from ..report.comparison import pairs_table

            console.print(pairs_table(found, console.width))
        if metrics:
            _print_further(console, found)
    if html is not None and not as_json:
        make_console().print(f"\nreport: {escaped(str(html.resolve()))}", soft_wrap=True)


def _compare_with(results: Any, other: str, workdir: Path, as_json: bool) -> None:
    from ..comparison import to_json
    from ..report.comparison import against_table
    from ..report.verdicts import verdict_text

    with open_results(other, workdir) as others:
        found = results.against(others)
    if as_json:
        sys.stdout.write(to_json(found))
        return
    console = make_console()
    console.print(against_table(found, console.width))
    console.print(verdict_text(found))


def _print_further(console: Any, comparison: Any) -> None:
    from ..report.further import further_text

    tables = further_text(comparison)
    for table in tables:
        console.print()
        console.print(table)
    if not tables:
        console.print("\nThe repeats have recorded no further test metrics.")


def _page(results: Results, workdir: Path) -> str:
    from ..paths import WorkPaths
    from ..report.page import report_page

    return report_page(results, WorkPaths.at(workdir))


@app.command()
def ui(
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens, on 127.0.0.1.")] = 5000,
) -> None:
    """The MLflow UI on this store, for this machine only."""
    from ..browse import serve

    raise typer.Exit(serve(make_where(workdir, tracking=mlflow), port, make_console()))


@app.command()
def sync(
    name: Name,
    check: Annotated[bool, typer.Option("--check", help="Print differences only; exit 1 if there are any.")] = False,
    follow: Annotated[bool, typer.Option(help="Go on until the sweep has ended and all is delivered.")] = False,
    optuna: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Copy the searches to an Optuna storage.",
            callback=lambda url: refuse_login("--optuna", url, "PGPASSWORD, or a file that PGPASSFILE names"),
        ),
    ] = None,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    address: Address = None,
) -> None:
    """Deliver what MLflow has not got yet, or copy the searches to an Optuna storage."""
    if optuna is not None and (check or follow):
        raise UserError("sync takes --optuna URL alone: run it without --check and --follow.")
    where, screen = make_where(workdir, tracking=mlflow), make_console()
    given: Given | None = None
    if follow:
        name, given = _load_beside_a_sweep(name, where)
    from ..browse import export_to_optuna, synchronise

    if optuna is not None:
        raise typer.Exit(export_to_optuna(name, where, optuna, "--optuna", screen))
    raise typer.Exit(synchronise(name, where, screen, check=check, follow=follow, given=given))


def _load_beside_a_sweep(name: str, where: Where) -> tuple[str, Given | None]:
    """Loads in the time that a sweep's start leaves; the sweep, which may be named only now, and what it ends with."""
    from ..launch.beside import NOT_TOLD, files_told, told

    def load() -> None:
        with loading():
            from .. import browse

            browse.load(where)

    if name != NOT_TOLD:
        in_spare_time(load)
        return name, None
    try:
        in_spare_time(load)
    finally:
        name = told(where)
    if not name:
        raise typer.Exit
    return name, files_told
