"""The state of a process in which the same trial gives the same bits, and its fingerprint.

Must run before torch is imported: MKL reads its settings once. Knows no trial.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import secrets
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "20000", "RAY_grpc_client_keepalive_timeout_ms": "20000"}
"""a host that vanishes without a word is missed within a minute, not seven"""

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's word for "on this machine only": otherwise its servers listen on every address, whatever they are asked"""

CLIENT_VERSION = "VAE_SWEEP_CLIENT_VERSION"
"""tells a process on a cluster which version sent it"""
SUBMITTED_TO = "VAE_SWEEP_SUBMITTED_TO"
"""tells it by which address its user reaches the cluster"""

HURRIED = "VAE_SWEEP_HURRIED"
"""tells a process that there is no spare time to wait for"""

_T = TypeVar("_T")

UNHURRIED = 10
"""niceness of a thread that others should not wait for"""
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_BYTES = 32 << 20


ARITHMETIC = {"MKL_CBWR": "AVX2", "OMP_NUM_THREADS": "1"}
"""matrix products do not depend on how their operands are aligned; one thread"""


def prepare_process() -> None:
    """Sets MKL's code branch, the allocator and one thread for this process.

    The allocator is told to keep what it frees: a training step would otherwise give its buffers back and fault them
    in again.
    """
    for name, value in ARITHMETIC.items():
        os.environ.setdefault(name, value)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
    import torch

    torch.set_num_threads(1)


@contextmanager
def loading() -> Iterator[None]:
    """For imports: they leave hardly any garbage, and looking for it takes up to a sixth of their time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def in_spare_time(call: Callable[[], _T]) -> _T:
    """`call()` in a thread that computes while the processor has nothing better to do, where a thread may be so told.

    A process could not raise its priority again; that of a thread ends with it.
    """
    if HURRIED in os.environ:
        return call()

    def be_unhurried() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), UNHURRIED)

    with ThreadPoolExecutor(1, initializer=be_unhurried) as thread:
        return thread.submit(call).result()


def prepare_ray(address: str | None) -> None:
    """Sets what Ray reads when it is imported: no usage reports; for a cluster started here loopback and a token.

    With the token other users of the machine cannot submit work to it. A cluster at `address` has its own rules,
    which the user's environment must follow.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in KEEPALIVE.items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.pop("RAY_ADDRESS", None)
        for name, value in LOOPBACK.items():
            os.environ.setdefault(name, value)
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


SOCKET_BYTES = 107
"""longest path of a Unix socket"""
_RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


def ray_folder() -> Path:
    """Where the cluster started here keeps its sockets and logs: below a folder that only this user can enter.

    Ray opens all that it makes to everybody, and whoever can replace a socket of its can run code as its user.
    """
    tops = [Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()), Path("/tmp")]
    own = [top / f"vae-sweep-{os.getuid()}" for top in tops]
    folder = next((path for path in own if len(f"{path}{_RAY_SOCKET}") <= SOCKET_BYTES), own[0])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o700:
        folder = Path(tempfile.mkdtemp(prefix="vs-", dir=folder.parent))  # somebody else was there first
    return folder / "ray"


def fingerprint(device: str) -> dict[str, str]:
    """All that a trial's bits depend on beside the study and its data."""
    import torch

    versions = {name: version(name) for name in ("torch", "numpy", "scipy", "optuna")}
    return {
        **versions,
        "vae-sweep": _own_version(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),
        "threads": str(torch.get_num_threads()),
    }


def _own_version() -> str:
    from .. import __version__

    return __version__
