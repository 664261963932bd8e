"""The verb that removes: delete."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..errors import TrackerAway
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
    workdir_words,
)


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it only says what would be removed.")] = False,
    keep_mlflow: Annotated[bool, typer.Option("--keep-mlflow", help="Leave the runs in MLflow.")] = False,
    workdir: Workdir = SWEEPS,
    mlflow: Mlflow = None,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Remove a sweep: its runs in MLflow, its trials in the ledger, its files."""
    from .. import removal

    where, screen = make_where(workdir, tracking=mlflow), make_console()
    keep = keep_mlflow or mlflow == "none"
    remains = removal.find(name, where)
    if yes:
        say = (lambda _: None) if as_json else (lambda line: screen.print(escaped(line), soft_wrap=True))
        try:
            removal.remove(name, where, keep_runs=keep, say=say)
        except TrackerAway as error:
            remedy = "Try later, or leave the runs where they are with --keep-mlflow."
            raise TrackerAway(f"{error} Ledger and files are as they were. {remedy}") from error
    if as_json:
        facts = {"sweep": name, "trials": remains.trials, "runs": dict(remains.runs), "files": remains.files}
        print(json.dumps({**facts, "bytes": remains.bytes, "removed": yes}, sort_keys=True))
    if yes or as_json:
        return
    lines = [] if remains.trials is None else [f"ledger   {remains.trials:,} trials"]
    for target, runs in remains.runs.items():
        lines.append(f"MLflow   {runs:,} runs at {target}{' (they stay)' if keep else ''}")
    lines.append(f"files    {remains.files:,} with {remains.bytes / 1e6:,.1f} MB in {remains.folder}")
    screen.print(f"Of sweep [bold]{escaped(name)}[/] would be removed:")
    for line in lines:
        screen.print(f"  {escaped(line)}", soft_wrap=True)
    screen.print("Left as they are: registered models, exports to Optuna storages.")
    words = ["delete", name, *workdir_words(workdir), *(["--mlflow", mlflow] if mlflow else [])]
    words += ["--keep-mlflow"] if keep_mlflow else []
    screen.print(f"to do it: [bold]{escaped(command(*words, '--yes'))}[/]", soft_wrap=True)
