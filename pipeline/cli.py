"""The verbs of `vae-sweep`: each parses, calls, and prints.

Imports nothing heavy at the top: `vae-sweep --help` must answer at once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .errors import UserError, VaeSweepError

if TYPE_CHECKING:
    from .launch import RunReport, Where
    from .results import Results

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Fair, fast and reproducible hyperparameter sweeps of variational autoencoders.",
)

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a sweep; `vae-sweep list` shows them.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a value of the study file.")]
Workdir = Annotated[Path, typer.Option(envvar="VAE_SWEEP_WORKDIR", help="Where sweeps live.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Mlflow = Annotated[
    str | None,
    typer.Option(
        metavar="URI|none", help="MLflow tracking URI; default: MLFLOW_TRACKING_URI, else the embedded store."
    ),
]
SWEEPS = Path("sweeps")


def main() -> None:
    """Entry point: errors become one message and an exit code, never a traceback."""
    try:
        app()
    except VaeSweepError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


FILE_WIDTH = 110
"""columns of what goes into a file or pipe, unless COLUMNS says otherwise"""


def _console() -> Console:
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH
    return Console(highlight=False, width=wide)


def _where(workdir: Path, **options: Any) -> Where:
    from .launch import Where
    from .paths import WorkPaths

    return Where(WorkPaths.at(workdir), **options)


@contextmanager
def _results(name: str, workdir: Path) -> Iterator[Results]:
    from .launch import open_ledger
    from .results import load_results

    with open_ledger(_where(workdir)) as ledger:
        yield load_results(ledger, name)


def _command(*words: object) -> str:
    """A command as the user would type it here."""
    called = Path(sys.argv[0])
    program = "vae-sweep" if shutil.which("vae-sweep") else f"{sys.executable} -m pipeline"
    if called.name == "vae-sweep" and not shutil.which("vae-sweep"):
        program = os.path.relpath(called)
    return " ".join([program, *(str(word) for word in words)])


def _workdir_words(workdir: Path) -> list[object]:
    return [] if workdir == SWEEPS else ["--workdir", workdir]


@app.command()
def plan(
    file: StudyFile, set_: Sets = None, workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1
) -> None:
    """Check a study file and say what it would do; starts nothing."""
    from .config import load_study
    from .launch import AUTOMATIC_SLOTS, load_study_data
    from .report.views import plan_view

    study = load_study(file, set_ or [])
    _console().print(plan_view(study, load_study_data(study), workers, AUTOMATIC_SLOTS))


@app.command()
def run(
    file: StudyFile,
    set_: Sets = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers; default: one a CPU core.")] = None,
    slots: Annotated[str, typer.Option(metavar="N|auto", help="Trials a worker trains at once.")] = "auto",
    executor: Annotated[str, typer.Option(help="`ray`, or `inline` (this process; for debugging).")] = "ray",
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    allow_mixed: Annotated[bool, typer.Option(help="Accept workers with another numerics fingerprint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a sweep, or resume what is there; ends with the comparison and the next commands."""
    from . import launch
    from .report.progress import make_progress

    if executor not in ("ray", "inline"):
        raise UserError(f"--executor must be ray or inline, but got {executor!r}.")
    where = _where(
        workdir,
        workers=workers or os.cpu_count() or 1,
        slots=_slots(slots),
        executor=executor,
        address=address or os.environ.get("RAY_ADDRESS"),
        tracking=mlflow,
        allow_mixed=allow_mixed,
    )
    console = _console()
    report = launch.run(file, set_ or [], where, make_progress(console, quiet))
    _say_end(console, report, file, workdir)


