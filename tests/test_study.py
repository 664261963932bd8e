"""The search: pure proposals, fixed lag, resume, stopping rules. Real Optuna throughout."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import optuna
import pytest

from pipeline.errors import UserError
from pipeline.packed.stopping import stop_cause
from pipeline.records import Params, State, Stopping, canonical_json
from pipeline.search.domains import grid_values
from pipeline.search.pruners import PRUNERS, Setting, median_thresholds
from pipeline.search.samplers import SAMPLERS, Proposal
from pipeline.search.study import DIVERGED_VALUE, Search, diverged_value, waits_for_results
from pipeline.study_file.values import ChoiceDomain, Domain, FloatDomain, IntDomain

from .kit import task

EPOCHS = 6
SETTING = Setting(startup=2, warmup=1, epochs=EPOCHS, percentile=40.0, threshold_nats=-60.0, patience_epochs=0)
TRIALS = 14
FINITE: dict[str, Domain] = {
    "rate": FloatDomain(low=0.1, high=0.5, step=0.1),
    "layers": IntDomain(low=1, high=6, step=2),
    "kind": ChoiceDomain(choices=(1, True, "a", None)),
}
CONTINUOUS: dict[str, Domain] = {
    "rate": FloatDomain(low=1e-4, high=1e-1, log=True),
    "width": IntDomain(low=1, high=64, log=True),
    "hidden": ChoiceDomain(choices=((128,), (64, 64), (256,))),
}
NUMBERS: dict[str, Domain] = {
    "rate": FloatDomain(low=1e-4, high=1e-1, log=True),
    "width": IntDomain(low=1, high=64, log=True),
    "part": FloatDomain(low=0.1, high=0.5, step=0.1),
}
SPACES = {"grid": [FINITE], "cmaes": [NUMBERS]}
"""of samplers that cannot search every space"""
SLOW = {"gp"}
"""half a second a proposal"""


def spaces(sampler: str) -> list[dict[str, Domain]]:
    return SPACES.get(sampler, [CONTINUOUS, FINITE])


def make(sampler: str = "tpe", pruner: str = "none", **changes: Any) -> Search:
    settings: dict[str, Any] = {
        "domains": spaces(sampler)[0],
        "trials": TRIALS,
        "startup": 5,
        "lag": 3,
        "setting": SETTING,
        "seed": 0,
        "replicate": 0,
    }
    return Search(sampler=sampler, pruner=pruner, **{**settings, **changes})


Outcome = tuple[State, float | None, tuple[float, ...]]


def outcome(proposal: Proposal, stopping: Stopping = Stopping()) -> Outcome:  # noqa: B008
    """A made-up training: a pure function of what was proposed; all four ways to end occur."""
    draw = random.Random(canonical_json(dict(proposal.params)))
    end = -100 * draw.random()
    curve = tuple(end - 50 / (epoch + 1) + 5 * draw.random() for epoch in range(EPOCHS))
    if proposal.number in (0, 7):
        return State.DIVERGED, None, curve[:2]
    if proposal.number == 4:
        return State.FAILED, None, ()
    one = task(thresholds=proposal.thresholds, stopping=stopping)
    for epoch in range(EPOCHS - 1):
        if stop_cause(one, curve[: epoch + 1]):
            return State.STOPPED, curve[epoch], curve[: epoch + 1]
    return State.COMPLETE, curve[-1], curve


Pick = Callable[[list[int]], int]
ORDERS: dict[str, Pick] = {
    "oldest first": lambda running: running[0],
    "newest first": lambda running: running[-1],
    "shuffled": lambda running: running[(7 * len(running) + sum(running)) % len(running)],
}


def rebuilt(fresh: Callable[[], Search], proposals: list[Proposal], told: dict[int, Outcome]) -> Search:
    """What a restarted driver has: rows that went through JSON, outcomes in an order of their own."""
    rows = json.loads(json.dumps([(p.number, p.params, p.thresholds, p.attributes) for p in proposals]))
    search = fresh()
    search.restore([Proposal(n, params, tuple(t), attributes) for n, params, t, attributes in rows])
    for number in sorted(told, key=lambda n: (n % 3, -n)):
        search.tell(number, *told[number])
    return search


def drive(
    fresh: Callable[[], Search],
    pick: Pick,
    interrupted: Callable[[int], bool] = lambda event: False,
    stopping: Stopping = Stopping(),  # noqa: B008
) -> list[Proposal]:
    """Runs a search to its end; after every event for which `interrupted` says so, from its rows."""
    search, proposals, told, event = fresh(), list[Proposal](), dict[int, Outcome](), 0
    while not search.finished:
        asked = search.ask()
        if asked is not None:
            assert asked.number == len(proposals)
            proposals.append(asked)
        else:
            running = [p.number for p in proposals if p.number not in told]
            number = pick(running)
            told[number] = outcome(proposals[number], stopping)
            search.tell(number, *told[number])
        event += 1
        if interrupted(event):
            search = rebuilt(fresh, proposals, told)
            assert (search.asked, search.told_count) == (len(proposals), len(told))
    return proposals


def spelled(proposals: list[Proposal]) -> str:
    return canonical_json([(p.number, dict(p.params), p.thresholds, dict(p.attributes)) for p in proposals])


def all_asked(search: Search) -> list[Proposal]:
    proposals = list(iter(search.ask, None))
    return [p for p in proposals if p is not None]


def some(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.mark.parametrize("sampler", some(SAMPLERS))
class TestEverySampler:
    def test_proposes_inside_the_domains_in_number_order(self, sampler: str) -> None:
        for domains in spaces(sampler):
            proposals = drive(partial(make, sampler, domains=domains), ORDERS["oldest first"])
            assert [p.number for p in proposals] == list(range(TRIALS))
            for proposal in proposals:
                assert list(proposal.params) == sorted(domains)
                for name, value in proposal.params.items():
                    assert domains[name].contains(value), (name, value)
            assert len({canonical_json(dict(p.params)) for p in proposals}) > TRIALS // 2

    def test_equal_spaces_get_equal_draws_whatever_their_order(self, sampler: str) -> None:
        domains = spaces(sampler)[0]
        turned = {name: domains[name] for name in reversed(domains)}

        def run(space: dict[str, Domain]) -> str:
            return spelled(drive(lambda: make(sampler, domains=space), ORDERS["shuffled"]))

        assert run(domains) == run(turned)

    def test_replicates_and_seeds_draw_anew(self, sampler: str) -> None:
        draws = [all_asked(make(sampler, seed=s, replicate=r)) for s, r in [(0, 0), (0, 1), (1, 0)]]
        assert len({spelled(d) for d in draws}) == (1 if sampler == "grid" else 3)

    def test_is_silent_and_leaves_optunas_logging_alone(self, sampler: str, capfd: pytest.CaptureFixture[str]) -> None:
        before = optuna.logging.get_verbosity()
        drive(lambda: make(sampler), ORDERS["oldest first"])
        assert capfd.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == before

    def test_nothing_to_tune(self, sampler: str) -> None:
        assert all_asked(make(sampler, domains={}, trials=1)) == [Proposal(0, {})]

    def test_one_value_only(self, sampler: str) -> None:
        domains = {"a": IntDomain(low=3, high=3), "b": ChoiceDomain(choices=("x",))}
        for startup, trials in ((5, 1), (0, 1 if sampler == "grid" else 3)):
            fresh = partial(make, sampler, domains=domains, trials=trials, startup=startup, lag=1)
            proposals = drive(fresh, ORDERS["oldest first"])
            assert [dict(p.params) for p in proposals] == [{"a": 3, "b": "x"}] * trials


RULES = [name for name, rule in PRUNERS.items() if not rule.looks_at_rivals]
USUAL = {*((sampler, "median") for sampler in SAMPLERS), ("tpe", "none"), *(("random", rule) for rule in RULES)}


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        case if case in USUAL and case[0] not in SLOW else pytest.param(*case, marks=pytest.mark.slow)
        for case in product(SAMPLERS, RULES)
    ],
)
def test_neither_finishing_order_nor_restarts_change_a_proposal(sampler: str, pruner: str) -> None:
    def fresh() -> Search:
        return make(sampler, pruner)

    run = partial(drive, fresh, stopping=(rule := PRUNERS[pruner].stopping(SETTING)))
    reference = run(ORDERS["oldest first"])
    states = [outcome(p, rule)[0] for p in reference]
    assert (State.STOPPED in states) == (pruner != "none"), "the made-up trainings test nothing"
    for pick in list(ORDERS.values())[: 1 if sampler in SLOW else None]:
        assert spelled(run(pick)) == spelled(reference)
        assert spelled(run(pick, lambda event: True)) == spelled(reference)
        for point in (9, 20) if sampler in SLOW else (3, 9, 14, 20):
            assert spelled(run(pick, point.__eq__)) == spelled(reference)


class TestLag:
    @pytest.mark.parametrize(
        ("sampler", "pruner"),
        [("tpe", "none"), ("cmaes", "none"), ("tpe", "patient"), ("random", "median"), ("qmc", "percentile")],
    )
    def test_waits_for_exactly_the_trials_up_to_n_minus_lag(self, sampler: str, pruner: str) -> None:
        search = make(sampler, pruner)
        proposals = all_asked(search)
        assert len(proposals) == 5, "the start-up trials wait for nothing"
        for number in (4, 3, 1, 0):
            search.tell(number, *outcome(proposals[number]))
            assert search.ask() is None, "trial 5 needs 0, 1 and 2"
        search.tell(2, *outcome(proposals[2]))
        assert [p.number for p in all_asked(search)] == [5, 6, 7], "trial 8 needs 5"

    @pytest.mark.parametrize("pruner", ["none", "threshold", "patient"])
    @pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
    def test_draws_without_a_model_and_rules_of_ones_own_wait_for_nothing(self, sampler: str, pruner: str) -> None:
        assert len(all_asked(make(sampler, pruner))) == TRIALS
        assert not waits_for_results(sampler, pruner)

    def test_results_beyond_the_lag_are_not_seen(self) -> None:
        def sixth(changed: int) -> Proposal | None:
            search = make()
            for proposal in all_asked(search):
                end = -1.0 if proposal.number == changed else -50.0 - proposal.number
                search.tell(proposal.number, State.COMPLETE, end, (end,) * EPOCHS)
            return search.ask()

        assert sixth(changed=3) == sixth(changed=4) == sixth(changed=-1)
        assert sixth(changed=2) != sixth(changed=-1), "a result inside the lag must be seen"

    def test_the_model_sees_told_trials_ended_and_the_others_running(self) -> None:
        search = make()
        for proposal in all_asked(search):
            search.tell(proposal.number, *outcome(proposal))
        search.ask()
        states = [trial.state.name for trial in search._sampler._history.study.trials]  # type: ignore[attr-defined]
        assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING", "RUNNING", "RUNNING"]

    @pytest.mark.parametrize(("startup", "lag"), [(5, 1), (1, 4), (2, 20), (0, 3)])
    @pytest.mark.parametrize("sampler", some(["tpe", "cmaes", "gp"]))
    def test_any_startup_and_lag(self, sampler: str, startup: int, lag: int) -> None:
        def fresh() -> Search:
            return make(sampler, startup=startup, lag=lag, trials=6 if sampler in SLOW else 9)

        reference = spelled(drive(fresh, ORDERS["oldest first"]))
        assert spelled(drive(fresh, ORDERS["newest first"], lambda event: True)) == reference

    def test_the_models_own_draws_are_seeded_per_replicate_and_trial(self) -> None:
        first = [all_asked(make(startup=0, replicate=replicate)) for replicate in (0, 1)]
        draws = [canonical_json(dict(proposal.params)) for run in first for proposal in run]
        assert len(set(draws)) == len(draws) == 6, "trials 0..2 see nothing told"

    @pytest.mark.parametrize("state", [State.FAILED, State.DIVERGED])
    @pytest.mark.parametrize("sampler", some(["tpe", "cmaes", "gp"]))
    def test_a_search_that_only_fails_goes_on(self, sampler: str, state: State) -> None:
        search = make(sampler)
        while not search.finished:
            for proposal in all_asked(search):
                search.tell(proposal.number, state, None, ())
        assert search.ranking() == []


@pytest.mark.parametrize(
    ("sampler", "trials", "times_better"),
    [("tpe", 30, 0.7), ("cmaes", 60, 0.7), pytest.param("gp", 14, 0.5, marks=pytest.mark.slow)],
)
def test_models_start_as_random_and_then_get_better(sampler: str, trials: int, times_better: float) -> None:
    target: dict[str, Domain] = {"x": FloatDomain(low=0.0, high=1.0), "y": FloatDomain(low=0.0, high=1.0)}

    def losses(sampler: str, replicate: int) -> list[float]:
        search = make(sampler, domains=target, trials=trials, startup=8, replicate=replicate)
        found = []
        while not search.finished:
            for proposal in all_asked(search):
                x, y = (float(str(proposal.params[name])) for name in "xy")
                found.append((x - 0.3) ** 2 + (y - 0.8) ** 2)
                search.tell(proposal.number, State.COMPLETE, -found[-1], (-found[-1],) * EPOCHS)
        return found

    model, drawn = ([losses(name, replicate) for replicate in range(3)] for name in (sampler, "random"))
    assert [run[:8] for run in model] == [run[:8] for run in drawn]
    assert sum(sum(run[8:]) for run in model) < times_better * sum(sum(run[8:]) for run in drawn)


class TestGp:
    @pytest.mark.slow
    def test_its_bits_depend_on_no_threads_and_no_environment(self) -> None:
        """Each process fits the Gaussian process anew: to the same bits, whatever it was started with."""
        code = (
            "from tests.test_study import *; "
            "print(spelled(drive(lambda: make('gp', trials=8, lag=2), ORDERS['oldest first'])))"
        )
        here = spelled(drive(lambda: make("gp", trials=8, lag=2), ORDERS["newest first"]))
        for threads in ("1", "3"):
            environment = {k: v for k, v in os.environ.items() if k not in ("MKL_CBWR", "OMP_NUM_THREADS")}
            environment |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
            assert done.stdout.decode().strip() == here, threads

    def test_running_trials_are_counted_in_and_a_restart_proposes_the_same(self) -> None:
        """Without running ones it would propose the same point again and again."""
        search, told = make("gp", startup=4, lag=4, trials=8), dict[int, Outcome]()
        proposals = all_asked(search)
        for number in range(4):
            told[number] = State.COMPLETE, -float(number), (0.0,) * EPOCHS
            search.tell(number, *told[number])
        assert search.ask() == rebuilt(lambda: make("gp", startup=4, lag=4, trials=8), proposals, told).ask()
        study = search._sampler._history.study  # type: ignore[attr-defined]
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] + ["RUNNING"] * 4
        assert study.trials[-1].system_attrs, "proposed by the model"


class TestCmaEs:
    def test_nothing_pickled_leaves_the_process_or_comes_in(self) -> None:
        proposals = drive(lambda: make("cmaes", trials=30), ORDERS["oldest first"])
        generations = [p.attributes.get("cma:generation") for p in proposals]
        assert generations[:5] == [None] * 5 and set(generations[5:]) == {0, 1, 2}
        assert all(p.attributes.keys() <= {"cma:generation"} for p in proposals)

        def poisoned(p: Proposal) -> Proposal:
            attributes = {**p.attributes, "cma:optimizer:0": pickle.dumps(Trap()).hex()}
            return Proposal(p.number, p.params, p.thresholds, attributes)

        fresh = make("cmaes", trials=30)
        fresh.restore([poisoned(p) for p in proposals[:20]])
        for proposal in proposals[:20]:
            fresh.tell(proposal.number, *outcome(proposal))
        assert fresh.ask() == proposals[20], "and a trap is not so much as looked at"

    def test_is_optunas_sampler(self) -> None:
        """One generation after another, without a lag: the state is that which Optuna's own sampler comes to."""
        target: dict[str, Domain] = {"x": FloatDomain(low=0.0, high=1.0), "y": FloatDomain(low=0.0, high=1.0)}
        search = make("cmaes", domains=target, startup=0, lag=1, trials=37)
        study = optuna.create_study(direction="maximize")
        distributions = search._plan.distributions()
        for _ in range(37):
            proposal = search.ask()
            assert proposal is not None
            value = -((float(str(proposal.params["x"])) - 0.3) ** 2)
            search.tell(proposal.number, State.COMPLETE, value, (value,) * EPOCHS)
            study.sampler = optuna.samplers.CmaEsSampler(seed=0)
            theirs = study.ask(distributions)  # for the state: their next point is another
            state = {k: v for k, v in study.trials[-1].system_attrs.items() if "optimizer" in k}
            study.tell(theirs, state=optuna.trial.TrialState.FAIL)
            attributes = {**proposal.attributes, **state}
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(proposal.params), distributions=distributions, value=value, system_attrs=attributes
                )
            )
        mine = optuna.samplers.CmaEsSampler()._restore_optimizer([_holder(search._sampler._state)])  # type: ignore[attr-defined]
        known = optuna.samplers.CmaEsSampler()._restore_optimizer(study.trials)
        assert mine is not None and known is not None and mine.generation == known.generation == 6
        assert mine.mean.tolist() == known.mean.tolist() and mine._sigma == known._sigma
        assert mine._C.tolist() == known._C.tolist()

    def test_choices_are_the_users_error(self) -> None:
        with pytest.raises(UserError, match=r"cmaes needs ranges of numbers, but nuisance\.hidden is a choice"):
            make("cmaes", domains=CONTINUOUS)


