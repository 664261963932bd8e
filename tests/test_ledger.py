from __future__ import annotations

import math
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pipeline.errors import LeaseHeldError, LedgerAway, LedgerError
from pipeline.ledger.patience import Patience
from pipeline.ledger.schema import LEASE_SECONDS, pack_floats, unpack_floats
from pipeline.ledger.store import Holder, Ledger
from pipeline.records import ENDED, MOVES, Phase, State, TrialKey, TrialOutcome, TrialRecord

from .postgres import Server

SWEEP = "which-sigma"
NOW = 1_700_000_000.0


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'a folder, quoted' / 'ledger.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, file_url: str) -> Iterator[str]:
    """Every test that takes it, or `ledger`, runs on both databases."""
    if request.param == "sqlite":
        yield file_url
        return
    server: Server = request.getfixturevalue("postgresql")
    url = server.new_database()
    yield url
    server.drop(url)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.open(url) as ledger:
        ledger.create_sweep(name=SWEEP, study='{"seed":0}', study_hash="ab12", created_at=NOW)
        yield ledger


def trial(number: int = 0, *, arm: str = "a1", phase: Phase = Phase.SEARCH, **changes: Any) -> TrialRecord:
    base = TrialRecord(TrialKey(arm, 0, phase, number), {"learning_rate": 1e-3}, seed=2**62 + number)
    return replace(base, **changes)


def outcome(state: State = State.COMPLETE, **changes: Any) -> TrialOutcome:
    base = TrialOutcome(
        state=state,
        curves={"val/elbo": (-120.5, -110.25), "train/elbo": (-130.0, -0.1)},
        metrics={"val/elbo": -110.25},
        epochs=2,
        epoch_times=(NOW + 1, NOW + 2),
        started_at=NOW,
        ended_at=NOW + 2,
        worker_seconds=1.5,
        worker="w0",
        host="h",
    )
    return replace(base, **changes)


def ended(number: int = 0, state: State = State.COMPLETE, **changes: Any) -> TrialRecord:
    return trial(number, state=state, attempts=1, outcome=outcome(state), **changes)


