"""Worker processes without Ray: lost, stopped and refused ones; whose driver is killed; the same table as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExecutionError
from pipeline.execution import health
from pipeline.execution.process_pool import ProcessPool
from pipeline.execution.worker_server import WorkerServer
from pipeline.own_code import Parcel, admit, parcels
from pipeline.records import EpochReport, Event, TrialCheckpoint, TrialEnded, WorkerJoined, WorkerLost

from .kit import task, tiny_dataset
from .processes import command_of, descendants
from .sweeps import json_of, read, records, run_here, study_file, vae_sweep, vae_sweep_here, vae_sweep_started, wait_for

PROCESSES = ("--executor", "processes", "--workers", "2", "--mlflow", "none")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ProcessPool]]:
    """Makes pools, which are closed at the end."""
    made: list[ProcessPool] = []

    def pool(**options: Any) -> ProcessPool:
        settings = {"workers": 1, "slots": 2, "bank_seed": 0, "log": tmp_path / "log" / "workers.log", **options}
        made.append(ProcessPool(WorkerServer(), tiny_dataset(), **settings))
        return made[-1]

    yield pool
    for one in made:
        one.close()
        one.close()


def until(pool: ProcessPool, kind: type[Event]) -> list[Event]:
    """Events up to the first of a kind."""
    events: list[Event] = []
    deadline = time.monotonic() + 120
    while not any(isinstance(event, kind) for event in events):
        assert time.monotonic() < deadline, events
        events += pool.poll(0.1)
    return events


def forked(pid: int) -> list[int]:
    """The worker processes below one."""
    servers = [one for one in descendants(pid) if "pipeline.execution.worker_server" in command_of(one)]
    return [one for one in servers if any(one in descendants(server) for server in servers if server != one)]


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_killed_worker_is_lost_and_replaced(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    until(pool, WorkerJoined)
    pool.submit("process-0", [task(0, epochs=100_000)])
    until(pool, EpochReport)
    (victim,) = forked(os.getpid())
    os.kill(victim, signal.SIGKILL)
    events = until(pool, WorkerLost) + until(pool, WorkerJoined)
    (lost,) = [event for event in events if isinstance(event, WorkerLost)]
    (joined,) = [event for event in events if isinstance(event, WorkerJoined)]
    assert (lost.worker, joined.worker, pool.workers) == ("process-0", "process-1", 1)
    assert "its process has ended" in lost.reason
    pool.submit("process-1", [task(0, epochs=2)])
    (ended,) = [event for event in until(pool, TrialEnded) if isinstance(event, TrialEnded)]
    assert ended.outcome.epochs == 2


def test_a_stopped_worker_holds_nobody_up_and_is_given_up(make: Callable[..., ProcessPool]) -> None:
    pool = make(silence_seconds=2 * health.PULSE_SECONDS)
    until(pool, WorkerJoined)
    (victim,) = forked(os.getpid())
    os.kill(victim, signal.SIGSTOP)
    # Megabytes, more than its connection holds: to wait for it here would be to wait for ever.
    pool.submit("process-0", [task(number, hidden=tuple(range(1, 9))) for number in range(20_000)])
    (lost,) = [event for event in until(pool, WorkerLost) if isinstance(event, WorkerLost)]
    assert lost.reason.startswith("no sign of life for ")
    wait_for(lambda: not alive(victim), seconds=10)


LONG = """
import time

from pipeline.packed.trainer import Trainer


def long(trainer, seconds):
    time.sleep(3600)