def _holder(state: dict[str, str]) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(value=0.0, system_attrs=state)


class Trap:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise RuntimeError('unpickled')",)


def test_sobol_fills_every_eighth_once() -> None:
    space: dict[str, Domain] = {name: FloatDomain(low=0.0, high=1.0) for name in "abc"}
    points = [p.params for p in all_asked(make("qmc", domains=space, trials=8))]
    for name in space:
        assert sorted(math.floor(8 * float(str(point[name]))) for point in points) == list(range(8))


class TestDiverged:
    def test_lies_a_range_below_the_worst(self) -> None:
        assert diverged_value([-3.0, -1.0, -2.0]) == -5.0
        assert diverged_value([]) == DIVERGED_VALUE
        assert diverged_value([-80.0]) < -80.0, "must not tie with the only result"
        assert diverged_value([0.0, 0.0]) < 0.0

    def test_is_told_as_complete_and_the_same_after_a_restart(self) -> None:
        def told(search: Search) -> list[float | None]:
            return [trial.value for trial in search._sampler._history.study.trials[:5]]  # type: ignore[attr-defined]

        values = [None, -10.0, -30.0, -20.0, None, -90.0]
        live, proposals, outcomes = make(startup=4), list[Proposal](), dict[int, Outcome]()
        for number in range(8):
            proposal = live.ask()
            assert proposal is not None
            proposals.append(proposal)
            if number >= 2 and number - 2 < len(values):
                value = values[number - 2]
                state = State.DIVERGED if value is None else State.COMPLETE
                outcomes[number - 2] = state, value, (value or 0.0,) * EPOCHS
                live.tell(number - 2, *outcomes[number - 2])
        expected = [-20.0, -10.0, -30.0, -20.0, -50.0]  # the first: told with -10 only, no range yet
        assert told(live) == expected
        again = rebuilt(lambda: make(startup=4), proposals[:-1], outcomes)
        again.ask()
        assert told(again) == expected


