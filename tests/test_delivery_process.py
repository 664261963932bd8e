"""The process that delivers beside a run: loads early, touches nothing until it is told a sweep, does not hurry."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.errors import StudyFileError
from pipeline.execution.environment import UNHURRIED, in_spare_time
from pipeline.launch.beside import DeliveryProcess, delivery_process
from pipeline.launch.delivering import await_delivery
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where, open_ledger
from pipeline.paths import WorkPaths
from pipeline.report.page import report_page
from pipeline.report.progress import SilentProgress

from .sweeps import read, run_here, study_file, vae_sweep_here


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Where:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Where(WorkPaths.at(tmp_path / "work"))


def small(tmp_path: Path, where: Where) -> None:
    arm = {"scale": ["log_std"], "latent_dim": [2]}
    run_here(study_file(tmp_path, scientific=arm, search={"replicates": 1}), where.paths.workdir)


def begun(delivery: DeliveryProcess | None) -> DeliveryProcess:
    assert delivery is not None
    delivery.begin("small")
    return delivery


def awaited(where: Where, delivery: DeliveryProcess) -> str:
    with open_ledger(where) as ledger:
        return await_delivery("small", delivery, ledger, where, SilentProgress())


def page_in_mlflow(where: Where) -> str:
    (page,) = where.paths.mlflow_artifacts.rglob("report.html")
    return page.read_text()


def test_told_a_sweep_it_delivers_it_and_says_so_in_its_log(tmp_path: Path, where: Where) -> None:
    small(tmp_path, where)
    where.paths.delivery_log("small").write_text("what a former run said\n")
    with delivery_process(where) as delivery:
        assert awaited(where, begun(delivery)) == ""
        assert delivery is not None and delivery.process.returncode == 0
    delivered = len(read(where.paths.workdir).records)
    assert where.paths.delivery_log("small").read_text() == f"delivered {delivered}, 0 left\n"
    assert "agree" in vae_sweep_here("sync", "small", "--workdir", where.paths.workdir, "--check")[1]


def test_the_page_is_the_drivers(tmp_path: Path, where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, where)
    monkeypatch.setattr("pipeline.report.page.report_page", lambda *_: "made by the driver")
    with delivery_process(where) as delivery:
        assert awaited(where, begun(delivery)) == ""
    assert page_in_mlflow(where) == "made by the driver"


@pytest.mark.parametrize("how", ["it cannot", "it is killed"])
def test_where_the_driver_makes_no_page_the_delivery_does(
    tmp_path: Path, where: Where, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    small(tmp_path, where)
    with delivery_process(where) as delivery:
        begun(delivery)
        assert delivery is not None and delivery.process.stdin is not None
        if how == "it cannot":
            monkeypatch.setattr("pipeline.launch.delivering.final_files", lambda *_: 1 / 0)
            assert awaited(where, delivery) == ""
        else:
            delivery.process.stdin.close()  # as the system does
            assert delivery.process.wait(60) == 0
    assert page_in_mlflow(where) == report_page(read(where.paths.workdir), where.paths)


def test_told_none_it_is_ended_and_nothing_was_touched(tmp_path: Path, where: Where) -> None:
    file = study_file(tmp_path, train={"epochs": "many"})
    with pytest.raises(StudyFileError, match="many"):
        run(file, [], where, SilentProgress())
    with delivery_process(where) as delivery:
        assert delivery is not None and delivery.process.poll() is None
    assert delivery.process.returncode is not None
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_when_its_driver_is_killed_it_leaves_and_nothing_was_touched(tmp_path: Path, where: Where) -> None:
    with delivery_process(where) as delivery:
        assert delivery is not None and delivery.process.stdin is not None
        delivery.process.stdin.close()  # as the system does
        assert delivery.process.wait(60) == 0
    assert not any(tmp_path.iterdir())


def test_what_keeps_it_from_loading_is_in_its_log(
    tmp_path: Path, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path, where)
    (tmp_path / "mlflow.py").write_text("raise ImportError('half of it is missing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with delivery_process(where) as delivery:
        lost = awaited(where, begun(delivery))
    assert lost == "ImportError: half of it is missing"


def test_without_a_tracker_there_is_none(where: Where) -> None:
    with delivery_process(Where(where.paths, tracking="none")) as delivery:
        assert delivery is None
    assert not where.paths.workdir.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness on Linux only")
def test_it_is_no_part_of_the_terminals_job_but_of_the_session(where: Where) -> None:
    """Ctrl-C does not reach it; Linux weighs niceness only against processes of the same session."""
    with delivery_process(where) as delivery:
        assert delivery is not None
        pid = delivery.process.pid
        assert os.getpgid(pid) == pid != os.getpgrp()
        assert os.getsid(pid) == os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness on Linux only")
def test_in_spare_time_only_the_call_is_unhurried() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_spare_time(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == UNHURRIED
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    with pytest.raises(ValueError, match="lost"):
        in_spare_time(lambda: int("lost"))
