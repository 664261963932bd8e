"""`sync --optuna`: what the ledger has of the searches, read back by Optuna itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from pipeline.extension import lasting_hash
from pipeline.launch.where import Where, open_ledger
from pipeline.ledger.schema import Holder
from pipeline.ledger.store import Ledger
from pipeline.paths import WorkPaths
from pipeline.records import Phase, State, TrialRecord
from pipeline.results import Results
from pipeline.space import Arm
from pipeline.tracking.mlflow_tracker import target_of

from .postgres import SECRET, Server
from .sweeps import MEDIAN, run_here, study_file, vae_sweep, vae_sweep_here

MLFLOW = "http://me:word@mlflow.example/base/"
STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.STOPPED: TrialState.PRUNED,
    State.DIVERGED: TrialState.COMPLETE,
    State.FAILED: TrialState.FAIL,
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A finished sweep with complete, stopped and diverged trials, none of them delivered; its working directory."""
    folder = tmp_path_factory.mktemp("swept")
    file = study_file(
        folder,
        scientific={"scale": ["log_variance", "raw_variance"], "latent_dim": [2]},
        nuisance={"optimizer": {"choices": ["adam", "sgd"]}},
        search=MEDIAN,
    )
    results = run_here(file, folder / "work", slots=8)
    assert {record.state for record in results.records} >= {State.COMPLETE, State.STOPPED, State.DIVERGED}
    return folder / "work", results


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty Optuna storage."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'optuna.db'}"
        return
    server: Server = request.getfixturevalue("postgresql")
    url = server.new_database()
    yield url
    server.drop(url)


def sync(workdir: Path, storage: str, *, mlflow: str = "none") -> tuple[int, str]:
    """A command line takes no password: the database asks for none, and MLflow's address is in the environment."""
    plain = storage.replace(f":{SECRET}@", "@")
    with pytest.MonkeyPatch.context() as patch:
        if mlflow != "none":
            patch.setenv("MLFLOW_TRACKING_URI", mlflow)
        tracked = ["--mlflow", "none"] if mlflow == "none" else []
        code, out, err = vae_sweep_here("sync", "small", "--workdir", workdir, *tracked, "--optuna", plain)
    return code, " ".join((out + err).split())


