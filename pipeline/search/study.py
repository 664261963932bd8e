"""Ask, tell and stopping rules of one search.

What is proposed for trial n is a pure function of (seed, replicate, n, results of trials 0..n-lag): neither the number
of workers, nor the order in which trials end, nor a restart can change it. For that, results are buffered and told to
the model in number order, only when the ask that needs them comes. Everything is maximised. Knows no arm (equal spaces
get equal draws), no ledger, no worker.
Optuna is imported inside the functions that use it (0.5 s): SAMPLERS and PRUNERS are free to read.

- TPE: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011
- median rule: Golovin et al., Google Vizier, KDD 2017
- scrambled Sobol: Owen, Scrambling Sobol' and Niederreiter-Xing points, J. Complexity 1998
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Domain
from ..errors import UserError
from ..records import ENDED, Params, State, derive_seed
from .domains import decode, distribution, encode, grid_values

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

DIVERGED_VALUE = -1e9
"""Told for a diverged trial while no trial is complete (nats per image; only its rank matters)."""

Thresholds = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial to run, and all that has to be stored to go on after a restart."""

    number: int
    params: Params
    """the nuisance values by name, names sorted"""
    thresholds: Thresholds = ()
    """stopping rule: after epoch e the trial stops when its best metric so far is below entry e; empty: never"""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Optuna's system attributes of the proposal (JSON values)"""


@dataclass(frozen=True, slots=True)
class Told:
    """How a trial ended, as the model learns it."""

    state: State
    value: float | None
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a sampler is made from. `domains` are sorted by name, `start` is valid."""

    domains: Mapping[str, Domain]
    seed: int
    replicate: int
    trials: int
    startup: int
    start: tuple[Params, ...]

    def seed_of(self, purpose: str, number: int = 0) -> int:
        """32 bits, as NumPy's RandomState takes."""
        return derive_seed(self.seed, purpose, self.replicate, number) % 2**32

    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: distribution(domain) for name, domain in self.domains.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its information lines."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


_Draw = tuple[Params, Mapping[str, Any]]


class _Sampler(Protocol):
    """Proposes a trial as (params, attributes): a pure function of its arguments and the plan.

    `earlier` holds the proposals before it, `told` how the first of them ended; the rest is running.
    """

    model_based: bool
    """whether the proposal depends on `told`"""

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> _Draw: ...


class _Random:
    """Independent draws, each trial from its own seed."""

    model_based = False

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> _Draw:
        import optuna

        sampler = optuna.samplers.RandomSampler(seed=self._plan.seed_of("random", number))
        return _ask(optuna.create_study(sampler=sampler), self._plan), {}


class _Sobol:
    """Scrambled Sobol points in order; the index is the trial's number."""

    model_based = False

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._study: Study | None = None
        self._points: list[Params] = []

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> _Draw:
        study = self._study = self._study or self._fresh()
        while len(self._points) <= number:  # after a restart: draws those before once more
            self._points.append(_ask(study, self._plan))
        return self._points[number], {}

    def _fresh(self) -> Study:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.QMCSampler(scramble=True, seed=self._plan.seed_of("qmc"))
        study = optuna.create_study(sampler=sampler)
        # The sampler learns its space from the first finished trial and draws from the sequence only from there on:
        # this dummy never reaches anybody.
        distributions = self._plan.distributions()
        lowest = {name: getattr(d, "low", 0) for name, d in distributions.items()}
        study.add_trial(optuna.trial.create_trial(params=lowest, distributions=distributions, value=0.0))
        return study


class _Grid:
    """Every combination once; the index is the trial's number."""

    model_based = False

    def __init__(self, plan: _Plan) -> None:
        self._values = grid_values(plan.domains)
        if plan.start:
            raise UserError("a grid visits every point in its own order: remove search.start")
        if plan.trials > len(self._values):
            raise UserError(
                f"search.trials must be at most the grid's size {len(self._values)}, but got {plan.trials}: "
                "leave search.trials out to visit every point once"
            )

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> _Draw:
        return self._values[number], {}


