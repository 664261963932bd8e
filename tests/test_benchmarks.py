"""The benchmarks: both sides train the same thing, do equal work, and a run that lacks anything does not count."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import engine, ours
from benchmarks.agreement import judge, new_pack, paired, twin
from benchmarks.common import SCALES
from benchmarks.faults import untrue
from benchmarks.peer_loop import Shape
from benchmarks.run import sweep_rows, turned
from benchmarks.session import OURS, PEERS, Timed, Workload, make_store, missing, run_side
from benchmarks.workload import SCALE_MATHS, load_images, write_digits
from pipeline.config import load_study
from pipeline.records import TrialRecord
from pipeline.space import trial_counts

from .sweeps import run_here, study_file, vae_sweep_here

TINY = Workload("short", trials=8, epochs=2)
AGREES: Mapping[str, object] = {"agrees": True, "gap_nats": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    write_digits(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    make_store(path)
    return path


@pytest.mark.parametrize("scale", SCALES)
def test_equal_weights_give_equal_elbos(data: Path, scale: str) -> None:
    pack, images = new_pack(data, ours.SWEPT, 2, scale=scale), load_images(data)
    mine = pack.evaluate(pack.slots, "val")["elbo"]
    for slot in range(2):
        training = twin(pack, slot, images, ours.SWEPT)
        assert training.model.elbo(images.val, training.val_noise) == pytest.approx(mine[slot], rel=1e-6)
    assert mine[0] != pytest.approx(mine[1], rel=1e-6)


@pytest.mark.parametrize("shape", {case.shape for case in engine.CASES if case.shape.side == 8}, ids=str)
def test_both_sides_train_alike_on_the_same_draws(data: Path, shape: Shape) -> None:
    mine, theirs = paired(data, shape, epochs=2, seeds=2)
    assert mine == pytest.approx(theirs, abs=0.01)


def test_a_difference_voids() -> None:
    values = [-100.0, -101.0, -99.0, -100.0]
    assert judge(values, values, values)["agrees"]
    assert not judge(values, [value - 0.4 for value in values], values)["agrees"]
    assert not judge(values, values, [value - 3.0 for value in values])["agrees"]


@pytest.mark.parametrize("trials", [8, 16, 64])
def test_our_study_trains_as_often_as_the_peers(data: Path, tmp_path: Path, trials: int) -> None:
    file = tmp_path / "study.yaml"
    ours.write_study(file, ours.study(data, trials=trials, epochs=20))
    study = load_study(file)
    assert trial_counts(study).total == trials
    assert study.scientific["scale"] == tuple(SCALE_MATHS) == SCALES


@pytest.mark.parametrize("trials", [4, 18])
def test_trials_that_cannot_be_equal_are_refused(data: Path, trials: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        ours.study(data, trials=trials, epochs=20)


def test_rows_are_ratios_of_medians_and_void_when_something_is_missing() -> None:
    timed = [Timed("vae-sweep", seconds, 0.0, "") for seconds in (9.0, 10.0, 30.0)]
    timed += [Timed(peer, 50.0, 0.0, "no pictures" if peer == "tune-class" else "") for peer in PEERS]
    rows = {row.peer: row for row in sweep_rows(TINY, timed, dict(AGREES), judged=True)}
    assert all(row.ratio == 5.0 for row in rows.values())
    verdicts = {"tune-function": "MISSED", "tune-class": "VOID", "optuna-epoch": "met", "optuna-best": "met"}
    assert {peer: row.verdict for peer, row in rows.items()} == verdicts
    timed += [Timed("vae-sweep-processes", seconds, 0.0, "") for seconds in (4.0, 5.0, 6.0)]
    both = sweep_rows(TINY, timed, dict(AGREES), judged=True)
    assert [row.ratio for row in both] == [5.0] * len(PEERS) + [10.0] * len(PEERS), "a row for each executor"
    disagreeing = sweep_rows(TINY, timed, {"agrees": False, "gap_nats": 0.5}, judged=True)
    assert {row.verdict for row in disagreeing} == {"VOID"}


def test_every_round_begins_with_another_side() -> None:
    sides = [*OURS, *PEERS]
    assert [turned(sides, turn)[0] for turn in range(3)] == sides[:3]
    assert all(sorted(turned(sides, turn)) == sorted(sides) for turn in range(9))


@pytest.mark.slow
@pytest.mark.parametrize("side", [*OURS, *PEERS])
def test_each_side_leaves_everything_in_mlflow(side: str, data: Path, store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    timed = run_side(side, TINY, data=data, store=store, folder=folder, cores=2)
    assert timed.problem == "" and timed.seconds > 0
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE key = 'val/elbo' AND step = 1")
    next(file for file in folder.rglob("samples.png") if file.parent.name == "artifacts").unlink()
    assert "val/elbo 0 times" in missing(folder, TINY) and "samples.png 7 times" in missing(folder, TINY)


@pytest.mark.slow
def test_engine_is_measured_in_turns(data: Path) -> None:
    found = engine.measure(data, engine.CASES[0], rounds=2, seconds=0.05)
    assert [len(turns) for turns in found["times_seconds"].values()] == [2, 2]
    assert found["ratio"] == found["plain_cpu_ms"] / found["ours_cpu_ms"] > 0.2


@pytest.mark.slow
def test_what_mlflow_has_otherwise_than_the_ledger_is_seen(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    trials = list(run_here(study_file(tmp_path, search={"trials": 2, "startup": 1}), workdir, slots=8).records)
    assert "0 runs" in untrue_after(workdir, trials, "")
    assert vae_sweep_here("sync", "small", "--workdir", workdir)[0] == 0
    assert untrue_after(workdir, trials, "") == ""
    assert "curve" in untrue_after(workdir, trials, "UPDATE metrics SET timestamp = timestamp + 1 WHERE step = 2")
    assert "times" in untrue_after(workdir, trials, "UPDATE runs SET end_time = end_time + 1")
    assert "runs for" in untrue_after(workdir, trials[1:], "")


def untrue_after(workdir: Path, trials: list[TrialRecord], change: str) -> str:
    """What the benchmark sees in a copy of the store with this change."""
    copy = workdir / "copy.db"
    if not (workdir / "mlflow.db").exists():
        make_store(copy)
    else:
        with closing(sqlite3.connect(workdir / "mlflow.db")) as store, closing(sqlite3.connect(copy)) as target:
            store.backup(target)
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute(change) if change else None
    return untrue(copy, trials)