class TestStart:
    start: tuple[Params, ...] = ({"rate": 1e-3, "hidden": (64, 64)}, {"width": 8})

    @pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
    def test_leads_and_is_filled_up_with_random_draws(self, sampler: str) -> None:
        search, drawn = make(sampler, start=self.start), make("random")
        for given in self.start:
            proposal, plain = search.ask(), drawn.ask()
            assert proposal is not None and plain is not None
            assert dict(proposal.params) == {**plain.params, **given}

    @pytest.mark.parametrize("sampler", some(["random", "qmc", "tpe", "gp"]))
    def test_changes_no_later_draw_and_survives_restarts(self, sampler: str) -> None:
        assert all_asked(make(sampler, start=self.start))[2:5] == all_asked(make(sampler))[2:5]

        def fresh() -> Search:
            return make(sampler, start=self.start * 4)  # beyond the start-up

        reference = spelled(drive(fresh, ORDERS["oldest first"]))
        assert spelled(drive(fresh, ORDERS["newest first"], lambda event: True)) == reference

    @pytest.mark.parametrize("wrong", [{"rate": 1.0}, {"speed": 1e-3}, {"hidden": (1,)}, {"width": True}])
    def test_outside_the_domains_is_the_users_error(self, wrong: Params) -> None:
        with pytest.raises(UserError, match=rf"search\.start\[1\].*{next(iter(wrong))}"):
            make(start=({}, wrong))