class _Tpe:
    """Start-up draws as in `_Random`, then a fresh sampler for every ask on one in-memory study."""

    model_based = True

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._random = _Random(plan)
        self._study: Study | None = None
        self._told = 0

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> _Draw:
        if number < self._plan.startup:
            return self._random.propose(number, earlier, told)
        import optuna

        study = self._study = self._study or optuna.create_study(direction="maximize")
        self._catch_up(study, earlier, told)
        study.sampler = optuna.samplers.TPESampler(seed=self._plan.seed_of("tpe", number), n_startup_trials=0)
        params = _ask(study, self._plan)
        return params, dict(study.get_trials(deepcopy=False)[number].system_attrs)

    def _catch_up(self, study: Study, earlier: Sequence[Proposal], told: Sequence[Told]) -> None:
        from optuna.trial import Trial, TrialState, create_trial

        for proposal in earlier[len(study.get_trials(deepcopy=False)) :]:
            running = create_trial(
                state=TrialState.RUNNING,
                params={n: encode(self._plan.domains[n], value) for n, value in proposal.params.items()},
                distributions=self._plan.distributions(),
                system_attrs=dict(proposal.attributes),
            )
            study.add_trial(running)
        trials = study.get_trials(deepcopy=False)
        for number in range(self._told, len(told)):
            match told[number].state:
                case State.COMPLETE:
                    study.tell(number, told[number].value)
                case State.STOPPED:
                    trial = Trial(study, trials[number]._trial_id)
                    for epoch, value in enumerate(told[number].curve):
                        trial.report(value, epoch)
                    study.tell(number, state=TrialState.PRUNED)
                case _:
                    study.tell(number, state=TrialState.FAIL)
        self._told = len(told)


def _ask(study: Study, plan: _Plan) -> Params:
    drawn = study.ask(plan.distributions()).params
    return {name: decode(domain, drawn[name]) for name, domain in plan.domains.items()}


SAMPLERS: Mapping[str, Callable[[_Plan], _Sampler]]
SAMPLERS = {"tpe": _Tpe, "random": _Random, "qmc": _Sobol, "grid": _Grid}
"""Name in `search.sampler` -> sampler."""


def median_thresholds(curves: Sequence[Sequence[float]], startup: int, warmup: int, epochs: int) -> Thresholds:
    """Per epoch, the median of the complete trials' metric: what a trial's best so far must reach.

    None before epoch `warmup`, and everywhere while there are fewer than `startup` complete trials.
    Decides as `optuna.pruners.MedianPruner(startup, warmup)` does.
    """
    if len(curves) < max(startup, 1):
        return ()
    values = ([curve[epoch] for curve in curves if epoch < len(curve)] for epoch in range(epochs))
    return tuple(statistics.median(v) if v and e >= warmup else None for e, v in enumerate(values))


PRUNERS: Mapping[str, Callable[[Sequence[Sequence[float]], int, int, int], Thresholds]]
PRUNERS = {"none": lambda *_: (), "median": median_thresholds}
"""Name in `search.pruner` -> (curves of complete trials, startup, warmup, epochs) -> thresholds."""


