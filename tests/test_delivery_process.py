"""The process that delivers beside a run: loads early, touches nothing until it is told a sweep, does not hurry."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.errors import StudyFileError
from pipeline.execution.environment import UNHURRIED, in_spare_time
from pipeline.launch import Where, open_ledger, run
from pipeline.launch.delivering import await_delivery, begin_delivery, delivery_process
from pipeline.paths import WorkPaths
from pipeline.report.progress import SilentProgress

from .sweeps import run_here, study_file, vae_sweep_here


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Where:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Where(WorkPaths.at(tmp_path / "work"))


def small(tmp_path: Path, where: Where) -> None:
    arm = {"scale": ["log_std"], "latent_dim": [2]}
    run_here(study_file(tmp_path, scientific=arm, search={"replicates": 1}), where.paths.workdir)


def test_told_a_sweep_it_delivers_it_and_says_so_in_its_log(tmp_path: Path, where: Where) -> None:
    small(tmp_path, where)
    where.paths.delivery_log("small").write_text("what a former run said\n")
    with delivery_process(where) as process:
        assert process is not None
        begin_delivery(process, "small", where)
    with open_ledger(where) as ledger:
        assert await_delivery("small", process, ledger, where, SilentProgress()) == ""
        assert process.returncode == 0
        delivered = len(ledger.trials("small"))
    assert where.paths.delivery_log("small").read_text() == f"delivered {delivered}, 0 left\n"
    assert "agree" in vae_sweep_here("sync", "small", "--workdir", where.paths.workdir, "--check")[1]


def test_told_none_it_is_ended_and_nothing_was_touched(tmp_path: Path, where: Where) -> None:
    file = study_file(tmp_path, train={"epochs": "many"})
    with pytest.raises(StudyFileError, match="many"):
        run(file, [], where, SilentProgress())
    with delivery_process(where) as process:
        assert process is not None and process.poll() is None
    assert process.returncode is not None
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_when_its_driver_is_killed_it_leaves_and_nothing_was_touched(tmp_path: Path, where: Where) -> None:
    with delivery_process(where) as process:
        assert process is not None and process.stdin is not None
        process.stdin.close()  # as the system does
        assert process.wait(60) == 0
    assert not any(tmp_path.iterdir())


def test_what_keeps_it_from_loading_is_in_its_log(
    tmp_path: Path, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path, where)
    (tmp_path / "mlflow.py").write_text("raise ImportError('half of it is missing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with delivery_process(where) as process:
        begin_delivery(process, "small", where)
    with open_ledger(where) as ledger:
        lost = await_delivery("small", process, ledger, where, SilentProgress())
    assert lost == "ImportError: half of it is missing"


def test_without_a_tracker_there_is_none(where: Where) -> None:
    with delivery_process(Where(where.paths, tracking="none")) as process:
        assert process is None
        begin_delivery(process, "small", where)
    assert not where.paths.workdir.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness on Linux only")
def test_it_is_no_part_of_the_terminals_job_but_of_the_session(where: Where) -> None:
    """Ctrl-C does not reach it; Linux weighs niceness only against processes of the same session."""
    with delivery_process(where) as process:
        assert process is not None
        assert os.getpgid(process.pid) == process.pid != os.getpgrp()
        assert os.getsid(process.pid) == os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness on Linux only")
def test_in_spare_time_only_the_call_is_unhurried() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_spare_time(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == UNHURRIED
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    with pytest.raises(ValueError, match="lost"):
        in_spare_time(lambda: int("lost"))
