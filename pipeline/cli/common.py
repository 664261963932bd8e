"""What the verbs share: the app, the options that several have, and how they find and print things."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..execution.environment import SUBMITTED_TO

if TYPE_CHECKING:
    from ..launch import Where
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
        metavar="URI|none", help="MLflow tracking URI; default: MLFLOW_TRACKING_URI, else the embedded store."
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
    from ..launch import Where
    from ..paths import WorkPaths

    return Where(WorkPaths.at(workdir), **options)


@contextmanager
def open_results(name: str, workdir: Path) -> Iterator[Results]:
    """A sweep as the ledger of `workdir` has it."""
    from ..launch import open_ledger
    from ..results import load_results

    with open_ledger(make_where(workdir)) as ledger:
        yield load_results(ledger, name)


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