def _slots(text: str) -> int | None:
    """`auto` is None."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UserError(f"--slots must be auto or a whole number from 1 to 1024, but got {text!r}.")
    return int(text)


def _say_end(console: Console, report: RunReport, file: Path, workdir: Path) -> None:
    from .records import State

    results, name, place = report.results, report.results.sweep.name, _workdir_words(workdir)
    if not report.finished:
        console.print(f"\nStopped with work left. To go on: [bold]{_command('run', file, *place)}[/]")
        raise typer.Exit(3)
    if report.already:
        console.print(f"Sweep [bold]{name}[/] is finished; nothing to do.")
    console.print()
    _print_comparison(console, results)
    console.print()
    if report.undelivered:
        why = f" ({report.lost_delivery})" if report.lost_delivery else ""
        console.print(f"{report.undelivered} trials are not in MLflow yet{why}: {_command('sync', name, *place)}")
    if report.undelivered is not None:
        console.print(f"browse the runs:      [bold]{_command('ui', *place)}[/]")
    console.print(f"best configuration:   [bold]{_command('best', name, *place)}[/]")
    failed = [record for record in results.records if record.state is State.FAILED]
    if failed:
        console.print(
            f"[red]{len(failed)} trials failed[/]; the first: {_command('show', name, failed[0].key, *place)}"
        )
        raise typer.Exit(1)


def _print_comparison(console: Console, results: Results) -> None:
    from .report.tables import comparison_table, verdict_text

    if results.study.question:
        console.print(f"[bold]{_escaped(results.study.question)}[/]\n")
    console.print(comparison_table(results.comparison, width=console.width))
    console.print(verdict_text(results.comparison))


@app.command("list")
def list_(workdir: Workdir = SWEEPS, as_json: AsJson = False) -> None:
    """The sweeps of a working directory."""
    from .config import study_of
    from .launch import open_ledger
    from .records import ENDED
    from .report.tables import SweepLine, list_table
    from .space import trial_counts

    with open_ledger(_where(workdir)) as ledger:
        lines = []
        for sweep in ledger.sweeps():
            study = study_of(json.loads(sweep.study))
            done = sum(n for (_, _, state), n in ledger.counts(sweep.name).items() if state in ENDED)
            total = trial_counts(study).total
            lines.append(SweepLine(sweep.name, _standing(ledger, sweep), sweep.created_at, done, total, study.question))
    if as_json:
        fields = ("name", "status", "created_at", "done", "total", "question")
        print(json.dumps([{field: getattr(line, field) for field in fields} for line in lines]))
    else:
        _console().print(list_table(lines))


def _standing(ledger: Any, sweep: Any) -> str:
    """The sweep's status; a running one without a live driver is interrupted."""
    if sweep.status != "running":
        return str(sweep.status)
    lease = ledger.lease(sweep.name, "driver")
    return "running" if lease is not None and lease.is_live(time.time()) else "interrupted"


@app.command()
def status(name: Name, workdir: Workdir = SWEEPS, as_json: AsJson = False) -> None:
    """How far a sweep is."""
    from .launch import open_ledger
    from .report.views import status_facts, status_view
    from .results import load_results

    with open_ledger(_where(workdir)) as ledger:
        results = load_results(ledger, name)
        facts = status_facts(results, _standing(ledger, results.sweep))
    if as_json:
        print(json.dumps(facts, sort_keys=True))
    else:
        _console().print(status_view(results, facts))


@app.command()
def show(
    name: Name,
    trial: Annotated[str, typer.Argument(help="ARM/REPLICATE/PHASE/NUMBER, or the beginning of it.")],
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
) -> None:
    """One trial: configuration, seed, curve, how it ended, and the command that trains it alone."""
    from .report.tables import trial_view
    from .report.views import trial_facts

    with _results(name, workdir) as results:
        record = results.record(trial)
    if as_json:
        print(json.dumps(trial_facts(results, record), sort_keys=True))
        return
    alone = _command("train", "--trial", f"{name}/{record.key}", *_workdir_words(workdir))
    label = results.arm(record.key.arm).label
    console = _console()
    console.print(trial_view(record, label=label, hyperparameters=results.hyperparameters(record), command=alone))
    for file in record.files:
        from .paths import WorkPaths

        console.print(f"[dim]file:[/]  {_escaped(str(WorkPaths.at(workdir).trial(name, record.key) / file))}")


