"""The verbs that train: plan, run, submit, train."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UserError
from ..execution.environment import SUBMITTED_TO, loading
from .common import (
    DEVICES,
    SWEEPS,
    AllowMixed,
    AsJson,
    CheckpointSeconds,
    ClusterAddress,
    Device,
    Extend,
    Hours,
    MaxWorkers,
    Mlflow,
    OwnCode,
    Sets,
    Slots,
    StudyFile,
    Workdir,
    Workers,
    WorkersPerGpu,
    WorkerTimeout,
    app,
    command,
    escaped,
    make_console,
    make_where,
    open_results,
    print_comparison,
    workdir_words,
)

if TYPE_CHECKING:
    from ..launch.sweeping import RunReport
    from ..remote import Submitted


@app.command()
def plan(
    file: StudyFile,
    set_: Sets = None,
    workers: Annotated[
        int, typer.Option(min=1, show_default="one a CPU core", help="Workers that the estimates are for.")
    ] = os.cpu_count() or 1,
) -> None:
    """Check a study file and say what it would do; starts nothing."""
    from ..config import load_study
    from ..launch.where import load_study_data
    from ..launch.workers import AUTOMATIC_SLOTS
    from ..report.views import plan_view

    study = load_study(file, set_ or [])
    make_console().print(plan_view(study, load_study_data(study), workers, AUTOMATIC_SLOTS))


@app.command()
def run(
    file: StudyFile,
    set_: Sets = None,
    workers: Workers = None,
    max_workers: MaxWorkers = None,
    slots: Slots = "auto",
    device: Device = "auto",
    workers_per_gpu: WorkersPerGpu = 1,
    executor: Annotated[
        str,
        typer.Option(
            help="`ray`, `processes` (this machine's cores, without Ray), or `inline` (this process; for debugging)."
        ),
    ] = "ray",
    address: Annotated[str | None, typer.Option(help="HOST:PORT of a Ray cluster, or `auto` on one.")] = None,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    allow_mixed: AllowMixed = False,
    extend: Extend = False,
    hours: Hours = None,
    checkpoint_seconds: CheckpointSeconds = 60.0,
    worker_timeout: WorkerTimeout = 60.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a sweep, or resume what is there; ends with the comparison and the next commands."""
    from ..launch.beside import helpers_of

    _check_choice("--executor", executor, ("ray", "processes", "inline"))
    _check_choice("--device", device, DEVICES)
    _check_place(executor, address, device)
    address = address or os.environ.get("RAY_ADDRESS")
    where = make_where(
        workdir,
        workers=workers or (None if address and executor == "ray" else os.cpu_count() or 1),
        max_workers=max_workers,
        slots=_slots(slots),
        device=device,
        workers_per_gpu=workers_per_gpu,
        executor=executor,
        address=address,
        tracking=mlflow,
        allow_mixed=allow_mixed,
        hours=hours,
        checkpoint_seconds=checkpoint_seconds,
        silence_seconds=worker_timeout,
    )
    console = make_console()
    with helpers_of(where) as helpers:
        with loading():
            from ..launch import sweeping
            from ..report.progress import make_progress
        progress = make_progress(console, quiet)
        report = sweeping.run(file, set_ or [], where, progress, extend=extend, helpers=helpers)
    _say_end(console, report, file, workdir)


