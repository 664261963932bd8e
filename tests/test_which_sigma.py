"""docs/which-sigma.md is what its kept studies say, and its statistics are what they are called."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from benchmarks.markdown import BLOCK, filled
from benchmarks.which_sigma import numbers, summaries, tables
from benchmarks.which_sigma.__main__ import PAGE, parts
from benchmarks.which_sigma.figures import figures
from benchmarks.which_sigma.studies import BASELINE, CONFIGS, GRIDS, QUESTIONS, ROOT, Question
from pipeline.comparison import Verdict, to_json
from pipeline.config import load_study
from pipeline.vae.scales import SCALES

from .sweeps import read, vae_sweep_here

SHORT = {
    "data.take": 150,
    "data.split": [100, 30, 20],
    "train.epochs": 1,
    "search.replicates": 2,
    "scientific.scale": [BASELINE, "raw_variance"],
}


class TestThePage:
    def test_its_tables_are_those_of_what_is_kept(self) -> None:
        text = PAGE.read_text()
        assert filled(text, parts(summaries.all_kept())) == text, "run `python -m benchmarks.which_sigma`"

    def test_the_readme_counts_right(self) -> None:
        kept = summaries.all_kept().values()
        scales = {cell.values["scale"] for summary in kept for cell in summary.cells}
        said = f"from {sum(summary.trainings for summary in kept):,} repeats on test data with {len(scales)} scales"
        assert said in (ROOT / "README.md").read_text()

    def test_every_table_is_on_it(self) -> None:
        there = [block["name"] for block in BLOCK.finditer(PAGE.read_text())]
        assert sorted(there) == sorted(parts(summaries.all_kept()))

    def test_its_figures_too(self) -> None:
        made = figures(summaries.all_kept())
        assert {path: path.read_bytes() == content for path, content in made.items()} == dict.fromkeys(made, True)
        for path in made:
            assert f"images/{path.name}" in PAGE.read_text()


@pytest.mark.parametrize("name", QUESTIONS)
class TestKept:
    def test_it_is_the_study_that_is_published(self, name: str) -> None:
        question = QUESTIONS[name]
        kept = json.loads((summaries.FOLDER / f"{name}.json").read_text())
        assert (kept["file"], kept["sets"]) == (question.file, list(question.sets)), "run the study again"
        study = load_study(question.path, list(question.sets))
        asked = {name: [*values] for name, values in study.scientific.items()}
        assert {name: summaries.read(kept["study"]).levels(name) for name in asked} == asked
        assert {len(arm["tests"]) for arm in kept["arms"]} == {study.search.replicates}
        assert len(kept["arms"]) == math.prod(map(len, asked.values()))

    def test_the_baseline_is_asked(self, name: str) -> None:
        assert BASELINE in summaries.read(name).levels("scale")


def test_every_file_is_used() -> None:
    assert {path.name for path in (ROOT / CONFIGS).iterdir()} == {question.file for question in QUESTIONS.values()}


def test_the_rate_for_a_replicate_is_chosen_by_the_others() -> None:
    rates = {1e-3: (0.0, 0.0, 9.0), 1e-2: (1.0, 1.0, 1.0)}
    assert numbers.best_rate(rates) == 1e-3
    assert numbers.best_rate(rates, without=2) == 1e-2
    assert numbers.at_best({"a": rates}) == {"a": (0.0, 0.0, 1.0)}, "the lucky 9 is not what was chosen by it"
    assert numbers.best_rate({1e-3: (-5.0, -5.0), 1e-2: (7.0, None)}) == 1e-3, "no rate at which one diverged"


def test_what_a_blindly_drawn_rate_costs() -> None:
    rates = {1e-3: (0.0, 0.0), 1e-2: (-4.0, -40.0), 1e-1: (None, None)}
    (easy,) = numbers.ease({"a": rates}).values()
    assert easy == pytest.approx((-(0 + 4 + 10) / 3, -(0 + 10 + 10) / 3))


def test_what_fell_apart() -> None:
    rates = {1e-3: (0.0, 2.0), 1e-2: (-8.0, -10.0), 1e-1: (None, -40.0)}
    assert [numbers.fell_apart(rates, rate) for rate in rates] == [0, 1, 2], "more than 10 nats below a mean of 1"


def test_differences_are_paired_and_corrected() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(-110, 1, 12)
    near = base + rng.normal(0, 0.1, 12)
    arms = {
        BASELINE: base,
        "good": base + rng.normal(1.0, 0.3, 12),
        "same": near,
        "copy": base,
    }
    values: dict[str, summaries.Values] = {name: tuple(map(float, each)) for name, each in arms.items()}
    values["broken"] = (None,) * 12
    rows = {row.scale: row for row in numbers.judged(values, alpha=0.05, margin_nats=0.5)}
    verdicts = {name: row.pair.verdict for name, row in rows.items() if row.pair}
    assert verdicts == {
        "good": Verdict.BETTER, "same": Verdict.EQUIVALENT, "copy": Verdict.IDENTICAL, "broken": Verdict.DIVERGED,
    }  # fmt: skip
    pair, theirs = rows["good"].pair, ttest_rel(arms["good"], base)
    assert pair is not None and pair.difference is not None
    assert pair.p == pytest.approx(theirs.pvalue) and pair.p_holm == pytest.approx(4 * theirs.pvalue)
    assert (pair.difference.low, pair.difference.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert rows["broken"].lost == 12 and tables.cell(rows["broken"]).startswith("diverged")


def test_a_rate_at_one_setting_is_judged_as_compare_does() -> None:
    """Over one table instead of the whole sweep: the same differences, fewer pairs to correct for."""
    for name in GRIDS:
        summary = summaries.read(name)
        one = tables.verdicts(summary, numbers.at_rate(numbers.grid(summary), tables.ONE_RATE))
        assert one[BASELINE].pair is None and set(one) == set(summary.levels("scale")) <= set(SCALES)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted({question.file for question in QUESTIONS.values()}))
def test_a_study_is_run_and_kept(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, question = next((name, one) for name, one in QUESTIONS.items() if one.file == file)
    short = dict(SHORT)
    if file == "tuned.yaml":
        short |= {"search.trials": 1, "search.startup": 1, "search.lag": 1, "scientific.latent_dim": [8]}
        short |= {"confirm.candidates": 1}
    else:
        short["scientific.learning_rate"] = [1e-3, 1e-2]
    sets = (*question.sets, *(f"{key}={json.dumps(value)}" for key, value in short.items()))
    monkeypatch.setitem(QUESTIONS, name, Question(file, question.told, sets))
    where = ("--executor", "inline", "--mlflow", "none", "--slots", "4", "--workdir", tmp_path, "--quiet")
    code, _, err = vae_sweep_here("run", *QUESTIONS[name].words(name), *where)
    assert code == 0, err
    results = read(tmp_path, f"which-sigma-{name}")
    (tmp_path / f"{name}.json").write_text(summaries.condensed(name, to_json(results.comparison)))
    summary = summaries.read(name, tmp_path)
    assert len(summary.cells) == len(results.comparison.arms)
    for cell, arm in zip(summary.cells, results.comparison.arms, strict=True):
        assert cell.tests == tuple(one.mean for one in arm.replicates)
        if cell.values.get("posterior", "diagonal") == "diagonal":
            assert (cell.lost > 0) == (cell.values["scale"] == "raw_variance"), "torch's own bias starts it below 0"
