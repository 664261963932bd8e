"""One sweep under fire: its driver, what it says, and how far it is. What faults act on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.errors import LedgerError
from pipeline.launch.where import LEDGER_VARIABLE
from pipeline.ledger.store import Ledger
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, State

from ..hosts import ENVIRONMENT
from .world import World, kill

PATIENCE_SECONDS = 180.0
TIMEOUT_SECONDS = 10
"""after so long without a sign of life a worker is given up"""


class Missed(Exception):
    """The sweep was over, or past the point, before the fault could hit."""


class SweepRun:
    """`vae-sweep run` on the world's cluster, again and again until it has finished."""

    def __init__(self, world: World, file: Path, workdir: Path, name: str, ledger_url: str | None) -> None:
        self.world, self.file, self.workdir, self.name = world, file, workdir, name
        self.ledger_url = ledger_url or WorkPaths.at(workdir).ledger_url
        self.environment = {**os.environ, **ENVIRONMENT, "COLUMNS": "300"}
        if ledger_url:
            self.environment[LEDGER_VARIABLE] = ledger_url
        self.logs: list[Path] = []
        self.endings: list[int] = []
        """exit codes of the drivers that have ended"""
        self.process: subprocess.Popen[bytes] | None = None
        self._ledger: Ledger | None = None

    # -- the driver

    def start(self) -> None:
        """The command, for the first time or again."""
        self.logs.append(self.workdir.parent / f"driver-{len(self.logs)}.log")
        self.process = self.popen(self.logs[-1])

    def popen(self, log: Path) -> subprocess.Popen[bytes]:
        """The command as any user would type it, now or beside another."""
        words = ["run", self.file, "--set", f"name={self.name}", "--workdir", self.workdir, "--slots", "2"]
        words += ["--address", self.world.cluster.address, "--mlflow", self.world.proxy.url]
        words += ["--checkpoint-seconds", "1", "--worker-timeout", TIMEOUT_SECONDS]
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline", *map(str, words)],
                stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=self.environment,
            )  # fmt: skip

    @property
    def driver(self) -> subprocess.Popen[bytes]:
        """The one that runs. Raises Missed when it has ended."""
        if self.process is None or self.process.poll() is not None:
            raise Missed("the driver has ended")
        return self.process

    def ended(self) -> int | None:
        """Its exit code once it has ended; then `start` may follow."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.endings.append(code)
            self.process = None
        return code

    def end_by(self, number: signal.Signals, code: int) -> None:
        """Sends the driver a signal, from which it must end with `code`."""
        driver = self.driver
        kill(driver.pid, number)
        found = driver.wait(PATIENCE_SECONDS)
        self.ended()
        if found == 0:
            raise Missed("it finished first")
        assert found == code, f"ended with {found}, not {code}, after {number.name}"

    def driver_known(self) -> bool:
        """Whether the sweep is in the ledger, and the present driver is its driver."""
        try:
            return self.process is not None and self.driver_pid() == self.process.pid
        except LedgerError:
            return False

    def driver_pid(self) -> int | None:
        """Process id of the driver that the ledger knows."""
        lease = self.ledger.lease(self.name, "driver")
        return lease.holder.pid if lease else None

    def delivery_pid(self) -> int | None:
        """Process id of the delivery; None where there is none."""
        lease = self.ledger.lease(self.name, "delivery")
        return lease.holder.pid if lease and lease.is_live(time.time()) else None

    # -- what it says and how far it is

    def said(self) -> str:
        """All that drivers have printed."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs)

    def delivery_said(self) -> str:
        """What the present delivery has printed."""
        log = WorkPaths.at(self.workdir).delivery_log(self.name)
        return log.read_text(errors="replace") if log.exists() else ""

    @property
    def ledger(self) -> Ledger:
        """Open, for reading."""
        if self._ledger is None:
            self._ledger = Ledger.open(self.ledger_url, create=False, away_seconds=60.0)
        return self._ledger

    def close(self) -> None:
        """Lets go of the ledger, and of a driver that still runs."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def states(self) -> dict[State, int]:
        """How many trials stand where; none while there is no sweep yet."""
        counts: dict[State, int] = {}
        with suppress(LedgerError):
            for (_, _, state), count in self.ledger.counts(self.name).items():
                counts[state] = counts.get(state, 0) + count
        return counts

    def ends(self) -> int:
        """Trials that have ended."""
        return sum(count for state, count in self.states().items() if state in ENDED)

    def training(self) -> bool:
        """Whether some trial is in training now, and a worker is there for it."""
        return self.states().get(State.RUNNING, 0) > 0 and bool(self.world.cluster.actors())

    def await_(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Waits for what must come while the driver runs. Raises Missed when the driver ends first."""
        deadline = time.monotonic() + seconds
        while not condition():
            code = 0 if self.process is None else self.process.poll()
            if code is not None:
                if condition():
                    return
                assert code == 0, f"the driver ended with {code} before: {what}\n{self.said()[-1500:]}"
                raise Missed(f"it finished before: {what}")
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for: {what}"
            time.sleep(0.03)