class Writes:
    """Every method that writes, and under the same name with a _ what must then be there."""

    @staticmethod
    def create_sweep(ledger: Ledger, me: Holder) -> None:
        made = ledger.create_sweep(name="new", study="{}", study_hash="1", created_at=NOW)
        assert made == ledger.sweep("new")

    @staticmethod
    def _create_sweep(ledger: Ledger, me: Holder, waited: float) -> None:
        assert [sweep.name for sweep in ledger.sweeps()] == ["new", SWEEP]

    @staticmethod
    def update_sweep(ledger: Ledger, me: Holder) -> None:
        ledger.update_sweep(SWEEP, status="stopped")

    @staticmethod
    def _update_sweep(ledger: Ledger, me: Holder, waited: float) -> None:
        assert [sweep.status for sweep in ledger.sweeps()] == ["stopped"]

    @staticmethod
    def delete_sweep(ledger: Ledger, me: Holder) -> None:
        ledger.delete_sweep(SWEEP)

    @staticmethod
    def _delete_sweep(ledger: Ledger, me: Holder, waited: float) -> None:
        assert ledger.sweeps() == []

    @staticmethod
    def save_trials(ledger: Ledger, me: Holder) -> None:
        life = [trial(2), trial(2, state=State.RUNNING, attempts=1), ended(2), trial(0), trial(3)]
        ledger.save_trials(SWEEP, [*life, trial(1, state=State.RUNNING, attempts=1)])

    @staticmethod
    def _save_trials(ledger: Ledger, me: Holder, waited: float) -> None:
        expected = [trial(0), trial(1, state=State.RUNNING, attempts=1), ended(2), trial(3)]
        assert ledger.trials(SWEEP) == expected

    @staticmethod
    def acquire_lease(ledger: Ledger, me: Holder) -> None:
        ledger.acquire_lease(SWEEP, "driver", holder=me, now=NOW)

    @staticmethod
    def _acquire_lease(ledger: Ledger, me: Holder, waited: float) -> None:
        lease = ledger.lease(SWEEP, "driver")
        assert lease is not None and (lease.holder, lease.heartbeat) == (me, NOW + waited)

    @staticmethod
    def heartbeat(ledger: Ledger, me: Holder) -> None:
        ledger.heartbeat(SWEEP, "delivery", me, NOW + 100)

    @staticmethod
    def _heartbeat(ledger: Ledger, me: Holder, waited: float) -> None:
        lease = ledger.lease(SWEEP, "delivery")
        assert lease is not None and (lease.since, lease.heartbeat) == (NOW, NOW + 100 + waited)

    @staticmethod
    def release_lease(ledger: Ledger, me: Holder) -> None:
        ledger.release_lease(SWEEP, "delivery", me)

    @staticmethod
    def _release_lease(ledger: Ledger, me: Holder, waited: float) -> None:
        assert ledger.lease(SWEEP, "delivery") is None

    @staticmethod
    def mark_begun(ledger: Ledger, me: Holder) -> None:
        ledger.mark_begun(SWEEP, "t", ["a", "b"])

    @staticmethod
    def _mark_begun(ledger: Ledger, me: Holder, waited: float) -> None:
        assert set(ledger.deliveries(SWEEP, "t", state="begun")) == {"a", "b"}

    @staticmethod
    def mark_done(ledger: Ledger, me: Holder) -> None:
        ledger.mark_done(SWEEP, "t", {"a": "run"})

    @staticmethod
    def _mark_done(ledger: Ledger, me: Holder, waited: float) -> None:
        assert {item: found.run_id for item, found in ledger.deliveries(SWEEP, "t").items()} == {"a": "run"}

    @staticmethod
    def extend_sweep(ledger: Ledger, me: Holder) -> None:
        ledger.extend_sweep(SWEEP, study='{"seed":1}', study_hash="cd34")

    @staticmethod
    def _extend_sweep(ledger: Ledger, me: Holder, waited: float) -> None:
        assert [(sweep.study, sweep.study_hash) for sweep in ledger.sweeps()] == [('{"seed":1}', "cd34")]

    @staticmethod
    def supersede(ledger: Ledger, me: Holder) -> None:
        ledger.supersede(SWEEP, [trial(1).key])

    @staticmethod
    def _supersede(ledger: Ledger, me: Holder, waited: float) -> None:
        assert [record.key.number for record in ledger.trials(SWEEP)] == [0]
        assert set(ledger.deliveries(SWEEP, "s", state="stale")) == {str(trial(n).key) for n in (1, 7)}

    @staticmethod
    def mark_discarded(ledger: Ledger, me: Holder) -> None:
        ledger.mark_discarded(SWEEP, "s", [str(trial(7).key)])

    @staticmethod
    def _mark_discarded(ledger: Ledger, me: Holder, waited: float) -> None:
        assert set(ledger.deliveries(SWEEP, "s", state="begun")) == {"parent", str(trial(7).key)}

    @staticmethod
    def mark_stale(ledger: Ledger, me: Holder) -> None:
        ledger.mark_stale(SWEEP)

    @staticmethod
    def _mark_stale(ledger: Ledger, me: Holder, waited: float) -> None:
        assert set(ledger.deliveries(SWEEP, "s", state="stale")) == {"parent", str(trial(7).key)}