Trainer.advance = long
"""


@pytest.mark.slow
def test_a_worker_in_a_long_epoch_gives_signs_of_life(make: Callable[..., ProcessPool], tmp_path: Path) -> None:
    silence_seconds = 2 * health.PULSE_SECONDS
    pool = make(code=parcel(tmp_path, "long", LONG), silence_seconds=silence_seconds)
    until(pool, WorkerJoined)
    pool.submit("process-0", [task(0)])
    deadline = time.monotonic() + 1.5 * silence_seconds
    while time.monotonic() < deadline:
        assert pool.poll(0.5) == []


def parcel(folder: Path, name: str, text: str) -> Sequence[Parcel]:
    """Own code, ready for workers."""
    (folder / f"{name}.py").write_text(text)
    admit(f"{name}:{name}", (folder,))
    return parcels([f"{name}:{name}"])


def test_what_cannot_start_is_one_error_that_names_the_log(make: Callable[..., ProcessPool], tmp_path: Path) -> None:
    pool = make(code=parcel(tmp_path, "fatal", "import os\n\nprint('good-bye', flush=True)\nos._exit(3)\n"))
    with pytest.raises(ExecutionError, match=r"lost 5 times in a row .* See .*workers\.log"):
        until(pool, WorkerJoined)
    assert (tmp_path / "log" / "workers.log").read_text().count("good-bye") == 5


def test_with_notice_it_says_how_far_its_trials_are(make: Callable[..., ProcessPool]) -> None:
    pool = make()
    until(pool, WorkerJoined)
    pool.submit("process-0", [task(0, epochs=100_000)])
    until(pool, EpochReport)
    events = pool.close(30.0)
    (checkpoint,) = [event for event in events if isinstance(event, TrialCheckpoint)]
    assert checkpoint.key == task(0).key and checkpoint.epoch > 0
    assert forked(os.getpid()) == []


def test_a_server_that_is_gone_is_an_error_with_its_last_words() -> None:
    with closing(WorkerServer()) as server:
        os.killpg(server.pid, signal.SIGKILL)
        with pytest.raises(ExecutionError, match="The server of worker processes has ended: without a word"):
            for _ in range(1000):  # the first may still go into the socket of a process that is about to end
                server.fork().close()
                time.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--address", "127.0.0.1:6379"), "--address is of a Ray cluster"),
        (("--device", "cuda"), "--device cuda takes --executor ray"),
    ],
)
def test_what_only_ray_can_do_is_refused(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    for executor in ("processes", "inline"):
        code, _, error = vae_sweep_here("run", study_file(tmp_path), "--executor", executor, *options)
        assert code == 2 and words in " ".join(error.split()) and executor in error


def test_kill_9_of_the_driver_leaves_no_process_and_the_same_command_finishes_the_same_table(tmp_path: Path) -> None:
    file = study_file(tmp_path, train={"epochs": 20})
    plain = run_here(file, tmp_path / "plain")
    words = ("run", file, "--workdir", tmp_path / "work", *PROCESSES, "--slots", "2")
    driver = vae_sweep_started(*words, log=tmp_path / "log")
    wait_for(lambda: sum(bool(record.outcome) for record in records(tmp_path / "work")) > 2, driver)
    below = [pid for pid in descendants(driver.pid) if pid != driver.pid]
    assert len(forked(driver.pid)) == 2 <= len(below)
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(alive(pid) for pid in below), seconds=20)
    done = vae_sweep(*words)
    assert "starting 2 workers" in done.stdout + done.stderr
    results = read(tmp_path / "work")
    assert json_of(results) == json_of(plain)
    hosts = {record.outcome.worker for record in results.records if record.outcome}
    assert hosts <= {"process-0", "process-1"} and len(hosts) == 2


def test_ctrl_c_is_the_drivers_and_keeps_what_was_trained(tmp_path: Path) -> None:
    file = study_file(tmp_path, train={"epochs": 400})
    words = ("run", file, "--workdir", tmp_path / "work", *PROCESSES, "--slots", "2")
    log = tmp_path / "log"
    with log.open("wb") as output:
        driver = subprocess.Popen(
            ["setsid", sys.executable, "-m", "pipeline", *map(str, words)], stdout=output, stderr=output
        )  # fmt: skip
    wait_for(lambda: len(records(tmp_path / "work")) > 2 and len(forked(driver.pid)) == 2, driver)
    wait_for(lambda: any(record.attempts for record in records(tmp_path / "work")), driver)
    time.sleep(1.0)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to all of its group
    assert driver.wait(60) == 3, log.read_text()
    assert list((tmp_path / "work").glob("small/trials/**/checkpoint-*")), "how far they were is kept"
    assert "lost" not in log.read_text()