def _check_choice(option: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise UserError(f"{option} must be {' or '.join(choices)}, but got {given!r}.")


def _check_place(executor: str, address: str | None, device: str) -> None:
    if executor != "ray" and address:
        raise UserError(
            f"--address is of a Ray cluster, but --executor {executor} trains on this machine: leave one out."
        )
    if executor != "ray" and device == "cuda":
        raise UserError(f"--device cuda takes --executor ray, but got --executor {executor}, which trains on the CPU.")


def _slots(text: str) -> int | None:
    """`auto` is None."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UserError(f"--slots must be auto or a whole number from 1 to 1024, but got {text!r}.")
    return int(text)


def _say_end(console: Console, report: RunReport, file: Path, workdir: Path) -> None:
    from ..records import State

    results, name, place = report.results, report.results.sweep.name, workdir_words(workdir)
    if not report.finished:
        again = "submit it again" if SUBMITTED_TO in os.environ else f"[bold]{command('run', file, *place)}[/]"
        console.print(f"\nStopped with work left. To go on: {again}")
        raise typer.Exit(3)
    missing = bool(report.undelivered or report.lost_delivery)
    if report.already:
        console.print(f"Sweep [bold]{name}[/] is finished{'' if missing else '; nothing to do'}.")
    console.print()
    print_comparison(console, results)
    console.print()
    if missing:
        why = f" ({escaped(report.lost_delivery)})" if report.lost_delivery else ""
        what = f"{report.undelivered} trials are" if report.undelivered else "the end of the sweep is"
        console.print(f"{what} not in MLflow yet{why}: {command('sync', name, *place)}")
    if report.undelivered is not None and SUBMITTED_TO not in os.environ:
        console.print(f"browse the runs:      [bold]{command('ui', *place)}[/]")
    console.print(f"best configuration:   [bold]{command('best', name, *place)}[/]")
    page = "- > report.html" if SUBMITTED_TO in os.environ else "report.html"
    console.print(f"all of it on a page:  [bold]{command('compare', name, *place, '--html', page)}[/]")
    failed = [record for record in results.records if record.state is State.FAILED]
    if failed:
        console.print(f"[red]{len(failed)} trials failed[/]; the first: {command('show', name, failed[0].key, *place)}")
        raise typer.Exit(1)


@app.command()
def submit(
    file: StudyFile,
    address: ClusterAddress,
    set_: Sets = None,
    follow: Annotated[
        bool | None,
        typer.Option(
            "--follow/--no-follow",
            help="Print what it prints, until it ends; default: only of a sweep that runs already.",
            show_default=False,
        ),
    ] = None,
    workers: Workers = None,
    max_workers: MaxWorkers = None,
    slots: Slots = "auto",
    device: Device = "auto",
    workers_per_gpu: WorkersPerGpu = 1,
    mlflow: Mlflow = None,
    allow_mixed: AllowMixed = False,
    extend: Extend = False,
    hours: Hours = None,
    checkpoint_seconds: CheckpointSeconds = 60.0,
    worker_timeout: WorkerTimeout = 60.0,
    include: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Module or folder of yours that the study uses.")
    ] = None,
    runtime_env: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ray runtime environment (YAML) of the job.")
    ] = None,
    workdir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where sweeps live on the cluster; default: as it says.")
    ] = None,
) -> None:
    """Run a sweep on a Ray cluster as a job, which survives this command; or find the one that does it already."""
    from .. import remote

    _check_choice("--device", device, DEVICES)
    options: list[object] = ["--slots", _slots(slots) or "auto", "--device", device]
    options += ["--workers-per-gpu", workers_per_gpu]
    options += ["--workers", workers] if workers else []
    options += ["--max-workers", max_workers] if max_workers else []
    options += ["--mlflow", mlflow] if mlflow else []
    options += ["--allow-mixed"] if allow_mixed else []
    options += ["--extend"] if extend else []
    options += ["--hours", hours] if hours else []
    options += ["--checkpoint-seconds", checkpoint_seconds, "--worker-timeout", worker_timeout]
    jobs = remote.jobs_at(address)
    sent = remote.submit(
        file, set_ or [], jobs, options=options, include=include or [], runtime_env=runtime_env, workdir=workdir
    )
    screen = make_console()
    _say_sent(screen, sent, address)
    if not (sent.already if follow is None else follow):
        return
    try:
        raise typer.Exit(remote.follow(jobs, sent.job, lambda text: print(text, end="", flush=True)))
    except KeyboardInterrupt:
        screen.print("\nNo longer followed; the sweep goes on.")
        raise typer.Exit(130) from None


def _say_sent(screen: Console, sent: Submitted, address: str) -> None:
    there = ["--address", address]
    verb = "runs already" if sent.already else "was submitted"
    screen.print(f"Sweep [bold]{sent.sweep}[/] {verb} as job {sent.job}.")
    screen.print(f"how far it is:        [bold]{command('status', sent.sweep, *there)}[/]", soft_wrap=True)
    screen.print(f"a clean stop:         [bold]{command('stop', sent.sweep, *there)}[/]", soft_wrap=True)


@app.command()
def train(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A file of one configuration.")] = None,
    trial: Annotated[str | None, typer.Option(metavar="NAME/TRIAL", help="A trial of a sweep, again.")] = None,
    set_: Sets = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where pictures, weights and result.json go.")] = None,
    code: OwnCode = None,
    workdir: Workdir = SWEEPS,
    as_json: AsJson = False,
) -> None:
    """Train one configuration: the engine and the numbers of a sweep."""
    from ..config import load_study
    from ..execution.environment import prepare_process
    from ..launch import single
    from ..models import save_card
    from ..report.views import outcome_facts, outcome_view
    from ..results import trial_of

    if (file is None) == (trial is None):
        raise UserError("train takes a FILE or --trial NAME/TRIAL: exactly one of them.")
    if trial is not None and set_:
        raise UserError("--set changes a FILE, and --trial repeats what was trained: take one of them.")
    same: bool | None = None
    if file is not None:
        study = load_study(file, set_ or [])
        outcome, folder, values = single.train_single(study), Path(f"{study.name}-trained"), trial_of(study)[1]
    else:
        name, _, key = str(trial).partition("/")
        with open_results(name, workdir) as results:
            if not key:
                some = f"; such as {name}/{results.records[0].key}" if results.records else ""
                raise UserError(f"--trial takes NAME/TRIAL, but got {trial!r}: which trial of {name}?{some}.")
            record = results.record(key)
            results.admit_code(code)
        prepare_process()  # own code may compute as soon as it is imported
        outcome, study, values = single.train_again(results, record), results.study, results.hyperparameters(record)
        folder = Path(f"{name}-{str(record.key).replace('/', '-')}")
        same = single.same_numbers(outcome, record)
    single.save_outcome(out or folder, outcome)
    save_card(out or folder, study, values)
    if as_json:
        print(json.dumps(outcome_facts(outcome), sort_keys=True))
    else:
        make_console().print(outcome_view(outcome, out or folder, same))
    if outcome.state == "failed":
        raise typer.Exit(1)
