"""The analyses against closed forms, brute force and simulations; and that they read nothing but results."""

from __future__ import annotations

import math
import random
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opda.nonparametric import EmpiricalDistribution
from scipy.stats import binom, binomtest

from pipeline.analysis import Analysis, analyse
from pipeline.analysis.optimism import optimism
from pipeline.analysis.searches import SearchTrial, drawn_at_random, search_trials, without_gaps
from pipeline.analysis.sensitivity import WITHIN_NATS, clopper_pearson, sensitivity
from pipeline.analysis.shapes import SearchPoint
from pipeline.analysis.tuning import best_of_random, random_band, tuning_curve
from pipeline.analysis.variance import components, variance_split
from pipeline.comparison import estimate
from pipeline.config import SearchSection
from pipeline.records import ENDED, Phase, State, TrialKey, TrialOutcome, TrialRecord
from pipeline.results import Results
from pipeline.search.importance import MIN_TRIALS, importances
from pipeline.study_file.values import ChoiceDomain, Domain, FloatDomain, IntDomain

from .sweeps import having, run_here, study_file

ALPHA = 0.05
LOST = -math.inf


def trial(number: int, value: float, *, replicate: int = 0, epochs: int = 4, independent: bool = True) -> SearchTrial:
    """A search trial that completed with `value`, or diverged (-inf)."""
    known = value if math.isfinite(value) else None
    return SearchTrial(
        point=SearchPoint("arm", replicate, number, {}, known, independent),
        best_value=value,
        completed=known is not None,
        diverged=known is None,
        epochs=epochs,
        independent=independent,
    )


def search(values: list[float], replicate: int = 0) -> list[SearchTrial]:
    return [trial(number, value, replicate=replicate) for number, value in enumerate(values)]


def record(
    number: int,
    value: float | None,
    *,
    state: State = State.COMPLETE,
    phase: Phase = Phase.SEARCH,
    replicate: int = 0,
    thresholds: tuple[float | None, ...] = (),
) -> TrialRecord:
    metrics = {} if value is None else {"val/elbo": value}
    return TrialRecord(
        key=TrialKey("arm", replicate, phase, number),
        params={},
        seed=0,
        state=state,
        thresholds=thresholds,
        outcome=TrialOutcome(state=state, metrics=metrics, epochs=4) if state in ENDED else None,
    )


# ------------------------------------------------------------------------------------ search trials


@pytest.mark.parametrize(
    ("section", "at_random"),
    [
        ({"sampler": "random", "trials": 8}, range(8)),
        ({"sampler": "random", "trials": 8, "start": ({"learning_rate": 1e-3},)}, range(1, 8)),
        ({"sampler": "tpe", "trials": 8, "startup": 5}, range(5)),
        ({"sampler": "tpe", "trials": 8, "startup": 5, "start": ({}, {})}, range(2, 5)),
        ({"sampler": "tpe", "trials": 8, "startup": 2, "start": ({}, {}, {})}, range(0)),
        ({"sampler": "qmc", "trials": 8}, range(0)),
        ({"sampler": "grid", "trials": 8}, range(0)),
    ],
)
def test_which_trials_are_independent_draws(section: dict[str, Any], at_random: range) -> None:
    whole = SearchSection.model_validate(section, context=None)
    assert [n for n in range(8) if drawn_at_random(whole, n)] == list(at_random)


def test_what_a_search_trial_counts_as() -> None:
    section = SearchSection(sampler="random", trials=6, pruner="median")
    records = [
        record(0, -5.0),
        record(1, None, state=State.DIVERGED),
        record(2, None, state=State.FAILED),
        record(3, -4.0, state=State.STOPPED, thresholds=(None, -3.0)),
        record(4, -6.0, thresholds=(None, None)),
        record(5, None, state=State.RUNNING),
        record(0, -1.0, phase=Phase.SHORTLIST),
    ]
    found = search_trials(random.Random(0).sample(records, len(records)), section)
    assert [one.point.number for one in found] == [0, 1, 2, 3, 4]
    assert [one.best_value for one in found] == [-5.0, LOST, LOST, LOST, -6.0]
    assert [one.point.value for one in found] == [-5.0, None, None, -4.0, -6.0]
    assert [one.independent for one in found] == [True, True, True, False, True]
    assert all(one.point.at_random for one in found)
    alone = SearchSection(sampler="random", trials=6, pruner="threshold", pruner_threshold_nats=-3.0)
    assert all(one.independent for one in search_trials(records, alone)), "a rule that looks at nobody"


