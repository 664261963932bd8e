"""Verdicts and intervals hold what they say: sweeps of arms without a difference, through the real code.

Search, shortlist, repeats and comparison are the product's own. Trainings are made up in most of these sweeps and real
in twenty. The factor is `momentum`, which adam does not read: the arms differ in name only. All seeds are fixed.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.coverage import DISTRIBUTIONS, measure
from pipeline.comparison import BOOTSTRAP_COUNT, Comparison, Verdict, estimate
from pipeline.comparison.coverage_table import BOOTSTRAP, COUNTS, SKEWED, SKEWNESS, STUDENT
from pipeline.config import Study, load_study, resolved
from pipeline.config import study_of as study_of_resolved
from pipeline.errors import StudyFileError
from pipeline.records import Phase, State, TrialOutcome, TrialRecord
from pipeline.results import compare_records
from pipeline.space import arms
from pipeline.stages import Stages
from pipeline.study_file.identity import study_differences, study_hash

from .sweeps import check_budgets, run_here, study_file

FACTS = {"kind": "counts", "pixels": 64, "images": [150, 70, 50]}
FALSE = {Verdict.BETTER, Verdict.WORSE}
Effect = Callable[[float], float]
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


def most(sweeps: int, rate: float = 0.05) -> float:
    """The most false ones that an error rate of `rate` explains: two standard errors above it."""
    return sweeps * rate + 2 * math.sqrt(sweeps * rate * (1 - rate))


def study_of(folder: Path, *, momentum: list[float], streams: str, margin: float = 0.5, replicates: int = 4) -> Study:
    file = study_file(
        folder,
        scientific={"momentum": momentum, "scale": ["log_std"], "latent_dim": [2]},
        search={"trials": 5, "startup": 3, "lag": 2, "replicates": replicates, "streams": streams},
        confirm={"candidates": 2, "candidate_seeds": 1, "repeats": 2},
        compare={"baseline": {"momentum": momentum[0]}, "equivalence_margin_nats": margin},
    )
    return load_study(file)


def simulated(study: Study, seed: int, effect: Effect = lambda momentum: 0.0) -> Comparison:
    """One sweep whose trainings are made up: a bowl over the learning rate, the seed's luck, and the arm's effect."""
    study = study.model_copy(update={"seed": seed})
    records: list[TrialRecord] = []
    for arm in arms(study):
        shift = effect(float(str(arm.values["momentum"])))
        for replicate in range(study.search.replicates):
            stages = Stages(study, arm, replicate)
            while not stages.finished:
                due = stages.due()
                assert due
                for record in due:
                    ended = replace(record, state=State.COMPLETE, outcome=_outcome(record, shift))
                    stages.put(ended)
                    records.append(ended)
    found = compare_records(study, FACTS, tuple(records))
    check_budgets(study, found)
    assert not found.provisional
    return found


def _outcome(record: TrialRecord, shift: float) -> TrialOutcome:
    luck = random.Random(record.seed)
    rate = record.params["learning_rate"]
    assert isinstance(rate, float)
    quality = -110 - 2 * (math.log10(rate) + 2.5) ** 2 + shift + luck.gauss(0, 0.5)
    value = quality + luck.gauss(0, 0.2)
    metrics = {"val/elbo": value} | ({"test/elbo": quality} if record.key.phase is Phase.REPEAT else {})
    return TrialOutcome(State.COMPLETE, curves={"val/elbo": (value,)}, metrics=metrics, epochs=1)


class TestSimulatedSweeps:
    @pytest.mark.slow
    def test_arms_without_a_difference_are_rarely_told_apart(self, tmp_path: Path) -> None:
        """Three arms against a baseline, independent streams: Holm holds the rate of sweeps with a false verdict."""
        study, sweeps = study_of(tmp_path, momentum=[0.0, 0.3, 0.6, 0.9], streams="independent"), 200
        found = [{pair.verdict for pair in simulated(study, seed).pairs} for seed in range(sweeps)]
        wrong = Counter(verdict for verdicts in found for verdict in verdicts)
        assert sum(bool(verdicts & FALSE) for verdicts in found) <= most(sweeps), wrong
        assert wrong[Verdict.BETTER] <= most(sweeps) and not wrong[Verdict.IDENTICAL]
        assert wrong[Verdict.UNDECIDED] > sweeps / 2

    @pytest.mark.slow
    def test_arms_at_the_margin_are_rarely_called_equivalent(self, tmp_path: Path) -> None:
        margin, sweeps = 0.5, 200
        study = study_of(tmp_path, momentum=[0.0, 0.5], streams="independent", margin=margin, replicates=6)
        found = [simulated(study, seed, lambda momentum: 2 * margin * momentum).pairs[0] for seed in range(sweeps)]
        assert 0 < sum(pair.inside_margin for pair in found) <= most(sweeps)
        near = [simulated(study, seed, lambda momentum: 0.1 * momentum).pairs[0] for seed in range(40)]
        assert sum(pair.inside_margin for pair in near) > 3, "the test can find equivalence"

    def test_arms_without_a_difference_are_identical_on_common_streams(self, tmp_path: Path) -> None:
        study = study_of(tmp_path, momentum=[0.0, 0.3, 0.9], streams="common")
        for seed in range(3):
            assert {pair.verdict for pair in simulated(study, seed).pairs} == {Verdict.IDENTICAL}

    def test_independent_streams_share_no_number(self, tmp_path: Path) -> None:
        found = simulated(study_of(tmp_path, momentum=[0.0, 0.5], streams="independent"), 0)
        one, other = ([value for r in arm.replicates for value in r.values] for arm in found.arms)
        assert len({*one, *other}) == len(one) + len(other) == 16
        assert (
            found.streams == "independent" and found.arms[0].replicates[0].params != found.arms[1].replicates[0].params
        )

    def test_a_real_difference_is_found(self, tmp_path: Path) -> None:
        study = study_of(tmp_path, momentum=[0.0, 0.5], streams="independent", replicates=6)
        found = [simulated(study, seed, lambda momentum: 6 * momentum).pairs[0].verdict for seed in range(5)]
        assert found.count(Verdict.BETTER) >= 4

    def test_common_streams_are_the_question_of_studies_from_before(self, tmp_path: Path) -> None:
        common, independent = (
            resolved(study_of(tmp_path, momentum=[0.0, 0.5], streams=streams), data_sha256="", data_id="")
            for streams in ("common", "independent")
        )
        before = {**common, "search": {k: v for k, v in common["search"].items() if k != "streams"}}
        assert study_hash(before) == study_hash(common) != study_hash(independent)
        assert study_differences(before, common) == []
        assert study_of_resolved(before).search.streams == "common"

    def test_streams_are_one_of_two(self, tmp_path: Path) -> None:
        with pytest.raises(StudyFileError, match=r"search.streams: unknown value, got 'shared'.*common, independent"):
            study_of(tmp_path, momentum=[0.0, 0.5], streams="shared")


def _normal(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    return rng.normal(size=size)


def _t3(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    return rng.standard_t(3, size=size)


@pytest.mark.parametrize("count", [5, 10, 30])
@pytest.mark.parametrize("draw", [_normal, _t3])
def test_t_intervals_cover(draw: Draw, count: int) -> None:
    """The true mean is 0. Those that look too skewed have no interval: a small share."""
    draws = draw(np.random.default_rng(count), (5000, count))
    found = [estimate([float(v) for v in row], 0.05) for row in draws]
    shown = [(one.low, one.high) for one in found if one is not None and one.low is not None and one.high is not None]
    assert len(shown) >= 0.88 * len(draws)
    assert 0.93 <= np.mean([low <= 0 <= high for low, high in shown]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 30])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_committed_table_is_what_is_measured(name: str, count: int) -> None:
    """Bootstrap intervals on other draws than the table's: within four standard errors of both."""
    column = COUNTS.index(count)
    student, bootstrap, below = measure(name, count, 5000, seed=1)
    assert student == pytest.approx(STUDENT[name][column], abs=4 * 0.3 / math.sqrt(5000) * math.sqrt(1.25))
    assert bootstrap == pytest.approx(BOOTSTRAP[name][column], abs=4 * 0.3 / math.sqrt(1000) * math.sqrt(1.25))
    assert below == pytest.approx(SKEWNESS[name][column], rel=0.1)


