"""The verbs about the tracker: deliver to it, check it, show it in a browser; and the export to Optuna.

Introduces ledger, results, tracker and export to each other; knows no worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from .delivery import Subject, check, deliver_pending, finish, follow, hold_lease
from .errors import UserError, VaeSweepError
from .execution.environment import in_spare_time
from .extension import lasting_hash
from .launch.where import Where, open_ledger, tracking_target
from .ledger.store import Ledger
from .records import ENDED, Phase, TrialRecord
from .report.final import final_files
from .results import Results, load_results
from .search.export import HASH, LONGEST_NAME, ExportedSearch, ExportedTrial, export
from .search.samplers import Told
from .stages import METRIC_CURVE, Stages
from .tracking.base import DatasetInfo, Tracker
from .tracking.mlflow_tracker import MlflowTracker, page_of_run, target_of, without_login

Given = Callable[[], Mapping[str, str] | None]

OPTUNA_VARIABLE = "VAE_SWEEP_OPTUNA_URL"
EXPORT_SECONDS = 30.0
"""between two exports of a running sweep"""
LAST_EXPORT_SECONDS = 60.0
"""how long the end of the delivery waits for the last export"""


def connect(where: Where) -> MlflowTracker | None:
    """The tracker in force; None where nothing is tracked."""
    target = tracking_target(where)
    if target is None:
        return None
    where.paths.workdir.mkdir(parents=True, exist_ok=True)
    return MlflowTracker.connect(target, where.paths.mlflow_artifacts)


def load(where: Where) -> None:
    """Loads what `synchronise` needs; touches nothing."""
    target = tracking_target(where)
    if target is not None:
        MlflowTracker.load(target)


def subject_of(results: Results, where: Where) -> Subject:
    """What the tracker is told of a sweep beyond its rows."""
    data = json.loads(results.sweep.study)["data"]
    return Subject(
        sweep=results.sweep.name,
        paths=where.paths,
        describe=results.hyperparameters,
        arm_label=lambda arm: results.arm(arm).label,
        dataset=DatasetInfo(
            name=str(data.get("name") or Path(str(data["path"])).name),
            digest=str(data["sha256"])[:32],
            source=json.dumps({"id": data["id"]}),
            profile=json.dumps({key: data[key] for key in ("kind", "pixels", "images", "form")}),
        ),
        git_commit=_git_commit(),
        study=results.sweep.study,
    )


def synchronise(
    name: str, where: Where, console: Console, *, check: bool, follow: bool, given: Given | None = None
) -> int:
    """`sync`: delivers, or checks, or follows a running sweep. Returns the exit code.

    `given`: what a sweep that was followed ends with, where somebody else makes it.
    """
    tracker = in_spare_time(lambda: connect(where)) if follow else connect(where)
    if tracker is None:
        raise UserError("Nothing is tracked with `--mlflow none`; name a store, or leave the option out.")
    with open_ledger(where, on_away=_note if follow else None) as ledger:
        results = load_results(ledger, name)
        subject = subject_of(results, where)
        if check:
            return _check(ledger, tracker, subject, console)
        if follow:
            with _exporting(name, where):
                return _follow(ledger, tracker, subject, console, given)
        return _deliver(ledger, tracker, subject, console)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _final_files(ledger: Ledger, subject: Subject) -> Mapping[str, str]:
    return final_files(load_results(ledger, subject.sweep), subject.paths)


def _check(ledger: Ledger, tracker: Tracker, subject: Subject, console: Console) -> int:
    differences = check(ledger, tracker, subject)
    for line in differences:
        console.print(escape(line), soft_wrap=True)
    if not differences:
        console.print("MLflow and the ledger agree.")
    return 1 if differences else 0


def _follow(ledger: Ledger, tracker: Tracker, subject: Subject, console: Console, given: Given | None) -> int:
    report = follow(ledger, tracker, subject, final_files=lambda: (given and given()) or _final_files(ledger, subject))
    console.print(f"delivered {report.delivered}, {report.remaining} left")
    return 1 if report.remaining else 0


def _deliver(ledger: Ledger, tracker: Tracker, subject: Subject, console: Console) -> int:
    report = deliver_pending(ledger, tracker, subject)
    for item, why in report.refused.items():
        console.print(escape(f"{item}: {why}"), soft_wrap=True)
    if report.away:
        console.print(escape(f"{report.delivered} delivered, {report.remaining} to go: {report.away}"), soft_wrap=True)
        return 1
    sweep = ledger.sweep(subject.sweep)
    if sweep is not None and sweep.status != "running":
        finish(ledger, tracker, subject, files=_final_files(ledger, subject), metrics={})
    mended = f", {report.mended} of them again: they were no longer as they had been" if report.mended else ""
    console.print(f"{report.delivered} delivered{mended}, {report.remaining} left.", soft_wrap=True)
    return 1 if report.remaining else 0


def export_to_optuna(name: str, where: Where, url: str, given_by: str, console: Console) -> int:
    """`sync --optuna`: copies the searches into an Optuna storage. Returns the exit code."""
    line, complete = _export(name, where, url, given_by)
    console.print(line)
    return 0 if complete else 1


def _export(name: str, where: Where, url: str, given_by: str) -> tuple[str, bool]:
    """What is to be said of an export, and whether all that it should have is there."""
    with open_ledger(where) as ledger, hold_lease(ledger, name, "export") as beat:
        results = load_results(ledger, name)
        searches = _exported(ledger, results, where)
        added = export(url, searches, given_by=given_by, beat=beat)
    over = sum(len(search.trials) for search in searches)
    ended = sum(r.state in ENDED for r in results.records if r.key.phase is Phase.SEARCH)
    line = f"Optuna: {len(searches)} studies, {over} trials, {added} of them new"
    if over < ended:
        line += f"; {ended - over} ended ones wait for those before them, or for their runs in MLflow"
    return line, over == ended or results.sweep.status == "running"


@contextmanager
def _exporting(name: str, where: Where) -> Iterator[None]:
    """Exports now and then, and at the end, when VAE_SWEEP_OPTUNA_URL is set.

    In a thread of its own: a storage that does not answer holds up neither the delivery nor, for long, the end.
    """
    url, over = os.environ.get(OPTUNA_VARIABLE), threading.Event()

    def work() -> None:
        last, said = False, ""
        while url and not last:
            last = over.wait(EXPORT_SECONDS)
            try:
                line, _ = _export(name, where, url, OPTUNA_VARIABLE)
            except VaeSweepError as error:
                line = f"Optuna: {error}"
            if line != said:
                print(line.replace("\n", " "), file=sys.stderr, flush=True)
            said = line

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LAST_EXPORT_SECONDS)


def _exported(ledger: Ledger, results: Results, where: Where) -> list[ExportedSearch]:
    """What may go over now. A tracked sweep's trials wait for their runs: nobody can add a link afterwards."""
    uri = tracking_target(where)
    runs = ledger.deliveries(results.sweep.name, target_of(uri)) if uri else {}
    searches = []
    labels = Counter(arm.label for arm in results.arms)
    lasting = lasting_hash(json.loads(results.sweep.study))
    for arm, replicate in product(results.arms, range(results.study.search.replicates)):
        records = [r for r in results.records if (r.key.arm, r.key.replicate) == (arm.id, replicate)]
        stages, trials = Stages(results.study, arm, replicate, records), list[ExportedTrial]()
        for record in (r for r in records if r.key.phase is Phase.SEARCH):
            told, run = stages.told(record.key.number), runs.get(str(record.key))
            if told is None or (runs and (run is None or run.state != "done")):
                break
            trials.append(_exported_trial(record, told, uri, run.run_id if run else None))
        label = arm.label if labels[arm.label] == 1 else f"{arm.label} {arm.id}"
        name = f"{results.sweep.name}/{label}/{replicate}"
        attributes = {
            HASH: lasting,
            "sweep": results.sweep.name,
            "arm": arm.id,
            "replicate": replicate,
            **{f"arm:{factor}": json.loads(json.dumps(value)) for factor, value in arm.values.items()},
        }
        short = f"{results.sweep.name}/{arm.id}/{replicate}"
        searches.append(
            ExportedSearch(name if len(name) <= LONGEST_NAME else short, attributes, results.study.nuisance, trials)
        )
    return searches


