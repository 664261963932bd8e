"""Removing a sweep: from its trackers, then from the ledger, then from the disk; repeated, it finishes what was begun.

Knows no worker. What is in an Optuna storage or a model registry is others' to remove.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .browse import connect, subject_of
from .delivery import sweep_run
from .errors import TrackerError, UserError
from .launch.where import Where, open_ledger, tracking_target
from .ledger.schema import Holder, Role
from .ledger.store import Ledger
from .results import load_results
from .tracking.mlflow_tracker import target_of

ROLES: tuple[Role, ...] = ("driver", "delivery", "export")


@dataclass(frozen=True, slots=True)
class Remains:
    """What there is of a sweep."""

    name: str
    trials: int | None
    """None: it is no longer in the ledger"""
    runs: Mapping[str, int]
    """tracker -> runs that it was given"""
    files: int
    bytes: int
    folder: Path


def find(name: str, where: Where) -> Remains:
    """What `remove` would remove. Raises UserError where there is nothing of that name."""
    with open_ledger(where) as ledger:
        return _find(ledger, name, where)


def remove(name: str, where: Where, *, keep_runs: bool, say: Callable[[str], None]) -> None:
    """Removes a sweep for good, and says each step.

    `keep_runs`: leaves the trackers as they are. Raises UserError where there is nothing of that name or the sweep is
    being worked on; TrackerAway, TrackerError before anything of the ledger and the files is gone.
    """
    with open_ledger(where) as ledger:
        remains = _find(ledger, name, where)
        with _nobody_at_work(ledger, name):
            if remains.runs and not keep_runs:
                _remove_runs(ledger, remains, where, say)
            if remains.trials is not None:
                ledger.delete_sweep(name)
                say(f"the ledger: {_count(remains.trials, 'trial')} removed")
    try:
        for folder in _folders(name, where):
            # Under another name first: half a folder is never taken for a sweep.
            leaving = _leaving(name, where)
            if folder != leaving:
                folder.rename(leaving)
            if leaving.is_symlink():  # the user's own arrangement; what it leads to is not ours to remove
                leaving.unlink()
            else:
                shutil.rmtree(leaving)
    except OSError as error:
        raise UserError(
            f"The files of a sweep must be one's own to remove, but {error.filename}: {error.strerror}. "
            "Correct its permissions, then run the same command again."
        ) from error
    say(f"{remains.folder}: {_count(remains.files, 'file')} removed")


def _find(ledger: Ledger, name: str, where: Where) -> Remains:
    sweep, folders = ledger.sweep(name), _folders(name, where)
    if sweep is None and not folders:
        known = ", ".join(found.name for found in ledger.sweeps()) or "none yet"
        raise UserError(f"No sweep named {name!r} in this working directory; there are: {known}. See --workdir.")
    sizes = [file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()]
    return Remains(
        name=name,
        trials=sum(ledger.counts(name).values()) if sweep else None,
        runs=ledger.targets(name) if sweep else {},
        files=len(sizes),
        bytes=sum(sizes),
        folder=where.paths.sweep(name),
    )


def _folders(name: str, where: Where) -> list[Path]:
    """The sweep's folder and what an interrupted removal left of it. Only a study's folder is one."""
    if Path(name).name != name or name in (".", ".."):
        return []
    found = [_leaving(name, where)] if _leaving(name, where).is_dir() else []
    folder, shared = where.paths.sweep(name), where.paths.mlflow_artifacts
    return found + ([folder] if where.paths.study(name).is_file() and folder != shared else [])


def _leaving(name: str, where: Where) -> Path:
    return where.paths.workdir / f".{name}.removed"


@contextmanager
def _nobody_at_work(ledger: Ledger, name: str) -> Iterator[None]:
    """Holds every role of the sweep. Raises UserError while it runs, LeaseHeldError while it is delivered."""
    lease, now, holder = ledger.lease(name, "driver"), time.time(), Holder.current()
    if lease is not None and lease.is_live(now):
        raise UserError(
            f"A sweep that runs is not deleted, but {name!r} is driven by process {lease.holder.pid} on "
            f"{lease.holder.host}. End it with `vae-sweep stop {name}`, then delete it."
        )
    held: list[Role] = []
    try:
        for role in ROLES:
            ledger.acquire_lease(name, role, holder=holder, now=now)
            held.append(role)
        yield
    finally:
        for role in held:
            ledger.release_lease(name, role, holder)


def _remove_runs(ledger: Ledger, remains: Remains, where: Where, say: Callable[[str], None]) -> None:
    trackers = {target: connect(_at(target, remains.name, where)) for target in remains.runs}
    results = load_results(ledger, remains.name)
    sweep = sweep_run(results.sweep, subject_of(results, where))
    ledger.mark_stale(remains.name)  # should this end half-way and the sweep go on, all is delivered once more
    for target, tracker in trackers.items():
        assert tracker is not None, target
        tracker.discard(sweep)
        say(f"{target}: the experiment {remains.name} is in MLflow's bin; empty that with {purge_command(target)}")


def _at(target: str, name: str, where: Where) -> Where:
    """Where to reach a tracker. Raises TrackerError for one whose login is not known."""
    uri = tracking_target(where)
    if uri is not None and target_of(uri) == target:
        return where
    if "***@" in target:
        raise TrackerError(
            f"Runs are removed wherever they are, but the login of {target} is not known. "
            f"Set MLFLOW_TRACKING_URI to it, or leave the runs of {name!r} there with --keep-mlflow."
        )
    return replace(where, tracking=target.removeprefix("mlflow:"))


def purge_command(target: str) -> str:
    """What empties a tracker's bin."""
    uri = target.removeprefix("mlflow:")
    if uri.startswith(("http://", "https://")):
        return "`mlflow gc` on the server"
    return f"`mlflow gc --backend-store-uri {uri} --tracking-uri {uri}`"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