@app.command()
def stop(name: Name, workdir: Workdir = SWEEPS) -> None:
    """Ask a running sweep to stop cleanly; `run` goes on later."""
    from .launch import open_ledger
    from .results import load_results

    with open_ledger(_where(workdir)) as ledger:
        sweep = load_results(ledger, name).sweep
        standing = _standing(ledger, sweep)
        if standing != "running":
            _console().print(f"Sweep {name} is {standing}; there is nothing to stop.")
            return
        ledger.update_sweep(name, stop_requested=True)
    _console().print(f"Sweep {name} will stop within seconds; unfinished trials are trained again on resume.")


@app.command()
def compare(name: Name, workdir: Workdir = SWEEPS, as_json: AsJson = False) -> None:
    """The comparison of all arms; provisional while the sweep runs."""
    from .comparison import to_json

    with _results(name, workdir) as results:
        if as_json:
            sys.stdout.write(to_json(results.comparison))
        else:
            _print_comparison(_console(), results)


@app.command()
def best(
    name: Name,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a study file for `train`.")] = None,
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
) -> None:
    """The configuration to take, why, and what taking it gives up."""
    from .paths import write_atomically
    from .report.views import best_facts, best_view
    from .results import export_yaml, single_study

    with _results(name, workdir) as results:
        pick = results.pick()
    console = _console()
    if as_json:
        print(json.dumps(best_facts(results, pick), sort_keys=True))
    else:
        console.print(best_view(results, pick))
    if export is not None:
        study = single_study(results, results.record(str(pick.trial)), f"{name}-best")
        write_atomically(export, export_yaml(study).encode())
        if not as_json:
            console.print(f"\nwritten to {_escaped(str(export))}; train it: [bold]{_command('train', export)}[/]")
    elif not as_json:
        console.print(f"\nas a study file: [bold]{_command('best', name, '--export', 'best.yaml')}[/]")


@app.command()
def train(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A file of one configuration.")] = None,
    trial: Annotated[str | None, typer.Option(metavar="NAME/TRIAL", help="A trial of a sweep, again.")] = None,
    set_: Sets = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where pictures, weights and result.json go.")] = None,
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
) -> None:
    """Train one configuration: the engine and the numbers of a sweep."""
    from . import launch
    from .config import load_study
    from .report.views import outcome_facts, outcome_view

    if (file is None) == (trial is None):
        raise UserError("train takes a FILE or --trial NAME/TRIAL: exactly one of them.")
    same: bool | None = None
    if file is not None:
        study = load_study(file, set_ or [])
        outcome, folder = launch.train_single(study), Path(f"{study.name}-trained")
    else:
        name, _, key = str(trial).partition("/")
        with _results(name, workdir) as results:
            record = results.record(key)
        outcome = launch.train_again(results, record)
        folder = Path(f"{name}-{str(record.key).replace('/', '-')}")
        same = launch.same_numbers(outcome, record)
    launch.save_outcome(out or folder, outcome)
    if as_json:
        print(json.dumps(outcome_facts(outcome), sort_keys=True))
    else:
        _console().print(outcome_view(outcome, out or folder, same))
    if outcome.state == "failed":
        raise typer.Exit(1)


@app.command()
def ui(
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """The MLflow UI on this store, for this machine only."""
    from .browse import serve

    raise typer.Exit(serve(_where(workdir, tracking=mlflow), port, _console()))


@app.command()
def sync(
    name: Name,
    check: Annotated[bool, typer.Option("--check", help="Print differences only; exit 1 if there are any.")] = False,
    follow: Annotated[bool, typer.Option(help="Go on until the sweep has ended and all is delivered.")] = False,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
) -> None:
    """Deliver what MLflow has not got yet."""
    from .browse import synchronise

    raise typer.Exit(synchronise(name, _where(workdir, tracking=mlflow), _console(), check=check, follow=follow))
