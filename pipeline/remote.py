"""Sweeps on somebody else's machines: a study sent to a cluster, and verbs that run there.

The driver is a Ray job: it survives whoever sent it. What it needs travels with it: the study file, the data file,
the user's own modules. Ledger, tracker and working directory are those of the cluster's environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from . import __version__
from .config import Study, dump_study, load_study, own_names
from .data.raw import PARTS
from .errors import ExecutionError, SweepConflictError, UserError
from .execution.environment import CLIENT_VERSION, SUBMITTED_TO, prepare_ray
from .launch.where import load_study_data
from .own_code import files_of, is_own
from .results import describe
from .study_file.identity import study_hash
from .study_file.plain import parse_yaml

if TYPE_CHECKING:
    from .execution.jobs import Job, Jobs

WORKDIR = '"${VAE_SWEEP_WORKDIR:-$HOME/vae-sweep}"'
"""where sweeps live on a cluster unless it says otherwise, for its shell"""
MOST_BYTES = 400_000_000
"""what may travel with a job"""
_SWEEP, _QUESTION = "vae_sweep", "vae_sweep_study"
_LOOK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Submitted:
    """A sweep that runs on a cluster."""

    job: str
    sweep: str
    already: bool
    """it ran before this command"""


def jobs_at(address: str) -> Jobs:
    """The jobs of the cluster whose dashboard is at `address`."""
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"--address must be the URL of the Ray head's dashboard, such as http://HEAD:8265, but got {address!r}. "
            "(`run --address HOST:PORT` is for a process that runs on the cluster.)"
        )
    if "@" in address.split("/")[2]:
        raise UserError(
            "--address must be without a login, since commands and the cluster's jobs show it, but one came. Use the "
            "cluster's token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH), or a tunnel: ssh -L 8265:127.0.0.1:8265 HEAD."
        )
    prepare_ray(address)  # before Ray is imported
    from .execution.jobs import Jobs

    return Jobs(address)


def submit(
    file: Path,
    sets: Sequence[str],
    jobs: Jobs,
    *,
    options: Sequence[object] = (),
    include: Sequence[Path] = (),
    runtime_env: Path | None = None,
    workdir: str | None = None,
) -> Submitted:
    """Starts `run` on the cluster as a job, or finds the one that does it already.

    `options`: of `run`. `include`: the user's own modules and folders. `workdir`: on the cluster.
    """
    study = load_study(file, list(sets))
    question = study_hash(describe(study, load_study_data(study)))
    former = [job for job in jobs.all() if job.metadata.get(_SWEEP) == study.name]
    for job in former:
        if not job.over:
            return _joined(job, study, question)
    environment = _read_environment(runtime_env)
    with tempfile.TemporaryDirectory(prefix="vae-sweep-") as name:
        folder = Path(name)
        pack(study, include, folder)
        where = _quoted("--workdir", workdir) if workdir else f"--workdir {WORKDIR}"
        try:
            job_id = jobs.start(
                f"exec python -m pipeline {_quoted('run', 'study.yaml', *options)} {where}",
                job=f"vae-sweep-{study.name}-{len(former) + 1}",
                folder=folder,
                environment={CLIENT_VERSION: __version__, SUBMITTED_TO: jobs.address},
                metadata={_SWEEP: study.name, _QUESTION: question},
                runtime_env=environment,
            )
        except ExecutionError:
            # Somebody may have sent it between our look and our start: Ray takes an id once.
            for job in jobs.all():
                if job.metadata.get(_SWEEP) == study.name and not job.over:
                    return _joined(job, study, question)
            raise
    return Submitted(job_id, study.name, False)


def follow(jobs: Jobs, job: str, write: Callable[[str], None]) -> int:
    """Writes what the driver prints until it ends; its exit code."""
    ended = jobs.follow(job, write)
    if ended.exit_code is None and ended.state != "SUCCEEDED":
        raise ExecutionError(f"Job {job} is {ended.state}: {ended.message.strip()}. Submit the study again to go on.")
    return ended.code


def run_there(jobs: Jobs, words: Sequence[str]) -> int:
    """Runs one verb on the cluster, prints what it prints, and returns its exit code."""
    mark = f"<{uuid4().hex}>"
    where = "" if any(word.startswith("--workdir") for word in words) else f"--workdir {WORKDIR}"
    job = jobs.start(
        f"echo {_quoted(mark)}; exec python -m pipeline {_quoted(*words)} {where}",
        environment={
            CLIENT_VERSION: __version__,
            SUBMITTED_TO: jobs.address,
            "COLUMNS": str(shutil.get_terminal_size((110, 24)).columns),
        },
        metadata={"vae_sweep_verb": words[0]},
    )
    while not (ended := jobs.get(job)).over:
        time.sleep(_LOOK_SECONDS)
    _, _, text = jobs.output(job).partition(f"{mark}\n")  # before it: what Ray says of the job, or in the midst
    text = re.sub(rf"^Running entrypoint for job {job}: .*\n", "", text, flags=re.MULTILINE)
    jobs.forget(job)
    if "No module named pipeline" in text or "python: not found" in text:
        raise ExecutionError(
            f"The environment of the cluster at {jobs.address} must have vae-sweep {__version__}, but it has none. "
            "Install it on the head, or use an image that has it (docs/clusters.md)."
        )
    if not text and ended.code:
        raise ExecutionError(f"`{words[0]}` could not run at {jobs.address}: {ended.message.strip()}")
    if ended.code and words[0] == "status" and (starting := _starting(jobs, words)):
        facts = {"sweep": starting.metadata[_SWEEP], "status": "starting", "job": starting.id, "trials": {}}
        print(json.dumps(facts) if "--json" in words else f"{facts['sweep']}: starting (job {starting.id}).")
        return 0
    (sys.stderr if ended.code and "error:" in text else sys.stdout).write(text)
    return ended.code


def _starting(jobs: Jobs, words: Sequence[str]) -> Job | None:
    """The job that will run the sweep named in `words`, which is not in the ledger yet."""
    return next((job for job in jobs.all() if job.metadata.get(_SWEEP) in words and not job.over), None)


def check_client() -> None:
    """Raises UserError where another version than this one sent the command here."""
    theirs = os.environ.get(CLIENT_VERSION)
    if theirs and theirs != __version__:
        raise UserError(
            f"Client and cluster must have the same version of vae-sweep, but the client has {theirs} and the cluster "
            f"{__version__}. Install one of them on both sides."
        )


def _joined(job: Job, study: Study, question: str) -> Submitted:
    if job.metadata.get(_QUESTION) != question:
        raise SweepConflictError(
            f"A sweep is its name and its question, but '{study.name}' runs on the cluster as job {job.id} and asks "
            "something else. Give this one a name of its own (--set name=...), or stop that one first "
            "(and send this one with --extend, if it only asks for more)."
        )
    return Submitted(job.id, study.name, True)


def pack(study: Study, include: Sequence[Path], folder: Path) -> None:
    """The study, its data file or folder and the user's own code, as the driver will find them in its directory."""
    taken = {"study.yaml", "data", "pipeline"}
    if study.data.path is not None:
        source = Path(study.data.path).expanduser()
        target = folder / "data" / source.name
        target.parent.mkdir()
        _copy_data(source, target)
        data = study.data.model_copy(update={"path": str(target.relative_to(folder))})
        study = study.model_copy(update={"data": data})
    (folder / "study.yaml").write_text(dump_study(study))
    for path in include:
        if not path.exists() or path.name in taken:
            rule = (
                "must exist" if not path.exists() else f"must not be called {', '.join(sorted(taken))}, nor come twice"
            )
            raise UserError(f"--include names a module or folder, which {rule}, but got {str(path)!r}.")
        taken.add(path.name)
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, folder / path.name)
    names = [*own_names(study), *([study.data.name] if study.data.name and is_own(study.data.name) else [])]
    for place, content in files_of(names).items():
        if not (target := folder / place).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise UserError(
            f"At most {MOST_BYTES // 1_000_000} MB can travel with a study, but this one has {size // 1_000_000} MB. "
            "Put the data where all of the cluster's nodes see them, and run `vae-sweep run` there."
        )


def _copy_data(source: Path, target: Path) -> None:
    """A file, or of a folder the images that would be read from it and nothing else."""
    if not source.is_dir():
        shutil.copyfile(source, target)
        return
    from .data.image_files import list_images

    parts = list_images(source)
    for name, files in zip(PARTS if len(parts) > 1 else ("",), parts, strict=True):
        (target / name).mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, target / name / file.name)


def _read_environment(file: Path | None) -> Mapping[str, Any]:
    """Ray's own description of an environment, from a YAML file."""
    if file is None:
        return {}
    try:
        found = parse_yaml(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--runtime-env must be a readable YAML file, but {str(file)!r}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"--runtime-env must be a mapping such as `pip: [...]`, but {str(file)!r} is none.")
    return found


def _quoted(*words: object) -> str:
    from .execution.jobs import quoted

    return quoted(*words)