class Search:
    """One tuning of one arm.

    Trial n >= `startup` of a model-based sampler, and of any sampler with a stopping rule, is asked with exactly trials
    0..n-lag told; all others depend on nothing told and may be asked at once.
    """

    def __init__(
        self,
        *,
        sampler: str,
        pruner: str,
        domains: Mapping[str, Domain],
        trials: int,
        startup: int,
        lag: int,
        pruner_startup: int,
        pruner_warmup_epochs: int,
        epochs: int,
        seed: int,
        replicate: int,
        start: Sequence[Params] = (),
    ) -> None:
        """`start`: params of the first trials; names they leave out are drawn at random.

        Raises UserError when `start` leaves the domains, or a grid is continuous or too small.
        """
        assert lag >= 1, lag
        # Studies that differ only in the order of their nuisance section are one study.
        domains = {name: domains[name] for name in sorted(domains)}
        self._plan = _Plan(domains, seed, replicate, trials, startup, _inside(domains, start))
        self._sampler = SAMPLERS[sampler](self._plan)
        self._random = _Random(self._plan)
        self._pruner, self._rule = PRUNERS[pruner], (pruner_startup, pruner_warmup_epochs, epochs)
        self._lag = lag if self._sampler.model_based or pruner != "none" else None
        self._proposals: list[Proposal] = []
        self._told: dict[int, Told] = {}
        self._gapless, self._model = 0, list[Told]()
        """all before trial `gapless` are told; what the model was told of the first ones"""

    @property
    def asked(self) -> int:
        """How many trials were proposed: numbers 0..asked-1."""
        return len(self._proposals)

    @property
    def told_count(self) -> int:
        """How many trials have ended."""
        return len(self._told)

    @property
    def finished(self) -> bool:
        """Every trial of this search was asked and has ended."""
        return self.asked == self.told_count == self._plan.trials

    def ask(self) -> Proposal | None:
        """The next trial; None when all are asked, or when the next one needs results still out."""
        number = self.asked
        if number >= self._plan.trials:
            return None
        visible = self._visible(number)
        if self._gapless < visible:
            return None
        with quiet():
            params, attributes = self._propose(number, visible)
        proposal = Proposal(number, params, self._thresholds(visible), attributes)
        self._proposals.append(proposal)
        return proposal

    def tell(self, number: int, state: State, value: float | None, curve: Sequence[float]) -> None:
        """How trial `number` ended; in any order, once each.

        `value`: the metric at the last epoch, read of complete trials only. `curve`: per finished epoch.
        """
        assert 0 <= number < self.asked and state in ENDED, (number, self.asked, state)
        assert number not in self._told, f"trial {number} was told before"
        assert state is not State.COMPLETE or (value is not None and math.isfinite(value)), value
        assert state is not State.STOPPED or (curve and all(map(math.isfinite, curve))), curve
        self._told[number] = Told(state, value, tuple(curve))
        while self._gapless in self._told:
            self._gapless += 1

    def restore(self, proposals: Sequence[Proposal]) -> None:
        """Takes up what an interrupted search had asked, in number order; then `tell` what has ended.

        Nothing is sampled anew: the next ask is that of a search that was never interrupted.
        """
        assert not self._proposals, "restore before the first ask"
        assert [proposal.number for proposal in proposals] == list(range(len(proposals)))
        assert all(set(proposal.params) == set(self._plan.domains) for proposal in proposals)
        self._proposals.extend(proposals)

    def as_told(self, number: int) -> Told | None:
        """How trial `number` is told to the model; None while that depends on trials still out."""
        return self._for_model(number) if number < self.asked and self._settled(number) <= self._gapless else None

    def ranking(self) -> list[int]:
        """Numbers of the complete trials, best first; a tie goes to the lower number."""
        ended = [(n, told.value) for n, told in self._told.items() if told.state is State.COMPLETE]
        return [n for _, n in sorted((-value, n) for n, value in ended if value is not None)]

    def _visible(self, number: int) -> int:
        """How many trials, from the first on, the proposal of `number` may depend on."""
        if self._lag is None or number < self._plan.startup:
            return 0
        return max(number - self._lag + 1, 0)

    def _propose(self, number: int, visible: int) -> _Draw:
        if number < len(self._plan.start):
            drawn, attributes = self._random.propose(number, (), ())
            return {**drawn, **self._plan.start[number]}, attributes
        self._model += [self._for_model(n) for n in range(len(self._model), visible)]
        return self._sampler.propose(number, self._proposals, self._model)

    def _for_model(self, number: int) -> Told:
        """What the model is told: a diverged trial is one that completed far below all others.

        Looks at the trials told up to the ask at which `number` is told first, so that a restart, which tells many at
        once, tells the same.
        """
        told = self._told[number]
        if told.state is not State.DIVERGED:
            return told
        known = range(self._settled(number))
        values = [self._told[n].value for n in known if self._told[n].state is State.COMPLETE]
        return Told(State.COMPLETE, diverged_value([v for v in values if v is not None]), ())

    def _settled(self, number: int) -> int:
        """How many trials, from the first on, decide what is told of `number`."""
        return min(max(number + 1, self._visible(self._plan.startup)), self._plan.trials)

    def _thresholds(self, visible: int) -> Thresholds:
        curves = [t.curve for n in range(visible) if (t := self._told[n]).state is State.COMPLETE]
        # A stop after the last epoch would save nothing and cost a result.
        thresholds = self._pruner(curves, *self._rule)[:-1]
        return () if all(entry is None for entry in thresholds) else (*thresholds, None)


def _inside(domains: Mapping[str, Domain], start: Sequence[Params]) -> tuple[Params, ...]:
    """`start` itself. Raises UserError for a name or a value outside `domains`."""
    for index, params in enumerate(start):
        for name, value in params.items():
            if name not in domains or not domains[name].contains(value):
                raise UserError(
                    f"search.start[{index}] must hold nuisance parameters ({', '.join(domains) or 'none'}) "
                    f"inside their domains, but got {name}: {value!r} (domain: {domains.get(name, 'none')})"
                )
    return tuple(start)


def diverged_value(values: Sequence[float]) -> float:
    """What a diverged trial counts as beside the complete trials' `values`: worst - range.

    Where there is no range, something clearly below the worst, lest it tie with the best.
    """
    if not values:
        return DIVERGED_VALUE
    worst = min(values)
    return worst - (max(values) - worst or max(abs(worst), 1.0))