def test_a_search_counts_up_to_its_first_gap() -> None:
    trials = [trial(n, -1.0, replicate=r) for r, numbers in enumerate(((0, 1, 3), (1, 2), (0, 1, 2))) for n in numbers]
    lengths = [[one.point.number for one in found] for found in without_gaps(trials, 4)]
    assert lengths == [[0, 1], [], [0, 1, 2], []]


# ------------------------------------------------------------------------------------ tuning curves


def test_a_tuning_curve_by_hand() -> None:
    searches = [search([LOST, -9.0, -7.0, LOST, -8.0]), search([-6.0, -6.0, -9.0, -5.0], 1)]
    searches[1][2] = trial(2, -9.0, replicate=1, epochs=1)
    curve = tuning_curve("arm", searches, ALPHA)
    assert curve is not None
    assert curve.trials == (1, 2, 3, 4), "as far as both searches are"
    assert curve.mean == (None, -7.5, -6.5, -6.0)
    assert curve.epochs == (4.0, 8.0, 10.5, 14.5)
    expected = estimate([-7.0, -5.0], ALPHA)
    assert expected is not None and (curve.low[3], curve.high[3]) == (expected.low, expected.high)
    assert curve.low[0] is None and curve.high[0] is None
    alone = tuning_curve("arm", searches[:1], ALPHA)
    assert alone is not None and alone.mean == (None, -9.0, -7.0, -7.0, -7.0)
    assert alone.low == alone.high == (None,) * 5
    assert tuning_curve("arm", [searches[0], []], ALPHA) is None and tuning_curve("arm", [], ALPHA) is None


def test_the_band_is_opdas() -> None:
    values = np.random.default_rng(1).normal(size=24).tolist()
    low, median, high = best_of_random(values, 8, 0.95)
    numbers = np.arange(1, 9)
    below, empirical, above = EmpiricalDistribution.confidence_bands(
        np.array(values), 0.95, generator=np.random.default_rng(9), method="ld_equal_tailed", n_jobs=1
    )
    assert median == tuple(empirical.quantile_tuning_curve(numbers))
    # Another simulation of the critical value moves a bound by one order statistic at most.
    ordered = np.array([LOST, *sorted(values), math.inf])
    for mine, theirs in ((low, above), (high, below)):
        places = np.searchsorted(ordered, mine), np.searchsorted(ordered, theirs.quantile_tuning_curve(numbers))
        assert np.abs(places[0] - places[1]).max() <= 1
    assert all(a <= b <= c for a, b, c in zip(low, median, high, strict=True))
    assert list(low) == sorted(low) and list(median) == sorted(median) and list(high) == sorted(high)
    assert best_of_random(list(reversed(values)), 8, 0.95) == (low, median, high), "the order does not matter"
    assert best_of_random(values[:9], 8, 0.95) != best_of_random(values[:9], 8, 0.5)


def test_the_bands_median_by_brute_force() -> None:
    values = [-9.0, -7.0, -4.0, -1.0]
    _, median, _ = best_of_random(values, 3, 0.95)
    for trials, found in enumerate(median, 1):
        draws = np.array(np.meshgrid(*[values] * trials)).reshape(trials, -1).max(0)
        assert np.mean(draws <= found) >= 0.5 > np.mean(draws < found)


def test_bands_with_ties_and_lost_trials_warn_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, median, high = best_of_random([LOST, LOST, LOST, -4.0, -4.0, -3.0], 4, 0.95)
    assert median[0] == LOST and median[-1] == -3.0
    assert low[0] == LOST and math.isinf(high[-1])
    assert not any(map(math.isnan, [*low, *median, *high]))


