"""What somebody removed from MLflow, or a store that was set back has lost, is there again after the next delivery."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.delivery import Subject, check, deliver_pending, finish, follow
from pipeline.ledger.store import Holder, Ledger
from pipeline.paths import WorkPaths
from pipeline.records import State
from pipeline.tracking.base import HEARTBEAT, Tracker
from pipeline.tracking.mlflow_tracker import LEDGER_ID, MlflowTracker
from pipeline.tracking.null_tracker import NullTracker

from .test_delivery import SWEEP, T0, Clock, assert_delivered_once, ended, parent_of, with_pictures
from .test_delivery import ledger as ledger
from .test_delivery import paths as paths
from .test_delivery import subject as subject

TRIALS = 4


def mlflow_at(paths: WorkPaths) -> MlflowTracker:
    return MlflowTracker.connect(paths.mlflow_url, paths.mlflow_artifacts)


@pytest.fixture
def delivered(ledger: Ledger, subject: Subject, paths: WorkPaths) -> Ledger:
    """A finished sweep that MLflow has completely."""
    ledger.save_trials(SWEEP, [with_pictures(ended(number), paths) for number in range(TRIALS)])
    ledger.update_sweep(SWEEP, status="finished", finished_at=T0 + 500)
    tracker = mlflow_at(paths)
    assert deliver_pending(ledger, tracker, subject).mended == 0
    finish(ledger, tracker, subject, files={"compare.txt": "undecided\n"}, metrics={})
    assert check(ledger, tracker, subject) == []
    return ledger


def raw(paths: WorkPaths) -> Any:
    """MLflow's own client."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=paths.mlflow_url)


def run_ids(paths: WorkPaths) -> dict[str, str]:
    """Trial number, or `parent` -> run id."""
    client = raw(paths)
    found = client.search_runs([client.get_experiment_by_name(SWEEP).experiment_id])
    return {run.data.tags[LEDGER_ID].partition("/search/")[2] or "parent": run.info.run_id for run in found}


def remove_one(paths: WorkPaths) -> None:
    raw(paths).delete_run(run_ids(paths)["1"])


def remove_parent(paths: WorkPaths) -> None:
    raw(paths).delete_run(run_ids(paths)["parent"])


def remove_experiment(paths: WorkPaths) -> None:
    client = raw(paths)
    client.delete_experiment(client.get_experiment_by_name(SWEEP).experiment_id)


def reopen(paths: WorkPaths) -> None:
    raw(paths).update_run(run_ids(paths)["2"], status="RUNNING")


def lose_picture(paths: WorkPaths) -> None:
    client, run_id = raw(paths), run_ids(paths)["3"]
    uri = client.get_run(run_id).info.artifact_uri
    (Path(uri.removeprefix("file://")) / "samples.png").unlink()


def lose_store(paths: WorkPaths) -> None:
    for file in paths.workdir.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(paths.mlflow_artifacts)


def double(paths: WorkPaths) -> None:
    """As a request that arrived after it had been given up."""
    client, one = raw(paths), raw(paths).get_run(run_ids(paths)["0"])
    client.create_run(one.info.experiment_id, tags={LEDGER_ID: one.data.tags[LEDGER_ID]})


DAMAGE: dict[str, tuple[Callable[[WorkPaths], None], int]] = {
    "a run removed": (remove_one, 1),
    "the parent removed": (remove_parent, TRIALS),
    "the experiment removed": (remove_experiment, TRIALS),
    "a run reopened": (reopen, 1),
    "a picture lost": (lose_picture, 1),
    "the whole store lost": (lose_store, TRIALS),
    "a run doubled": (double, 1),
}


USUAL = ("a run removed", "the parent removed", "a run reopened")


