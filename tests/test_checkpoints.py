"""Checkpoints: going on from one gives the bytes of a training that was never interrupted; a damaged one is refused."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipeline.checkpoints import Checkpoints
from pipeline.launch.where import Where, open_ledger
from pipeline.launch.workers import make_executor
from pipeline.packed.trainer import Trainer
from pipeline.paths import WorkPaths
from pipeline.records import (
    EpochReport,
    Phase,
    State,
    Stopping,
    TrialCheckpoint,
    TrialEnded,
    TrialKey,
    TrialOutcome,
    TrialTask,
)

from .kit import drive, hyperparameters, numbers, task, tiny_dataset, train_all
from .sweeps import json_of, read, records, run_here, study_file, vae_sweep, vae_sweep_started, wait_for

EPOCHS = 6
CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "sgd without momentum": {"optimizer": "sgd", "learning_rate": 1e-4},
    "float64": {"dtype": "float64"},
    "warm-up": {"beta_warmup_epochs": 4, "beta": 2.0},
    "stopped later": {"thresholds": (None, None, None, None, 1e9)},
    "out of patience": {"stopping": Stopping(patience_epochs=0), "learning_rate": 0.05},
    "diverges later": {"scale": "raw_variance", "initial_sigma": 1.0, "learning_rate": 0.0038},
}


def long_task(number: int = 0, **changes: Any) -> TrialTask:
    return task(number, **{"epochs": EPOCHS, **changes})


def trainer(slots: int = 4, dataset: Any = None, seed: int = 0, **options: Any) -> Trainer:
    return Trainer(dataset or tiny_dataset(), slots=slots, bank_seed=seed, **options)


def after(epochs: int, *tasks: TrialTask) -> dict[TrialKey, bytes]:
    """The checkpoints of trials that were trained for so long side by side."""
    first = trainer()
    first.submit(tasks)
    for _ in range(epochs):
        first.advance(0.0)
    return {found.key: found.content for found in first.checkpoints()}


def resumed(one: TrialTask, content: bytes) -> TrialTask:
    return replace(one, checkpoint=content)


def finish(*tasks: TrialTask, **options: Any) -> tuple[dict[TrialKey, TrialOutcome], list[EpochReport]]:
    worker = trainer(**options)
    worker.submit(tasks)
    outcomes, reports, _ = drive(worker)
    return outcomes, reports


class TestTraining:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("epochs", [1, 2])
    def test_goes_on_to_the_same_bytes(self, case: str, epochs: int) -> None:
        one, other = long_task(1, **CASES[case]), long_task(2)
        whole = train_all([one], 1)[one.key]
        assert (whole.state is State.DIVERGED) == (case == "diverges later")
        content = after(epochs, other, one)[one.key]
        # Beside others than before, in another place, and at another epoch than its neighbour's.
        outcomes, reports = finish(resumed(one, content), long_task(3))
        assert numbers(outcomes[one.key]) == numbers(whole)
        assert min((r.epoch for r in reports if r.key == one.key), default=epochs + 1) == epochs + 1, (
            "not from the start"
        )

    def test_times_and_costs_are_kept(self) -> None:
        one = long_task()
        content = after(3, one)[one.key]
        outcome = finish(resumed(one, content))[0][one.key]
        assert len(outcome.epoch_times) == EPOCHS and list(outcome.epoch_times) == sorted(outcome.epoch_times)
        assert outcome.started_at <= outcome.epoch_times[0]
        assert "samples-1.png" in outcome.files and "samples-4.png" in outcome.files

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 7},
            {"learning_rate": 2e-3},
            {"epochs": EPOCHS + 1},
            {"thresholds": (None, -1e9)},
            {"stopping": Stopping(patience_epochs=EPOCHS)},
            {"number": 5},
            {"hidden": (100,)},
        ],
        ids=str,
    )
    def test_another_trial_s_is_not_used(self, change: dict[str, Any]) -> None:
        content = after(3, long_task())[long_task().key]
        one = long_task(**change)
        outcomes, reports = finish(resumed(one, content))
        assert numbers(outcomes[one.key]) == numbers(train_all([one], 1)[one.key])
        assert reports[0].epoch == 1

    @pytest.mark.parametrize("options", [{"dataset": tiny_dataset(train=74)}, {"seed": 1}], ids=["data", "bank"])
    def test_nor_one_of_other_data(self, options: dict[str, Any]) -> None:
        if "dataset" in options:
            options = {"dataset": tiny_dataset(train=74)}
            object.__setattr__(options["dataset"], "sha256", "1" * 64)
        content = after(3, long_task())[long_task().key]
        assert finish(resumed(long_task(), content), **options)[1][0].epoch == 1

    def test_nor_one_of_another_version(self) -> None:
        content = after(3, long_task())[long_task().key]
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["vae_sweep"])
        later = save_tensors(load_tensors(content), {"vae_sweep": json.dumps({**header, "version": 2})})
        same = save_tensors(load_tensors(content), {"vae_sweep": json.dumps(header)})
        assert finish(resumed(long_task(), later))[1][0].epoch == 1
        assert finish(resumed(long_task(), same))[1][0].epoch == 4

    @pytest.mark.parametrize("damaged", [b"", b"\0" * 7, b"\xff" * 64, b"{}", b"\x02\0\0\0\0\0\0\0{}"], ids=repr)
    def test_nor_what_is_none(self, damaged: bytes) -> None:
        assert finish(resumed(long_task(), damaged))[1][0].epoch == 1

    def test_nor_one_that_lacks_something(self) -> None:
        content = after(3, long_task())[long_task().key]
        length = int.from_bytes(content[:8], "little")
        metadata, tensors = json.loads(content[8 : 8 + length])["__metadata__"], load_tensors(content)
        for name in tensors:
            if name.startswith("picture/"):
                continue
            without = save_tensors({other: tensor for other, tensor in tensors.items() if other != name}, metadata)
            worker = trainer()
            worker.submit([resumed(long_task(), without)])
            first = next(event for event in worker.advance(0.0) if isinstance(event, EpochReport))
            assert first.epoch == 1 or name.startswith("curve/"), name

    def test_given_out_as_often_as_asked_for(self) -> None:
        def given(seconds: float) -> list[int]:
            worker, found = trainer(checkpoint_seconds=seconds), []
            worker.submit([long_task()])
            while worker.busy:
                found += [event.epoch for event in worker.advance(0.0) if isinstance(event, TrialCheckpoint)]
            return found

        assert given(0.0) == [1, 2, 3, 4, 5]
        assert given(math.inf) == given(3600.0) == []


@pytest.fixture
def key() -> TrialKey:
    return TrialKey("arm", 0, Phase.SEARCH, 3)


class TestFiles:
    def test_the_newest_two_are_kept_and_the_newest_is_used(self, tmp_path: Path, key: TrialKey) -> None:
        said: list[str] = []
        kept = Checkpoints(WorkPaths.at(tmp_path), "small", said.append)
        assert kept.latest(key) is None
        for epoch in (9, 10, 1_000_000):
            kept.keep(key, epoch, b"state after %d" % epoch)
        folder = WorkPaths.at(tmp_path).trial("small", key)
        assert len(list(folder.iterdir())) == 2 and kept.latest(key) == b"state after 1000000"
        (folder / "samples.png").write_bytes(b"")
        kept.clear(key)
        assert [file.name for file in folder.iterdir()] == ["samples.png"] and not said

    @pytest.mark.parametrize(
        "damage",
        [
            lambda file: file.write_bytes(file.read_bytes()[:-3]),
            lambda file: file.write_bytes(b""),
            lambda file: file.write_bytes(file.read_bytes()[:5] + b"X" + file.read_bytes()[6:]),
            lambda file: (file.unlink(), file.mkdir()),
        ],
        ids=["torn", "empty", "flipped", "a folder"],
    )
    def test_a_damaged_one_is_refused_and_the_one_before_it_used(
        self, tmp_path: Path, key: TrialKey, damage: Callable[[Path], object]
    ) -> None:
        said: list[str] = []
        kept = Checkpoints(WorkPaths.at(tmp_path), "small", said.append)
        kept.keep(key, 4, b"state after four")
        kept.keep(key, 7, b"state after seven")
        newest, before = sorted(WorkPaths.at(tmp_path).trial("small", key).iterdir(), reverse=True)
        damage(newest)
        assert kept.latest(key) == b"state after four"
        assert said == [f"the checkpoint of {key} after epoch 7 is damaged and is not used"]
        damage(before)
        assert kept.latest(key) is None and len(said) == 3

    def test_what_cannot_be_written_is_said(self, tmp_path: Path, key: TrialKey) -> None:
        said: list[str] = []
        WorkPaths.at(tmp_path).sweep("small").write_text("a file where the folder should be")
        Checkpoints(WorkPaths.at(tmp_path), "small", said.append).keep(key, 4, b"state")
        assert len(said) == 1 and "could not be written" in said[0] and "training goes on" in said[0]


LONG: dict[str, Any] = {
    "train": {"epochs": 60},
    "scientific": {"scale": ["log_variance", "log_std"]},
    "search": {"trials": 2, "startup": 2, "replicates": 1},
    "confirm": {"candidates": 1, "repeats": 1},
}


def files_of(workdir: Path) -> list[Path]:
    return sorted(workdir.glob("small/trials/**/checkpoint-*"))


def started(file: Path, workdir: Path, log: Path, *options: object) -> Any:
    words = ("run", file, "--workdir", workdir, "--mlflow", "none", "--executor", "inline", "--slots", "4", *options)
    return vae_sweep_started(*words, log=log)


@pytest.mark.parametrize(
    "ending", ["SIGTERM", *(pytest.param(e, marks=pytest.mark.slow) for e in ("SIGINT", "stop", "hours"))]
)
def test_a_stop_keeps_what_was_trained(tmp_path: Path, ending: str) -> None:
    file, workdir = study_file(tmp_path, **{**LONG, "train": {"epochs": 2000}}), tmp_path / "work"
    hours = ("--hours", str(4 / 3600)) if ending == "hours" else ()
    process = started(file, workdir, tmp_path / "log", *hours)
    try:
        if ending != "hours":
            wait_for(lambda: any(r.state is State.RUNNING for r in records(workdir)), process)
            with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
                wait_for(
                    lambda: (found := ledger.sweep("small")) is not None and found.fingerprint is not None, process
                )
        if ending == "stop":
            vae_sweep("stop", "small", "--workdir", workdir)
        elif ending != "hours":
            process.send_signal(getattr(signal, ending))
        assert process.wait(60) == 3, (tmp_path / "log").read_text()
    finally:
        process.kill()
    assert "To go on" in (tmp_path / "log").read_text()
    left = records(workdir)
    assert {record.state for record in left} == {State.WAITING}, "none is left running"
    assert len(files_of(workdir)) == len(left)


@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_sweep_goes_on_from_them(tmp_path: Path, ray: bool) -> None:
    file, workdir = study_file(tmp_path, **{**LONG, "train": {"epochs": 400}}), tmp_path / "work"
    plain = run_here(file, tmp_path / "plain", slots=8)
    options: dict[str, Any] = {"executor": "ray", "workers": 1} if ray else {"slots": 4}
    where = Where(WorkPaths.at(workdir), checkpoint_seconds=0.0)
    words = ("--executor", "ray", "--workers", 1) if ray else ()
    # `run` takes a second at least: this is `run` with none.
    process = started(file, workdir, tmp_path / "log", "--checkpoint-seconds", "1", *words)
    try:
        wait_for(lambda: bool(files_of(workdir)), process)
    finally:
        process.kill()
        process.wait()
    interrupted = {str(r.key) for r in records(workdir) if r.state is State.RUNNING}
    assert interrupted
    newest = files_of(workdir)[-1]
    newest.write_bytes(newest.read_bytes()[:100])  # torn
    again = run_here(file, workdir, checkpoint_seconds=where.checkpoint_seconds, **options)
    assert json_of(again) == json_of(plain)
    assert not files_of(workdir), "an ended trial needs none"
    assert {str(r.key) for r in read(workdir).records if r.attempts > 1} == interrupted


def test_the_trial_that_goes_on_starts_where_it_was(tmp_path: Path) -> None:
    """The executor's own contract: what `close` gives with notice is what `submit` takes."""
    from pipeline.config import load_study
    from pipeline.launch.where import load_study_data

    study = load_study(study_file(tmp_path), [])
    where = Where(WorkPaths.at(tmp_path), executor="inline")
    values = hyperparameters(epochs=EPOCHS, latent_dim=3, hidden=(21,))
    one = TrialTask(TrialKey("arm", 0, Phase.SEARCH, 0), values, 1)
    first = make_executor(load_study_data(study), study, where)
    first.submit("inline-0", [one])
    first.poll(0.0)
    first.poll(0.0)
    (checkpoint,) = first.close(1.0)
    assert isinstance(checkpoint, TrialCheckpoint) and checkpoint.key == one.key and checkpoint.epoch == 2
    second = make_executor(load_study_data(study), study, where)
    second.submit("inline-0", [resumed(one, checkpoint.content)])
    events = [event for _ in range(EPOCHS) for event in second.poll(0.0)]
    assert [event.epoch for event in events if isinstance(event, EpochReport)] == [3, 4, 5, 6]
    assert [event.outcome.state for event in events if isinstance(event, TrialEnded)] == [State.COMPLETE]
    assert second.close() == [] and second.close(1.0) == []