@pytest.mark.parametrize(("draws", "rounds"), [(6, 400), (20, 400), (160, 100)])
def test_the_band_covers_the_true_curve_as_often_as_it_says(draws: int, rounds: int) -> None:
    rng, numbers = np.random.default_rng(draws), np.arange(1, 7)
    truth = -np.log(1 - 0.5 ** (1 / numbers))  # the best of n exponential draws has this median
    held = 0
    for _ in range(rounds):
        low, _, high = best_of_random(rng.exponential(size=draws).tolist(), 6, 0.8)
        held += bool((np.array(low) <= truth).all() and (truth <= np.array(high)).all())
    assert held >= binom.ppf(1e-4, rounds, 0.8)


def test_a_band_rests_on_independent_draws_alone() -> None:
    searches = [search([-3.0, LOST, -5.0]), search([-4.0, -2.0, -1.0], 1)]
    whole = random_band(searches, 0.95)
    assert whole is not None and (whole.draws, whole.trials, whole.confidence) == (6, (1, 2, 3), 0.95)
    searches[1][2] = trial(2, -1.0, replicate=1, independent=False)
    fewer = random_band(searches, 0.95)
    assert fewer is not None and (fewer.draws, fewer.trials) == (5, (1, 2, 3))
    assert fewer.median[2] == -3.0
    assert random_band([[replace(one, independent=False) for one in found] for found in searches], 0.95) is None
    assert random_band([], 0.95) is None


# -------------------------------------------------------------------------------------- sensitivity


def test_shares_against_counting() -> None:
    values = [-1.0, -1.5, -2.0, -2.1, LOST, -6.0, -11.0, -11.5, LOST, -40.0]
    model = trial(10, -0.9, independent=False)
    found = sensitivity("arm", [search(values), [replace(model, point=replace(model.point, replicate=1))]], ALPHA)
    assert found is not None and (found.draws, found.best) == (10, -0.9)
    assert [share.within for share in found.shares] == list(WITHIN_NATS)
    for share in found.shares:
        inside = sum(value >= -0.9 - share.within for value in values)
        exact = binomtest(inside, 10).proportion_ci(1 - ALPHA, method="exact")
        assert share.share == inside / 10
        assert (share.low, share.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_shares_at_the_edges() -> None:
    assert clopper_pearson(0, 7, ALPHA) == pytest.approx((0.0, 1 - (ALPHA / 2) ** (1 / 7)))
    assert clopper_pearson(7, 7, ALPHA) == pytest.approx(((ALPHA / 2) ** (1 / 7), 1.0))
    lost = sensitivity("arm", [search([LOST, LOST])], ALPHA)
    assert lost is not None and lost.best is None and {share.share for share in lost.shares} == {0.0}
    ties = sensitivity("arm", [search([-2.0] * 4)], ALPHA)
    assert ties is not None and {share.share for share in ties.shares} == {1.0}
    assert sensitivity("arm", [], ALPHA) is None


# ------------------------------------------------------------------------------------------ spread


def test_variance_components_of_a_balanced_design_in_closed_form() -> None:
    within = (2 + 8 + 2) / 3
    between = float(np.var([2, 7, 3], ddof=1)) - within / 2
    assert components([[1.0, 3.0], [5.0, 9.0], [4.0, 2.0]]) == pytest.approx((between, within))


@pytest.mark.parametrize("sizes", [(3,) * 8, (4, 1, 2, 3, 4, 4, 1, 3)])
def test_variance_components_are_unbiased(sizes: tuple[int, ...]) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(1500):
        groups = [(rng.normal(0, 2.0) + rng.normal(-90, 1.0, size)).tolist() for size in sizes]
        found.append(components(groups))
    means = np.array(found, dtype=float).mean(0)
    errors = np.array(found, dtype=float).std(0) / math.sqrt(len(found))
    assert np.abs(means - [4.0, 1.0]) == pytest.approx([0, 0], abs=4 * errors.max())


def test_what_cannot_be_told_apart_is_not_given() -> None:
    assert components([[1.0, 3.0], [2.0, 2.0]])[0] == 0.0, "a negative estimate is none"
    assert components([[1.0, 3.0]]) == (None, 2.0)
    assert components([[1.0], [3.0]]) == (None, None)
    assert components([]) == (None, None)
    split = variance_split("arm", [[1.0, 3.0], [], [7.0]], [0.5, 0.7])
    assert split.search is not None and split.training_seed == pytest.approx(math.sqrt(2))
    assert split.images == pytest.approx(0.6)
    assert variance_split("arm", [[1.0]], []).images is None


def test_optimism_by_hand() -> None:
    found = optimism("arm", [(-10.0, [-12.0, -14.0]), (-11.0, [-12.0]), (None, [-1.0]), (-3.0, [])], ALPHA)
    gap = estimate([3.0, 1.0], ALPHA)
    assert found is not None and gap is not None
    assert (found.search_best, found.repeated) == (-10.5, -12.5)
    assert (found.gap, found.low, found.high) == (gap.mean, gap.low, gap.high)
    alone = optimism("arm", [(-10.0, [-12.0])], ALPHA)
    assert alone is not None and (alone.gap, alone.low) == (2.0, None)
    assert optimism("arm", [(None, [])], ALPHA) is None


# -------------------------------------------------------------------------------------- importances

SPACE: dict[str, Domain] = {
    "learning_rate": FloatDomain(low=1e-4, high=1e-1, log=True),
    "beta_warmup_epochs": IntDomain(low=0, high=20),
    "optimizer": ChoiceDomain(choices=("adam", "sgd")),
    "weight_decay": FloatDomain(low=0.0, high=0.0),
}


def drawn(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            "learning_rate": 10 ** rng.uniform(-4, -1),
            "beta_warmup_epochs": rng.randint(0, 20),
            "optimizer": rng.choice(["adam", "sgd"]),
            "weight_decay": 0.0,
        }
        for _ in range(count)
    ]


