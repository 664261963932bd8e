"""Checks of the working directory: who may write it, what was left behind in it, the clock of its disk."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from .base import Finding, Scope, clock_finding
from .machine import existing

MOST_FILES = 20_000
"""so many are looked at"""
_TEMPORARY = re.compile(r"\..+\.[0-9a-z_]{8}")
OLD_SECONDS = 3600.0
"""a temporary file of this age has been left behind"""


def permissions(scope: Scope) -> Finding:
    """Whether files can be made there, are all one's own, and are nobody else's to change; files with passwords too."""
    workdir = scope.paths.workdir
    place = existing(workdir)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding("failed", f"{place} cannot be written: {error.strerror}", "Name another --workdir, or chown it.")
    parts = [_passwords(name, path) for name, path in _password_files(scope)]
    if place == workdir:
        parts += [_open_to_others(workdir), _of_others(workdir)]
    made = f"{place} can be written" if place == workdir else f"{workdir} can be made"
    return Finding.worst([Finding("ok", made), *(part for part in parts if part is not None)])


def _open_to_others(workdir: Path) -> Finding | None:
    checked = [workdir, workdir / "ledger.db", workdir / "mlflow.db"]
    found = [path for path in checked if path.exists() and path.stat().st_mode & stat.S_IWOTH]
    if not found:
        return None
    shown = ", ".join(map(str, found))
    return Finding("warning", f"every user may write {shown}", f"chmod o-w {' '.join(map(str, found))}")


def _of_others(workdir: Path) -> Finding | None:
    mine = os.getuid()
    found = list(islice((path for path, about in _files(workdir) if about.st_uid != mine), 3))
    if not found or mine == 0:
        return None
    remedy = f"Run as their owner, or: chown -R $USER {workdir}"
    return Finding("warning", f"files of other users, such as {', '.join(map(str, found))}", remedy)


def _password_files(scope: Scope) -> Iterator[tuple[str, Path]]:
    for name in ("PGPASSFILE", "RAY_AUTH_TOKEN_PATH"):
        if given := scope.environment.get(name):
            yield name, Path(given).expanduser()


def _passwords(name: str, path: Path) -> Finding | None:
    if not os.access(path, os.R_OK):
        return Finding("failed", f"{path} cannot be read", f"Correct {name}, or the file's permissions.")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        ignored = ", and PostgreSQL's client ignores it therefore" if name == "PGPASSFILE" else ""
        return Finding("failed" if ignored else "warning", f"others may read {path}{ignored}", f"chmod 600 {path}")
    return None


def leftovers(scope: Scope) -> Finding:
    """Folders of an interrupted `delete`, and temporary files whose writer was killed."""
    workdir, now = scope.paths.workdir, scope.clock()
    if not workdir.is_dir():
        return Finding("ok", "nothing yet")
    removed = sorted(path.name[1 : -len(".removed")] for path in workdir.glob(".*.removed"))
    parts = []
    if removed:
        remedy = f"Finish it: vae-sweep delete {removed[0]} --yes --workdir {workdir}"
        parts.append(Finding("warning", f"half deleted: {', '.join(removed[:3])}", remedy))
    old = [
        path
        for path, about in _files(workdir)
        if _TEMPORARY.fullmatch(path.name) and now - about.st_mtime > OLD_SECONDS
    ]
    if old:
        remedy = "While no sweep runs there, remove them: " + f"find {workdir} -name '.*.????????' -mmin +60 -delete"
        parts.append(Finding("warning", f"{len(old)} temporary files, such as {old[0]}", remedy))
    return Finding.worst(parts) if parts else Finding("ok", "none")


def clock(scope: Scope) -> Finding:
    """The clock of the disk against this machine's: a network share has one of its own."""
    place = existing(scope.paths.workdir)
    try:
        with tempfile.NamedTemporaryFile(dir=place) as file:
            theirs, ours = os.fstat(file.fileno()).st_mtime, scope.clock()
    except OSError:
        return Finding("ok", "cannot be told, the working directory cannot be written")
    return clock_finding(theirs, ours, str(place)) or Finding("ok", f"that of {place} agrees")


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What is below `folder`, with what the disk says of it; a file that has just gone is left out."""

    def walk() -> Iterator[tuple[Path, os.stat_result]]:
        for top, folders, files in os.walk(folder):
            for path in (Path(top) / name for name in (*folders, *files)):
                with suppress(FileNotFoundError):
                    yield path, path.lstat()

    return islice(walk(), MOST_FILES)