class TestGrid:
    def test_visits_the_product_in_order(self) -> None:
        values = grid_values(FINITE)
        assert len(values) == 5 * 3 * 4
        assert [canonical_json(dict(v)) for v in values[:5]] == [
            '{"kind":1,"layers":1,"rate":0.1}',
            '{"kind":true,"layers":1,"rate":0.1}',
            '{"kind":"a","layers":1,"rate":0.1}',
            '{"kind":null,"layers":1,"rate":0.1}',
            '{"kind":1,"layers":3,"rate":0.1}',
        ]
        assert sorted({v["rate"] for v in values}, key=str) == [0.1, 0.2, 0.3, 0.4, 0.5]
        assert grid_values({}) == [{}]
        assert [p.params for p in all_asked(make("grid"))] == grid_values(dict(sorted(FINITE.items())))[:TRIALS]

    def test_says_what_it_cannot_do(self) -> None:
        with pytest.raises(UserError, match=r"nuisance\.rate is continuous"):
            grid_values(CONTINUOUS)
        with pytest.raises(UserError, match="at most the grid's size 60, but got 61"):
            make("grid", trials=61)
        with pytest.raises(UserError, match=r"remove search\.start"):
            make("grid", start=({"layers": 3},))


def stops_at(thresholds: tuple[float | None, ...], curve: list[float]) -> int | None:
    for epoch, threshold in enumerate(thresholds):
        if threshold is not None and max(curve[: epoch + 1]) < threshold:
            return epoch
    return None


