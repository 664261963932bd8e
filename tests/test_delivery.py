from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.delivery import Subject, check, deliver_pending, finish, follow, run_record, sweep_run
from pipeline.errors import LeaseHeldError, TrackerAway, TrackerError
from pipeline.ledger.store import Holder, Ledger, SweepRecord
from pipeline.paths import WorkPaths
from pipeline.records import Params, Phase, State, TrialKey, TrialOutcome, TrialRecord, canonical_json
from pipeline.tracking.base import DatasetInfo, RecordedRun, RunRecord, SweepEnd, SweepRun, Tracker
from pipeline.tracking.mlflow_tracker import MlflowTracker
from pipeline.tracking.null_tracker import NullTracker

SWEEP = "which-sigma"
T0 = 1_700_000_000.0


class Killed(BaseException):
    """As good as kill -9 at this point, but for open transactions."""


@dataclass
class Flaky:
    """A tracker that fails at its k-th call, before the call has its effect or after it."""

    tracker: Tracker
    fails_at: set[int]
    after: bool
    error: Callable[[], BaseException] = field(default=lambda: TrackerAway("MLflow must answer."))
    calls: int = 0

    @property
    def target(self) -> str:
        return self.tracker.target

    def record_sweep(self, sweep: SweepRun, end: SweepEnd | None = None, *, alive_ms: int | None = None) -> str:
        return str(self._call(lambda: self.tracker.record_sweep(sweep, end, alive_ms=alive_ms)))

    def deliver(self, sweep: SweepRun, run: RunRecord, *, in_doubt: bool) -> str:
        return str(self._call(lambda: self.tracker.deliver(sweep, run, in_doubt=in_doubt)))

    def discard(self, sweep: SweepRun, ledger_ids: Collection[str] | None = None) -> None:
        self._call(lambda: self.tracker.discard(sweep, ledger_ids))

    def recorded(self, sweep: SweepRun, *, files: bool = True) -> tuple[RecordedRun, ...]:
        return self.tracker.recorded(sweep, files=files)

    def _call(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls in self.fails_at and not self.after:
            raise self.error()
        result = call()
        if self.calls in self.fails_at:
            raise self.error()
        return result


class Clock:
    """A clock that only sleeping moves; `events` happen at their times."""

    def __init__(self) -> None:
        self.now = T0
        self.events: dict[float, Callable[[], None]] = {}
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for at in sorted(self.events):
            if at <= self.now:
                self.events.pop(at)()


@pytest.fixture
def paths(tmp_path: Path) -> WorkPaths:
    return WorkPaths.at(tmp_path)


@pytest.fixture
def ledger(paths: WorkPaths) -> Iterator[Ledger]:
    study = canonical_json({"version": 1, "question": "Does σ matter?"})
    with Ledger.open(paths.ledger_url) as ledger:
        ledger.create_sweep(name=SWEEP, study=study, study_hash="ab12", created_at=T0)
        yield ledger


@pytest.fixture
def subject(paths: WorkPaths) -> Subject:
    def describe(record: TrialRecord) -> Params:
        return {"scale": "log_std", "hidden": (128, 64), "likelihood": None, "log": True, **record.params}

    dataset = DatasetInfo("digits", "ab12cd34", "{}")
    return Subject(SWEEP, paths, describe, lambda arm: f"scale={arm}", dataset, "0123abc")


def ended(number: int, state: State = State.COMPLETE, *, epochs: int = 50, **changes: Any) -> TrialRecord:
    key = TrialKey("a1b2", 1, Phase.SEARCH, number)
    curves = {
        name: tuple(-100.0 - number / 3 + epoch for epoch in range(epochs))
        for name in ("train/elbo", "val/elbo", "val/rate", "posterior/sigma_min")
    }
    base = TrialOutcome(
        state=state,
        curves=curves,
        metrics={name: curve[-1] for name, curve in curves.items() if curve},
        epochs=epochs,
        epoch_times=tuple(T0 + epoch for epoch in range(1, epochs + 1)),
        started_at=T0,
        ended_at=T0 + epochs + number,
        worker_seconds=2.5,
        worker="w1",
        host="node",
    )
    return TrialRecord(key, {"learning_rate": 0.003}, 7 + number, state, attempts=1, outcome=replace(base, **changes))


def with_pictures(record: TrialRecord, paths: WorkPaths) -> TrialRecord:
    folder = paths.trial(SWEEP, record.key)
    folder.mkdir(parents=True)
    for name in ("samples.png", "reconstructions.png"):
        Image.new("L", (64, 64), record.key.number).save(folder / name)
    return replace(record, files={"samples.png": "00", "reconstructions.png": "11"})


def parent_of(ledger: Ledger, subject: Subject) -> SweepRun:
    return sweep_run(sweep_of(ledger), subject)


def sweep_of(ledger: Ledger) -> SweepRecord:
    record = ledger.sweep(SWEEP)
    assert record is not None
    return record


@pytest.fixture
def record_of(ledger: Ledger, subject: Subject) -> Callable[[TrialRecord], RunRecord]:
    parent = parent_of(ledger, subject)
    return lambda record: run_record(record, subject, parent=parent, reproducible=True)


class TestRunRecord:
    def test_params_are_spelled_as_in_a_study_file(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        assert record_of(ended(0)).params == {
            "scale": "log_std",
            "hidden": "[128, 64]",
            "likelihood": "null",
            "log": "true",
            "learning_rate": "0.003",
        }

    @pytest.mark.parametrize(
        ("state", "status"),
        [
            (State.COMPLETE, "FINISHED"), (State.DIVERGED, "FINISHED"), (State.STOPPED, "KILLED"),
            (State.FAILED, "FAILED"),
        ],
    )  # fmt: skip
    def test_states(self, record_of: Callable[[TrialRecord], RunRecord], state: State, status: str) -> None:
        run = record_of(ended(0, state, cause="why"))
        assert run.status == status
        assert run.tags.get("diverged") == ("true" if state is State.DIVERGED else None)
        assert (run.tags["state"], run.tags["cause"]) == (state, "why")

    def test_tags(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        assert record_of(ended(0)).tags == {
            "arm": "scale=a1b2", "arm_id": "a1b2", "replicate": "1", "phase": "search", "number": "0",
            "seed": "7", "state": "complete", "attempts": "1", "worker": "w1", "host": "node",
            "git_commit": "0123abc", "reproducible": "true",
        }  # fmt: skip

    def test_main_curves_in_full_and_others_thinned(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        run = record_of(ended(0, epochs=50))
        steps: dict[str, list[int]] = {}
        for point in run.metrics:
            steps.setdefault(point.key, []).append(point.step)
        assert steps["train/elbo"] == steps["val/elbo"] == list(range(1, 51))
        for key in ("val/rate", "posterior/sigma_min"):
            assert len(set(steps[key])) == len(steps[key]) == 20
            assert (steps[key][0], steps[key][-1]) == (1, 50)
            assert steps[key] == sorted(steps[key])
        assert steps["cost/worker_seconds"] == [0]

    @pytest.mark.parametrize("epochs", [1, 2, 19, 20, 21, 22, 400])
    def test_thinning_at_the_edges(self, record_of: Callable[[TrialRecord], RunRecord], epochs: int) -> None:
        points = [p for p in record_of(ended(0, epochs=epochs)).metrics if p.key == "val/rate"]
        steps = [point.step for point in points]
        assert len(steps) == len(set(steps)) == min(epochs, 20)
        assert steps[-1] == epochs
        assert all(point.value == -100.0 + point.step - 1 for point in points)

    def test_times_are_the_ledgers(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        run = record_of(ended(3))
        assert (run.started_ms, run.ended_ms) == (1_700_000_000_000, 1_700_000_053_000)
        elbo = [point for point in run.metrics if point.key == "val/elbo"]
        assert [point.timestamp_ms for point in elbo[:2]] == [1_700_000_001_000, 1_700_000_002_000]
        assert run == record_of(ended(3))

    def test_test_metrics_are_single_values(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        run = record_of(ended(0, metrics={"test/elbo": -90.0, "val/elbo": -51.0}))
        assert [(p.step, p.value) for p in run.metrics if p.key == "test/elbo"] == [(0, -90.0)]
        assert max(p.step for p in run.metrics if p.key == "val/elbo") == 50

    def test_at_most_30_keys_and_the_important_ones(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        curves = {f"a/{index}": (1.0,) for index in range(60)} | {"val/elbo": (1.0,), "train/elbo": (1.0,)}
        run = record_of(ended(0, curves=curves, metrics={"test/elbo": 2.0}, epochs=1))
        keys = {point.key for point in run.metrics}
        assert len(keys) == 30
        assert {"val/elbo", "train/elbo", "test/elbo"} <= keys

    def test_points_that_are_not_finite_are_counted(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        curves = {"val/elbo": (-3.0, math.nan), "train/elbo": (math.inf, -math.inf)}
        run = record_of(ended(0, State.DIVERGED, curves=curves, metrics={}, epochs=2))
        assert [(p.key, p.step) for p in run.metrics if "elbo" in p.key] == [("val/elbo", 1)]
        assert run.tags["nonfinite_points"] == "3"

    def test_a_trial_without_an_epoch(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        run = record_of(ended(0, State.FAILED, curves={}, metrics={}, epoch_times=(), epochs=0, cause="x" * 9000))
        assert {point.key for point in run.metrics} == {"cost/epochs", "cost/worker_seconds"}
        assert len(run.tags["cause"]) == 2000

    def test_files_that_are_gone_are_counted(
        self, record_of: Callable[[TrialRecord], RunRecord], paths: WorkPaths
    ) -> None:
        record = with_pictures(ended(0), paths)
        assert set(record_of(record).files) == {"samples.png", "reconstructions.png"}
        (paths.trial(SWEEP, record.key) / "samples.png").unlink()
        run = record_of(record)
        assert set(run.files) == {"reconstructions.png"}
        assert run.tags["missing_files"] == "1"

    def test_only_ended_trials(self, record_of: Callable[[TrialRecord], RunRecord]) -> None:
        with pytest.raises(TrackerError, match="waiting"):
            record_of(replace(ended(0), state=State.WAITING, outcome=None))

    def test_identity_is_of_this_ledger(self, ledger: Ledger, subject: Subject, paths: WorkPaths) -> None:
        parent = parent_of(ledger, subject)
        assert parent.study_yaml == sweep_of(ledger).study + "\n"
        paths.study(SWEEP).parent.mkdir()
        paths.study(SWEEP).write_text("version: 1\n")
        assert parent_of(ledger, subject).study_yaml == "version: 1\n"
        ledger.delete_sweep(SWEEP)
        ledger.create_sweep(name=SWEEP, study="{}", study_hash="ab12", created_at=T0 + 1)
        assert parent_of(ledger, subject).ledger_id != parent.ledger_id


def assert_delivered_once(ledger: Ledger, tracker: Tracker, subject: Subject, count: int) -> None:
    recorded = tracker.recorded(parent_of(ledger, subject))
    assert len(recorded) == count + 1
    assert len({run.ledger_id for run in recorded}) == count + 1
    assert check(ledger, tracker, subject) == []


def only(tracker: Tracker, sweep: SweepRun, key: TrialKey) -> RecordedRun:
    (found,) = [run for run in tracker.recorded(sweep) if run.ledger_id == f"{sweep.ledger_id}/{key}"]
    return found


class TestDeliverPending:
    def test_all_once(self, ledger: Ledger, subject: Subject) -> None:
        tracker = NullTracker()
        ledger.save_trials(SWEEP, [ended(number) for number in range(45)])
        report = deliver_pending(ledger, tracker, subject)
        assert (report.delivered, report.remaining, report.away) == (45, 0, None)
        assert deliver_pending(ledger, tracker, subject).delivered == 0
        assert_delivered_once(ledger, tracker, subject, 45)
        done = ledger.deliveries(SWEEP, "null", state="done")
        assert len(done) == 45
        assert {d.run_id for d in done.values()} < {r.run_id for r in tracker.recorded(parent_of(ledger, subject))}

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("error", [lambda: TrackerAway("MLflow must answer."), Killed])
    def test_interrupted_at_any_call(
        self, ledger: Ledger, subject: Subject, after: bool, error: Callable[[], BaseException]
    ) -> None:
        ledger.save_trials(SWEEP, [ended(number) for number in range(23)])
        for k in range(1, 26):
            kept = NullTracker()
            flaky = Flaky(kept, {k}, after, error)
            try:
                report = deliver_pending(ledger, flaky, subject)
                assert (report.away is None) == (k == 25)
                assert report.remaining == 23 - report.delivered
            except Killed:
                pass
            assert deliver_pending(ledger, kept, subject).remaining == 0
            assert_delivered_once(ledger, kept, subject, 23)
            self._forget(ledger)

    def test_interrupted_at_every_second_call(self, ledger: Ledger, subject: Subject) -> None:
        for after in (False, True):
            ledger.save_trials(SWEEP, [ended(number) for number in range(23)])
            flaky = Flaky(NullTracker(), set(range(0, 1000, 3)), after)
            rounds = 0
            while (report := deliver_pending(ledger, flaky, subject)).remaining:
                assert report.away
                rounds += 1
            assert 5 < rounds < 40
            assert_delivered_once(ledger, flaky, subject, 23)
            self._forget(ledger)

    def test_killed_between_the_tracker_and_the_ledger(
        self, ledger: Ledger, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tracker = NullTracker()
        ledger.save_trials(SWEEP, [ended(number) for number in range(5)])

        def killed(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(ledger, "mark_done", killed)
            deliver_pending(ledger, tracker, subject)
        assert ledger.count_undelivered(SWEEP, "null") == 5
        deliver_pending(ledger, tracker, subject)
        assert_delivered_once(ledger, tracker, subject, 5)

    def test_what_is_refused_does_not_hold_up_the_rest(self, ledger: Ledger, subject: Subject) -> None:
        ledger.save_trials(SWEEP, [ended(number) for number in range(50)])
        flaky = Flaky(NullTracker(), set(range(2, 25)), False, lambda: TrackerError("no"))
        report = deliver_pending(ledger, flaky, subject)
        assert (report.delivered, report.remaining, report.away) == (27, 23, None)
        assert set(report.refused.values()) == {"no"}
        assert deliver_pending(ledger, flaky, subject).delivered == 23
        assert_delivered_once(ledger, flaky, subject, 50)

    def test_a_refused_sweep_is_an_error(self, ledger: Ledger, subject: Subject) -> None:
        tracker = NullTracker()
        tracker.record_sweep(replace(parent_of(ledger, subject), ledger_id="another"))
        ledger.save_trials(SWEEP, [ended(0)])
        with pytest.raises(TrackerError, match="another ledger"):
            deliver_pending(ledger, tracker, subject)
        with pytest.raises(TrackerError, match="'no'"):
            deliver_pending(ledger, tracker, replace(subject, sweep="no"))

    def test_what_is_superseded_is_delivered_anew(self, ledger: Ledger, subject: Subject) -> None:
        """Wherever the delivery is interrupted, before and after the extension."""
        old = [ended(number) for number in range(4)]
        new = [replace(ended(number, epochs=30), params={"learning_rate": 0.1}) for number in (1, 3)]
        for after in (False, True):
            for first in (*range(1, 6), 99):
                for second in range(1, 6):
                    kept = NullTracker()
                    ledger.save_trials(SWEEP, old)
                    with suppress(Killed):
                        deliver_pending(ledger, Flaky(kept, {first}, after, Killed), subject)
                    ledger.supersede(SWEEP, [trial.key for trial in new])
                    with suppress(Killed):
                        deliver_pending(ledger, Flaky(kept, {second}, after, Killed), subject)
                    ledger.save_trials(SWEEP, new)
                    with suppress(Killed):
                        deliver_pending(ledger, Flaky(kept, {second}, after, Killed), subject)
                    assert deliver_pending(ledger, kept, subject).remaining == 0
                    assert_delivered_once(ledger, kept, subject, 4)
                    self._forget_all(ledger)

    def test_superseded_while_it_is_delivered(self, ledger: Ledger, subject: Subject) -> None:
        """At every moment of a delivery, another process supersedes a trial and ends its successor."""
        old, new = [ended(number) for number in range(3)], replace(ended(1, epochs=30), params={"learning_rate": 0.1})

        class Meddled:
            """A ledger of which each call may be the moment."""

            def __init__(self, moment: int) -> None:
                self.left = moment

            def __getattr__(self, name: str) -> Any:
                method = getattr(ledger, name)

                def call(*args: Any, **kwargs: Any) -> Any:
                    self.left -= 1
                    if self.left == 0:
                        ledger.supersede(SWEEP, [new.key])
                        ledger.save_trials(SWEEP, [new])
                    return method(*args, **kwargs)

                return call

        moment, over = 0, False
        while not over:
            moment += 1
            tracker, meddled = NullTracker(), Meddled(moment)
            ledger.save_trials(SWEEP, old)
            deliver_pending(meddled, tracker, subject)  # type: ignore[arg-type]
            over = meddled.left > 0
            if not over:
                deliver_pending(ledger, tracker, subject)
                assert_delivered_once(ledger, tracker, subject, 3)
                assert only(tracker, parent_of(ledger, subject), new.key).params["learning_rate"] == "0.1"
            self._forget_all(ledger)
        assert moment > 10

    def test_a_delivery_ends_when_its_sweep_is_extended(self, ledger: Ledger, subject: Subject) -> None:
        ledger.save_trials(SWEEP, [ended(0)])
        knows = replace(subject, study=sweep_of(ledger).study)
        assert deliver_pending(ledger, NullTracker(), knows).delivered == 1
        ledger.extend_sweep(SWEEP, study=canonical_json({"version": 1, "question": "More?"}), study_hash="cd34")
        report = deliver_pending(ledger, NullTracker(), knows)
        assert report.extended and (report.delivered, report.remaining) == (0, 0)
        assert follow(ledger, NullTracker(), knows).extended

    def test_one_deliverer_at_a_time(self, ledger: Ledger, subject: Subject) -> None:
        other = Holder("elsewhere", 7, "", "")
        ledger.acquire_lease(SWEEP, "delivery", holder=other, now=time.time())
        with pytest.raises(LeaseHeldError, match="elsewhere"):
            deliver_pending(ledger, NullTracker(), subject)
        ledger.release_lease(SWEEP, "delivery", other)
        deliver_pending(ledger, NullTracker(), subject)
        assert ledger.lease(SWEEP, "delivery") is None

    @staticmethod
    def _forget_all(ledger: Ledger) -> None:
        old = sweep_of(ledger)
        ledger.delete_sweep(SWEEP)
        ledger.create_sweep(name=SWEEP, study=old.study, study_hash="ab12", created_at=old.created_at + 1)

    @staticmethod
    def _forget(ledger: Ledger) -> None:
        """The trials stay, their deliveries go."""
        trials, old = ledger.trials(SWEEP), sweep_of(ledger)
        ledger.delete_sweep(SWEEP)
        ledger.create_sweep(name=SWEEP, study=old.study, study_hash="ab12", created_at=old.created_at + 1)
        ledger.save_trials(SWEEP, trials)


class TestFollow:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def driver(self, ledger: Ledger, clock: Clock) -> Holder:
        """A live driver on another host."""
        holder = Holder("elsewhere", 7, "", "")
        ledger.acquire_lease(SWEEP, "driver", holder=holder, now=clock.now)
        return holder

    def _follow(self, ledger: Ledger, tracker: Tracker, subject: Subject, clock: Clock, **more: Any) -> list[str]:
        said: list[str] = []
        self.report = follow(ledger, tracker, subject, clock=clock, sleep=clock.sleep, say=said.append, **more)
        return said

    def test_until_the_sweep_is_finished(self, ledger: Ledger, subject: Subject, clock: Clock, driver: Holder) -> None:
        tracker = NullTracker()
        ledger.save_trials(SWEEP, [ended(0)])
        clock.events[T0 + 3] = lambda: ledger.save_trials(SWEEP, [ended(1), ended(2)])

        def end() -> None:
            ledger.save_trials(SWEEP, [ended(3)])
            ledger.update_sweep(SWEEP, status="finished", finished_at=clock.now)

        clock.events[T0 + 9] = end
        said = self._follow(ledger, tracker, subject, clock, final_files=lambda: {"compare.json": "{}"})
        assert said == []
        assert (self.report.delivered, self.report.remaining) == (4, 0)
        assert clock.now <= T0 + 12
        parent, *children = tracker.recorded(parent_of(ledger, subject))
        assert parent.status == "FINISHED"
        assert parent.artifacts == {"study.yaml", "compare.json"}
        assert len(children) == 4
        assert ledger.deliveries(SWEEP, "null")["parent"].state == "done"
        assert ledger.lease(SWEEP, "delivery") is None
        assert check(ledger, tracker, subject) == []

    @pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "driver gone"])
    def test_until_there_is_no_driver(
        self, ledger: Ledger, subject: Subject, clock: Clock, driver: Holder, stopped: bool
    ) -> None:
        tracker = NullTracker()
        ledger.save_trials(SWEEP, [ended(0)])
        if stopped:
            clock.events[T0 + 3] = lambda: ledger.update_sweep(SWEEP, status="stopped")
        self._follow(ledger, tracker, subject, clock)
        assert (T0 + 3 <= clock.now <= T0 + 5) if stopped else (T0 + 30 <= clock.now <= T0 + 32)
        assert [run.status for run in tracker.recorded(parent_of(ledger, subject))] == ["KILLED", "FINISHED"]

    def test_a_driver_that_is_seen_to_run_may_be_silent(self, ledger: Ledger, subject: Subject, clock: Clock) -> None:
        """As while Ray starts on a busy machine: for longer than a lease lasts, before there is any trial."""
        ledger.acquire_lease(SWEEP, "driver", holder=Holder.current(), now=clock.now)
        tracker = NullTracker()

        def end() -> None:
            ledger.save_trials(SWEEP, [ended(0)])
            ledger.update_sweep(SWEEP, status="finished", finished_at=clock.now)

        clock.events[T0 + 90] = end
        self._follow(ledger, tracker, subject, clock)
        assert (self.report.delivered, self.report.remaining) == (1, 0)
        assert [run.status for run in tracker.recorded(parent_of(ledger, subject))] == ["FINISHED", "FINISHED"]

    def test_resumed_after_a_stop(self, ledger: Ledger, subject: Subject, clock: Clock) -> None:
        tracker = NullTracker()
        ledger.save_trials(SWEEP, [ended(0)])
        ledger.update_sweep(SWEEP, status="stopped")
        self._follow(ledger, tracker, subject, clock)
        ledger.save_trials(SWEEP, [ended(1)])
        ledger.update_sweep(SWEEP, status="finished", finished_at=T0 + 99)
        self._follow(ledger, tracker, subject, clock)
        assert_delivered_once(ledger, tracker, subject, 2)

    def test_an_absence_is_waited_out_with_growing_pauses(self, ledger: Ledger, subject: Subject, clock: Clock) -> None:
        ledger.save_trials(SWEEP, [ended(0), ended(1)])
        ledger.update_sweep(SWEEP, status="finished", finished_at=T0 + 9)
        flaky = Flaky(NullTracker(), {2, *range(4, 12)}, True)
        said = self._follow(ledger, flaky, subject, clock)
        assert len(said) == 2
        assert said[0] == "The tracker is away, trying again: MLflow must answer."
        assert said[1] == "The tracker answers again."
        assert clock.now - T0 > 1 + 2 + 4 + 8 + 16 + 30
        assert max(clock.slept) <= 5  # the lease is kept alive meanwhile
        assert_delivered_once(ledger, flaky, subject, 2)

    def test_stands_by_while_another_delivers(
        self, ledger: Ledger, subject: Subject, clock: Clock, driver: Holder
    ) -> None:
        ledger.acquire_lease(SWEEP, "delivery", holder=driver, now=T0)
        clock.events[T0 + 10] = lambda: ledger.release_lease(SWEEP, "delivery", driver)
        ledger.save_trials(SWEEP, [ended(0)])
        ledger.update_sweep(SWEEP, status="finished", finished_at=T0)
        assert self._follow(ledger, NullTracker(), subject, clock) == []
        assert clock.now == T0 + 10
        assert self.report.delivered == 1

    def test_patience_ends(self, ledger: Ledger, subject: Subject, clock: Clock) -> None:
        ledger.save_trials(SWEEP, [ended(0)])
        ledger.update_sweep(SWEEP, status="finished", finished_at=T0)
        flaky = Flaky(NullTracker(), set(range(1000)), False)
        said = self._follow(ledger, flaky, subject, clock, patience_seconds=100)
        assert len(said) == 1
        assert (self.report.delivered, self.report.remaining) == (0, 1)
        assert self.report.away == "MLflow must answer."
        assert T0 + 100 <= clock.now <= T0 + 131

    def test_refusals_are_said_once_and_do_not_loop(self, ledger: Ledger, subject: Subject, clock: Clock) -> None:
        ledger.save_trials(SWEEP, [ended(number) for number in range(3)])
        ledger.update_sweep(SWEEP, status="finished", finished_at=T0)
        flaky = Flaky(NullTracker(), {3}, False, lambda: TrackerError("no"))
        said = self._follow(ledger, flaky, subject, clock)
        assert said == ["a1b2/1/search/1: no"]
        assert (self.report.delivered, self.report.remaining) == (2, 1)
        assert self.report.refused == {"a1b2/1/search/1": "no"}

    def test_problems_go_to_stderr(
        self, ledger: Ledger, subject: Subject, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ledger.update_sweep(SWEEP, status="finished", finished_at=T0)
        flaky = Flaky(NullTracker(), {1}, False, lambda: TrackerAway("two\nlines"))
        follow(ledger, flaky, subject, clock=clock, sleep=clock.sleep)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[0].endswith("two lines")
        assert len(err.splitlines()) == 2


class Doctored:
    """A tracker whose records were tampered with."""

    def __init__(self, tracker: Tracker, runs: tuple[RecordedRun, ...]) -> None:
        self._tracker, self._runs = tracker, runs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def recorded(self, sweep: SweepRun, *, files: bool = True) -> tuple[RecordedRun, ...]:
        return self._runs


def test_check_sees_every_difference(ledger: Ledger, subject: Subject, paths: WorkPaths) -> None:
    tracker = NullTracker()
    ledger.save_trials(SWEEP, [with_pictures(ended(number), paths) for number in range(2)])
    assert check(ledger, tracker, subject) == [
        "the parent run: missing", "a1b2/1/search/0: missing", "a1b2/1/search/1: missing",
    ]  # fmt: skip
    deliver_pending(ledger, tracker, subject)
    assert check(ledger, tracker, subject) == []  # running: so may the parent
    ledger.update_sweep(SWEEP, status="finished", finished_at=T0 + 1)
    assert check(ledger, tracker, subject) == ["the parent run: is RUNNING, not FINISHED"]
    finish(ledger, tracker, subject, files={}, metrics={})
    parent, first, second = tracker.recorded(parent_of(ledger, subject))

    def differences(*runs: RecordedRun) -> list[str]:
        return check(ledger, Doctored(tracker, (parent, *runs)), subject)

    name = "a1b2/1/search/0"
    wrong: Mapping[str, RecordedRun] = {
        f"{name}: is RUNNING, not FINISHED": replace(first, status="RUNNING"),
        f"{name}: is FAILED, not FINISHED": replace(first, status="FAILED"),
        f"{name}: last val/elbo is -52.0, not -51.0": replace(first, metrics={"val/elbo": -52.0}),
        f"{name}: last val/elbo is None, not -51.0": replace(first, metrics={}),
        f"{name}: samples.png is missing": replace(first, artifacts=frozenset({"reconstructions.png"})),
    }
    for line, run in wrong.items():
        assert differences(run, second) == [line]
    assert differences(first, first, second) == [f"{name}: recorded 2 times"]
    stray = replace(first, ledger_id="x/y")
    assert differences(first, second, stray) == ["x/y: recorded, but not an ended trial of the ledger"]
    (paths.trial(SWEEP, ended(0).key) / "samples.png").unlink()
    assert [line.split(" from ")[0] for line in differences(first, second)] == [f"{name}: samples.png is gone"]


def test_into_a_real_mlflow(ledger: Ledger, subject: Subject, paths: WorkPaths) -> None:
    states = [State.COMPLETE] * 7 + [State.STOPPED, State.FAILED]
    trials = [with_pictures(ended(number, state), paths) for number, state in enumerate(states)]
    nan = {"val/elbo": (-5.0, math.nan), "train/elbo": (math.nan, math.inf)}
    trials.append(ended(9, State.DIVERGED, curves=nan, metrics={"val/elbo": math.nan}, epochs=2))
    ledger.save_trials(SWEEP, trials[:6])
    tracker = MlflowTracker.connect(paths.mlflow_url, paths.mlflow_artifacts)
    flaky = Flaky(tracker, {4}, after=True)
    assert deliver_pending(ledger, flaky, subject).away
    ledger.save_trials(SWEEP, trials[6:])
    ledger.update_sweep(SWEEP, status="finished", finished_at=T0 + 500)
    again = MlflowTracker.connect(paths.mlflow_url, paths.mlflow_artifacts)  # as after a kill
    report = follow(
        ledger,
        again,
        subject,
        final_files=lambda: {"compare.json": json.dumps({"verdict": "undecided"}), "compare.txt": "undecided\n"},
    )
    assert (report.remaining, report.refused) == (0, {})
    assert_delivered_once(ledger, again, subject, 10)
    runs = {run.ledger_id.rpartition("/")[2]: run for run in again.recorded(parent_of(ledger, subject))}
    assert [runs[str(number)].status for number in range(10)] == ["FINISHED"] * 7 + [
        "KILLED", "FAILED", "FINISHED",
    ]  # fmt: skip
    assert runs["9"].metrics["val/elbo"] == -5.0
    (parent,) = (run for run in runs.values() if "study.yaml" in run.artifacts)
    assert parent.status == "FINISHED"
    assert parent.artifacts == {"study.yaml", "compare.json", "compare.txt"}
    pictures = list(paths.mlflow_artifacts.rglob("samples.png"))
    assert len(pictures) == 9
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
