"""What can go wrong, for real. A new fault is one entry of the table.

A fault is a function of the running sweep: it does its harm and returns once it is seen to have hit, or raises Missed.
Where the driver ends by it, whoever runs the schedule starts the same command again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.ledger.schema import LEASE_SECONDS

from .proxy import Mode
from .trial_run import Missed, SweepRun
from .world import below, kill


def _count(run: SweepRun, words: str) -> int:
    return run.said().count(words)


def _loss(run: SweepRun, harm: Callable[[], None], words: str = "was lost") -> None:
    """Does harm to a worker and waits until the driver has missed it."""
    before = _count(run, words)
    harm()
    run.await_(lambda: _count(run, words) > before, f"the driver says '{words}'")


def _actor(run: SweepRun) -> int:
    run.await_(run.training, "a trial in training")
    actors = run.world.cluster.actors()
    if not actors:
        raise Missed("no worker is there")
    return actors[0]


def worker_killed(run: SweepRun) -> None:
    victim = _actor(run)
    _loss(run, lambda: kill(victim))


def worker_stopped(run: SweepRun) -> None:
    victim = _actor(run)
    _loss(run, lambda: kill(victim, signal.SIGSTOP), "no sign of life")
    kill(victim, signal.SIGCONT)  # and if it comes back after all


def raylet_killed(run: SweepRun) -> None:
    victim = _actor(run)
    cluster = run.world.cluster
    host = next((process for process in cluster.raylets if victim in below(process.pid)), None)
    raylet = None if host is None else cluster.raylet_of(host)
    if raylet is None:
        raise Missed("its worker is gone")
    _loss(run, lambda: kill(raylet))
    cluster.fill_up()


def driver_killed(run: SweepRun) -> None:
    run.end_by(signal.SIGKILL, -signal.SIGKILL)


def driver_terminated(run: SweepRun) -> None:
    run.await_(run.training, "a trial in training")  # before that there is nothing to keep, and it ends at once
    run.end_by(signal.SIGTERM, 3)


def driver_interrupted(run: SweepRun) -> None:
    run.await_(run.training, "a trial in training")
    run.end_by(signal.SIGINT, 3)


def driver_stopped(run: SweepRun) -> None:
    """Longer than its lease: another takes over, and the first one must find that out."""
    run.await_(run.training, "a trial in training")
    first = run.driver
    kill(first.pid, signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 2)
    run.start()
    try:
        run.await_(lambda: run.driver_pid() == run.driver.pid, "the second driver takes over")
    finally:
        kill(first.pid, signal.SIGCONT)
        code = first.wait(60)
    run.endings.append(code)
    assert code == 1 and "one driver at a time" in run.logs[-2].read_text(), run.logs[-2].read_text()


def second_driver(run: SweepRun) -> None:
    run.await_(run.training, "a trial in training")
    log = run.workdir.parent / "second.log"
    other = run.popen(log)
    code = other.wait(60)
    if code == 0:
        raise Missed("the first one had finished")
    assert code == 1 and "one driver at a time" in log.read_text(), log.read_text()


def delivery_killed(run: SweepRun) -> None:
    run.await_(lambda: run.delivery_pid() is not None, "a delivery")
    victim = run.delivery_pid()
    if victim is None:
        raise Missed("the delivery has ended")
    kill(victim)
    run.await_(lambda: run.delivery_pid() is None, "the end of the delivery", 10)


def everything_killed(run: SweepRun) -> None:
    """Driver, delivery, MLflow, every raylet and all their workers, at once."""
    cluster, driver = run.world.cluster, run.driver
    victims = [driver.pid]
    victims += [pid for pid in [run.delivery_pid()] if pid]
    for host in cluster.raylets:
        victims += [host.pid, *below(host.pid)]
    for pid in victims:
        kill(pid)
    run.world.mlflow.kill()
    driver.wait(30)
    run.ended()
    for host in cluster.raylets:
        host.wait(30)
    cluster.fill_up()
    run.world.mlflow.start()


def mlflow_killed(run: SweepRun) -> None:
    proxy = run.world.proxy
    before = proxy.done["lost"]
    run.world.mlflow.kill()
    try:
        run.await_(lambda: proxy.done["lost"] > before, "a request that found no server")
    finally:
        run.world.mlflow.start()


def _misbehave(run: SweepRun, mode: Mode, requests: int) -> None:
    proxy = run.world.proxy
    before = proxy.done[mode]
    proxy.mode = mode
    try:
        run.await_(lambda: proxy.done[mode] >= before + requests, f"{requests} requests that met '{mode}'")
    finally:
        proxy.mode = "pass"


def mlflow_refused(run: SweepRun) -> None:
    proxy = run.world.proxy
    run.await_(lambda: run.delivery_pid() is not None, "a delivery")
    proxy.refuse()
    try:
        run.await_(lambda: "away" in run.delivery_said(), "the delivery says that MLflow is away")
    finally:
        proxy.listen()


def mlflow_errors(run: SweepRun) -> None:
    _misbehave(run, "error", 2)


def mlflow_slow(run: SweepRun) -> None:
    _misbehave(run, "slow", 1)


def mlflow_cut(run: SweepRun) -> None:
    """It does what it is asked, and nobody hears of it."""
    _misbehave(run, "cut", 3)


def postgres_crashed(run: SweepRun) -> None:
    server = run.world.postgres
    assert server is not None
    run.await_(run.training, "a trial in training")
    before = _count(run, "waiting up to")
    server.stop()
    try:
        run.await_(lambda: _count(run, "waiting up to") > before, "the driver waits for its ledger", 30)
    finally:
        server.start()


def disk_full(run: SweepRun) -> None:
    ballast = run.workdir / "ballast"
    driver = run.driver
    with ballast.open("wb") as file:
        size = 1 << 20
        while size > 512:
            try:
                os.write(file.fileno(), b"\0" * size)
            except OSError:
                size //= 2
    try:
        code = driver.wait(120)
    finally:
        ballast.unlink()
    run.ended()
    if code == 0:
        raise Missed("it finished first")
    text = run.logs[-1].read_text()
    assert code == 1 and ("disk is full" in text or "No space left" in text), f"exit {code}: {text[-600:]}"


def checkpoint_torn(run: SweepRun) -> None:
    """The driver is killed, and the newest checkpoint is not what was written."""
    found: list[Path] = []

    def there() -> bool:
        found[:] = sorted(run.workdir.glob("*/trials/**/checkpoint-*"), key=lambda file: file.name)
        return bool(found) and run.training()

    run.await_(there, "a checkpoint")
    run.end_by(signal.SIGKILL, -signal.SIGKILL)
    left = sorted(run.workdir.glob("*/trials/**/checkpoint-*"))
    if not left:
        raise Missed("its trials had ended")
    for file in left:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run.start()
    run.await_(lambda: "is damaged and is not used" in run.logs[-1].read_text(), "a damaged checkpoint is refused")


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the table."""

    strike: Callable[[SweepRun], None]
    does: str
    """what is done, for people"""
    sees: str
    """what shows that it hit"""
    weight: int = 4
    """how often it is drawn, beside the others"""
    ledger: str = ""
    """the only kind of ledger it is for; empty: any"""
    again: bool = False
    """whether the same command is given again"""
    disk: bool = False
    """the working directory needs a small disk of its own"""


