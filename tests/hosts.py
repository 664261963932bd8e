"""Hosts with addresses of their own on one machine: network namespaces on a bridge, one raylet in each. Needs root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BRIDGE = "vaesweep0"
NETWORK = "10.213.77"
PORT = 6379
RAY = Path(sys.executable).parent / "ray"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "7" * 64,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a sweep on this machine alone, in this process, may have set it to 0
    # A host that is gone is missed within seconds, not within a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}


def ip(*words: object, check: bool = True) -> str:
    """Runs `ip`."""
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def why_not() -> str | None:
    """Why no namespaces can be made here; None where they can."""
    if os.geteuid() != 0:
        return "separate hosts need root (network namespaces)"
    try:
        done = subprocess.run(["ip", "netns", "add", f"{BRIDGE}-try"], capture_output=True, text=True)
    except FileNotFoundError:
        return "separate hosts need the command ip (package iproute2)"
    if done.returncode:
        return f"separate hosts need network namespaces: {done.stderr.strip()}"
    ip("netns", "del", f"{BRIDGE}-try")
    return None


class Hosts:
    """A head without CPUs for trials, called h0, and workers h1, h2, ... with one CPU each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self.head = f"{NETWORK}.1:{PORT}"

    def start_head(self) -> None:
        """The first host."""
        self._start("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", "--temp-dir=/tmp/vsh")

    def add(self) -> str:
        """One more worker; its name."""
        return self._start(f"--address={self.head}", "--num-cpus=1")

    def again(self, name: str) -> None:
        """A raylet on a host that has lost its own."""
        self._raylet(name, f"--address={self.head}", "--num-cpus=1")

    def kill(self, name: str) -> None:
        """Everything that runs on a host ends at once."""
        for pid in ip("netns", "pids", self._space(name), check=False).split():
            os.kill(int(pid), signal.SIGKILL)

    def cut(self, name: str) -> None:
        """Its cable is pulled; nothing is told to anybody."""
        ip("link", "set", self._cable(name), "down")

    def mend(self, name: str) -> None:
        """The cable is back."""
        ip("link", "set", self._cable(name), "up")

    def popen(self, name: str, *words: object, log: Path) -> subprocess.Popen[bytes]:
        """Starts a command on a host."""
        command = ["ip", "netns", "exec", self._space(name), "unshare", "--uts", "sh", "-c"]
        command += ['hostname "$0" && exec "$@"', name, *map(str, words)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}
            )
        self._processes.append(process)
        return process

    def end(self) -> None:
        """Removes all of it."""
        for number in range(self._number):
            self.kill(f"h{number}")
            ip("netns", "del", self._space(f"h{number}"), check=False)
        for process in self._processes:
            process.wait(30)
        ip("link", "del", BRIDGE, check=False)

    def _start(self, *words: str) -> str:
        name = f"h{self._number}"
        self._number += 1
        space, cable = self._space(name), self._cable(name)
        ip("netns", "add", space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", cable, "master", BRIDGE, "up")
        ip("-n", space, "addr", "add", f"{NETWORK}.{self._number}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "link", "set", "lo", "up")
        self._raylet(name, *words)
        return name

    def _raylet(self, name: str, *words: str) -> None:
        log = self._folder / f"{name}-{time.time():.0f}.log"
        address = f"{NETWORK}.{int(name[1:]) + 1}"
        memory = "--object-store-memory=100000000"
        process = self.popen(name, RAY, "start", f"--node-ip-address={address}", memory, *words, "--block", log=log)
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.1)

    def _space(self, name: str) -> str:
        return f"{BRIDGE}-{name}"

    def _cable(self, name: str) -> str:
        return f"{BRIDGE}{name}"


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """A head and no worker yet. Skips the test, saying why, where no namespaces can be made."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("link", "set", BRIDGE, "up")
    _let_through("-I")
    cluster = Hosts(folder)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.end()
        _let_through("-D")


def _let_through(action: str) -> None:
    """An engine for containers tells the kernel to drop what it does not know, also between our hosts."""
    with suppress(FileNotFoundError):
        subprocess.run(["iptables", action, "FORWARD", "-i", BRIDGE, "-j", "ACCEPT"], capture_output=True)