class TestMedian:
    @pytest.mark.parametrize("seed", range(12))
    def test_decides_as_optunas_pruner(self, seed: int) -> None:
        draw = random.Random(seed)
        startup, warmup, complete = draw.randint(0, 4), draw.randint(0, 4), draw.randint(0, 6)

        def curve() -> list[float]:
            return [draw.choice([draw.gauss(0, 1), 0.0, float(draw.randint(-2, 2))]) for _ in range(8)]

        curves = [curve() for _ in range(complete)]
        pruner = optuna.pruners.MedianPruner(startup, warmup)
        for _ in range(6):
            study = optuna.create_study(direction="maximize", pruner=pruner)
            for told in curves:
                study.add_trial(optuna.trial.create_trial(value=told[-1], intermediate_values=dict(enumerate(told))))
            trial, new, pruned_at = study.ask(), curve(), None
            for epoch, value in enumerate(new):
                trial.report(value, epoch)
                if pruned_at is None and trial.should_prune():
                    pruned_at = epoch
            assert stops_at(median_thresholds(curves, startup, warmup, 8), new) == pruned_at

    def test_travels_with_the_trial(self) -> None:
        search = make("random", "median", startup=4, lag=1)
        curves = {0: [1.0, 5, 1, 1, 1, 9], 1: [3.0, 1, 2, 2, 2, 2], 3: [2.0, 3, 3, 0, 3, 3]}
        proposals = all_asked(search)
        assert [p.thresholds for p in proposals] == [()] * 4
        search.tell(2, State.DIVERGED, None, (100.0, 100.0))
        for number, curve in curves.items():
            search.tell(number, State.COMPLETE, curve[-1], curve)
        fifth = search.ask()
        assert fifth is not None
        assert fifth.thresholds == (None, 3.0, 2.0, 1.0, 2.0, None), "first epoch: warm-up; last: no use"

    def test_needs_enough_complete_trials(self) -> None:
        search = make("random", "median", startup=3, lag=1, setting=replace(SETTING, startup=3))
        for proposal in all_asked(search):
            state = State.STOPPED if proposal.number == 1 else State.COMPLETE
            search.tell(proposal.number, state, 0.0, (0.0,) * EPOCHS)
        fourth = search.ask()
        assert fourth is not None and fourth.thresholds == ()

    def test_curves_may_differ_in_length(self) -> None:
        assert median_thresholds([[1.0, 2.0], [3.0]], 1, 0, 3) == (2.0, 2.0, None)


