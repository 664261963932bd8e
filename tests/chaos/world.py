"""What a sweep needs and what may fail under it: a Ray cluster of several raylets, MLflow and PostgreSQL servers.

They live through many schedules; what a fault has killed is started again. Knows no sweep.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ..hosts import ENVIRONMENT, RAY
from ..kit import free_ports
from ..postgres import Server, binaries
from ..servers import MlflowServer
from .proxy import Proxy

RAYLETS = 2
SETTINGS = {**ENVIRONMENT, "RAY_worker_niceness": "0"}
"""Ray's workers stand back behind everything else (niceness 15): beside other work a schedule would take minutes"""


def processes() -> dict[int, tuple[int, str]]:
    """Process id -> (parent, command line) of all that run."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 3) for line in listing.splitlines()[1:])
    return {int(pid): (int(parent), args) for pid, parent, state, args in rows if not state.startswith("Z")}


def below(root: int) -> dict[int, str]:
    """Process id -> command line of all that descends from `root`."""
    known, found = processes(), dict[int, str]()
    for pid in known:
        at = pid
        while at in known and at != root:
            at = known[at][0]
        if at == root and pid != root:
            found[pid] = known[pid][1]
    return found


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Cluster:
    """A Ray head without CPUs for trials, and raylets with one CPU each, all on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._temporary = tempfile.mkdtemp(prefix="vsc")  # the paths of Ray's sockets must be short
        self._started = 0
        self.raylets: list[subprocess.Popen[bytes]] = []
        self.head = self._start("--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={self._temporary}",
                                "--include-dashboard=false")  # fmt: skip
        self.fill_up()

    def fill_up(self) -> None:
        """As many raylets as there should be."""
        for process in [process for process in self.raylets if self.raylet_of(process) is None]:
            self.raylets.remove(process)
            self._end(process)
        while len(self.raylets) < RAYLETS:
            self.raylets.append(self._start(f"--address={self.address}", "--num-cpus=1"))

    def actors(self) -> list[int]:
        """Process ids of the actors that train."""
        found = (below(process.pid) for process in self.raylets)
        return [pid for one in found for pid, args in one.items() if args.startswith("ray::TrainerActor")]

    @staticmethod
    def raylet_of(process: subprocess.Popen[bytes]) -> int | None:
        """Process id of the raylet that `ray start` has started."""
        found = [pid for pid, args in below(process.pid).items() if args.split()[0].endswith("/raylet")]
        return found[0] if found else None

    def end(self) -> None:
        """Removes all of it."""
        for process in [*self.raylets, self.head]:
            self._end(process)
        shutil.rmtree(self._temporary, ignore_errors=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        for pid in [process.pid, *below(process.pid)]:
            kill(pid)
        process.wait(30)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"ray-{self._started}.log"
        self._started += 1
        command = [
            str(RAY),
            "start",
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=80000000",
            f"--dashboard-agent-listen-port={free_ports(1)[0]}",  # by default one for all clusters of a machine
            *words,
            "--block",
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**os.environ, **SETTINGS}
            )
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.1)
        return process


class World:
    """All of it, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        place = binaries()
        self.postgres = Server(place) if place else None
        """None where there is no server to be had"""
        store = folder / "mlflow"
        store.mkdir()
        self.mlflow = MlflowServer(store)
        self.proxy = Proxy(self.mlflow.port)
        self.cluster = Cluster(folder)

    def mend(self) -> None:
        """Whatever the last schedule left broken works again."""
        self.proxy.listen()
        self.cluster.fill_up()

    def end(self) -> None:
        """Ends everything that was started here."""
        self.cluster.end()
        self.mlflow.kill()
        self.proxy.refuse()
        if self.postgres is not None:
            self.postgres.close()