class TestSweeps:
    def test_created_updated_read_back_and_kept(self, ledger: Ledger, url: str) -> None:
        created = ledger.sweep(SWEEP)
        assert created is not None
        assert (created.status, created.fingerprint, created.reproducible) == ("running", None, True)
        ledger.update_sweep(SWEEP, fingerprint={"torch": "2"}, reproducible=False)
        ledger.update_sweep(SWEEP, status="finished", stop_requested=True, finished_at=NOW + 9)
        expected = replace(
            created,
            status="finished",
            fingerprint={"torch": "2"},
            reproducible=False,
            stop_requested=True,
            finished_at=NOW + 9,
        )
        ledger.close()
        with Ledger.open(url, create=False) as again:
            assert again.sweeps() == [expected]

    def test_stop_request_can_be_taken_back(self, ledger: Ledger) -> None:
        ledger.update_sweep(SWEEP, stop_requested=True)
        ledger.update_sweep(SWEEP, stop_requested=False)
        sweep = ledger.sweep(SWEEP)
        assert sweep is not None
        assert not sweep.stop_requested

    def test_a_name_is_used_once(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError, match="which-sigma"):
            ledger.create_sweep(name=SWEEP, study="{}", study_hash="", created_at=NOW)

    def test_unknown_sweep(self, ledger: Ledger) -> None:
        assert ledger.sweep("no") is None
        with pytest.raises(LedgerError, match="'no'"):
            ledger.update_sweep("no", status="stopped")

    def test_an_extended_sweep_runs_again(self, ledger: Ledger) -> None:
        ledger.update_sweep(SWEEP, status="finished", fingerprint={"a": "b"}, stop_requested=True, finished_at=NOW + 9)
        before = ledger.sweep(SWEEP)
        ledger.extend_sweep(SWEEP, study="{}", study_hash="cd34")
        assert before is not None
        again: dict[str, Any] = {"status": "running", "stop_requested": False, "finished_at": None}
        assert ledger.sweep(SWEEP) == replace(before, study="{}", study_hash="cd34", **again)
        with pytest.raises(LedgerError, match="'no'"):
            ledger.extend_sweep("no", study="{}", study_hash="cd34")

    def test_delete_removes_this_sweep_only(self, ledger: Ledger) -> None:
        ledger.create_sweep(name="other", study="{}", study_hash="", created_at=NOW)
        for name in (SWEEP, "other"):
            ledger.save_trials(name, [ended()])
            ledger.mark_begun(name, "t", ["parent"])
            ledger.acquire_lease(name, "driver", holder=Holder.current(), now=NOW)
        ledger.delete_sweep(SWEEP)
        assert [sweep.name for sweep in ledger.sweeps()] == ["other"]
        left = (
            ledger.trials(SWEEP),
            ledger.counts(SWEEP),
            ledger.deliveries(SWEEP, "t"),
            ledger.lease(SWEEP, "driver"),
        )
        assert left == ([], {}, {}, None)
        assert len(ledger.trials("other")) == len(ledger.deliveries("other", "t")) == 1
        assert ledger.lease("other", "driver")