def test_the_parameter_that_matters_is_found() -> None:
    points = drawn(30)
    rate = [(p, -6 * (math.log10(p["learning_rate"]) + 2.5) ** 2 + 0.02 * p["beta_warmup_epochs"]) for p in points]
    chosen = [(p, 5.0 * (p["optimizer"] == "sgd") + 0.3 * math.log10(p["learning_rate"])) for p in points]
    for trials, name in ((rate, "learning_rate"), (chosen, "optimizer")):
        found = importances(SPACE, trials, 0)
        assert list(found) == list(SPACE) and sum(found.values()) == pytest.approx(1)
        assert found[name] > 0.8 and found["weight_decay"] == 0
        assert importances(SPACE, trials, 0) == found


def test_diverged_trials_speak_too() -> None:
    lost = [(p, None if p["optimizer"] == "sgd" else -50 + 1e-3 * p["beta_warmup_epochs"]) for p in drawn(20)]
    assert importances(SPACE, lost, 0)["optimizer"] > 0.8


def test_no_importance_without_a_choice_or_enough_trials() -> None:
    trials = [(p, float(i)) for i, p in enumerate(drawn(MIN_TRIALS))]
    assert importances(SPACE, trials, 0) and not importances(SPACE, trials[1:], 0)
    assert importances(SPACE, [], 0) == importances({}, [], 0) == {}
    assert importances(SPACE, [(p, None) for p, _ in trials], 0) == {}
    assert importances({"learning_rate": SPACE["learning_rate"]}, [], 0) == {"learning_rate": 1.0}
    only = {name: SPACE[name] for name in ("weight_decay", "optimizer")}
    assert importances(only, [], 0) == {"weight_decay": 0.0, "optimizer": 1.0}


# ---------------------------------------------------------------------------------- a whole sweep


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("simulated")
    file = study_file(
        folder,
        scientific={"scale": ["log_variance", "log_std"]},
        nuisance={"beta_warmup_epochs": {"low": 0, "high": 3}},
        search={"trials": 9, "startup": 5, "start": [{"learning_rate": 3e-3}], "replicates": 3},
        confirm={"repeats": 3},
    )
    return run_here(file, folder / "sweeps", executor="simulated")


