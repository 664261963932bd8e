"""The command line: what each verb prints, exit codes, and one clear message for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.picking import RULES

from .sweeps import STUDY, json_of, read, run_here, study_file, vae_sweep, vae_sweep_here


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp('it\'s "odd" ünd\tso')
    run_here(study_file(folder), folder / "work", slots=16)
    return folder / "work"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    done = vae_sweep("--help")
    for verb in ("plan", "run", "list", "status", "show", "stop", "delete", "compare", "best", "train", "ui", "sync"):
        assert verb in done.stdout
    code = "import sys; sys.argv = ['vae-sweep', '--help']; import pipeline.cli as c\n"
    code += "try:\n    c.app()\nexcept SystemExit: pass\n"
    assert loaded_after(code) == []


def test_what_runs_beside_a_sweep_is_started_before_anything_heavy_is_loaded() -> None:
    code = "import sys; sys.argv = ['vae-sweep', 'run', 'there-is-none.yaml']\n"
    code += "import pipeline.cli as c, pipeline.launch.beside as b\n"
    code += "b.helpers_of = sys.exit\n"  # in the place where it is called
    code += "try:\n    c.app()\nexcept SystemExit as called: assert type(called.code).__name__ == 'Where', called\n"
    assert loaded_after(code) == ["pydantic"]  # typer reads options with it


def loaded_after(code: str) -> list[str]:
    """Heavy libraries that a fresh Python has loaded when it has run `code`."""
    heavy = {"torch", "ray", "optuna", "sklearn", "mlflow", "sqlalchemy", "scipy", "numpy", "pydantic"}
    code += f"print('HEAVY', *sorted(set(sys.modules) & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    _, found, names = done.stdout.rpartition("HEAVY")
    assert found, done.stderr
    return names.split()


def test_plan_says_what_would_run_and_starts_nothing(tmp_path: Path) -> None:
    text = " ".join(vae_sweep_here("plan", study_file(tmp_path))[1].split())
    assert "6 arms × 2 replicates = 12" in text
    assert "3 drawn at once, 3 proposed by tpe" in text
    assert "120: 72 search, 24 shortlist, 24 repeat" in text
    assert "can detect" in text and "one core" in text
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_list_status_show(workdir: Path) -> None:
    assert re.search(r"small +finished", vae_sweep_here("list", "--workdir", workdir)[1])
    status = json.loads(vae_sweep_here("status", "small", "--workdir", workdir, "--json")[1])
    assert status["status"] == "finished" and status["trials"]["running"] == 0 and status["trials"]["diverged"] > 0
    assert "6/6" in vae_sweep_here("status", "small", "--workdir", workdir)[1].replace("12/12", "6/6")
    records = read(workdir).records
    every = vae_sweep_here("show", "small", "--workdir", workdir)[1].splitlines()
    assert [line.split()[0] for line in every if "/search/" in line] == [
        str(r.key) for r in records if r.key.phase == "search"
    ]
    listed = json.loads(vae_sweep_here("show", "small", "--workdir", workdir, "--json")[1])
    assert [facts["trial"] for facts in listed] == [str(r.key) for r in records]
    record = next(r for r in records if r.state == "complete")
    shown = vae_sweep_here("show", "small", record.key, "--workdir", workdir)[1]
    assert (
        str(record.seed) in shown and "val/elbo by epoch" in shown and f"small/{record.key}" in shown.replace("\n", "")
    )
    facts = json.loads(vae_sweep_here("show", "small", record.key, "--workdir", workdir, "--json")[1])
    assert record.outcome and facts["metrics"] == dict(record.outcome.metrics)


def test_compare_is_the_same_text_each_time(workdir: Path) -> None:
    first = vae_sweep_here("compare", "small", "--workdir", workdir, "--json")[1]
    assert first == json_of(read(workdir))
    text = vae_sweep_here("compare", "small", "--workdir", workdir)[1]
    for expected in ("log_variance", "baseline", "undecided", "diverged"):
        assert expected in text
    assert str(workdir) not in first and "inline" not in first


def test_best_export_train_gives_the_same_bytes(workdir: Path, tmp_path: Path) -> None:
    asked = ("best", "small", "--rule", "one_se", "--where", "latent_dim=3", "--workdir", workdir)
    facts = json.loads(vae_sweep_here(*asked, "--json")[1])
    assert facts["rule"] == "one_se" and facts["arm"]["latent_dim"] == 3
    export, out = tmp_path / "best.yaml", tmp_path / "trained"
    said = vae_sweep_here(*asked, "--export", export)[1]
    assert all(word in said for word in ("take", "why", "gave up", "how sure"))
    assert f"train {export}" in said.replace("\n", " ")
    trained = json.loads(vae_sweep("train", export, "--out", out, "--json").stdout)
    record = read(workdir).record(facts["trial"])
    assert record.outcome is not None
    assert trained["metrics"] == dict(record.outcome.metrics)
    kept = workdir / "small" / "trials" / facts["trial"]
    for name in ("samples.png", "reconstructions.png", "model.safetensors"):
        assert (out / name).read_bytes() == (kept / name).read_bytes()
    with Image.open(out / "samples.png") as picture:
        assert picture.size[0] > 200


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "robust"])
def test_best_answers_by_every_rule(workdir: Path, rule: str) -> None:
    facts = json.loads(vae_sweep_here("best", "small", "--rule", rule, "--workdir", workdir, "--json")[1])
    assert facts["rule"] == rule and facts["sure"]["searches"] == 2 and facts["sure"]["probability"] is not None
    assert bool(facts["front"]) == (rule == "pareto")
    code, said, err = vae_sweep_here("best", "small", "--rule", rule, "--workdir", workdir)
    assert code == 0, err
    text = " ".join(said.split())
    assert f"trained as {facts['trial']}" in text and "how sure" in text and "model.safetensors" in text
    chosen = ["--rule", rule] if rule != "max" else []
    words = " ".join(["best", "small", *chosen, "--workdir", " ".join(str(workdir).split()), "--export", "best.yaml"])
    assert words in text and "train best.yaml" in text


def test_best_by_the_front_names_what_to_type_for_another(workdir: Path) -> None:
    asked = ("best", "small", "--rule", "pareto", "--objectives", "elbo,rate", "--workdir", workdir)
    facts = json.loads(vae_sweep_here(*asked, "--json")[1])
    assert all(set(point["objectives"]) == {"elbo", "rate"} for point in facts["front"])
    assert [point["arm"] for point in facts["front"] if point["taken"]] == [facts["arm"]]
    said = vae_sweep_here(*asked)[1]
    found = re.search(r"another of these:.* --where (\S+)", said)
    others = [point["arm"] for point in facts["front"] if not point["taken"]]
    assert (found is not None) == bool(others), "without another one there is nothing to type"
    if found:
        again = json.loads(vae_sweep_here("best", "small", "--where", found[1], "--workdir", workdir, "--json")[1])
        assert again["arm"] == others[0]


@pytest.mark.slow
def test_best_by_robust(tmp_path: Path) -> None:
    """40 rates over three decades leave five in the neighbourhood of any of them."""
    changes: dict[str, Any] = {
        "scientific": {"latent_dim": [2]},
        "search": {"trials": 20, "startup": 20},
        "train": {"epochs": 2},
    }
    run_here(study_file(tmp_path, **changes), tmp_path / "work", slots=20)
    asked = ("best", "small", "--rule", "robust", "--workdir", tmp_path / "work")
    text = " ".join(vae_sweep_here(*asked)[1].split())
    assert "worst decile of val/elbo" in text and "learning_rate is anything from" in text
    record = read(tmp_path / "work").record(json.loads(vae_sweep_here(*asked, "--json")[1])["trial"])
    assert f"seed: {record.seed}" in vae_sweep_here(*asked, "--export", "-")[1]


def test_train_trial_says_whether_the_numbers_are_the_same(workdir: Path, tmp_path: Path) -> None:
    record = next(r for r in read(workdir).records if r.state == "complete")
    done = vae_sweep("train", "--trial", f"small/{record.key}", "--workdir", workdir, "--out", tmp_path / "out")
    assert "the same numbers, to the last bit" in done.stdout


BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown scale": ({"scientific": {"scale": ["log_varience"]}}, "did you mean 'log_variance'"),
    "low above high": ({"nuisance": {"learning_rate": {"low": 1.0, "high": 0.1}}}, "low"),
    "NaN bound": ({"nuisance": {"learning_rate": {"low": float("nan"), "high": 0.1}}}, "nuisance.learning_rate.low"),
    "infinite bound": ({"nuisance": {"learning_rate": {"low": 0.1, "high": float("inf")}}}, "learning_rate.high"),
    "log below zero": ({"nuisance": {"learning_rate": {"low": 0.0, "high": 0.1, "log": True}}}, "learning_rate"),
    "two roles": ({"nuisance": {"scale": ["log_std", "raw_std"]}}, "scale"),
    "fixed and searched": ({"train": {"learning_rate": 0.1}}, "learning_rate"),
    "unknown section": ({"sientific": {"scale": ["log_std"]}}, "did you mean 'scientific'"),
    "unknown field": ({"train": {"epoch": 3}}, "did you mean 'epochs'"),
    "missing data file": ({"data": {"name": None, "path": "nowhere.npz"}}, "nowhere.npz"),
    "unknown data": ({"data": {"name": "digit"}}, "digits"),
    "a billion arms": ({"scientific": {n: [*range(1, 1001)] for n in ("latent_dim", "batch_size", "epochs")}}, "000"),
    "no values": ({"scientific": {"scale": []}}, "scientific.scale"),
    "twice the same": ({"scientific": {"scale": ["log_std", "log_std"]}}, "scientific.scale"),
    "wrong type": ({"train": {"epochs": "many"}}, "train.epochs"),
    "true is no number": ({"train": {"epochs": True}}, "train.epochs"),
    "negative": ({"train": {"batch_size": -1}}, "train.batch_size"),
    "split": ({"data": {"split": [0.9, 0.9, 0.1]}}, "data.split"),
    "likelihood": ({"data": {"form": "grey"}, "model": {"likelihood": "bernoulli"}}, "likelihood"),
    "baseline": ({"compare": {"baseline": {"scale": "raw_std"}}}, "baseline"),
    "start": ({"search": {"start": [{"learning_rat": 1.0}]}}, "start"),
    "continuous grid": ({"search": {"sampler": "grid"}}, "grid"),
    "lag": ({"search": {"lag": 0}}, "search.lag"),
    "version": ({"version": 2}, "version"),
    "unsafe name": ({"name": "../../etc"}, "name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_study_is_one_clear_error(tmp_path: Path, case: str) -> None:
    changes, expected = BAD_FILES[case]
    code, out, err = vae_sweep_here("plan", study_file(tmp_path, **changes))
    assert code == 2, out + err
    assert expected in err and not out


@pytest.mark.parametrize("content", [b"", b"a: [1", b"- 1\n- 2\n", b"\xff\xfe\x00", b"name: x\nname: y\n"], ids=str)
def test_a_file_that_is_no_study(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    code, _, err = vae_sweep_here("run", path, "--workdir", tmp_path / "work")
    assert code == 2 and "error:" in err
    assert not (tmp_path / "work").exists()


def test_other_mistakes(tmp_path: Path, workdir: Path) -> None:
    for words, code in [
        (("run", tmp_path), 2),
        (("run", tmp_path / "none.yaml"), 2),
        (("run", study_file(tmp_path), "--set", "train.epoch=3"), 2),
        (("run", study_file(tmp_path), "--executor", "spark"), 2),
        (("run", study_file(tmp_path), "--workers", "0"), 2),
        (("compare", "nothing", "--workdir", workdir), 2),
        (("show", "small", "nothing", "--workdir", workdir), 2),
        (("status", "small", "--workdir", tmp_path / "elsewhere"), 1),
        (("list", "--workdir", tmp_path / "a?b"), 2),
        (("train",), 2),
        (("train", "--trial", "small", "--workdir", workdir), 2),
        (("train", "--trial", "small/nothing", "--workdir", workdir), 2),
        (("train", "--trial", "small/a", "--set", "train.epochs=3", "--workdir", workdir), 2),
        (("best", "small", "--rule", "median", "--workdir", workdir), 2),
        (("best", "small", "--objectives", "elbo,size", "--workdir", workdir), 2),
        (("best", "small", "--where", "latent_dim=5", "--workdir", workdir), 2),
        (("best", "small", "--where", "learning_rate=0.1", "--workdir", workdir), 2),
        (("train", study_file(tmp_path)), 2),
    ]:
        found, out, err = vae_sweep_here(*words)
        assert found == code, (words, out, err)
        assert err.strip(), words


def test_several_mistakes_come_at_once(tmp_path: Path) -> None:
    file = study_file(tmp_path, train={"epoch": 3, "batch_size": 0}, scientific={"scale": ["nope"]})
    code, _, err = vae_sweep_here("plan", file, "--set", "search.lag=0")
    assert code == 2
    for path in ("train.epoch", "train.batch_size", "scientific.scale", "search.lag"):
        assert path in err


def test_own_data_from_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.binomial(1, 0.3, size=(200, 4, 6)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", train=images[:120], val=images[120:160], test=images[160:])
    file = study_file(
        tmp_path,
        data={"name": None, "path": "mine.npz", "form": "binarised", "split": [0.7, 0.15, 0.15]},
        scientific={"scale": ["log_std"], "latent_dim": [2]},
        compare={"equivalence_margin_nats": 0.1},
    )
    results = run_here(file, tmp_path / "work", slots=8)
    assert results.study.model.likelihood == "bernoulli"
    assert {r.state for r in results.records} == {"complete"}


def test_sets_change_the_study(tmp_path: Path) -> None:
    text = vae_sweep_here("plan", study_file(tmp_path), "--set", "search.replicates=7", "--set", "name=other")[1]
    assert "6 arms × 7 replicates" in text and "other" in text


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_other_samplers_end_to_end(tmp_path: Path, sampler: str) -> None:
    nuisance = {"learning_rate": [1e-3, 3e-3, 1e-2]} if sampler == "grid" else STUDY["nuisance"]
    search = {"trials": 3, "sampler": sampler, "startup": 1}
    changes: dict[str, Any] = {
        "nuisance": nuisance,
        "search": search,
        "scientific": {"scale": ["log_std", "softplus_variance"]},
    }
    file = study_file(tmp_path, **changes)
    one = run_here(file, tmp_path / "one", slots=1)
    two = run_here(file, tmp_path / "two", slots=9, workers=2)
    assert json_of(one) == json_of(two)
    shutil.rmtree(tmp_path / "two")