def _exported_trial(record: TrialRecord, told: Told, uri: str | None, run_id: str | None) -> ExportedTrial:
    outcome = record.outcome
    assert outcome is not None, record.key
    attributes = {
        "state": str(record.state),
        "cause": outcome.cause,
        "seed": str(record.seed),  # 63 bits: more than a browser's numbers hold
        "epochs": outcome.epochs,
        "params": json.loads(json.dumps(dict(record.params))),  # Optuna's own are indices where there are choices
        "mlflow_run_id": run_id,
        "mlflow_url": page_of_run(uri, run_id) if uri and run_id else None,
    }
    return ExportedTrial(
        key=str(record.key),
        params=record.params,
        told=told,
        curve=outcome.curves.get(METRIC_CURVE, ()),
        started_at=outcome.started_at,
        ended_at=outcome.ended_at,
        attributes={name: value for name, value in attributes.items() if value is not None},
    )


def serve(where: Where, port: int, console: Console) -> int:
    """`ui`: the MLflow UI on this store, on the loopback address, until Ctrl-C. Returns the exit code."""
    target = tracking_target(where)
    if target is None:
        raise UserError("There is no store to show with `--mlflow none`.")
    if target.startswith(("http://", "https://")):
        console.print(f"MLflow runs at {escape(without_login(target))}")
        return 0
    tracker = connect(where)
    assert tracker is not None
    base = f"http://127.0.0.1:{port}"
    console.print(f"MLflow UI: [bold]{base}[/]  (Ctrl-C ends it)")
    for name, pages in _pages(where, tracker).items():
        console.print(f"  {escape(name)}")
        for title, page in pages.items():
            console.print(f"    {title + ':':22}{base}{page}", soft_wrap=True)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--default-artifact-root", where.paths.mlflow_artifacts.as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    store = {"MLFLOW_BACKEND_STORE_URI": target}  # not in the command, which everybody on this machine can read
    # A session of its own: the server starts processes that must all end with it, whoever is told to stop.
    process = subprocess.Popen(command, env={**os.environ, **quiet, **store}, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _pages(where: Where, tracker: MlflowTracker) -> dict[str, dict[str, str]]:
    """Sweep -> title -> path of the pages that show it."""
    with open_ledger(where) as ledger:
        delivered = [sweep.name for sweep in ledger.sweeps() if ledger.deliveries(sweep.name, tracker.target)]
    return {name: tracker.pages_of(name) for name in delivered}


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
