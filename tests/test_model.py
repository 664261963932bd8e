"""Trained models put to use: registered, loaded elsewhere, sampled from; the numbers and pictures are the sweep's."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.launch.where import Where, load_study_data
from pipeline.models import REQUIREMENTS, SCRIPT, copy_code, open_model
from pipeline.paths import WorkPaths
from pipeline.records import Phase, State, TrialRecord
from pipeline.results import Results
from pipeline.serving.model import CARD, WEIGHTS, ModelCard, load_model

from .sweeps import read, run_here, study_file, vae_sweep_here

LOAD = """
import hashlib, json, sys
import numpy as np
import mlflow
model = mlflow.pyfunc.load_model("models:/champ@champion")
own = model.unwrap_python_model()
x = np.load(sys.argv[1])
mean, sigma = own.encode(x)
import pipeline
print(json.dumps({
    "pipeline": pipeline.__file__,
    "elbo": float(np.mean(model.predict(x, params={"method": "score"}))),
    "picture": hashlib.sha256(own.picture()).hexdigest(),
    "same_samples": bool(np.array_equal(model.predict(x[:1], params={"method": "sample"}), own.sample(64))),
    "encoded": list(model.predict(x, params={"method": "encode"}).shape),
    "decoded": list(model.predict(mean, params={"method": "decode"}).shape),
    "reconstructed": list(model.predict(x).shape),
    "positive": bool((sigma > 0).all()),
    "heavy": sorted({"ray", "optuna", "typer"} & set(sys.modules)),
}))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and delivered sweep, its best configuration registered as `champ`."""
    folder = tmp_path_factory.mktemp("models")
    file = study_file(
        folder,
        scientific={"scale": ["log_variance"], "latent_dim": [3]},
        search={"trials": 2, "startup": 2, "lag": 1, "replicates": 1},
        confirm={"candidates": 1, "candidate_seeds": 1, "repeats": 2},
    )
    run_here(file, folder / "work", slots=16)
    for verb in (("sync", "small"), ("best", "small", "--register", "champ")):
        code, _, err = vae_sweep_here(*verb, "--workdir", folder / "work")
        assert code == 0, err
    return folder / "work"


@pytest.fixture(scope="module")
def results(workdir: Path) -> Results:
    return read(workdir)


@pytest.fixture(scope="module")
def taken(results: Results) -> TrialRecord:
    return results.record(str(results.pick().trial))


def files_of(workdir: Path, record: TrialRecord) -> Path:
    return WorkPaths.at(workdir).trial("small", record.key)


def where(workdir: Path) -> Where:
    return Where(WorkPaths.at(workdir))


def check_loaded(said: dict[str, Any], workdir: Path, taken: TrialRecord) -> None:
    import hashlib

    assert taken.outcome is not None
    assert said["elbo"] == pytest.approx(taken.outcome.metrics["test/elbo"], abs=1e-6)
    assert said["picture"] == hashlib.sha256((files_of(workdir, taken) / "samples.png").read_bytes()).hexdigest()
    assert said["same_samples"] and said["positive"] and said["heavy"] == []
    assert (said["encoded"], said["decoded"], said["reconstructed"]) == ([50, 6], [50, 64], [50, 64])


def load_elsewhere(python: Path, folder: Path, workdir: Path, results: Results) -> dict[str, Any]:
    """What LOAD prints in a process that finds nothing of ours but the model."""
    np.save(folder / "test.npy", load_study_data(results.study).test)
    store = {"MLFLOW_TRACKING_URI": WorkPaths.at(workdir).mlflow_url, "HOME": str(folder)}
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    done = subprocess.run(
        [python, "-c", LOAD, str(folder / "test.npy")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, **store},
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


@pytest.mark.slow
def test_the_champion_in_a_fresh_process(tmp_path: Path, workdir: Path, results: Results, taken: TrialRecord) -> None:
    said = load_elsewhere(Path(sys.executable), tmp_path, workdir, results)
    assert "mlartifacts" in said["pipeline"], "the code that travels with the model, not the one installed here"
    check_loaded(said, workdir, taken)


@pytest.mark.slow
def test_the_champion_where_nothing_is_installed(
    tmp_path: Path, workdir: Path, results: Results, taken: TrialRecord
) -> None:
    listed = next((workdir / "mlartifacts").rglob("requirements.txt"))
    assert sorted(line.partition("==")[0] for line in listed.read_text().split()) == sorted(REQUIREMENTS)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", listed], check=True, timeout=280)
    check_loaded(load_elsewhere(python, tmp_path, workdir, results), workdir, taken)


def test_registered_twice_is_one_version_and_the_alias_follows(workdir: Path, taken: TrialRecord) -> None:
    from pipeline.browse import connect
    from pipeline.models import register

    tracker = connect(where(workdir))
    assert tracker is not None
    client = tracker._client
    again = register(read(workdir), taken, where(workdir), "champ")
    assert (again.version, again.is_new) == ("1", False)
    other = next(r for r in read(workdir).records if r.key.phase is Phase.REPEAT and r.key != taken.key)
    assert register(read(workdir), other, where(workdir), "champ").version == "2"
    assert str(client.get_model_version_by_alias("champ", "champion").version) == "2"
    assert register(read(workdir), taken, where(workdir), "champ").version == "1"
    assert str(client.get_model_version_by_alias("champ", "champion").version) == "1"
    version = client.get_model_version("champ", "1")
    assert version.tags["trial"] == str(taken.key) and version.tags["sweep"] == "small"
    assert version.tags["vae_sweep.ledger_id"].endswith(str(taken.key))
    assert len(client.search_model_versions("name = 'champ'")) == 2
    run = client.get_run(again.run_id)
    assert run.data.tags["number"] == str(taken.key.number) and run.outputs.model_outputs


def test_sample_gives_the_runs_picture(tmp_path: Path, workdir: Path, taken: TrialRecord) -> None:
    expected = (files_of(workdir, taken) / "samples.png").read_bytes()
    code, _, err = vae_sweep_here(
        "train", "--trial", f"small/{taken.key}", "--workdir", workdir, "--out", tmp_path / "t"
    )
    assert code == 0, err
    out = tmp_path / "grid.png"
    for model in ("champ", "models:/champ/1", f"small/{taken.key}", tmp_path / "t", tmp_path / "t" / WEIGHTS):
        code, said, err = vae_sweep_here("sample", model, "--workdir", workdir, "--out", out)
        assert code == 0, err
        assert out.read_bytes() == expected and "64 samples" in said
        out.unlink()
    vae_sweep_here("sample", f"small/{taken.key}", "-n", 5, "--seed", 1, "--workdir", workdir, "--out", out)
    assert out.read_bytes() != expected


def test_samples_of_more_begin_with_the_same(workdir: Path, taken: TrialRecord) -> None:
    model = open_model(f"small/{taken.key}", where(workdir))
    assert np.array_equal(model.sample(100)[:64], model.sample(64)) and model.sample(100).shape == (100, 64)
    assert np.array_equal(model.sample(3), model.sample(64)[:3])
    assert np.array_equal(model.sample(9, seed=1), model.sample(9, seed=1))
    assert not np.array_equal(model.sample(9, seed=1), model.sample(9, seed=2))


def test_scores_of_a_table_are_those_of_its_beginning(workdir: Path, results: Results, taken: TrialRecord) -> None:
    model, x = open_model(f"small/{taken.key}", where(workdir)), load_study_data(results.study).test
    whole = model.score(x)
    assert taken.outcome is not None
    assert whole.mean() == pytest.approx(taken.outcome.metrics["test/elbo"], abs=1e-9)
    np.testing.assert_allclose(model.score(x[:7]), whole[:7], atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(x), model.decode(model.encode(x)[0]))
    with pytest.raises(UserError, match="rows of 64 numbers, but got shape"):
        model.score(x[:, :9])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", "nobody"), "no registered model nobody@champion"),
        (("sample", "champ@nobody"), "no registered model champ@nobody"),
        (("sample", "models:/champ/77"), "no registered model champ/77"),
        (("sample", "a b"), "MODEL must be a registered NAME"),
        (("sample", "nobody/0"), "No sweep named 'nobody'"),
        (("sample", "small/zzz"), "A trial is named"),
        (("sample", "."), f"has no {CARD}"),
        (("sample", "champ", "--out", "grid.jpg"), "must be a .png file"),
        (("best", "small", "--register", "a/b"), "--register takes a name"),
        (("best", "small", "--register", "champ", "--mlflow", "none"), "nothing is tracked"),
        (("train", "--trial", "small"), "--trial takes NAME/TRIAL"),
        (("train", "--trial", "small/a", "--set", "a.b=1"), "--set changes a FILE"),
    ],
)
def test_mistakes(workdir: Path, words: tuple[str, ...], said: str) -> None:
    code, _, err = vae_sweep_here(*words, "--workdir", workdir)
    assert code == 2 and said in " ".join(err.split()), err


def test_weights_that_are_gone(workdir: Path, results: Results, taken: TrialRecord) -> None:
    searched = next(r for r in results.records if r.key.phase is Phase.SEARCH and r.state is State.COMPLETE)
    with pytest.raises(UserError, match=f"only complete repeats keep theirs.*train --trial small/{searched.key}"):
        open_model(f"small/{searched.key}", where(workdir))
    file = files_of(workdir, taken) / WEIGHTS
    content = file.read_bytes()
    file.unlink()
    try:
        code, _, err = vae_sweep_here("best", "small", "--register", "champ", "--workdir", workdir)
        assert code == 2 and "they are gone" in err and f"train --trial small/{taken.key}" in err
    finally:
        file.write_bytes(content)


def test_a_folder_that_is_no_model(tmp_path: Path, workdir: Path, taken: TrialRecord) -> None:
    card = open_model(f"small/{taken.key}", where(workdir)).card
    assert ModelCard.read(card.dump()) == card
    weights = (files_of(workdir, taken) / WEIGHTS).read_bytes()
    for text, content, said in (
        ("{}", weights, "cannot be read"),
        ("no json", weights, "cannot be read"),
        (card.dump(), b"nothing", "must be a safetensors file"),
        (card.dump().replace('"latent_dim": 3', '"latent_dim": 4'), weights, "differ in"),
    ):
        (tmp_path / CARD).write_text(text)
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(UserError, match=said):
            load_model(tmp_path)


def test_the_code_that_travels_imports_nothing_heavy(tmp_path: Path) -> None:
    package = copy_code(SCRIPT, tmp_path)
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    third = {name for name in found if name not in sys.stdlib_module_names}
    assert third <= {"torch", "numpy", "safetensors", "PIL", "sklearn"}, third  # sklearn: the digits, if they moved
    assert len(list(package.rglob("*.py"))) < 40