@pytest.mark.parametrize(
    "damage", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in DAMAGE]
)
def test_a_later_delivery_mends_it(delivered: Ledger, subject: Subject, paths: WorkPaths, damage: str) -> None:
    before = run_ids(paths)
    harm, mended = DAMAGE[damage]
    harm(paths)
    assert check(delivered, mlflow_at(paths), subject), "the damage can be seen"
    tracker = mlflow_at(paths)
    assert deliver_pending(delivered, tracker, subject).mended == mended
    finish(delivered, tracker, subject, files={"compare.txt": "undecided\n"}, metrics={})
    assert check(delivered, tracker, subject) == []
    assert_delivered_once(delivered, tracker, subject, TRIALS)
    after, client = run_ids(paths), raw(paths)
    for number in range(TRIALS):
        run = client.get_run(after[str(number)])
        history = client.get_metric_history(after[str(number)], "val/elbo")
        assert [(p.step, p.timestamp) for p in history] == [(e, int(T0 + e) * 1000) for e in range(1, 51)], (
            "the ledger's"
        )
        assert run.data.tags["mlflow.parentRunId"] == after["parent"] and run.info.status == "FINISHED"
        if damage in ("the experiment removed", "a run doubled", "a run reopened", "a picture lost"):
            assert after[str(number)] == before[str(number)]
    assert deliver_pending(delivered, mlflow_at(paths), subject).mended == 0, "once"


@pytest.mark.parametrize("make", [lambda _: NullTracker(), mlflow_at], ids=["null", "mlflow"])
def test_a_sweep_goes_on_after_a_loss(
    ledger: Ledger, subject: Subject, paths: WorkPaths, make: Callable[[WorkPaths], Tracker]
) -> None:
    ledger.save_trials(SWEEP, [ended(number) for number in range(2)])
    tracker = make(paths)
    deliver_pending(ledger, tracker, subject)
    tracker.discard(parent_of(ledger, subject), [f"{parent_of(ledger, subject).ledger_id}/a1b2/1/search/1"])
    ledger.save_trials(SWEEP, [ended(2, State.STOPPED)])
    ledger.update_sweep(SWEEP, status="finished", finished_at=T0 + 500)
    clock = Clock()
    again = tracker if isinstance(tracker, NullTracker) else make(paths)
    report = follow(ledger, again, subject, clock=clock, sleep=clock.sleep)
    assert (report.delivered, report.remaining) == (2, 0)
    assert check(ledger, again, subject) == []
    assert_delivered_once(ledger, again, subject, 3)


def test_a_dead_sweep_can_be_told_from_a_live_one(ledger: Ledger, subject: Subject, paths: WorkPaths) -> None:
    """The parent run's tag is the driver's last sign of life, not the delivery's."""
    tracker, clock = mlflow_at(paths), Clock()
    driver = Holder("elsewhere", 1, "", "")
    ledger.acquire_lease(SWEEP, "driver", holder=driver, now=T0)
    said: list[str] = []

    def tag() -> str:
        return str(raw(paths).get_run(run_ids(paths)["parent"]).data.tags[HEARTBEAT])

    for second in (10, 40, 41):  # it lives for 41 s
        clock.events[T0 + second] = lambda at=T0 + second: ledger.heartbeat(SWEEP, "driver", driver, at)  # type: ignore[misc]
    clock.events[T0 + 20] = lambda: said.append(tag())
    clock.events[T0 + 60] = lambda: said.append(tag())
    follow(ledger, tracker, subject, clock=clock, sleep=clock.sleep, idle_seconds=5.0)
    assert said == ["2023-11-14 22:13:20 UTC", "2023-11-14 22:14:00 UTC"]
    assert clock.now - T0 < 100, "over once the lease has run out"
    assert raw(paths).get_run(run_ids(paths)["parent"]).info.status == "KILLED"


def test_clocks_that_jump_do_not_stop_the_heartbeat(ledger: Ledger, subject: Subject) -> None:
    tracker, clock, beats = NullTracker(), Clock(), []
    ledger.update_sweep(SWEEP, status="running")
    ledger.acquire_lease(SWEEP, "driver", holder=Holder.current(), now=time.time())

    def jump() -> None:
        clock.now -= 86_400.0
        clock.events[clock.now + 40] = look

    def look() -> None:
        lease = ledger.lease(SWEEP, "delivery")
        assert lease is not None and lease.holder.pid == os.getpid()
        beats.append(lease.heartbeat)

    clock.events[T0 + 20] = jump

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if beats:
            ledger.update_sweep(SWEEP, status="stopped")

    follow(ledger, tracker, subject, clock=clock, sleep=sleep, idle_seconds=1.0)
    assert beats and T0 - 86_400 + 50 <= beats[0] <= T0 - 86_400 + 61
