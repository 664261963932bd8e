"""What the verbs share: the app, the options that several have, and how they find and print things."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..errors import UserError
from ..execution.environment import SUBMITTED_TO

if TYPE_CHECKING:
    from ..launch.where import Where
    from ..results import Results

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
        metavar="URI|none",
        help="MLflow tracking URI; default: MLFLOW_TRACKING_URI, else the embedded store.",
        callback=lambda uri: refuse_login("--mlflow", uri, MLFLOW_LOGIN),
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Workers to start; default: one a CPU core, or all that a cluster has.")
]
MaxWorkers = Annotated[
    int | None, typer.Option(min=1, help="Use what room a cluster has, also nodes that join later, up to so many.")
]
Slots = Annotated[str, typer.Option(metavar="N|auto", help="Trials a worker trains at once.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What workers train on.")]
WorkersPerGpu = Annotated[int, typer.Option(min=1, max=64, help="Workers that share one GPU.")]
AllowMixed = Annotated[bool, typer.Option(help="Accept workers with another numerics fingerprint.")]
Extend = Annotated[
    bool, typer.Option("--extend", help="Let a sweep that is there ask for more: arms, trials, replicates, repeats.")
]
Hours = Annotated[
    float | None, typer.Option(min=0.0, metavar="H", help="Stop cleanly after so long; the same command goes on.")
]
CheckpointSeconds = Annotated[
    float, typer.Option(min=1.0, metavar="S", help="How often the state of a trial in training is kept.")
]
WorkerTimeout = Annotated[
    float, typer.Option(min=10.0, metavar="S", help="Give up a Ray worker without a sign of life for so long.")
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="VAE_SWEEP_ADDRESS",
        help="Of a Ray head's dashboard, such as http://HEAD:8265: do it there.",
        callback=lambda context, address: run_on_cluster(context, address),
    ),
]
ClusterAddress = Annotated[
    str,
    typer.Option(
        "--address", metavar="URL", envvar="VAE_SWEEP_ADDRESS", help="Of a Ray head's dashboard: http://HEAD:8265."
    ),
]
MLFLOW_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or all of it in MLFLOW_TRACKING_URI"
OwnCode = Annotated[
    Path | None,
    typer.Option("--code", metavar="DIR", help="Folder of your own code, where the sweep or model names some."),
]
SWEEPS = Path("sweeps")
DEVICES = ("auto", "cpu", "cuda")


def escaped(text: str) -> str:
    """Text that rich prints as it is."""
    from rich.markup import escape

    return escape(text)


FILE_WIDTH = 110
"""columns of what goes into a file or pipe, unless COLUMNS says otherwise"""


def make_console() -> Console:
    """Where results go."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else FILE_WIDTH
    return Console(highlight=False, width=wide)


def make_where(workdir: Path, **options: Any) -> Where:
    """Where a sweep runs, from the options of a verb."""
    from ..launch.where import Where
    from ..paths import WorkPaths

    return Where(WorkPaths.at(workdir), **options)


@contextmanager
def open_results(name: str, workdir: Path) -> Iterator[Results]:
    """A sweep as the ledger of `workdir` has it."""
    from ..launch.where import open_ledger
    from ..results import load_results

    with open_ledger(make_where(workdir)) as ledger:
        yield load_results(ledger, name)


def refuse_login(option: str, uri: str | None, remedy: str) -> str | None:
    """`uri` as it came. Raises UserError where it holds a login: every user of a machine can read command lines."""
    if uri is not None and re.search(r"//[^/@\s]*:[^/\s]*@|[?&][^=&]*pass[^=&]*=", uri):
        raise UserError(
            f"{option} must not hold a password, since every user of this machine can read command lines, but one "
            f"came. Put it into the environment: {remedy}."
        )
    return uri


def write_file(option: str, file: Path, content: bytes) -> None:
    """Writes what an option asked for, whole or not at all. Raises UserError where that cannot be."""
    from ..paths import write_atomically

    try:
        write_atomically(file, content)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) if file.name else "it is a folder"
        raise UserError(f"{option} must name a file that can be written, but {str(file)!r}: {why}.") from error


def run_on_cluster(context: typer.Context, address: str | None) -> None:
    """Runs the verb as it was typed on the cluster at `address`, and ends with its exit code."""
    if address is None or context.resilient_parsing:
        return
    from ..remote import jobs_at, run_there

    words = sys.argv[1:]
    for at, word in enumerate(words):
        if word.split("=")[0] == "--address":
            del words[at : at + 1 + ("=" not in word)]
            break
    for word in words:  # they go into the job's command, which the cluster's dashboard shows
        refuse_login(
            "A command for a cluster", word, "on the cluster, where PGPASSFILE and MLFLOW_TRACKING_PASSWORD are"
        )
    raise typer.Exit(run_there(jobs_at(address), words))


def command(*words: object) -> str:
    """A command as the user would type it here."""
    called = Path(sys.argv[0])
    program = "vae-sweep" if shutil.which("vae-sweep") else f"{sys.executable} -m pipeline"
    if called.name == "vae-sweep" and not shutil.which("vae-sweep"):
        program = os.path.relpath(called)
    return " ".join([program, *(str(word) for word in words)])


def workdir_words(workdir: Path) -> list[object]:
    """What a command needs to find the sweep from where its user is."""
    submitted_to = os.environ.get(SUBMITTED_TO)
    if submitted_to:
        return ["--address", submitted_to]
    return [] if workdir == SWEEPS else ["--workdir", workdir]


def print_comparison(console: Console, results: Results) -> None:
    """Table and verdicts."""
    from ..report.comparison import comparison_table
    from ..report.verdicts import verdict_text

    if results.study.question:
        console.print(f"[bold]{escaped(results.study.question)}[/]\n")
    console.print(comparison_table(results.comparison, width=console.width))
    console.print(verdict_text(results.comparison))
