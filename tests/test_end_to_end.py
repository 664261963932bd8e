"""The main job with its tracker: a real run, a real MLflow store, delivered once whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.launch.where import Where, open_ledger
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, Phase

from .sweeps import read, records, study_file, vae_sweep, vae_sweep_started


def client(workdir: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=WorkPaths.at(workdir).mlflow_url)


def runs_of(workdir: Path) -> list[Any]:
    found = client(workdir)
    experiment = found.get_experiment_by_name("small")
    return list(found.search_runs([experiment.experiment_id], max_results=1000))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep whose delivery process was killed once; workdir and what `run` printed at the end."""
    folder = tmp_path_factory.mktemp("tracked")
    file, workdir = study_file(folder), folder / "work"
    words = ("run", file, "--workdir", workdir, "--executor", "inline", "--slots", "8")
    process = vae_sweep_started(*words, log=folder / "log")
    assert process.wait(200) == 0, (folder / "log").read_text()
    return workdir, " ".join((folder / "log").read_text().split())


def test_run_ends_with_table_verdicts_and_next_commands(finished: tuple[Path, str]) -> None:
    _, text = finished
    for expected in (
        "Does it matter?",
        "baseline",
        "log_std:",
        "raw_variance: undecided",
        " ui ",
        " best small",
    ):
        assert expected in text, text
    assert "Traceback" not in text and "not in MLflow yet" not in text


def test_mlflow_has_each_trial_once_with_all_it_should(finished: tuple[Path, str]) -> None:
    workdir, _ = finished
    results, runs = read(workdir), runs_of(workdir)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["vae_sweep.ledger_id"].split("/", 1)[1]: run for run in runs if run not in parents}
    assert len(parents) == 1 and {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(children) == sorted(str(record.key) for record in results.records)
    assert len(runs) == 1 + len(results.records)
    found = client(workdir)
    for record in results.records:
        run, outcome = children[str(record.key)], record.outcome
        assert outcome is not None
        assert run.data.params["learning_rate"] == json.dumps(record.params["learning_rate"])
        assert run.data.tags["state"] == record.state and run.data.tags["phase"] == record.key.phase
        for name, value in outcome.metrics.items():
            assert run.data.metrics[name] == value
        if outcome.epochs:
            history = found.get_metric_history(run.info.run_id, "val/elbo")
            assert [point.value for point in history] == list(outcome.curves["val/elbo"])
            assert [point.step for point in history] == list(range(1, outcome.epochs + 1))
            names = {file.path for file in found.list_artifacts(run.info.run_id)}
            assert {"samples.png", "reconstructions.png"} <= names
            assert ("model.safetensors" in names) == (record.key.phase is Phase.REPEAT)
    names = {file.path for file in found.list_artifacts(parents[0].info.run_id)}
    assert {"study.yaml", "compare.json", "compare.txt"} <= names
    assert parents[0].inputs.dataset_inputs


@pytest.mark.slow
def test_sync_check_sees_agreement_and_damage(finished: tuple[Path, str]) -> None:
    workdir, _ = finished
    assert "agree" in vae_sweep("sync", "small", "--workdir", workdir, "--check").stdout
    victim = next(run for run in runs_of(workdir) if run.data.tags.get("phase") == "repeat")
    client(workdir).delete_run(victim.info.run_id)
    done = vae_sweep("sync", "small", "--workdir", workdir, "--check", check=False)
    assert done.returncode == 1 and "missing" in done.stdout
    client(workdir).restore_run(victim.info.run_id)
    assert "agree" in vae_sweep("sync", "small", "--workdir", workdir, "--check").stdout


@pytest.mark.slow
def test_kill_9_of_driver_and_delivery_still_delivers_once(tmp_path: Path) -> None:
    file, workdir = study_file(tmp_path, train={"epochs": 20}), tmp_path / "work"
    words = ("run", file, "--workdir", workdir, "--executor", "inline", "--slots", "2")
    process = vae_sweep_started(*words, log=tmp_path / "log")
    where = Where(WorkPaths.at(workdir))
    deadline = time.monotonic() + 120

    def is_early() -> bool:
        assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
        with open_ledger(where) as ledger:
            found = ledger.deliveries("small", "mlflow:" + where.paths.mlflow_url)
        return sum(one.state == "done" for one in found.values()) < 5

    while not any(record.state in ENDED for record in records(workdir)):
        time.sleep(0.05)
    while (
        is_early()
    ):  # the driver hardly moves, lest the sweep is over before it is killed; nor keeps the ledger locked
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    with open_ledger(where) as ledger:
        lease = ledger.lease("small", "delivery")
    assert lease is not None
    subprocess.run(["kill", "-9", str(lease.holder.pid)], check=True)
    process.kill()
    process.wait()
    assert not all(record.state in ENDED for record in records(workdir))
    vae_sweep(*words)
    assert "agree" in vae_sweep("sync", "small", "--workdir", workdir, "--check").stdout
    statuses = Counter(run.info.status for run in runs_of(workdir))
    assert statuses == {"FINISHED": 1 + len(records(workdir))}


@pytest.mark.slow
def test_mlflow_away_for_the_whole_run_then_sync(tmp_path: Path) -> None:
    file, workdir = study_file(tmp_path), tmp_path / "work"
    closed = "http://127.0.0.1:9"
    done = vae_sweep("run", file, "--workdir", workdir, "--executor", "inline", "--mlflow", closed)
    text = " ".join(done.stdout.split())
    assert "not in MLflow yet" in text and "away" in text and "best configuration" in text
    vae_sweep("sync", "small", "--workdir", workdir)
    assert "agree" in vae_sweep("sync", "small", "--workdir", workdir, "--check").stdout


@pytest.mark.slow
def test_ui_serves_the_runs(finished: tuple[Path, str], tmp_path: Path) -> None:
    workdir, _ = finished
    port = 5971
    process = vae_sweep_started("ui", "--workdir", workdir, "--port", port, log=tmp_path / "log")
    try:
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline and process.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.read() == b"OK"
                    break
            except OSError:
                time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            assert b"<html" in answer.read().lower()
        log = (tmp_path / "log").read_text()  # where the links lead: tests/test_mlflow_ui.py
        assert "\n  small\n" in log and f"http://127.0.0.1:{port}/#/experiments/" in log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
