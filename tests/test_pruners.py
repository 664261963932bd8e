"""Stopping rules by themselves; how searches use them: tests/test_study.py."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Sequence

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.packed.stopping import stop_cause
from pipeline.records import State, Stopping
from pipeline.search.pruners import PRUNERS, Setting, bracket_of, halving_thresholds
from pipeline.search.study import Search

from .kit import task
from .test_study import EPOCHS, all_asked, make, stops_at


@pytest.mark.parametrize("name", PRUNERS)
class TestEvery:
    def test_without_rivals_nothing_is_stopped(self, name: str) -> None:
        thresholds = PRUNERS[name].thresholds({}, 3, Setting(0, 0, EPOCHS))
        assert set(thresholds) <= {None} and len(thresholds) in (0, EPOCHS)

    def test_the_warm_up_is_left_alone(self, name: str) -> None:
        curves = {number: [float(-number)] * EPOCHS for number in range(20)}
        for number in range(20, 40):
            thresholds = PRUNERS[name].thresholds(curves, number, Setting(1, 3, EPOCHS))
            assert not any(entry is not None for entry in thresholds[:2])

    def test_a_search_takes_it(self, name: str) -> None:
        search = make("random", name, startup=2, lag=2)
        while not search.finished:
            for proposal in all_asked(search):
                search.report(proposal.number, 1, 0.0)
                search.tell(proposal.number, State.COMPLETE, 0.0, (0.0,) * EPOCHS)


VALUES = st.one_of(
    st.sampled_from([-2.0, -1.0, -0.1, 0.0, 0.1, 0.3, 1.0]),  # ties, and sums that do not come out even
    st.floats(-1e6, 1e6, allow_nan=False, width=64),
)
CURVES = st.lists(VALUES, min_size=1, max_size=9)


def optuna_stops_at(pruner: optuna.pruners.BasePruner, told: Sequence[Sequence[float]], new: Sequence[float]) -> int:
    """After how many epochs of `new` Optuna's pruner stops it; its length: never."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for curve in told:
        study.add_trial(optuna.trial.create_trial(value=curve[-1], intermediate_values=dict(enumerate(curve))))
    trial = study.ask()
    for epoch, value in enumerate(new):
        trial.report(value, epoch)
        if trial.should_prune():
            return epoch + 1
    return len(new)


def we_stop_at(name: str, setting: Setting, told: Sequence[Sequence[float]], new: Sequence[float]) -> int:
    """The same of the rule that travels with a trial."""
    rule = PRUNERS[name]
    one = task(thresholds=rule.thresholds(dict(enumerate(told)), len(told), setting), stopping=rule.stopping(setting))
    return next((epoch for epoch in range(1, len(new) + 1) if stop_cause(one, new[:epoch])), len(new))