def test_the_committed_table_says_what_intervals_may_be_shown() -> None:
    for name in ("normal", "t3"):
        for count in (5, 10, 30):
            for table in (STUDENT, BOOTSTRAP):
                assert 0.93 <= table[name][COUNTS.index(count)] <= 0.97
    assert all(len(row) == len(COUNTS) for table in (STUDENT, BOOTSTRAP, SKEWNESS) for row in table.values())
    assert set(DISTRIBUTIONS) == set(STUDENT) == set(BOOTSTRAP) == set(SKEWNESS) and set(SKEWED) == set(STUDENT) - {
        "t3"
    }


def test_no_interval_is_given_that_holds_too_rarely() -> None:
    """Whatever the values: an interval comes with its coverage in the committed table, 90% or more."""
    rng, hidden = np.random.default_rng(0), Counter[int]()
    for count in (2, 3, 5, 7, 10, 19, 20, 40):
        for seed in range(40):
            found = estimate([float(v) for v in rng.lognormal(0, 1.2, count)], 0.05, seed)
            assert found is not None and found.coverage is not None
            assert (found.low is None) == (found.high is None) == (found.coverage < 0.9) == found.hidden
            assert found.method == ("bootstrap" if count >= BOOTSTRAP_COUNT else "t")
            hidden[count] += found.hidden
    assert not hidden[2] and not hidden[3], "so few cannot show skewness"
    assert hidden[10] > 8 and not hidden[40]


@pytest.mark.slow
class TestRealSweeps:
    """Twenty sweeps on digits: nothing is made up."""

    CHANGES: ClassVar[dict[str, Any]] = {
        "data": {"name": "digits", "split": [200, 70, 70]},
        "train": {"epochs": 3, "batch_size": 50},
        "scientific": {"momentum": [0.0, 0.5], "scale": ["log_std"], "latent_dim": [2]},
        "nuisance": {"learning_rate": {"low": 1.0e-3, "high": 1.0e-2, "log": True}},
        "confirm": {"candidates": 2, "candidate_seeds": 1, "repeats": 1},
        "compare": {"baseline": {"momentum": 0.0}},
    }

    def sweep(self, folder: Path, streams: str, seed: int) -> Comparison:
        search = {"trials": 3, "startup": 2, "lag": 1, "replicates": 5, "streams": streams}
        folder.mkdir()
        file = study_file(folder, seed=seed, search=search, **self.CHANGES)
        return run_here(file, folder / "work", workers=1, slots=10).comparison

    def test_at_most_three_of_twenty_have_a_winner(self, tmp_path: Path) -> None:
        found = [self.sweep(tmp_path / str(seed), "independent", seed).pairs[0].verdict for seed in range(20)]
        assert found.count(Verdict.BETTER) <= 3 and Verdict.IDENTICAL not in found, Counter(found)

    def test_on_common_streams_they_are_identical(self, tmp_path: Path) -> None:
        assert self.sweep(tmp_path / "common", "common", 0).pairs[0].verdict is Verdict.IDENTICAL