class TestTrials:
    def test_every_field_comes_back(self, ledger: Ledger) -> None:
        record = trial(
            params={
                "hidden": (64, 32),
                "likelihood": None,
                "log": True,
                "lr": 0.1 + 0.2,
                "n": 3,
                "o": "adam\0",
            },
            state=State.COMPLETE,
            attempts=2,
            proposal={"qmc:seed": [1, 2], "x": {"y": 1e-300}},
            thresholds=(None, -120.0, -math.inf),
            outcome=outcome(cause="why — σ", largest_pack=7, curves={"val/elbo": (), "b": (1.0,)}),
            files={"samples.png": "00ff", "model.safetensors": "11"},
        )
        ledger.save_trials(SWEEP, [record])
        assert ledger.trials(SWEEP) == [record]

    def test_floats_survive_to_the_bit(self, ledger: Ledger) -> None:
        odd = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1.7976931348623157e308)
        record = trial(
            state=State.DIVERGED,
            outcome=outcome(State.DIVERGED, curves={"val/elbo": odd}, metrics={"val/elbo": math.nan}),
        )
        ledger.save_trials(SWEEP, [record])
        (back,) = ledger.trials(SWEEP)
        assert back.outcome is not None
        assert struct.pack("<7d", *back.outcome.curves["val/elbo"]) == struct.pack("<7d", *odd)
        assert math.isnan(back.outcome.metrics["val/elbo"])
        ledger.save_trials(SWEEP, [record])  # equal, though NaN is not

    def test_a_cause_that_databases_cannot_hold_is_spelled_out(self, ledger: Ledger) -> None:
        record = trial(state=State.FAILED, outcome=outcome(State.FAILED, cause="half \udc80, none \0"))
        ledger.save_trials(SWEEP, [record])
        ledger.save_trials(SWEEP, [record])
        (back,) = ledger.trials(SWEEP)
        assert back.outcome is not None
        assert back.outcome.cause == r"half \udc80, none \x00"

    def test_contents_of_files_are_not_kept(self, ledger: Ledger) -> None:
        record = replace(ended(), outcome=outcome(files={"samples.png": b"png"}))
        ledger.save_trials(SWEEP, [record])
        (back,) = ledger.trials(SWEEP)
        assert back.outcome == outcome()

    def test_order_and_filters(self, ledger: Ledger) -> None:
        records = [
            ended(10), ended(9), trial(2, arm="a0"), ended(0, phase=Phase.REPEAT), ended(1, State.FAILED),
        ]  # fmt: skip
        ledger.save_trials(SWEEP, records)
        keys = [record.key for record in ledger.trials(SWEEP)]
        assert keys == sorted(keys)
        assert len(keys) == 5
        assert [r.key.phase for r in ledger.trials(SWEEP, phase=Phase.REPEAT)] == [Phase.REPEAT]
        assert [r.key.number for r in ledger.trials(SWEEP, states=[State.WAITING, State.FAILED])] == [2, 1]
        assert ledger.counts(SWEEP) == {
            ("a0", Phase.SEARCH, State.WAITING): 1,
            ("a1", Phase.SEARCH, State.COMPLETE): 2,
            ("a1", Phase.SEARCH, State.FAILED): 1,
            ("a1", Phase.REPEAT, State.COMPLETE): 1,
        }

    @pytest.mark.parametrize("before", State)
    @pytest.mark.parametrize("after", State)
    def test_only_legal_moves(self, ledger: Ledger, before: State, after: State) -> None:
        def at(state: State) -> TrialRecord:
            return ended(state=state) if state in ENDED else trial(state=state)

        ledger.save_trials(SWEEP, [at(before)])
        if after == before or after in MOVES[before]:
            ledger.save_trials(SWEEP, [at(after)])
            assert ledger.trials(SWEEP)[0].state == after
        else:
            with pytest.raises(LedgerError, match="legal"):
                ledger.save_trials(SWEEP, [at(after)])
            assert ledger.trials(SWEEP)[0].state == before

    def test_an_ended_trial_is_never_overwritten(self, ledger: Ledger) -> None:
        ledger.save_trials(SWEEP, [ended()])
        ledger.save_trials(SWEEP, [ended()])
        for other in (
            replace(ended(), seed=1),
            replace(ended(), outcome=outcome(curves={"val/elbo": (-1.0,)})),
            replace(ended(), files={"samples.png": "aa"}),
        ):
            with pytest.raises(LedgerError, match="another result"):
                ledger.save_trials(SWEEP, [other])
        assert ledger.trials(SWEEP) == [ended()]

    def test_all_or_nothing(self, ledger: Ledger) -> None:
        ledger.save_trials(SWEEP, [ended(0)])
        with pytest.raises(LedgerError):
            ledger.save_trials(SWEEP, [ended(1), trial(0)])
        assert [record.key.number for record in ledger.trials(SWEEP)] == [0]

    def test_a_whole_life_in_one_call(self, ledger: Ledger) -> None:
        ledger.save_trials(SWEEP, [trial(), trial(state=State.RUNNING, attempts=1), ended()])
        assert ledger.trials(SWEEP) == [ended()]
        with pytest.raises(LedgerError):
            ledger.save_trials(SWEEP, [trial(1), ended(1)])

    def test_state_and_outcome_must_agree(self, ledger: Ledger) -> None:
        for wrong in (
            trial(state=State.COMPLETE),
            replace(ended(), state=State.FAILED),
            replace(ended(), state=State.RUNNING),
        ):
            with pytest.raises(LedgerError, match="outcome"):
                ledger.save_trials(SWEEP, [wrong])

    def test_a_thousand_trials_in_under_a_second(self, ledger: Ledger) -> None:
        curves = {f"metric/{index}": tuple(float(epoch) / 3 for epoch in range(50)) for index in range(8)}
        records = [replace(ended(number), outcome=outcome(curves=curves)) for number in range(1000)]
        began = time.process_time()
        ledger.save_trials(SWEEP, records)
        assert time.process_time() - began < 1.0
        assert ledger.trials(SWEEP) == records

    def test_a_damaged_blob_is_reported(self) -> None:
        blob = pack_floats({"curves": {"a": (1.0, 2.0)}})
        assert unpack_floats(blob) == {"curves": {"a": (1.0, 2.0)}}
        for damaged in (b"", blob[:-3], b"x" + blob):
            with pytest.raises(ValueError):
                unpack_floats(damaged)