class TestDecideAsOptunasPruners:
    """For whatever curves there are, in the same epoch. No study file's trial is stopped after its last one."""

    @settings(deadline=None, max_examples=150)
    @given(st.lists(CURVES, max_size=6), CURVES, st.floats(0, 100), st.integers(0, 3), st.integers(0, 3))
    def test_percentile(
        self, told: list[list[float]], new: list[float], percentile: float, startup: int, warmup: int
    ) -> None:
        setting = Setting(startup, warmup, 9, percentile=percentile)
        pruner = optuna.pruners.PercentilePruner(percentile, startup, warmup)
        assert we_stop_at("percentile", setting, told, new) == optuna_stops_at(pruner, told, new)

    @settings(deadline=None, max_examples=100)
    @given(CURVES, VALUES, st.integers(0, 3))
    def test_threshold(self, new: list[float], threshold: float, warmup: int) -> None:
        pruner = optuna.pruners.ThresholdPruner(lower=threshold, n_warmup_steps=warmup)
        setting = Setting(4, warmup, 9, threshold_nats=threshold)
        assert we_stop_at("threshold", setting, [], new) == optuna_stops_at(pruner, [], new)

    @settings(deadline=None, max_examples=150)
    @given(CURVES, st.integers(0, 4), st.one_of(st.just(0.0), st.sampled_from([0.1, 0.2, 1.0]), st.floats(0, 1e3)))
    def test_patient(self, new: list[float], patience: int, delta: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner = optuna.pruners.PatientPruner(None, patience, delta)
        setting = Setting(4, 5, 9, patience_epochs=patience, min_delta_nats=delta)
        assert we_stop_at("patient", setting, [], new) == optuna_stops_at(pruner, [], new)

    def test_all_stop_some(self) -> None:
        curve, told = [0.0, 3.0, 2.0, 1.0, 0.5], [[1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0]]
        setting = Setting(2, 1, 5, percentile=50.0, threshold_nats=1.5, patience_epochs=1, min_delta_nats=0.5)
        stops = {
            name: we_stop_at(name, setting, told, curve) for name in ("percentile", "threshold", "patient", "none")
        }
        assert stops == {"percentile": 4, "threshold": 4, "patient": 4, "none": 5}


def test_a_cause_says_what_was_held_to_what() -> None:
    curve = [-100.0, -90.0, -95.0, -94.0]
    best = task(thresholds=(None, None, None, -89.0))
    assert stop_cause(best, curve) == "best -90.000 below -89.000 after epoch 4"
    latest = task(thresholds=best.thresholds, stopping=Stopping(by_latest=True))
    assert stop_cause(latest, curve) == "latest -94.000 below -89.000 after epoch 4"
    patient = task(stopping=Stopping(patience_epochs=1, min_delta_nats=3.5))
    assert stop_cause(patient, curve) == "best of 2 epochs -94.000 below -90.000 - 3.5 after epoch 4"
    assert [stop_cause(patient, curve[:epoch]) for epoch in (1, 2, 3)] == [None] * 3
    assert stop_cause(task(stopping=Stopping(patience_epochs=1, min_delta_nats=4.0)), curve) is None, "not below"


class TestSuccessiveHalving:
    @pytest.mark.parametrize("seed", range(12))
    def test_decides_as_optunas_pruner(self, seed: int) -> None:
        draw = random.Random(seed)
        first, factor, rate, epochs = draw.randint(1, 3), draw.randint(2, 4), draw.randint(0, 2), 16

        def curve() -> list[float]:  # its best so far is its last value
            values, value = [], draw.gauss(0, 1)
            for _ in range(draw.choice([epochs, draw.randint(1, epochs)])):
                value += abs(draw.gauss(0, 0.1)) if draw.random() < 0.8 else 0.0
                values.append(value)
            return values

        pruner = optuna.pruners.SuccessiveHalvingPruner(first, factor, rate)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        rivals = [curve() for _ in range(draw.randint(0, 12))]
        for known in rivals:  # each came as far as it is, whatever the rule says of it
            trial = study.ask()
            for epoch, value in enumerate(known):
                trial.report(value, epoch + 1)
                trial.should_prune()
        trial, new, pruned_at = study.ask(), curve(), None
        new += [new[-1]] * (epochs - len(new))
        for epoch, value in enumerate(new):
            trial.report(value, epoch + 1)
            if pruned_at is None and trial.should_prune():
                pruned_at = epoch
        assert stops_at(halving_thresholds(rivals, first, factor, epochs, rate), new) == pruned_at

    def test_rungs(self) -> None:
        curves = [[float(n)] * 9 for n in range(8)]
        assert halving_thresholds(curves, 1, 2, 9) == (4.0, 4.0, None, 4.0, None, None, None, 4.0, None)
        assert halving_thresholds(curves, 1, 3, 9, rate=1) == (None, None, 5.0, None, None, None, None, None, 5.0)
        assert halving_thresholds([[7.0, 7.0]], 2, 4, 4) == (None, 7.0, None, None)


class TestHyperband:
    def test_brackets_are_drawn_as_optuna_allots_them(self) -> None:
        drawn = Counter(bracket_of(number, 1, 3, 9) for number in range(6000))
        budgets = {0: 9, 1: 5, 2: 3}  # ceil(3 * 3^s / (s + 1)), s = 2, 1, 0
        assert drawn.keys() == budgets.keys()
        for bracket, budget in budgets.items():
            assert abs(drawn[bracket] / 6000 - budget / 17) < 0.03

    def test_only_rivals_of_the_bracket_count(self) -> None:
        mine = bracket_of(50, 1, 3, 9)
        curves = {n: [float(n)] * 9 for n in range(50)}
        others = {n: curve for n, curve in curves.items() if bracket_of(n, 1, 3, 9) != mine}
        setting = Setting(0, 0, 9)
        assert any(entry is not None for entry in PRUNERS["hyperband"].thresholds(curves, 50, setting))
        assert not any(entry is not None for entry in PRUNERS["hyperband"].thresholds(others, 50, setting))

    def test_too_few_epochs_for_brackets(self) -> None:
        assert bracket_of(1, 5, 3, 2) == bracket_of(1, 5, 3, 5) == 0


class TestRunningRivals:
    def search(self, rule: str) -> Search:
        search = make("random", rule, startup=4, lag=1)
        assert len(all_asked(search)) == 4
        return search

    def test_are_looked_at_where_the_rule_says_so(self) -> None:
        search = self.search("successive_halving")
        for epoch in range(1, 4):
            search.report(0, epoch, 10.0 * epoch)
        search.report(1, 1, 5.0)
        search.tell(2, State.STOPPED, None, (7.0,))
        search.tell(3, State.COMPLETE, 1.0, (1.0,) * EPOCHS)
        search.tell(0, State.COMPLETE, 30.0, (10.0, 20.0, 30.0, 30.0, 30.0, 30.0))
        search.tell(1, State.DIVERGED, None, (5.0,))
        fifth = search.ask()
        assert fifth is not None and fifth.thresholds[0] == 10.0

    def test_and_nowhere_else(self) -> None:
        search = self.search("median")
        search.report(0, 1, 1e9)
        for number in range(4):
            search.tell(number, State.COMPLETE, 0.0, (0.0,) * EPOCHS)
        fifth = search.ask()
        assert fifth is not None and max(entry or 0.0 for entry in fifth.thresholds) == 0.0

    def test_one_that_begins_anew_is_followed_anew(self) -> None:
        search = make("random", "successive_halving", startup=3, lag=2)
        all_asked(search)
        for epoch, value in ((1, 1.0), (2, 2.0), (1, 3.0), (2, 4.0), (4, 9.0)):
            search.report(1, epoch, value)
        assert search._running == {1: [3.0, 4.0]}
