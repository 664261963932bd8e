"""Promises 1 and 4: the same study gives the same table on any workers and through any crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.loaders import LOADERS
from pipeline.delivery import PARENT
from pipeline.errors import LeaseHeldError, SweepConflictError
from pipeline.launch.single import train_again
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where, open_ledger
from pipeline.ledger.store import Holder
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, Phase, State
from pipeline.report.progress import SilentProgress
from pipeline.results import Results
from pipeline.tracking.mlflow_tracker import MlflowTracker

from .sweeps import MEDIAN, json_of, read, records, run_here, study_file, vae_sweep, vae_sweep_started, wait_for
from .test_reconcile import raw

assert "digits" in LOADERS


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One worker, one slot: every trial alone."""
    folder = tmp_path_factory.mktemp("plain")
    return run_here(study_file(folder), folder / "work", workers=1, slots=1)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same with the median rule."""
    folder = tmp_path_factory.mktemp("pruned")
    return run_here(study_file(folder, search=MEDIAN), folder / "work", workers=1, slots=1)


def logged(results: Results) -> list[Any]:
    """Every value that a trial logs, of all trials."""
    return [
        (str(r.key), r.state, r.seed, r.params, r.thresholds, r.files)
        + ((r.outcome.curves, r.outcome.metrics, r.outcome.cause, r.outcome.epochs) if r.outcome else ())
        for r in results.records
    ]


def packs(results: Results) -> set[int]:
    return {record.outcome.largest_pack for record in results.records if record.outcome}


def workers(results: Results) -> set[str]:
    return {record.outcome.worker for record in results.records if record.outcome}


def test_a_sweep_has_every_phase_and_equal_budgets(plain: Results) -> None:
    counts = {
        (arm.label, phase): sum(r.key.arm == arm.id and r.key.phase is phase for r in plain.records)
        for arm in plain.arms
        for phase in Phase
    }
    for arm in plain.arms:
        assert counts[arm.label, Phase.SEARCH] == 2 * 6
        assert counts[arm.label, Phase.REPEAT] == 2 * 2
        assert counts[arm.label, Phase.SHORTLIST] == (0 if arm.values["scale"] == "raw_variance" else 2 * 2)
    assert all(record.state in ENDED for record in plain.records)
    assert any(record.state is State.DIVERGED for record in plain.records)
    assert packs(plain) == {1} and workers(plain) == {"inline-0"}


def test_test_data_are_touched_by_repeats_only(plain: Results) -> None:
    for record in plain.records:
        assert record.outcome is not None
        reports_test = any(name.startswith("test/") for name in record.outcome.metrics)
        assert reports_test == (record.key.phase is Phase.REPEAT and record.state is State.COMPLETE)


def test_arms_share_seeds_and_first_draws(plain: Results) -> None:
    by_place: dict[tuple[object, ...], set[object]] = {}
    for r in plain.records:
        if r.key.phase is Phase.SEARCH and r.key.number < 3:
            by_place.setdefault((r.key.replicate, r.key.number), set()).add((r.seed, str(dict(r.params))))
    assert len(by_place) == 6 and all(len(found) == 1 for found in by_place.values())


@pytest.mark.parametrize("options", [{"slots": 5}, {"slots": 32, "workers": 3}], ids=str)
def test_workers_and_slots_change_nothing(plain: Results, tmp_path: Path, options: dict[str, int]) -> None:
    other = run_here(study_file(tmp_path), tmp_path / "work", **options)
    assert max(packs(other)) > 1
    assert len(workers(other)) == options.get("workers", 1)
    assert logged(other) == logged(plain)
    assert json_of(other) == json_of(plain)


def test_nor_with_the_median_rule(pruned: Results, plain: Results, tmp_path: Path) -> None:
    assert any(record.state is State.STOPPED for record in pruned.records)
    assert json_of(pruned) != json_of(plain)
    other = run_here(study_file(tmp_path, search=MEDIAN), tmp_path / "work", slots=7, workers=2)
    assert max(packs(other)) > 1 and len(workers(other)) == 2
    assert logged(other) == logged(pruned)
    assert json_of(other) == json_of(pruned)


def test_a_trial_trained_again_alone_gives_the_same_numbers(tmp_path: Path) -> None:
    results = run_here(study_file(tmp_path), tmp_path / "work", slots=32)
    record = next(r for r in results.records if r.outcome and r.outcome.largest_pack > 1 and r.state is State.COMPLETE)
    outcome = train_again(results, record)
    assert record.outcome is not None
    assert (outcome.curves, outcome.metrics) == (record.outcome.curves, record.outcome.metrics)


def interrupted_in_the_middle(file: Path, workdir: Path, log: Path, *options: object) -> None:
    """Starts a run and kills it with SIGKILL while trials are training and others have ended."""
    process = vae_sweep_started("run", file, "--workdir", workdir, "--mlflow", "none", *options, log=log)
    try:
        wait_for(lambda: sum(r.state in ENDED for r in records(workdir)) >= 20, process)
        wait_for(lambda: any(r.state is State.RUNNING for r in records(workdir)), process)
    finally:
        process.kill()
        process.wait()
    found = records(workdir)
    assert any(record.state is State.RUNNING for record in found), "killed too late"


@pytest.mark.parametrize("search", [{}, pytest.param(MEDIAN, marks=pytest.mark.slow)], ids=["none", "median"])
def test_kill_9_of_the_driver(plain: Results, pruned: Results, tmp_path: Path, search: dict[str, Any]) -> None:
    file, workdir = study_file(tmp_path, search=search), tmp_path / "work"
    interrupted_in_the_middle(file, workdir, tmp_path / "log", "--executor", "inline", "--slots", "3", "--workers", "2")
    done = vae_sweep("run", file, "--workdir", workdir, "--mlflow", "none", "--executor", "inline", "--slots", "6")
    assert "best configuration" in done.stdout
    results = read(workdir)
    assert max(record.attempts for record in results.records) == 2
    expected = pruned if search else plain
    assert logged(results) == logged(expected)
    printed = vae_sweep("compare", "small", "--workdir", workdir, "--json").stdout
    assert printed == json_of(expected)


def test_a_finished_sweep_says_so(plain: Results, tmp_path: Path) -> None:
    file, workdir = study_file(tmp_path), tmp_path / "work"
    run_here(file, workdir, slots=8)
    before = [r.attempts for r in read(workdir).records]
    done = vae_sweep("run", file, "--workdir", workdir, "--mlflow", "none")
    assert "finished; nothing to do" in " ".join(done.stdout.split())
    assert [r.attempts for r in read(workdir).records] == before


@pytest.mark.slow
def test_running_a_finished_sweep_again_delivers_what_is_left(tmp_path: Path) -> None:
    """First all of it; then the end of the sweep's own run, as after kill -9 behind the last trial."""
    file, workdir = study_file(tmp_path), tmp_path / "work"
    run_here(file, workdir, slots=8)
    words, agree = ("run", file, "--workdir", workdir), ("sync", "small", "--workdir", workdir, "--check")
    assert "not in MLflow" not in vae_sweep(*words).stdout
    assert "agree" in vae_sweep(*agree).stdout
    MlflowTracker.connect(WorkPaths.at(workdir).mlflow_url)  # silences what MLflow warns of at its first use
    client = raw(WorkPaths.at(workdir))
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        (target,) = ledger.targets("small")
        parent = ledger.deliveries("small", target)[PARENT].run_id
        client.update_run(parent, status="RUNNING")
        ledger.mark_begun("small", target, [PARENT])
    assert "RUNNING, not FINISHED" in vae_sweep(*agree, check=False).stdout
    assert "not in MLflow" not in vae_sweep(*words).stdout
    assert "agree" in vae_sweep(*agree).stdout