class TestLease:
    other = Holder("elsewhere", 77, "1", "")

    def test_one_holder_who_is_named(self, ledger: Ledger) -> None:
        ledger.acquire_lease(SWEEP, "driver", holder=self.other, now=NOW)
        with pytest.raises(LeaseHeldError, match=r"process 77 on elsewhere since 2023-11-14 22:13:20 UTC"):
            ledger.acquire_lease(SWEEP, "driver", holder=Holder.current(), now=NOW + LEASE_SECONDS - 1)
        ledger.acquire_lease(SWEEP, "delivery", holder=Holder.current(), now=NOW)  # another role

    def test_again_by_the_same_holder_keeps_since(self, ledger: Ledger) -> None:
        for now in (NOW, NOW + 5):
            ledger.acquire_lease(SWEEP, "driver", holder=self.other, now=now)
        lease = ledger.lease(SWEEP, "driver")
        assert lease is not None
        assert (lease.since, lease.heartbeat) == (NOW, NOW + 5)

    def test_heartbeats_keep_it_and_silence_frees_it(self, ledger: Ledger) -> None:
        me = Holder.current()
        ledger.acquire_lease(SWEEP, "driver", holder=self.other, now=NOW)
        ledger.heartbeat(SWEEP, "driver", self.other, NOW + 25)
        with pytest.raises(LeaseHeldError):
            ledger.acquire_lease(SWEEP, "driver", holder=me, now=NOW + 50)
        ledger.acquire_lease(SWEEP, "driver", holder=me, now=NOW + 25 + LEASE_SECONDS)
        with pytest.raises(LeaseHeldError, match=str(os.getpid())):
            ledger.heartbeat(SWEEP, "driver", self.other, NOW + 56)
        ledger.release_lease(SWEEP, "driver", self.other)  # not its own any more
        ledger.heartbeat(SWEEP, "driver", me, NOW + 57)

    def test_released_or_deleted(self, ledger: Ledger) -> None:
        me = Holder.current()
        ledger.acquire_lease(SWEEP, "driver", holder=me, now=NOW)
        ledger.release_lease(SWEEP, "driver", me)
        with pytest.raises(LeaseHeldError, match="released"):
            ledger.heartbeat(SWEEP, "driver", me, NOW)
        ledger.acquire_lease(SWEEP, "driver", holder=self.other, now=NOW)

    def test_after_a_long_silence_it_is_taken_back_unless_it_was_taken(self, ledger: Ledger) -> None:
        me, late = Holder.current(), NOW + 10 * LEASE_SECONDS
        ledger.acquire_lease(SWEEP, "driver", holder=me, now=NOW)
        ledger.heartbeat(SWEEP, "driver", me, late)
        with pytest.raises(LeaseHeldError):
            ledger.acquire_lease(SWEEP, "driver", holder=self.other, now=late + 1)

    def test_a_killed_driver_is_replaced_at_once(self, ledger: Ledger, url: str) -> None:
        code = (
            "import sys, time\nfrom pipeline.ledger.store import Holder, Ledger\n"
            "ledger = Ledger.open(sys.argv[1])\n"
            "ledger.acquire_lease(sys.argv[2], 'driver', holder=Holder.current(), now=float(sys.argv[3]))\n"
            "print('held', flush=True)\ntime.sleep(60)\n"
        )
        root = str(Path(__file__).parents[1])
        with subprocess.Popen(
            [sys.executable, "-c", code, url, SWEEP, str(NOW)], stdout=subprocess.PIPE, text=True, cwd=root
        ) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == "held\n"
                with pytest.raises(LeaseHeldError, match=f"process {child.pid} "):
                    ledger.acquire_lease(SWEEP, "driver", holder=Holder.current(), now=NOW + 0.1)
            finally:
                child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie is as dead
            ledger.acquire_lease(SWEEP, "driver", holder=Holder.current(), now=NOW + 0.2)

    def test_a_reused_process_id_is_another_process(self) -> None:
        me = Holder.current()
        assert not me.is_gone()
        assert replace(me, started="1").is_gone()
        assert not replace(me, started="1", host="elsewhere").is_gone()  # not to be seen from here
        assert not replace(me, started="1", scope="another container").is_gone()

    def test_of_many_at_once_one_gets_it(self, ledger: Ledger) -> None:
        start = threading.Barrier(8)
        got: list[int] = []

        def compete(pid: int) -> None:
            start.wait()
            try:
                ledger.acquire_lease(SWEEP, "driver", holder=Holder("far", pid, "", "x"), now=NOW)
            except LeaseHeldError:
                return
            got.append(pid)

        _run_threads(8, compete)
        assert len(got) == 1


