"""Study files: what is accepted, what it becomes, and that every mistake is named with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import dump_study, load_study
from pipeline.errors import StudyFileError
from pipeline.study_file.values import ChoiceDomain, FloatDomain, IntDomain

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
BASE: dict[str, Any] = {
    "version": 1,
    "name": "base",
    "data": {"name": "digits"},
    "scientific": {"scale": ["log_variance", "log_std"]},
    "nuisance": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}},
}


def write(folder: Path, **sections: Any) -> Path:
    """BASE with whole sections replaced; a section that is None is left out."""
    file = folder / "study.yaml"
    merged = {key: value for key, value in {**BASE, **sections}.items() if value is not None}
    file.write_text(yaml.safe_dump(merged, sort_keys=False))
    return file


def problems(file: Path, *sets: str) -> tuple[str, ...]:
    with pytest.raises(StudyFileError) as caught:
        load_study(file, sets)
    assert caught.value.exit_code == 2
    assert str(file) in str(caught.value)
    return caught.value.problems


def only(file: Path, *sets: str) -> str:
    found = problems(file, *sets)
    assert len(found) == 1, found
    return found[0]


# --------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_study_files_load_and_survive_writing(file: Path, tmp_path: Path) -> None:
    study = load_study(file)
    (tmp_path / "again.yaml").write_text(dump_study(study))
    again = load_study(tmp_path / "again.yaml")
    assert again == study
    assert list(again.scientific) == list(study.scientific)
    assert dump_study(again) == dump_study(study)


def test_defaults_that_depend_on_others_become_explicit(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, seed=7, data={"name": "digits", "form": "binarised"}))
    assert (study.search.trials, study.confirm.candidates) == (16, 3)
    assert (study.model.likelihood, study.data.split_seed) == ("bernoulli", 7)
    assert study.compare.baseline == {"scale": "log_variance"}


def test_without_nuisance_there_is_one_trial_and_one_candidate(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, nuisance=None))
    assert (study.search.trials, study.confirm.candidates) == (1, 1)
    assert not study.is_single
    single = load_study(write(tmp_path, nuisance=None, scientific=None, train={"seed": 3}))
    assert single.is_single
    assert single.compare.baseline == {}


def test_a_likelihood_with_a_role_has_no_fixed_value(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, scientific={"likelihood": ["binomial"]}))
    assert study.model.likelihood is None
    (tmp_path / "again.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "again.yaml") == study


def test_domains_follow_the_hyperparameters_type(tmp_path: Path) -> None:
    nuisance = {
        "weight_decay": {"low": 0, "high": 1, "step": 0.25},
        "epochs": {"low": 10, "high": 40, "step": 10},
        "hidden": [[32], [64, 64], []],
        "optimizer": {"choices": ["adam", "sgd"]},
    }
    study = load_study(write(tmp_path, nuisance=nuisance, search={"sampler": "grid"}))
    assert study.nuisance == {
        "epochs": IntDomain(low=10, high=40, step=10),
        "hidden": ChoiceDomain(choices=((32,), (64, 64), ())),
        "optimizer": ChoiceDomain(choices=("adam", "sgd")),
        "weight_decay": FloatDomain(low=0.0, high=1.0, step=0.25),
    }
    assert list(study.nuisance) == sorted(nuisance)
    assert study.search.trials == 5 * 4 * 3 * 2


def test_exponents_are_numbers_with_or_without_a_dot(tmp_path: Path) -> None:
    file = write(tmp_path, scientific=None, nuisance=None)
    assert load_study(file, ["train.learning_rate=3e-4"]).train.learning_rate == 3e-4
    assert load_study(file, ["train.learning_rate=1"]).train.learning_rate == 1.0
    text = file.read_text() + "scientific: {learning_rate: [1e-3, 2E-3, 0.1]}\n"
    file.write_text(text)
    assert load_study(file).scientific == {"learning_rate": (1e-3, 2e-3, 0.1)}


def test_values_keep_their_type(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, scientific={"beta": [1, 2], "hidden": [[8]]}, train={"objective": "beta"}))
    assert [type(value) for value in study.scientific["beta"]] == [float, float]
    assert study.scientific["hidden"] == ((8,),)
    assert study.compare.baseline == {"beta": 1.0}


def test_text_that_looks_like_something_else_survives(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, name="1e5", question="2026-01-31"))
    (tmp_path / "again.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "again.yaml") == study
    assert load_study(write(tmp_path), ["name=2026-01-31"]).name == "2026-01-31"


def test_data_path_is_seen_from_the_study_file_and_from_here_for_set(tmp_path: Path) -> None:
    file = write(tmp_path, data={"path": "images.npz"})
    assert load_study(file).data.path == str(tmp_path.resolve() / "images.npz")
    assert load_study(file, ["data.path=x.npz"]).data.path == str(Path.cwd() / "x.npz")


def test_empty_sections_count_as_left_out(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + "train:\nsearch:\n")
    assert load_study(file) == load_study(write(tmp_path))


def test_set_replaces_whole_values_and_adds_sections(tmp_path: Path) -> None:
    sets = ["search.trials=20", "scientific.scale=[raw_std, log_std]", "nuisance.learning_rate.low=1e-3"]
    study = load_study(write(tmp_path), sets)
    assert study.search.trials == 20
    assert study.scientific["scale"] == ("raw_std", "log_std")
    assert study.nuisance["learning_rate"] == FloatDomain(low=1e-3, high=0.1, log=True)


def test_reading_models_loads_no_heavy_library() -> None:
    code = "import sys, pipeline.config, pipeline.space, pipeline.study_file.reading;"
    code += "print(sorted({'torch', 'optuna', 'ray', 'mlflow', 'sqlalchemy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------- mistakes

MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"version": None}, "version", "required"),
    ({"version": 2}, "version", "must be 1"),
    ({"version": True}, "version", "got True"),
    ({"name": None}, "name", "required"),
    ({"name": "a/b"}, "name", "letters"),
    ({"name": ".."}, "name", "letters"),
    ({"name": "x" * 65}, "name", "64"),
    ({"name": "a\n"}, "name", "letters"),
    ({"data": None}, "data", "required"),
    ({"data": {}}, "data.name", "neither"),
    ({"data": {"name": "digits", "path": "a.npz"}}, "data.name", "both"),
    ({"modle": {}}, "modle", "did you mean 'model'?"),
    ({"train": {"epoch": 3}}, "train.epoch", "did you mean 'epochs'?"),
    ({"model": {"epochs": 3}}, "model.epochs", "belongs under `train`"),
    ({"model": []}, "model", "must be a mapping"),
    ({"model": {"network": "mpl"}}, "model.network", "did you mean 'mlp'?"),
    ({"model": {"hidden": [64, 0]}}, "model.hidden.1", "got 0"),
    ({"model": {"hidden": 64}}, "model.hidden", "must be a list"),
    ({"train": {"epochs": True}}, "train.epochs", "whole number"),
    ({"train": {"epochs": 2.5}}, "train.epochs", "whole number"),
    ({"train": {"adam_epsilon": float("nan")}}, "train.adam_epsilon", "finite"),
    ({"train": {"adam_epsilon": "fast"}}, "train.adam_epsilon", "number"),
    ({"train": {"adam_epsilon": True}}, "train.adam_epsilon", "number"),
    ({"train": {"momentum": 1}}, "train.momentum", "less than 1"),
    ({"train": {"dtype": "float23"}}, "train.dtype", "did you mean 'float32'?"),
    ({"train": {"seed": 1}}, "train.seed", "single training"),
    ({"train": {"beta": 2}}, "train.beta", "objective"),
    ({"scientific": {"beta": [1, 2]}}, "scientific.beta", "objective"),
    ({"nuisance": {"beta": {"low": 0, "high": 4}}}, "nuisance.beta", "objective"),
    ({"scientific": {"scale": ["log_variance", "log_st"]}}, "scientific.scale.1", "did you mean 'log_std'?"),
    ({"scientific": {"scale": []}}, "scientific.scale", "one or more"),
    ({"scientific": {"scale": "log_std"}}, "scientific.scale", "must be a list"),
    ({"scientific": {"latent_dim": [2, 8, 2]}}, "scientific.latent_dim.2", "once"),
    ({"scientific": {"weight_decay": [0, 0.0]}}, "scientific.weight_decay.1", "once"),
    ({"scientific": {"weight_decay": [0.0, -0.0]}}, "scientific.weight_decay.1", "once"),
    ({"scientific": {"latent_dim": [2, "8"]}}, "scientific.latent_dim.1", "whole number"),
    ({"scientific": {"likelihood": [None]}}, "scientific.likelihood.0", "null"),
    ({"scientific": {"hidden": [64]}}, "scientific.hidden.0", "must be a list"),
    ({"scientific": {"latent_dmi": [2]}}, "scientific.latent_dmi", "did you mean 'latent_dim'?"),
    ({"scientific": {"seed": [1, 2]}}, "scientific.seed", "replicates"),
    ({"scientific": ["scale"]}, "scientific", "must be a mapping"),
    ({"scientific": {"latent_dim": list(range(1, 10_002))}}, "scientific.latent_dim", "10,001"),
    ({"model": {"scale": "log_std"}}, "model.scale", "scientific.scale"),
    ({"train": {"learning_rate": 1e-3}}, "train.learning_rate", "nuisance.learning_rate"),
    ({"nuisance": {"scale": ["log_std", "raw_std"]}}, "nuisance.scale", "scientific.scale"),
    ({"nuisance": {"learning_rate": {"low": 1, "high": 0.1}}}, "nuisance.learning_rate", "low < high"),
    ({"nuisance": {"learning_rate": {"low": 1, "high": 1}}}, "nuisance.learning_rate", "under `train`"),
    ({"nuisance": {"optimizer": ["adam"]}}, "nuisance.optimizer", "under `train`"),
    ({"nuisance": {"learning_rate": {"low": 0, "high": 1}}}, "nuisance.learning_rate.low", "greater than 0"),
    (
        {"nuisance": {"weight_decay": {"low": 0, "high": 1, "log": True}}},
        "nuisance.weight_decay.low",
        "above 0",
    ),
    (
        {"nuisance": {"beta_warmup_epochs": {"low": 0, "high": 9, "log": True}}},
        "nuisance.beta_warmup_epochs.low",
        "0",
    ),
    ({"nuisance": {"momentum": {"low": 0, "high": float("nan")}}}, "nuisance.momentum.high", "finite"),
    (
        {"nuisance": {"weight_decay": {"low": 0, "high": float("inf")}}},
        "nuisance.weight_decay.high",
        "finite",
    ),
    ({"nuisance": {"momentum": {"low": 0, "high": 2}}}, "nuisance.momentum.high", "less than 1"),
    ({"nuisance": {"momentum": {"low": 0}}}, "nuisance.momentum.high", "required"),
    ({"nuisance": {"momentum": {"low": 0, "high": 0.5, "step": 1}}}, "nuisance.momentum.step", "at most"),
    (
        {"nuisance": {"momentum": {"low": 0.1, "high": 0.5, "step": 0.1, "log": True}}},
        "nuisance.momentum.step",
        "log",
    ),
    ({"nuisance": {"epochs": {"low": 1, "high": 9.5}}}, "nuisance.epochs.high", "whole number"),
    ({"nuisance": {"epochs": {"low": 1, "high": 9, "logg": True}}}, "nuisance.epochs.logg", "'log'"),
    ({"nuisance": {"optimizer": {"low": 0, "high": 1}}}, "nuisance.optimizer", "no order"),
    ({"nuisance": {"momentum": 0.9}}, "nuisance.momentum", "choices"),
    ({"search": {"lag": 0}}, "search.lag", "got 0"),
    ({"search": {"replicates": 0}}, "search.replicates", "got 0"),
    ({"search": {"sampler": "tpee"}}, "search.sampler", "did you mean 'tpe'?"),
    ({"search": {"pruner": "medain"}}, "search.pruner", "did you mean 'median'?"),
    ({"search": {"metric": "val/loss"}}, "search.metric", "val/elbo"),
    ({"search": {"trials": 4, "start": [{}] * 5}}, "search.start", "at most"),
    (
        {"search": {"start": [{"learning_rat": 1}]}},
        "search.start.0.learning_rat",
        "did you mean 'learning_rate'?",
    ),
    ({"search": {"start": [{"learning_rate": 0.5}]}}, "search.start.0.learning_rate", "domain"),
    ({"search": {"sampler": "grid"}}, "nuisance.learning_rate", "step"),
    (
        {
            "nuisance": {"epochs": {"low": 1, "high": 3}},
            "search": {"sampler": "grid", "trials": 2},
            "confirm": {"candidates": 1},
        },
        "search.trials",
        "size 3",
    ),
    (
        {"nuisance": {"epochs": {"low": 1, "high": 9}}, "search": {"pruner": "median"}},
        "search.pruner",
        "epochs",
    ),
    ({"nuisance": None, "search": {"trials": 5}}, "search.trials", "nothing is tuned"),
    ({"confirm": {"candidates": 17}}, "confirm.candidates", "search.trials = 16"),
    ({"search": {"pruner": "threshold"}}, "search.pruner_threshold_nats", "required by the threshold rule"),
    ({"search": {"pruner_threshold_nats": -100}}, "search.pruner_threshold_nats", "with none, which does not read it"),
    ({"search": {"pruner": "patient", "pruner_startup": 2}}, "search.pruner_startup", "it is for the stopping rule"),
    ({"search": {"pruner": "median", "pruner_percentile": 10}}, "search.pruner_percentile", "rule percentile"),
    ({"search": {"pruner": "percentile", "pruner_percentile": 101}}, "search.pruner_percentile", "equal to 100"),
    ({"search": {"pruner": "patient", "pruner_min_delta_nats": -1}}, "search.pruner_min_delta_nats", "equal to 0"),
    (
        {"nuisance": {"optimizer": {"choices": ["adam", "sgd"]}}, "search": {"sampler": "cmaes"}},
        "nuisance.optimizer",
        "cmaes needs ranges of numbers",
    ),
    ({"compare": {"alpha": 0}}, "compare.alpha", "greater than 0"),
    ({"compare": {"alpha": 1}}, "compare.alpha", "less than 1"),
    ({"compare": {"baseline": {"scale": "raw_std"}}}, "compare.baseline.scale", "log_variance, log_std"),
    ({"compare": {"baseline": {"scael": "log_std"}}}, "compare.baseline.scael", "did you mean 'scale'?"),
    ({"data": {"name": "digits", "split": [0.7, 0.2, 0.2]}}, "data.split", "sum to 1.1"),
    ({"data": {"name": "digits", "split": [0.7, 0.3]}}, "data.split.2", "missing"),
    ({"data": {"name": "digits", "split": [1.2, -0.2, 0.1]}}, "data.split.1", "above zero"),
    ({"data": {"name": "digits", "split": [100, 0.5, 0.5]}}, "data.split", "mixture"),
    ({"data": {"name": "digits", "form": "gray"}}, "data.form", "did you mean 'grey'?"),
    (
        {"data": {"name": "digits", "form": "grey"}, "model": {"likelihood": "bernoulli"}},
        "model.likelihood",
        "a cross-entropy on grey levels is no likelihood; valid: continuous_bernoulli, gaussian",
    ),
    (
        {"scientific": {"likelihood": ["binomial", "bernoulli"]}},
        "scientific.likelihood",
        "more than two values",
    ),
]


@pytest.mark.parametrize(("sections", "path", "text"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_line_with_its_path(sections: dict[str, Any], path: str, text: str, tmp_path: Path) -> None:
    lines = problems(write(tmp_path, **sections))
    matching = [line for line in lines if line.startswith(f"{path}: ") and text in line]
    assert len(matching) == 1, lines
    assert len(lines) == 1, lines


def test_a_billion_arms_are_counted_not_built(tmp_path: Path) -> None:
    names = ("latent_dim", "epochs", "batch_size")
    line = only(write(tmp_path, scientific={name: list(range(1, 1001)) for name in names}))
    assert line.startswith("scientific: ")
    assert "10,000" in line and "1,000,000,000" in line


def test_a_huge_grid_is_counted_not_built(tmp_path: Path) -> None:
    nuisance = {"weight_decay": {"low": 0, "high": 1, "step": 1e-300}}
    assert only(write(tmp_path, nuisance=nuisance, search={"sampler": "grid"})).startswith("search.trials: ")


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        name="a b",
        sead=1,
        model={"network": "mpl"},
        train={"epochs": 0, "beta": 3},
        scientific={"scale": ["log_st", "raw_std"]},
        nuisance={"learning_rate": {"low": 1, "high": 0.1}},
        confirm={"candidates": 20},
        compare={"alpha": 2},
    )
    paths = {line.split(":")[0].split(" ")[0] for line in problems(file, "search.lagg=3", "data.form=gray", "foo")}
    expected = "name sead model.network train.epochs train.beta scientific.scale.0 nuisance.learning_rate"
    expected += " confirm.candidates compare.alpha search.lagg data.form --set"
    assert paths == set(expected.split())


def test_a_mistake_draws_no_others_after_it(tmp_path: Path) -> None:
    nuisance = {"learning_rate": {"low": 1, "high": 0.1}}
    file = write(tmp_path, nuisance=nuisance, search={"start": [{"learning_rate": 5.0}]}, confirm={"candidates": 3})
    assert only(file).startswith("nuisance.learning_rate: ")


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("model.scal=log_std", "did you mean 'scale'?"),
        ("modl.scale=log_std", "did you mean 'model'?"),
        ("model.scale=log_std", "scientific.scale"),
        ("search.lag=0", "got 0"),
        ("search.lag", "section.field=value"),
        (".lag=3", "section.field=value"),
        ("search.lag={", "not valid YAML"),
        ("scientific.scale.0=log_std", "set it whole"),
        ("name.x=3", "set it whole"),
    ],
)
def test_a_mistake_in_set_says_which(assignment: str, text: str, tmp_path: Path) -> None:
    line = only(write(tmp_path), assignment)
    assert f"--set {assignment}" in line and text in line


# ------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"hello", "must be a mapping"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "UTF-8"),
        (b"name: a\x00b", "not valid YAML"),
        (b"name: a\nmodel: {scale: [\n", "line 3, column 1"),
        (
            b"name: a\ndata: {name: digits}\nname: b\n",
            "line 3, column 1: `name` is given twice, first on line 1",
        ),
        (b"train: {epochs: 1, epochs: 2}\n", "line 1, column 20: `epochs` is given twice"),
        (b"a: " + b"[" * 30_000, "nested deeper than 20"),
        (b"a: &a [*a]\n", "nested deeper than 20"),
        (b"a: [" + b"1," * 100_001 + b"]", "more than 100000 values"),
        (b"a: !!python/object/apply:os.system [ls]\n", "only plain values"),
        (b"a: !!set {b, c}\n", "only plain values"),
        (b"a: !!int x\n", "not a int"),
        (b"? [a]\n: b\n", "plain word"),
        (b"a: 1\n---\nb: 2\n", "single document"),
        (b"#" * (1 << 20) + b"\n", "larger than 1048576 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_unreadable_content_is_said_once(content: bytes, text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    assert text in only(file)


def test_a_billion_laughs_are_refused_quickly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    file = tmp_path / "study.yaml"
    file.write_text("\n".join(lines))
    assert "more than 100000 values" in only(file)


def test_harmless_aliases_work(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "version: 1\nname: a\ndata: {name: digits}\nscientific: {latent_dim: &few [2, 8], batch_size: *few}"
    )
    assert load_study(file, ["scientific.latent_dim=[4]"]).scientific == {
        "latent_dim": (4,),
        "batch_size": (2, 8),
    }


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in only(tmp_path / "nowhere.yaml")
    assert "directory" in only(tmp_path)
    assert "cannot be read" in only(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("name", ["\udcff", "model.\ud800"])
def test_set_with_half_a_character_in_its_name(tmp_path: Path, name: str) -> None:
    assert "whole characters" in only(write(tmp_path), f"{name}=1")