def test_ranking_and_progress() -> None:
    search = make("random", trials=5)
    assert (search.asked, search.told_count, search.finished) == (0, 0, False)
    all_asked(search)
    ends = [(State.COMPLETE, -3.0), (State.COMPLETE, -1.0), (State.DIVERGED, None), (State.STOPPED, 7.0)]
    for number, (state, value) in enumerate(ends):
        search.tell(number, state, value, (0.0,))
    assert not search.finished
    search.tell(4, State.COMPLETE, -3.0, (0.0,))
    assert search.ranking() == [1, 0, 4]
    assert (search.asked, search.told_count, search.finished) == (5, 5, True)
    assert search.ask() is None


def test_telling_wrongly_is_our_own_mistake() -> None:
    search = make("random")
    search.ask()
    for number, state, value in [
        (1, State.COMPLETE, 0.0),
        (0, State.RUNNING, 0.0),
        (0, State.COMPLETE, math.nan),
    ]:
        with pytest.raises(AssertionError):
            search.tell(number, state, value, (0.0,))
    search.tell(0, State.COMPLETE, 0.0, (0.0,))
    with pytest.raises(AssertionError, match="told before"):
        search.tell(0, State.COMPLETE, 0.0, (0.0,))


def test_tables_are_readable_without_optuna() -> None:
    code = "import sys; from pipeline.search import pruners, samplers, study; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