class TestDeliveries:
    def test_begun_then_done_per_target(self, ledger: Ledger) -> None:
        ledger.save_trials(SWEEP, [ended(0), ended(1), trial(2)])
        first, second = (str(ended(number).key) for number in (0, 1))
        ledger.mark_begun(SWEEP, "t", ["parent", first, second])
        assert ledger.count_undelivered(SWEEP, "t") == 2
        ledger.mark_done(SWEEP, "t", {first: "run0"})
        states = {item: (d.state, d.run_id) for item, d in ledger.deliveries(SWEEP, "t").items()}
        assert states == {"parent": ("begun", None), first: ("done", "run0"), second: ("begun", None)}
        assert set(ledger.deliveries(SWEEP, "t", state="begun")) == {"parent", second}
        assert [record.key.number for record in ledger.undelivered(SWEEP, "t", 10)] == [1]
        assert ledger.count_undelivered(SWEEP, "t") == 1
        assert ledger.count_undelivered(SWEEP, "another") == 2

    def test_what_is_superseded_is_stale_wherever_it_may_be(self, ledger: Ledger) -> None:
        ledger.create_sweep(name="other", study="{}", study_hash="", created_at=NOW)
        for name in (SWEEP, "other"):
            ledger.save_trials(name, [ended(number) for number in range(3)])
            for target in ("t", "u"):
                ledger.mark_begun(name, target, ["parent"])
            ledger.mark_done(name, "t", {str(ended(1).key): "run1", str(ended(2).key): "run2"})
        gone = str(ended(1).key)
        ledger.supersede(SWEEP, [ended(1).key])
        assert ledger.trials(SWEEP) == [ended(0), ended(2)]
        assert [record.key.number for record in ledger.trials("other")] == [0, 1, 2]
        for target in ("t", "u"):
            assert set(ledger.deliveries(SWEEP, target, state="stale")) == {gone}
            assert not ledger.deliveries("other", target, state="stale")
        assert ledger.targets(SWEEP) == {"t": 3, "u": 2}
        # Nobody who looked before takes it for delivered, whatever he is at.
        ledger.save_trials(SWEEP, [trial(1), trial(1, state=State.RUNNING), ended(1, seed=5)])
        assert ledger.mark_begun(SWEEP, "t", [gone, str(ended(0).key)]) == {str(ended(0).key)}
        ledger.mark_done(SWEEP, "t", {gone: "run1"})
        assert [record.key.number for record in ledger.undelivered(SWEEP, "t", 9)] == [0, 1]
        ledger.mark_discarded(SWEEP, "t", [gone])
        assert ledger.mark_begun(SWEEP, "t", [gone]) == {gone}
        ledger.mark_done(SWEEP, "t", {gone: "run9"})
        assert ledger.deliveries(SWEEP, "t")[gone].run_id == "run9"
        assert [record.key.number for record in ledger.undelivered(SWEEP, "t", 9)] == [0]

    def test_oldest_first_up_to_the_limit(self, ledger: Ledger) -> None:
        ends = {0: NOW + 3, 1: NOW + 1, 2: NOW + 2}
        ledger.save_trials(SWEEP, [replace(ended(n), outcome=outcome(ended_at=end)) for n, end in ends.items()])
        assert [record.key.number for record in ledger.undelivered(SWEEP, "t", 2)] == [1, 2]


