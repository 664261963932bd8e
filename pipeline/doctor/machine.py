"""Checks of this machine: versions, numerics, ports, memory, disk. Knows no server."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from .base import Finding, Scope

SHOWN = ("torch", "ray", "optuna", "mlflow")
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)")
GIB = 1 << 30
DRIVER_BYTES, WORKER_BYTES = 1.1 * GIB, 0.5 * GIB
"""driver with Ray's head; one worker with packs"""
FREE_BYTES = {"workdir": (GIB // 5, GIB), "temporary folder": (GIB // 5, GIB), "shared memory": (0, GIB // 5)}
"""place -> (below this a sweep cannot run, below this it may end for it)"""
FULL_SHARE = 0.95
"""from here on Ray calls a disk full and refuses work"""


def versions(scope: Scope) -> Finding:
    """Python and every library against what the installed package asks for."""
    try:
        wanted = [one for one in requires("vae-sweep") or () if "extra ==" not in one]
        python = metadata("vae-sweep")["Requires-Python"] or ""
    except PackageNotFoundError:
        remedy = "pip install it, so that its libraries' versions are checked: pip install --editable ."
        return Finding("warning", "vae-sweep is not installed, only found in a folder", remedy)
    here = ".".join(map(str, sys.version_info[:3]))
    wrong = [] if in_range(here, python) else [f"Python {here} is not {python}"]
    shown = [f"Python {here}"]
    for line in wanted:
        name, ranges = _REQUIREMENT.findall(line)[0]
        try:
            found = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not in_range(found, ranges):
            wrong.append(f"{name} {found} is not {ranges}")
        shown += [f"{name} {found}"] if name in SHOWN else []
    if wrong:
        return Finding("failed", "; ".join(wrong), "Install what vae-sweep asks for: pip install --upgrade vae-sweep.")
    return Finding("ok", ", ".join(shown))


def in_range(found: str, ranges: str) -> bool:
    """Whether a version satisfies `>=2.59,<3`; only numbers count, and what cannot be told is taken to be right."""
    tests = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    for sign, text in re.findall(r"(>=|<=|==|!=|>|<)\s*([0-9][0-9.]*)", ranges):
        mine, theirs = _numbers(found), _numbers(text)
        length = max(len(mine), len(theirs))
        if not tests[sign](mine + (0,) * (length - len(mine)), theirs + (0,) * (length - len(theirs))):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    leading = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def numerics(scope: Scope) -> Finding:
    """What this machine's bits depend on; workers that differ in any of it cannot share a sweep."""
    from ..execution.environment import fingerprint, prepare_process

    prepare_process()
    found = fingerprint("cpu")
    shown = ", ".join(f"{name} {value}" for name, value in found.items())
    if found["cpu_capability"] in ("DEFAULT", "NO AVX"):
        return Finding(
            "warning", shown, "Without AVX2 packs are slow, and results differ from those of other machines."
        )
    return Finding("ok", shown)


def ports(scope: Scope) -> Finding:
    """A port of the loopback address for `ui`, and any for a Ray cluster of our own."""
    try:
        _listen(0)
    except OSError as error:
        remedy = "A local Ray cluster and the MLflow UI need it: set up the loopback interface (ip link set lo up)."
        return Finding("failed", f"127.0.0.1 cannot be listened on: {error.strerror}", remedy)
    try:
        _listen(scope.ui_port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken" if taken else f"cannot be listened on ({error.strerror})"
        return Finding(
            "warning", f"port {scope.ui_port} of 127.0.0.1 {why}", "Give `vae-sweep ui` another one: --port 5001."
        )
    return Finding("ok", f"127.0.0.1 has port {scope.ui_port} free for `ui`, and others for Ray")


def _listen(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        one.listen()


def memory(scope: Scope) -> Finding:
    """Room for a driver, Ray's head and one worker a core."""
    available, cores = _available_bytes(), os.cpu_count() or 1
    if available is None:
        return Finding("ok", "not known on this system")
    needed = DRIVER_BYTES + cores * WORKER_BYTES
    shown = f"{available / GIB:.1f} GiB free, {needed / GIB:.1f} GiB for {cores} workers and the driver"
    if available >= needed:
        return Finding("ok", shown)
    fits = int((available - DRIVER_BYTES) / WORKER_BYTES)
    if fits < 1:
        return Finding("failed", shown, "End other programs, or run on a machine with more memory.")
    return Finding("warning", shown, f"Start no more than --workers {fits}: Ray ends processes where memory runs out.")


def _available_bytes() -> int | None:
    """Of the machine or of the container, whichever has less; None where neither says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return min(found, default=None)


def disk(scope: Scope) -> Finding:
    """Room for ledger and pictures, for Ray's sessions, and for the data in shared memory."""
    shared = Path("/dev/shm")
    places = {"workdir": existing(scope.paths.workdir), "temporary folder": Path(tempfile.gettempdir())}
    places |= {"shared memory": shared} if shared.is_dir() else {}
    return Finding.worst([_room(name, place) for name, place in places.items()])


def _room(name: str, place: Path) -> Finding:
    usage, (too_little, little) = shutil.disk_usage(place), FREE_BYTES[name]
    shown = f"{name} ({place}) {usage.free / GIB:.1f} GiB free"
    remedy = f"Free space in {place}."
    if usage.free < too_little:
        return Finding("failed", shown, remedy)
    if name == "temporary folder" and usage.used > FULL_SHARE * usage.total:
        return Finding("warning", f"{shown}, {usage.used / usage.total:.0%} full", f"{remedy} Ray stops at 95%.")
    if usage.free < little:
        more = " (a container: --shm-size=1g)" if name == "shared memory" else ""
        return Finding("warning", shown, f"{remedy[:-1]}{more}.")
    return Finding("ok", shown)


def existing(path: Path) -> Path:
    """`path`, or the folder above it that is there."""
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