FAULTS: Mapping[str, Fault] = {
    "worker_killed": Fault(worker_killed, "SIGKILL of a worker that trains", "the driver says that it was lost"),
    "worker_stopped": Fault(worker_stopped, "SIGSTOP of a worker", "given up after 10 s without a sign of life", 2),
    "raylet_killed": Fault(raylet_killed, "SIGKILL of a raylet", "the driver says that its worker was lost"),
    "driver_killed": Fault(driver_killed, "SIGKILL of the driver", "its exit code", again=True),
    "driver_terminated": Fault(driver_terminated, "SIGTERM of the driver", "exit code 3", 3, again=True),
    "driver_interrupted": Fault(driver_interrupted, "Ctrl-C", "exit code 3", 2, again=True),
    "driver_stopped": Fault(
        driver_stopped, "SIGSTOP of the driver for 32 s, SIGCONT after another has taken over",
        "the first ends with exit code 1: one driver at a time", 1, again=True,
    ),
    "second_driver": Fault(second_driver, "the same command once more", "exit code 1: one driver at a time", 3),
    "delivery_killed": Fault(delivery_killed, "SIGKILL of the delivery", "its lease is free", 3),
    "everything_killed": Fault(
        everything_killed, "SIGKILL of driver, delivery, MLflow, raylets and workers at once", "all are gone", 1,
        again=True,
    ),
    "mlflow_killed": Fault(mlflow_killed, "SIGKILL of the MLflow server", "a request found no server", 3),
    "mlflow_refused": Fault(mlflow_refused, "connection refused by MLflow", "the delivery says that it is away", 3),
    "mlflow_errors": Fault(mlflow_errors, "HTTP 500 from MLflow", "two requests met it", 3),
    "mlflow_slow": Fault(mlflow_slow, "answers of MLflow 10 s late", "one request met it", 2),
    "mlflow_cut": Fault(mlflow_cut, "MLflow does what it is asked, its answer is lost", "three requests met it", 3),
    "postgres_crashed": Fault(
        postgres_crashed, "PostgreSQL stopped at once (immediate)", "the driver says that it waits", 6, "postgresql"
    ),
    "disk_full": Fault(disk_full, "a full disk", "exit code 1: the disk is full", 2, again=True, disk=True),
    "checkpoint_torn": Fault(
        checkpoint_torn, "SIGKILL of the driver, all checkpoints cut in half", "they are refused, by name", 2,
        again=True,
    ),
}  # fmt: skip


def can_mount() -> bool:
    """Whether small disks can be made here: it takes root."""
    return os.geteuid() == 0 and subprocess.run(["which", "mount"], capture_output=True).returncode == 0