class TestAway:
    """A database that is away for a while."""

    class Clock:
        def __init__(self) -> None:
            self.now = 1000.0

        def __call__(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    def patience(self, seconds: float = 120.0) -> tuple[Patience, Clock]:
        clock = self.Clock()
        return Patience(seconds, clock=clock, sleep=clock.sleep), clock

    def test_is_waited_for_with_one_line_at_each_end(self) -> None:
        patience, clock = self.patience()
        said: list[str] = []

        def action() -> float:
            if clock.now < 1060:
                raise LedgerAway("Refused.")
            return patience.waited_seconds

        assert patience.see_through(action, said.append) == pytest.approx(clock.now - 1000)
        assert 1060 <= clock.now <= 1065
        assert [line.split(".")[0] for line in said] == [
            "waiting up to 120 s for the database",
            f"the database answers again, after {clock.now - 1000:.0f} s",
        ]
        assert patience.see_through(action, said.append) == 0 and len(said) == 2

    def test_has_one_patience_for_all_calls(self) -> None:
        patience, clock = self.patience()

        def action() -> None:
            raise LedgerAway("Refused.")

        with pytest.raises(LedgerAway, match=r"Refused. It has been away for 12\d s."):
            patience.see_through(action, lambda _: None)
        gave_up = clock.now
        assert 1120 <= gave_up <= 1125
        with pytest.raises(LedgerAway):
            patience.see_through(action, lambda _: None)
        assert clock.now == gave_up

    def test_other_errors_are_not_repeated(self) -> None:
        calls: list[int] = []

        def action() -> None:
            calls.append(1)
            raise LedgerError("no")

        with pytest.raises(LedgerError):
            self.patience()[0].see_through(action, lambda _: None)
        assert len(calls) == 1

    @pytest.mark.parametrize("name", [name for name in vars(Writes) if name[0] != "_"])
    def test_a_write_whose_answer_was_lost_is_repeated_to_the_same_end(self, ledger: Ledger, name: str) -> None:
        me = Holder.current()
        ledger.save_trials(SWEEP, [trial(0, state=State.RUNNING, attempts=1), trial(1)])
        ledger.acquire_lease(SWEEP, "delivery", holder=me, now=NOW)
        ledger.mark_begun(SWEEP, "s", ["parent"])
        ledger.supersede(SWEEP, [trial(7).key])
        write, lost = ledger._write, 0
        ledger._patience, clock = self.patience()

        @contextmanager
        def answer_lost_once() -> Iterator[Any]:
            nonlocal lost
            with write() as connection:
                yield connection
            lost += 1
            if lost == 1:
                raise LedgerAway("The connection broke.")

        with patch.object(ledger, "_write", answer_lost_once):
            getattr(Writes, name)(ledger, me)
        assert lost == 2 and clock.now > 1000
        getattr(Writes, f"_{name}")(ledger, me, clock.now - 1000)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For root, who may write anywhere else, it is a disk that takes nothing."""
    if os.geteuid() != 0:
        yield
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("root may write anywhere, and no read-only disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class TestOpening:
    def test_by_many_at_once(self, url: str) -> None:
        start = threading.Barrier(6)
        opened: list[int] = []

        def work(number: int) -> None:
            start.wait()
            with Ledger.open(url) as ledger:
                ledger.create_sweep(name=str(number), study="{}", study_hash="", created_at=number)
                ledger.save_trials(str(number), [ended()])
                opened.append(number)

        _run_threads(6, work)
        assert sorted(opened) == list(range(6))

    def test_a_reader_does_not_wait_for_a_writer(self, ledger: Ledger, url: str) -> None:
        with ledger._write(), Ledger.open(url, create=False) as reader:
            assert reader.sweep(SWEEP)

    def test_missing_without_create(self, file_url: str) -> None:
        with pytest.raises(LedgerError, match=r"does not exist.*--workdir"):
            Ledger.open(file_url, create=False)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        file = tmp_path / "ledger.db"
        file.write_text("not a database at all" * 100)
        with pytest.raises(LedgerError, match=r"not a database.*Move that file away"):
            Ledger.open(f"sqlite:///{file}")
        assert file.read_text().startswith("not a database at all")

    def test_the_database_of_another_program(self, tmp_path: Path) -> None:
        file = tmp_path / "ledger.db"
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE trials (trial_id INTEGER)")
        connection.close()
        with pytest.raises(LedgerError, match=r"tables trials of another program"):
            Ledger.open(f"sqlite:///{file}")

    def test_a_newer_ledger(self, ledger: Ledger, url: str) -> None:
        with ledger._write() as connection:
            connection.exec_driver_sql("UPDATE ledger_version SET version = 99")
        ledger.close()
        with pytest.raises(LedgerError, match=r"version 99.*Install"):
            Ledger.open(url)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(LedgerError, match="--workdir"):
            Ledger.open(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")

    def test_a_folder_that_may_not_be_written(self, tmp_path: Path) -> None:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o555)
        with read_only(folder), pytest.raises(LedgerError, match="may be written"):
            Ledger.open(f"sqlite:///{folder / 'ledger.db'}")

    def test_a_path_that_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerError, match="unable to open"):
            Ledger.open(f"sqlite:///{tmp_path}")

    def test_wrong_addresses_and_missing_drivers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(LedgerError, match="VAE_SWEEP_DATABASE_URL") as caught:
            Ledger.open("user:secret@host")
        assert "secret" not in str(caught.value)
        for scheme in ("postgresql+psycopg", "postgresql+no_such_driver"):
            with pytest.raises(LedgerError, match="pip install") as caught:
                Ledger.open(f"{scheme}://me:secret@localhost/x")
            assert "secret" not in str(caught.value)

    def test_a_write_that_fails_later_is_mapped(self, ledger: Ledger) -> None:
        with ledger._write() as connection:
            connection.exec_driver_sql("DROP TABLE trials")
        with pytest.raises(LedgerError, match=r"no such table.*Restore the ledger|trials\" does not exist.*Check"):
            ledger.save_trials(SWEEP, [ended()])


def _run_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