def test_another_question_under_the_same_name_is_refused(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    run_here(study_file(tmp_path), workdir, slots=8)
    where = Where(WorkPaths.at(workdir), executor="inline", tracking="none")
    with pytest.raises(SweepConflictError, match=r"train.epochs: 4 -> 3"):
        run(study_file(tmp_path, train={"epochs": 3}), [], where, SilentProgress())


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    file = study_file(tmp_path)
    where = Where(WorkPaths.at(workdir), executor="inline", tracking="none")
    run_here(file, workdir, slots=8)
    with open_ledger(where) as ledger:
        ledger.update_sweep("small", status="running")
        other = Holder("elsewhere", 1, "", "")
        ledger.acquire_lease("small", "driver", holder=other, now=time.time())
        with pytest.raises(LeaseHeldError, match="elsewhere"):
            run(file, [], where, SilentProgress())


@pytest.mark.slow
def test_stop_and_ctrl_c_end_cleanly_and_resume(plain: Results, tmp_path: Path) -> None:
    file, workdir = study_file(tmp_path), tmp_path / "work"
    for how in ("stop", "ctrl-c"):
        process = vae_sweep_started(
            "run", file, "--workdir", workdir, "--mlflow", "none", "--executor", "inline", "--slots", "1",
            log=tmp_path / "log",
        )  # fmt: skip
        already = sum(r.state in ENDED for r in records(workdir))
        wait_for(lambda seen=already: sum(r.state in ENDED for r in records(workdir)) > seen + 3, process)  # type: ignore[misc]
        if how == "stop":
            assert "will stop" in vae_sweep("stop", "small", "--workdir", workdir).stdout
        else:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 3, (tmp_path / "log").read_text()
        assert "To go on" in (tmp_path / "log").read_text()
        assert read(workdir).sweep.status == "stopped"
    assert json_of(run_here(file, workdir, slots=8)) == json_of(plain)


# ----------------------------------------------------------------------------------------------- Ray


def test_ray_gives_the_same_table(plain: Results, tmp_path: Path) -> None:
    file, workdir = study_file(tmp_path), tmp_path / "work"
    done = vae_sweep("run", file, "--workdir", workdir, "--mlflow", "none", "--workers", "2", "--slots", "4")
    assert "Traceback" not in done.stdout + done.stderr
    results = read(workdir)
    assert workers(results) == {"ray-0", "ray-1"} and max(packs(results)) > 1
    assert logged(results) == logged(plain)
    assert json_of(results) == json_of(plain)


def test_ray_that_does_not_start_in_time_is_one_error(tmp_path: Path) -> None:
    """As on an overloaded machine; what Ray raises then is a bare Exception."""
    words = ["vae-sweep", "run", str(study_file(tmp_path)), "--workdir", str(tmp_path / "work"), "--mlflow", "none"]
    code = f"""if True:
        import sys
        from pipeline.execution.environment import prepare_ray
        prepare_ray(None)
        import ray
        def late(**_):
            raise Exception("The current node timed out during startup.")
        ray.init, sys.argv = late, {words}
        from pipeline.cli import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "No Ray cluster could be used on this machine: The current node timed out" in done.stderr
    assert "try again" in done.stderr and "--address" not in done.stderr


@pytest.mark.slow
def test_ray_survives_kill_9_of_driver_and_worker(tmp_path: Path) -> None:
    longer = {"train": {"epochs": 60}, "search": {"trials": 8, "startup": 4}}
    expected = run_here(study_file(tmp_path, **longer), tmp_path / "undisturbed", slots=16)
    file, workdir = study_file(tmp_path, **longer), tmp_path / "work"
    interrupted_in_the_middle(file, workdir, tmp_path / "log", "--workers", "2", "--slots", "3")
    process = vae_sweep_started(
        "run", file, "--workdir", workdir, "--mlflow", "none", "--workers", "2", "--slots", "3", log=tmp_path / "log2"
    )
    wait_for(lambda: all(f"worker ray-{n} on" in (tmp_path / "log2").read_text() for n in range(2)), process)
    ended = sum(r.state in ENDED for r in records(workdir))
    wait_for(lambda: sum(r.state in ENDED for r in records(workdir)) >= ended + 3, process)
    os.kill(a_training_actor(process.pid), signal.SIGKILL)
    assert process.wait(240) == 0, (tmp_path / "log2").read_text()
    assert "was lost" in (tmp_path / "log2").read_text()
    results = read(workdir)
    assert max(record.attempts for record in results.records) >= 2
    assert len(workers(results)) >= 3, "the lost worker was replaced"
    assert logged(results) == logged(expected)
    assert json_of(results) == json_of(expected)


def a_training_actor(driver: int) -> int:
    """Process id of a Ray actor below the driver that is training."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    parents = {int(pid): int(ppid) for pid, ppid, _ in rows}

    def below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    found = [int(pid) for pid, _, args in rows if args.startswith("ray::TrainerActor") and below(int(pid))]
    assert found, "no training actor below the driver"
    return found[0]


@pytest.mark.slow
def test_ray_gives_up_a_stopped_worker_and_sigterm_keeps_what_the_other_trained(tmp_path: Path) -> None:
    # Long enough that a quick machine has not done all while the stopped worker is waited for.
    longer = {"train": {"epochs": 1000}, "search": {"trials": 2, "startup": 2, "replicates": 1}}
    expected = run_here(study_file(tmp_path, **longer), tmp_path / "undisturbed", slots=16)
    file, workdir, log = study_file(tmp_path, **longer), tmp_path / "work", tmp_path / "log"
    words = ("--mlflow", "none", "--workers", "2", "--slots", "3", "--worker-timeout", "10")
    process = vae_sweep_started("run", file, "--workdir", workdir, *words, log=log)
    try:
        wait_for(lambda: all(f"worker ray-{n} on" in log.read_text() for n in range(2)), process)
        wait_for(lambda: any(r.state is State.RUNNING for r in records(workdir)), process)
        victim = a_training_actor(process.pid)
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: "no sign of life for 1" in log.read_text(), process)
        wait_for(lambda: "worker ray-2 on" in log.read_text(), process)
        wait_for(lambda: not Path(f"/proc/{victim}").exists(), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3, log.read_text()
    finally:
        process.kill()
    left = [record for record in read(workdir).records if record.state not in ENDED]
    assert left and {record.state for record in left} == {State.WAITING}
    assert list(workdir.glob("small/trials/**/checkpoint-*"))
    results = run_here(file, workdir, slots=16)
    assert logged(results) == logged(expected)
    assert json_of(results) == json_of(expected)
    assert not list(workdir.glob("small/trials/**/checkpoint-*"))
