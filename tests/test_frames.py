"""Results from Python: frames against the records they are made from; columns and types as documented."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import frames, load_sweep
from pipeline.errors import LedgerError, UserError
from pipeline.frames import LoadedSweep
from pipeline.records import ENDED, Phase, State, TrialKey

from .docs import ROOT, blocks
from .sweeps import having, read, run_here, study_file

NAME = "which-sigma"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real sweep with diverged trials."""
    folder = tmp_path_factory.mktemp("frames")
    file = study_file(
        folder,
        name=NAME,
        scientific={"latent_dim": [3]},
        nuisance={"beta_warmup_epochs": {"low": 0, "high": 3}},
        search={"trials": 6, "startup": 4},
    )
    run_here(file, folder / "sweeps", slots=16)
    return folder / "sweeps"


@pytest.fixture(scope="module")
def sweep(workdir: Path) -> LoadedSweep:
    return load_sweep(NAME, workdir)


FRAMES = (
    "arms", "pairs", "trials", "curves", "repeats", "tuning", "bands", "sensitivity", "importances", "variance",
    "optimism", "rate_distortion", "sigmas", "files",
)  # fmt: skip


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import pipeline, sys; print([m for m in ('pandas', 'plotly', 'torch', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_loading_needs_neither_torch_nor_a_tracker(workdir: Path) -> None:
    code = f"""
import sys
from pipeline import load_sweep
sweep = load_sweep({NAME!r}, {str(workdir)!r})
sweep.trials, sweep.curves
print([m for m in ("torch", "mlflow", "ray", "plotly") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FRAMES)
def test_columns_and_types_are_as_documented(sweep: LoadedSweep, name: str) -> None:
    frame = getattr(sweep, name)
    columns = getattr(frames, name.upper())
    assert list(frame.columns[: len(columns)]) == list(columns)
    for column, dtype in columns.items():
        assert frame[column].dtype == pd.Series([], dtype=dtype).dtype, column
    assert len(frame) > 0 and isinstance(frame.index, pd.RangeIndex)
    more = {
        "arms": ["latent_dim", "scale"],
        "pairs": ["latent_dim", "scale"],
        "trials": ["latent_dim", "scale", "beta_warmup_epochs", "learning_rate"],
    }
    if name in more:
        assert list(frame.columns[len(columns) :]) == more[name]
        assert frame["scale"].dtype == "string" and frame["latent_dim"].dtype == "int64"


def test_a_sweep_that_has_just_begun_has_all_columns(sweep: LoadedSweep) -> None:
    empty = LoadedSweep(having(sweep.results, ()), sweep._paths)
    for name in FRAMES:
        frame, full = getattr(empty, name), getattr(sweep, name)
        columns = getattr(frames, name.upper())
        assert frame[list(columns)].dtypes.equals(full[list(columns)].dtypes), name
    running = [replace(record, state=State.RUNNING, outcome=None) for record in sweep.results.records]
    begun = LoadedSweep(having(sweep.results, running), sweep._paths)
    assert len(begun.trials) == len(running) and set(begun.trials["state"]) == {"running"}
    assert begun.trials["value"].isna().all() and len(begun.curves) == len(begun.repeats) == 0


def test_trials_and_curves_are_the_records(sweep: LoadedSweep) -> None:
    records = sweep.results.records
    assert list(sweep.trials["trial"]) == [str(record.key) for record in records]
    for record, (_, row) in zip(records, sweep.trials.iterrows(), strict=True):
        assert record.outcome is not None
        assert (row["state"], row["seed"], row["epochs_done"]) == (record.state, record.seed, record.outcome.epochs)
        assert row["learning_rate"] == record.params["learning_rate"]
        assert row["label"] == sweep.results.arm(record.key.arm).label
        lost = record.state is State.DIVERGED
        assert pd.isna(row["value"]) if lost else row["value"] == record.outcome.metrics["val/elbo"]
        assert lost == (row["cause"] is not pd.NA)
    record = next(one for one in records if one.state is State.COMPLETE)
    assert record.outcome is not None
    mine = sweep.curves[sweep.curves["trial"] == str(record.key)]
    for metric, values in record.outcome.curves.items():
        one = mine[mine["metric"] == metric]
        assert list(one["epoch"]) == list(range(1, len(values) + 1)) and list(one["value"]) == list(values)
    assert len(sweep.curves) == sum(len(c) for r in records if r.outcome for c in r.outcome.curves.values())


def test_arms_pairs_and_repeats_are_the_comparison(sweep: LoadedSweep) -> None:
    comparison = sweep.results.comparison
    for arm, (_, row) in zip(comparison.arms, sweep.arms.iterrows(), strict=True):
        assert (row["arm"], row["label"], row["scale"]) == (arm.id, arm.label, arm.values["scale"])
        if arm.estimate is None:
            assert pd.isna(row["mean"]) and row["count"] == 0
        else:
            assert (row["mean"], row["low"], row["high"]) == (arm.estimate.mean, arm.estimate.low, arm.estimate.high)
        assert row["search_epochs"] == arm.epochs["search"]
    assert list(sweep.pairs["verdict"]) == [pair.verdict for pair in comparison.pairs]
    assert set(sweep.pairs["baseline"]) == {"latent_dim=3 scale=log_variance"}
    known = sweep.repeats.dropna(subset="test/elbo")
    means = known.groupby(["arm", "replicate"])["test/elbo"].mean().groupby("arm").mean()
    for arm in comparison.arms:
        expected = arm.estimate.mean if arm.estimate else math.nan
        assert means.get(arm.id, math.nan) == pytest.approx(expected, nan_ok=True)
    tests = [name for name in sweep.repeats.columns if name.startswith("test/")]
    assert {"test/elbo", "test/elbo_se", "test/rate", "test/distortion"} <= set(tests)
    assert (sweep.repeats["phase"] == "repeat").all()


def test_files_are_there_and_the_histograms_are_theirs(sweep: LoadedSweep) -> None:
    assert all(Path(path).is_file() for path in sweep.files["path"])
    complete = [r for r in sweep.results.records if r.key.phase is Phase.REPEAT and r.state is State.COMPLETE]
    assert complete and sorted(set(sweep.sigmas["trial"])) == sorted(str(record.key) for record in complete)
    counts = sweep.sigmas.groupby("trial")["count"].sum()
    assert set(counts) == {50 * 3}, "test images times latents"
    edges = sweep.sigmas[sweep.sigmas["trial"] == str(complete[0].key)]
    assert edges["log10_low"].iloc[0] == -np.inf and edges["log10_high"].iloc[-1] == np.inf
    assert list(edges["log10_low"].iloc[1:]) == list(edges["log10_high"].iloc[:-1])
    (path,) = sweep.files.query(f"trial == '{complete[0].key}' and file == 'sigma_histogram.json'")["path"]
    assert json.loads(Path(path).read_text())["counts"] == list(edges["count"].iloc[1:-1])


def test_analyses_keep_the_study_s_order_of_arms(sweep: LoadedSweep) -> None:
    order = [arm.label for arm in sweep.results.arms]
    for name in ("tuning", "bands", "sensitivity", "variance", "optimism", "arms"):
        labels = list(dict.fromkeys(getattr(sweep, name)["label"]))
        assert labels == [label for label in order if label in labels] and labels, name
    assert set(sweep.bands["draws"]) == {8} and set(sweep.tuning["trials"]) == set(range(1, 7))


def test_the_best_configuration(sweep: LoadedSweep) -> None:
    found = sweep.best()
    assert found == sweep.results.pick() and sweep.study.name == NAME
    other = sweep.best(where={"scale": "log_std"})
    assert other.values["scale"] == "log_std" and other.validation <= found.validation
    TrialKey.parse(str(found.trial))
    with pytest.raises(UserError, match="rule must be one of"):
        sweep.best("luck")
    with pytest.raises(UserError, match="a value of this sweep"):
        sweep.best(where={"scale": "none"})


FIGURES: dict[str, dict[str, Any]] = {
    "differences": {},
    "arm_means": {},
    "tuning_curves": {"by": "epochs"},
    "random_search_bands": {},
    "sensitivity": {"parameter": "learning_rate"},
    "easy_shares": {"within": 5.0},
    "importances": {},
    "rate_distortion": {},
    "sigma_histograms": {},
    "learning_curves": {},
    "further_metric": {"metric": "test/mutual_information", "over": "latent_dim"},
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_made(sweep: LoadedSweep, name: str) -> None:
    figure = getattr(sweep.figures, name)(**FIGURES[name])
    assert len(figure.data) >= 1 and json.loads(figure.to_json())["data"]
    empty = LoadedSweep(having(sweep.results, ()), sweep._paths)
    getattr(empty.figures, name)(**FIGURES[name])


def test_figures_show_what_the_frames_have(sweep: LoadedSweep) -> None:
    means = sweep.curves.query("phase == 'repeat' and metric == 'val/elbo'").groupby(["label", "epoch"])["value"].mean()
    drawn = {tuple(trace.y) for trace in sweep.figures.learning_curves().data}
    for label in means.index.get_level_values("label").unique():
        assert any(line == pytest.approx(tuple(means[label])) for line in drawn)
    with pytest.raises(UserError, match="the searches tuned"):
        sweep.figures.sensitivity("epochs")
    with pytest.raises(UserError, match="scientific factor of numbers"):
        sweep.figures.further_metric("test/mig", over="scale")


def test_what_cannot_be_loaded(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="No sweep named 'other'"):
        load_sweep("other", workdir)
    with pytest.raises(LedgerError):
        load_sweep(NAME, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists(), "reading makes nothing"
    monkeypatch.setenv("VAE_SWEEP_DATABASE_URL", f"sqlite:///{workdir / 'ledger.db'}")
    assert len(load_sweep(NAME, tmp_path).trials) == len(read(workdir, NAME).records)


def test_states_are_all_known(sweep: LoadedSweep) -> None:
    assert set(sweep.trials["state"]) <= {str(state) for state in ENDED}
    assert repr(sweep) == f"<sweep 'which-sigma': 3 arms, {len(sweep.trials)} trials>"


def test_the_page_s_example_runs(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workdir.parent)
    examples = blocks(ROOT / "docs" / "python.md", "python")
    assert len(examples) >= 3
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/python.md", "exec"), names)
    assert isinstance(names["sweep"], LoadedSweep)
