from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TrackerAway, TrackerError
from pipeline.tracking.base import DatasetInfo, MetricPoint, RecordedRun, RunRecord, SweepEnd, SweepRun, Tracker
from pipeline.tracking.mlflow_tracker import MlflowTracker, _masked, target_of
from pipeline.tracking.null_tracker import NullTracker

from .servers import MlflowServer

T0 = 1_700_000_000_000
_names = iter(range(10**6))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowTracker:
    root = tmp_path_factory.mktemp("a store's place") / "é [1]"
    return MlflowTracker.connect(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process group of a real tracking server."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        yield server.url, server.pid
    finally:
        server.kill()


@pytest.fixture(params=["null", "store", pytest.param("server", marks=pytest.mark.slow)])
def tracker(request: pytest.FixtureRequest) -> Tracker:
    if request.param == "null":
        return NullTracker()
    if request.param == "server":
        return MlflowTracker.connect(request.getfixturevalue("server")[0])
    tracker: Tracker = request.getfixturevalue("store")
    return tracker


@pytest.fixture
def sweep() -> SweepRun:
    number = next(_names)
    dataset = DatasetInfo("digits", "ab12cd34", '{"name": "digits"}', '{"train": 1257}')
    return SweepRun(
        f"sweep-{number}", f"id{number}", "version: 1\n", "Does σ matter?", T0, {"study_hash": "x"}, dataset
    )


@pytest.fixture
def run(sweep: SweepRun, tmp_path: Path) -> RunRecord:
    files = {name: tmp_path / name for name in ("samples.png", "reconstructions.png")}
    for path in files.values():
        path.write_bytes(b"\x89PNG" + path.name.encode())
    points = tuple(
        MetricPoint(key, -100.0 - 1 / 3 + epoch, epoch, T0 + epoch)
        for key in ("train/elbo", "val/elbo")
        for epoch in range(1, 51)
    )
    return RunRecord(
        f"{sweep.ledger_id}/a1b2/0/search/3",
        "log σ · search 0.3",
        {"learning_rate": "0.001", "hidden": "[128]", "likelihood": "null"},
        points,
        {"arm": "scale=log_std", "seed": "7", "git_commit": "abc"},
        files,
        T0,
        T0 + 50,
        "FINISHED",
    )


def only(tracker: Tracker, sweep: SweepRun, ledger_id: str) -> RecordedRun:
    (found,) = [recorded for recorded in tracker.recorded(sweep) if recorded.ledger_id == ledger_id]
    return found


class TestContract:
    """What every tracker does."""

    def test_target_names_it(self, tracker: Tracker) -> None:
        assert tracker.target.startswith(("null", "mlflow:"))

    def test_nothing_is_recorded_of_an_unknown_sweep(self, tracker: Tracker, sweep: SweepRun) -> None:
        assert tracker.recorded(sweep) == ()

    def test_opening_again_gives_the_same_parent(self, tracker: Tracker, sweep: SweepRun) -> None:
        first = tracker.record_sweep(sweep)
        assert tracker.record_sweep(sweep) == first
        (parent,) = tracker.recorded(sweep)
        assert (parent.run_id, parent.ledger_id, parent.status) == (first, sweep.ledger_id, "RUNNING")
        assert parent.artifacts == {"study.yaml"}

    def test_a_delivered_run_is_complete(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        run_id = tracker.deliver(sweep, run, in_doubt=False)
        found = only(tracker, sweep, run.ledger_id)
        assert found == RecordedRun(
            run.ledger_id,
            run_id,
            "FINISHED",
            {"train/elbo": run.metrics[-1].value, "val/elbo": run.metrics[-1].value},
            run.params,
            frozenset(run.files),
        )
        assert len(tracker.recorded(sweep)) == 2

    @pytest.mark.parametrize("status", ["KILLED", "FAILED"])
    def test_a_bare_run_of_any_status(self, tracker: Tracker, sweep: SweepRun, run: RunRecord, status: Any) -> None:
        bare = replace(run, metrics=(), files={}, status=status)
        tracker.deliver(sweep, bare, in_doubt=True)
        found = only(tracker, sweep, run.ledger_id)
        assert (found.status, found.metrics, found.artifacts) == (status, {}, frozenset())

    def test_in_doubt_it_is_not_doubled(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        first = tracker.deliver(sweep, run, in_doubt=False)
        before = tracker.recorded(sweep)
        assert tracker.deliver(sweep, run, in_doubt=True) == first
        assert tracker.recorded(sweep) == before

    def test_sweeps_are_apart(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        other = replace(sweep, name=f"{sweep.name}-other", ledger_id=f"{sweep.ledger_id}-other")
        tracker.deliver(sweep, run, in_doubt=False)
        tracker.record_sweep(other)
        assert len(tracker.recorded(other)) == 1

    def test_a_name_that_belongs_to_another_ledger(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        tracker.deliver(sweep, run, in_doubt=False)
        other = replace(sweep, ledger_id="another")
        with pytest.raises(TrackerError, match=f"'{sweep.name}'.*belongs to another ledger"):
            tracker.deliver(other, run, in_doubt=False)
        assert tracker.recorded(other) == ()
        assert len(tracker.recorded(sweep)) == 2

    def test_finishing_adds_to_the_parent(self, tracker: Tracker, sweep: SweepRun) -> None:
        for status, text in (("KILLED", "none"), ("FINISHED", "better"), ("FINISHED", "better")):
            end = SweepEnd(
                status=status,  # type: ignore[arg-type]
                ended_ms=T0 + 99,
                files={"compare.txt": text},
                metrics={"best/val/elbo": -90.5},
                tags={"verdict": text},
            )
            tracker.record_sweep(sweep, end)
        (parent,) = tracker.recorded(sweep)
        assert parent.status == "FINISHED"
        assert parent.metrics == {"best/val/elbo": -90.5}
        assert parent.artifacts == {"study.yaml", "compare.txt"}

    def test_an_extended_sweep_shows_its_new_study(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        tracker.deliver(sweep, run, in_doubt=False)
        first = tracker.record_sweep(sweep, SweepEnd("FINISHED", T0 + 99))
        larger = replace(sweep, study_yaml="version: 1\nmore: 2\n", question="And now?", tags={"study_hash": "y"})
        for _ in range(2):
            assert tracker.record_sweep(larger) == first
            (parent,) = [found for found in tracker.recorded(larger) if found.run_id == first]
            assert parent.status == "RUNNING" and parent.artifacts == {"study.yaml"}
        tracker.record_sweep(larger, SweepEnd("FINISHED", T0 + 199))
        assert [found.status for found in tracker.recorded(larger)] == ["FINISHED", "FINISHED"]

    def test_discarded_runs_are_gone_and_may_come_anew(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        tracker.discard(sweep, [run.ledger_id])  # nothing is there yet
        other = replace(run, ledger_id=f"{run.ledger_id}0")
        former, kept = (tracker.deliver(sweep, one, in_doubt=False) for one in (run, other))
        for _ in range(2):
            tracker.discard(sweep, [run.ledger_id, f"{sweep.ledger_id}/nothing"])
            assert {found.ledger_id for found in tracker.recorded(sweep)} == {sweep.ledger_id, other.ledger_id}
        changed = replace(run, params={"learning_rate": "0.1"}, status="KILLED")
        for in_doubt in (True, True):
            latter = tracker.deliver(sweep, changed, in_doubt=in_doubt)
            assert latter not in (former, kept)
            found = only(tracker, sweep, run.ledger_id)
            assert (found.run_id, found.status, found.params) == (latter, "KILLED", changed.params)

    def test_a_discarded_sweep_leaves_its_name(self, tracker: Tracker, sweep: SweepRun, run: RunRecord) -> None:
        tracker.discard(sweep)
        tracker.deliver(sweep, run, in_doubt=False)
        another = replace(sweep, ledger_id=f"{sweep.ledger_id}-another")
        tracker.discard(another)
        tracker.discard(another, [run.ledger_id])
        assert len(tracker.recorded(sweep)) == 2
        for _ in range(2):
            tracker.discard(sweep)
            assert tracker.recorded(sweep) == ()
        tracker.record_sweep(another)
        assert [found.ledger_id for found in tracker.recorded(another)] == [another.ledger_id]
        tracker.discard(sweep)
        assert len(tracker.recorded(another)) == 1
        tracker.discard(another)
        tracker.deliver(sweep, run, in_doubt=True)  # the first one again, and gone again
        assert len(tracker.recorded(sweep)) == 2
        tracker.discard(sweep)
        assert tracker.recorded(sweep) == ()


class FailAt:
    """A client that loses its k-th call, before it has an effect or after."""

    def __init__(self, client: Any, k: int, after: bool) -> None:
        self._client, self._left, self._after = client, k, after

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return self._wrapped(value) if callable(value) else value

    def _wrapped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise ConnectionLost
            result = method(*args, **kwargs)
            if self._left == 0:
                raise ConnectionLost
            return result

        return call


class ConnectionLost(Exception):
    """Not mapped: as good as a kill."""


class TestMlflow:
    @pytest.mark.parametrize("after", [False, True])
    def test_killed_anywhere_and_repeated(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord, after: bool
    ) -> None:
        for k in range(1, 100):
            one = replace(sweep, name=f"{sweep.name}-{k}-{after}", ledger_id=f"{sweep.ledger_id}-{k}-{after}")
            trial = replace(run, ledger_id=f"{one.ledger_id}/t")
            broken = MlflowTracker(FailAt(store._client, k, after), "sqlite:", store._artifact_root)
            try:
                broken.deliver(one, trial, in_doubt=False)
                break
            except ConnectionLost:
                pass
            again = MlflowTracker(store._client, "sqlite:", store._artifact_root)
            again.deliver(one, trial, in_doubt=True)
            assert len(again.recorded(one)) == 2
            found = only(again, one, trial.ledger_id)
            assert (found.status, found.params, found.artifacts) == ("FINISHED", run.params, frozenset(run.files))
            history = store._client.get_metric_history(found.run_id, "val/elbo")
            assert [(m.step, m.value) for m in history] == [
                (p.step, p.value) for p in run.metrics if p.key == "val/elbo"
            ]
        assert k > 8

    @pytest.mark.parametrize("after", [False, True])
    def test_a_discard_killed_anywhere_and_repeated(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord, after: bool
    ) -> None:
        for k in range(1, 100):
            one = replace(sweep, name=f"{sweep.name}-{k}-{after}", ledger_id=f"{sweep.ledger_id}-{k}-{after}")
            store.deliver(one, replace(run, ledger_id=f"{one.ledger_id}/t"), in_doubt=False)
            try:
                MlflowTracker(FailAt(store._client, k, after), "sqlite:", store._artifact_root).discard(one)
                break
            except ConnectionLost:
                pass
            again = MlflowTracker(store._client, "sqlite:", store._artifact_root)
            again.discard(one)
            assert again.recorded(one) == ()
            again.record_sweep(replace(one, ledger_id="a new one"))
        assert k > 3

    def test_one_that_its_owner_deleted_is_discarded_too(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord
    ) -> None:
        store.deliver(sweep, run, in_doubt=False)
        store._client.delete_experiment(store._client.get_experiment_by_name(sweep.name).experiment_id)
        store.discard(sweep)
        store.record_sweep(replace(sweep, ledger_id="a new one"))

    def test_doubts_within_one_process_are_looked_up(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord
    ) -> None:
        store.record_sweep(sweep)
        healthy = store._client
        try:
            store._client = FailAt(healthy, 1, after=True)  # create_run: done, and its answer lost
            with pytest.raises(ConnectionLost):
                store.deliver(sweep, run, in_doubt=False)
        finally:
            store._client = healthy
        store.deliver(sweep, run, in_doubt=True)
        assert only(store, sweep, run.ledger_id).status == "FINISHED"

    def test_what_people_see(self, store: MlflowTracker, sweep: SweepRun, run: RunRecord) -> None:
        run_id = store.deliver(sweep, run, in_doubt=False)
        parent_id = store.record_sweep(sweep)
        client = store._client
        experiment = client.get_experiment_by_name(sweep.name)
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
        assert experiment.tags["mlflow.note.content"] == sweep.question
        assert experiment.artifact_location == (store._artifact_root / sweep.name).as_uri()  # type: ignore[operator]
        child, parent = client.get_run(run_id), client.get_run(parent_id)
        assert child.data.tags["mlflow.parentRunId"] == parent_id
        assert child.data.tags["mlflow.source.git.commit"] == "abc"
        assert (child.info.run_name, child.info.start_time, child.info.end_time) == (run.name, T0, T0 + 50)
        (data,) = parent.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("digits", "ab12cd34")
        kept = Path(str(store._artifact_root)) / sweep.name / run_id / "artifacts" / "samples.png"
        assert kept.read_bytes() == run.files["samples.png"].read_bytes()

    def test_runs_that_were_there_before_are_found_without_doubt(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord
    ) -> None:
        first = store.deliver(sweep, run, in_doubt=False)
        # As when the same store is reached by another address: the ledger knows of no delivery there.
        again = MlflowTracker(store._client, "http://elsewhere", None)
        assert again.deliver(sweep, run, in_doubt=False) == first

    def test_a_second_run_from_a_late_request_is_removed(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord
    ) -> None:
        first = store.deliver(sweep, run, in_doubt=False)
        experiment_id = store._client.get_experiment_by_name(sweep.name).experiment_id
        store._client.create_run(experiment_id, tags={"vae_sweep.ledger_id": run.ledger_id})
        assert store.deliver(sweep, run, in_doubt=True) == first
        assert only(store, sweep, run.ledger_id).run_id == first

    def test_a_deleted_experiment_of_ours_is_restored(
        self, store: MlflowTracker, sweep: SweepRun, run: RunRecord
    ) -> None:
        store.deliver(sweep, run, in_doubt=False)
        before = store.recorded(sweep)
        store._client.delete_experiment(store._client.get_experiment_by_name(sweep.name).experiment_id)
        again = MlflowTracker(store._client, "sqlite:", store._artifact_root)
        again.record_sweep(sweep)
        assert again.recorded(sweep) == before

    def test_a_deleted_experiment_of_another(self, store: MlflowTracker, sweep: SweepRun) -> None:
        store._client.delete_experiment(store._client.create_experiment(sweep.name))
        with pytest.raises(TrackerError, match=r"was deleted.*mlflow gc"):
            store.record_sweep(sweep)

    def test_refusals_are_mapped(self, store: MlflowTracker, sweep: SweepRun, run: RunRecord) -> None:
        store.deliver(sweep, run, in_doubt=False)
        changed = replace(run, params={**run.params, "learning_rate": "1"})
        with pytest.raises(TrackerError, match="Changing param values") as caught:
            store.deliver(sweep, changed, in_doubt=True)
        assert not isinstance(caught.value, TrackerAway)
        gone = replace(run, files={"samples.png": Path("/nonexistent/samples.png")})
        with pytest.raises(TrackerError, match=r"nonexistent"):
            store.deliver(sweep, gone, in_doubt=True)

    def test_a_server_that_is_down_is_away_at_once(self, sweep: SweepRun) -> None:
        tracker = MlflowTracker.connect("http://me:secret@127.0.0.1:9")
        assert tracker.target == target_of("http://me:secret@127.0.0.1:9") == "mlflow:http://***@127.0.0.1:9"
        began = time.monotonic()
        with pytest.raises(TrackerAway, match="must answer") as caught:
            tracker.record_sweep(sweep)
        assert time.monotonic() - began < 3
        assert "secret" not in str(caught.value)

    def test_a_store_that_cannot_be_opened_is_refused_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("not a database" * 99)
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "mlflow.db", tmp_path / "file" / "mlflow.db", tmp_path / "50% ?"):
            began = time.monotonic()
            with pytest.raises(TrackerError, match="--workdir"):
                MlflowTracker.connect(f"sqlite:///{path}")
            assert time.monotonic() - began < 3

    @pytest.mark.slow
    def test_killed_while_it_is_made_it_is_made_anew(self, tmp_path: Path) -> None:
        code = "import sys\nfrom pipeline.tracking.mlflow_tracker import MlflowTracker as T\nT.connect(sys.argv[1])\n"
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        for delay_seconds in (0.0, 0.3, 0.8):
            process = subprocess.Popen([sys.executable, "-c", code, uri], env=environment)
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".mlflow.db.*/*")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(delay_seconds)
            process.kill()
            process.wait()
            assert not (tmp_path / "mlflow.db").exists(), "killed too late"
        assert MlflowTracker.connect(uri).recorded(SweepRun("x", "x", "", "", T0)) == ()

    @pytest.mark.slow
    @pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own needs root")
    def test_on_a_full_disk_nothing_half_made_is_left(self, tmp_path: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", tmp_path], check=True)
        try:
            uri = f"sqlite:///{tmp_path}/mlflow.db"
            with pytest.raises(TrackerError, match="Check the path and the disk"):
                MlflowTracker.connect(uri)
            assert not list(tmp_path.iterdir())
            subprocess.run(["mount", "-o", "remount,size=20m", tmp_path], check=True)
            assert MlflowTracker.connect(uri).recorded(SweepRun("x", "x", "", "", T0)) == ()
        finally:
            subprocess.run(["umount", "-l", tmp_path], check=True)

    def test_the_old_file_store_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TrackerError, match="MLFLOW_TRACKING_URI"):
            MlflowTracker.connect((tmp_path / "mlruns").as_uri()).recorded(SweepRun("x", "x", "", "", T0))

    def test_a_new_store_is_in_wal_mode(self, store: MlflowTracker) -> None:
        path = store.target.removeprefix("mlflow:sqlite:///")
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()

    @pytest.mark.slow
    def test_quiet_and_without_threads_or_stray_files(self, tmp_path: Path) -> None:
        code = (
            "import sys, threading\nfrom pathlib import Path\n"
            "import pipeline.tracking.mlflow_tracker as m\nassert 'mlflow' not in sys.modules\n"
            "from pipeline.tracking.base import RunRecord, SweepEnd, SweepRun\n"
            "root = Path(sys.argv[1])\nt = m.MlflowTracker.connect(f'sqlite:///{root}/in/mlflow.db', root / 'in')\n"
            "s = SweepRun('s', 'id', 'x', 'q', 1)\n"
            "t.deliver(s, RunRecord('id/1', 'n', {}, (), {}, {}, 1, 2, 'FINISHED'), in_doubt=False)\n"
            "t.record_sweep(s, SweepEnd('FINISHED', 3, {'a': 'b'}))\n"
            "assert threading.active_count() == 1\n"
        )
        root = str(Path(__file__).parents[1])
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=tmp_path,
            env=clean | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    def test_credentials_are_masked(self) -> None:
        assert _masked("to https://a:b@host/x and http://t@h") == "to https://***@host/x and http://***@h"


@pytest.mark.slow
def test_a_server_that_answers_too_late(
    server: tuple[str, int], sweep: SweepRun, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, group = server
    tracker = MlflowTracker.connect(url)
    tracker.record_sweep(sweep)
    threads = threading.active_count()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    os.killpg(group, signal.SIGSTOP)
    try:
        for in_doubt in (False, True):
            with pytest.raises(TrackerAway):
                tracker.deliver(sweep, run, in_doubt=in_doubt)
    finally:
        os.killpg(group, signal.SIGCONT)
    monkeypatch.undo()
    time.sleep(1)  # the request that we gave up is carried out now
    tracker.deliver(sweep, run, in_doubt=True)
    found = only(tracker, sweep, run.ledger_id)
    history = tracker._client.get_metric_history(found.run_id, "val/elbo")
    assert [m.value for m in history] == [p.value for p in run.metrics if p.key == "val/elbo"]
    assert threading.active_count() == threads