@contextmanager
def opened(url: str) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna leaves connections open."""
    storage = optuna.storages.RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@dataclass(frozen=True)
class Found:
    """A study as Optuna has it, without its own ids."""

    attributes: dict[str, Any]
    direction: optuna.study.StudyDirection
    trials: list[FrozenTrial]
    best: FrozenTrial


def loaded(url: str) -> dict[str, Found]:
    """Every study by its name."""
    found = {}
    with opened(url) as storage:
        for name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage)
            found[name] = Found(study.user_attrs, study.direction, study.get_trials(), study.best_trial)
            for trial in [*found[name].trials, found[name].best]:
                trial._trial_id = 0
    return found


def search_of(results: Results, arm: Arm, replicate: int) -> list[TrialRecord]:
    here = (arm.id, replicate, Phase.SEARCH)
    return [r for r in results.records if (r.key.arm, r.key.replicate, r.key.phase) == here]


def copy_of(swept: tuple[Path, Results], workdir: Path, records: list[TrialRecord]) -> Ledger:
    """An open ledger in `workdir` with the sweep, running, and some of its records."""
    sweep = swept[1].sweep
    ledger = open_ledger(Where(WorkPaths.at(workdir)), create=True)
    ledger.create_sweep(name="small", study=sweep.study, study_hash=sweep.study_hash, created_at=sweep.created_at)
    save(ledger, records)
    return ledger


def save(ledger: Ledger, records: list[TrialRecord]) -> None:
    ledger.save_trials("small", records)


def test_each_search_is_a_study_with_the_ledgers_trials(swept: tuple[Path, Results], storage: str) -> None:
    workdir, results = swept
    assert sync(workdir, storage) == (0, "Optuna: 4 studies, 24 trials, 24 of them new")
    studies = loaded(storage)
    for arm in results.arms:
        for replicate in range(2):
            study = studies.pop(f"small/{arm.label}/{replicate}")
            assert study.direction == optuna.study.StudyDirection.MAXIMIZE
            assert study.attributes == {
                "sweep": "small",
                "arm": arm.id,
                "arm:scale": arm.values["scale"],
                "arm:latent_dim": 2,
                "replicate": replicate,
                "search_hash": lasting_hash(json.loads(results.sweep.study)),
            }
            records = search_of(results, arm, replicate)
            assert len(study.trials) == len(records) == 6
            for record, trial in zip(records, study.trials, strict=True):
                check(record, trial)
            best = [r for r in records if r.state is State.COMPLETE]
            if best:
                winner = max(best, key=lambda record: record.outcome.metrics["val/elbo"] if record.outcome else 0.0)
                assert study.best.number == winner.key.number
                assert study.best.user_attrs["params"] == winner.params
                assert study.best.params["learning_rate"] == winner.params["learning_rate"]
    assert studies == {}


def check(record: TrialRecord, trial: FrozenTrial) -> None:
    outcome = record.outcome
    assert outcome is not None
    assert trial.number == record.key.number and trial.state == STATES[record.state]
    assert trial.params["learning_rate"] == record.params["learning_rate"]
    assert ["adam", "sgd"][trial.params["optimizer"]] == record.params["optimizer"]
    assert trial.user_attrs["key"] == str(record.key) and trial.user_attrs["state"] == record.state
    assert trial.user_attrs["seed"] == str(record.seed) and trial.user_attrs["epochs"] == outcome.epochs
    assert "mlflow_run_id" not in trial.user_attrs
    if record.state is State.DIVERGED:
        assert trial.value is not None and trial.user_attrs["cause"] == outcome.cause
    else:
        assert trial.value == outcome.curves["val/elbo"][-1]
        assert list(trial.intermediate_values.items()) == list(enumerate(outcome.curves["val/elbo"], 1))
    assert trial.datetime_start == datetime.fromtimestamp(outcome.started_at)
    assert trial.datetime_complete == datetime.fromtimestamp(outcome.ended_at)


@pytest.mark.parametrize("sampler", ["cmaes", pytest.param("gp", marks=pytest.mark.slow)])
def test_what_a_model_notes_for_itself_stays_here(sampler: str, tmp_path: Path) -> None:
    search = {"sampler": sampler, "startup": 2, "trials": 7, "replicates": 1}
    file = study_file(tmp_path, scientific={"scale": ["log_std"], "latent_dim": [2]}, search=search)
    results = run_here(file, tmp_path / "work", executor="simulated", slots=8)
    noted = [bool(record.proposal) for record in search_of(results, results.arms[0], 0)]
    assert noted[:2] == [False] * 2 and any(noted), "models leave attributes"
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    assert sync(tmp_path / "work", storage) == (0, "Optuna: 1 studies, 7 trials, 7 of them new")
    (study,) = loaded(storage).values()
    assert [trial.system_attrs for trial in study.trials] == [{}] * 7
    for record, trial in zip(search_of(results, results.arms[0], 0), study.trials, strict=True):
        assert trial.params == record.params


def test_again_adds_nothing(swept: tuple[Path, Results], storage: str) -> None:
    sync(swept[0], storage)
    before = loaded(storage)
    assert sync(swept[0], storage) == (0, "Optuna: 4 studies, 24 trials, 0 of them new")
    assert loaded(storage) == before


def test_in_any_steps_it_comes_to_the_same(swept: tuple[Path, Results], storage: str, tmp_path: Path) -> None:
    workdir, results = swept
    whole = f"sqlite:///{tmp_path / 'whole.db'}"
    sync(workdir, whole)
    late = [record for record in results.records if record.key.number == 2 or record.key.phase is not Phase.SEARCH]
    early = [record for record in results.records if record not in late and record.key.number < 5]
    rest = [record for record in results.records if record not in late and record not in early]
    waiting = [
        TrialRecord(r.key, r.params, r.seed, proposal=r.proposal, thresholds=r.thresholds)
        for r in late
        if r.key.phase is Phase.SEARCH
    ]
    with copy_of(swept, tmp_path / "work", early + waiting) as ledger:
        # Trials 3 and 4 have ended before trial 2 has.
        code, text = sync(tmp_path / "work", storage)
        assert code == 0 and "4 studies, 8 trials, 8 of them new; 8 ended ones wait" in text
        ledger.save_trials("small", [TrialRecord(**{**_fields(r), "state": State.RUNNING}) for r in waiting])
        save(ledger, late + rest)
        add, count = optuna.Study.add_trial, 0

        def killed_on_the_way(study: optuna.Study, trial: FrozenTrial) -> None:
            nonlocal count
            count += 1
            if count > 6:
                raise KeyboardInterrupt
            add(study, trial)

        with patch.object(optuna.Study, "add_trial", killed_on_the_way):
            assert sync(tmp_path / "work", storage)[0] == 130
    assert sync(tmp_path / "work", storage)[1].startswith("Optuna: 4 studies, 24 trials, 10 of them new")
    assert loaded(storage) == loaded(whole)


def _fields(record: TrialRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in TrialRecord.__slots__}


def test_trials_link_to_their_runs_and_wait_for_them(swept: tuple[Path, Results], storage: str, tmp_path: Path) -> None:
    results = swept[1]
    with copy_of(swept, tmp_path / "work", list(results.records)) as ledger:
        ledger.update_sweep("small", status="finished")
        runs = {str(record.key): f"run{index}" for index, record in enumerate(results.records)}
        undelivered = next(record for record in results.records if record.key.phase is Phase.SEARCH)
        ledger.mark_begun("small", target_of(MLFLOW), ["parent", *runs])
        ledger.mark_done("small", target_of(MLFLOW), {k: run for k, run in runs.items() if k != str(undelivered.key)})
        code, text = sync(tmp_path / "work", storage, mlflow=MLFLOW)
        assert code == 1 and "or for their runs in MLflow" in text
        ledger.mark_done("small", target_of(MLFLOW), runs)
    assert sync(tmp_path / "work", storage, mlflow=MLFLOW)[0] == 0
    for study in loaded(storage).values():
        for trial in study.trials:
            run = runs[trial.user_attrs["key"]]
            assert trial.user_attrs["mlflow_run_id"] == run
            assert (
                trial.user_attrs["mlflow_url"]
                == f"http://mlflow.example/base/#/runs/{run}?workflowType=machine_learning"
            )


@pytest.mark.slow
def test_the_optuna_command_lists_them(swept: tuple[Path, Results], storage: str) -> None:
    sync(swept[0], storage)
    command = [str(Path(sys.executable).parent / "optuna"), "studies", "--storage", storage, "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {entry["name"] for entry in json.loads(done.stdout)} == set(loaded(storage))


def test_a_study_of_another_sweep_is_left_alone(swept: tuple[Path, Results], storage: str, tmp_path: Path) -> None:
    name = f"small/{swept[1].arms[0].label}/0"
    with opened(storage) as theirs:
        optuna.create_study(study_name=name, storage=theirs).add_trial(optuna.trial.create_trial(value=1.0))
    code, text = sync(swept[0], storage)
    assert code == 1 and f"An Optuna study '{name}' must be this sweep's" in text and "delete-study" in text
    assert len(loaded(storage)[name].trials) == 1 and SECRET not in text


def test_two_at_once_are_refused(swept: tuple[Path, Results], tmp_path: Path) -> None:
    with copy_of(swept, tmp_path / "work", []) as ledger:
        ledger.acquire_lease("small", "export", holder=Holder("elsewhere", 1, "", ""), now=time.time())
    code, text = sync(tmp_path / "work", f"sqlite:///{tmp_path / 'optuna.db'}")
    assert code == 1 and "one export at a time" in text


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("nowhere", 2, "begins with 'nowhere'. Correct --optuna"),
        ("sqlite:////no/such/folder/optuna.db", 1, "unable to open database file"),
        (f"postgresql://me:{SECRET}@127.0.0.1:1/none", 1, "Connection refused"),
        (f"postgresql+no_such_driver://me:{SECRET}@127.0.0.1:1/none", 2, "driver"),
        (f"postgresql://me:{SECRET}@127.0.0.1:one/none", 2, "Correct --optuna"),
    ],
)
def test_addresses_that_are_none(swept: tuple[Path, Results], url: str, code: int, words: str) -> None:
    found, text = sync(swept[0], url)
    assert found == code and words in text and SECRET not in text


def test_alone_and_of_a_sweep_that_exists(tmp_path: Path) -> None:
    with open_ledger(Where(WorkPaths.at(tmp_path)), create=True):
        pass
    assert vae_sweep_here("sync", "small", "--optuna", "sqlite://", "--check", "--workdir", tmp_path)[0] == 2
    code, _, error = vae_sweep_here("sync", "small", "--optuna", "sqlite://", "--workdir", tmp_path)
    assert code in (1, 2) and "'small'" in error


def run_exporting_to(url: str, folder: Path) -> str:
    """A tracked run with VAE_SWEEP_OPTUNA_URL; what its delivery printed."""
    file = study_file(folder, scientific={"scale": ["log_variance"], "latent_dim": [2]})
    words = ("run", file, "--workdir", folder / "work", "--executor", "inline")
    done = vae_sweep(*words, VAE_SWEEP_OPTUNA_URL=url)
    assert "not in MLflow" not in done.stdout
    log = (folder / "work" / "small" / "delivery.log").read_text()
    assert SECRET not in log and "Traceback" not in log
    return log


@pytest.mark.slow
def test_a_run_exports_behind_its_delivery(storage: str, tmp_path: Path) -> None:
    assert "Optuna: 2 studies, 12 trials" in run_exporting_to(storage, tmp_path)
    trials = [study.trials for study in loaded(storage).values()]
    assert [len(found) for found in trials] == [6, 6]
    assert len({trial.user_attrs["mlflow_run_id"] for found in trials for trial in found}) == 12


@pytest.mark.slow
def test_a_storage_that_is_away_does_not_hold_up_mlflow(tmp_path: Path) -> None:
    log = run_exporting_to(f"postgresql://me:{SECRET}@127.0.0.1:1/none", tmp_path)
    assert "Connection refused. Check it and VAE_SWEEP_OPTUNA_URL" in log