def test_a_whole_sweep(simulated: Results) -> None:
    found = analyse(simulated)
    arms = [arm.id for arm in simulated.arms]
    searched = [r for r in simulated.records if r.key.phase is Phase.SEARCH]
    for part in (found.tuning, found.sensitivity, found.variance, found.optimism):
        assert [one.arm for one in part] == arms
    assert len(found.points) == len(searched) == 2 * 2 * 3 * 9
    assert sum(point.value is None for point in found.points) == sum(r.state is State.DIVERGED for r in searched) > 0
    for curve, share in zip(found.tuning, found.sensitivity, strict=True):
        assert len(curve.trials) == 9 and curve.band is not None
        assert (curve.band.draws, curve.band.trials) == (3 * 4, (1, 2, 3, 4)) and share.draws == 12
        assert curve.mean[-1] is not None and share.best is not None and curve.mean[-1] <= share.best
    assert {(one.arm, one.parameter) for one in found.importances} == {
        (arm, name) for arm in arms for name in simulated.study.nuisance
    }
    for split, arm in zip(found.variance, simulated.comparison.arms, strict=True):
        errors = [r.outcome.metrics["test/elbo_se"] for r in simulated.records if of_repeat(r, arm.id) and r.outcome]
        assert split.images == pytest.approx(np.mean(errors))
        values = [[value for value in one.values if value is not None] for one in arm.replicates]
        assert split.training_seed == pytest.approx(math.sqrt(components(values)[1] or 0))
    repeats = [r for r in simulated.records if r.key.phase is Phase.REPEAT and r.state is State.COMPLETE]
    assert [(p.arm, p.replicate, p.number) for p in found.rate_distortion] == [
        (r.key.arm, r.key.replicate, r.key.number) for arm in arms for r in repeats if r.key.arm == arm
    ]
    for point, gap in zip(found.rate_distortion, repeats, strict=False):
        assert point.rate > 0 and point.distortion > 0 and gap.outcome


def of_repeat(record: TrialRecord, arm: str) -> bool:
    return (record.key.arm, record.key.phase, record.state) == (arm, Phase.REPEAT, State.COMPLETE)


def test_only_results_are_read_and_in_no_order(simulated: Results) -> None:
    def elsewhere(record: TrialRecord) -> TrialRecord:
        assert record.outcome is not None
        outcome = replace(record.outcome, started_at=1.0, ended_at=9.0, worker_seconds=7.0, host="there", worker="w")
        return replace(record, attempts=3, outcome=replace(outcome, epoch_times=(), largest_pack=9))

    records = random.Random(1).sample([elsewhere(one) for one in simulated.records], len(simulated.records))
    assert analyse(having(simulated, records)) == analyse(simulated)


def test_every_moment_of_a_sweep_can_be_analysed(simulated: Results) -> None:
    assert analyse(having(simulated, ())) == Analysis((), (), (), (), (), (), ())
    known = 0
    for ended in range(0, len(simulated.records), 43):
        records = [
            one if i < ended else replace(one, state=State.RUNNING, outcome=None)
            for i, one in enumerate(random.Random(2).sample(simulated.records, len(simulated.records)))
        ]
        found = analyse(having(simulated, records))
        known += len(found.tuning)
        spelled = str(asdict(found))
        assert "nan" not in spelled
    assert known > 0


def test_a_sweep_that_tunes_nothing(tmp_path: Path) -> None:
    file = study_file(tmp_path, search={"trials": 1}, confirm={"candidates": 1})
    study = file.read_text().replace("nuisance:\n  learning_rate:\n    low: 0.0001\n    high: 0.1\n    log: true\n", "")
    file.write_text(study)
    found = analyse(run_here(file, tmp_path / "sweeps", executor="simulated"))
    assert (found.tuning, found.sensitivity, found.importances) == ((), (), ())
    assert len(found.variance) == len(found.optimism) == 6
