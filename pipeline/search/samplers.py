"""The samplers: what is proposed for a trial, a pure function of the plan, of earlier proposals and of what is told.

A model gets a fresh sampler, seeded by the trial's number, for every proposal: none keeps a state of its own that a
restart could lose. Everything is maximised. Knows no lag, no stopping rule and no worker.
Optuna is imported inside the functions that use it (0.5 s): SAMPLERS is free to read.

- TPE: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011
- Gaussian process: Ament et al., Unexpected Improvements to Expected Improvement, NeurIPS 2023
- CMA-ES: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772
- scrambled Sobol: Owen, Scrambling Sobol' and Niederreiter-Xing points, J. Complexity 1998
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..errors import UserError
from ..records import Params, State, derive_seed
from ..study_file.values import ChoiceDomain, Domain
from .domains import decode, distribution, encode, grid_values
from .pruners import Thresholds

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


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
class Plan:
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
        """The domains in Optuna's words."""
        return {name: distribution(domain) for name, domain in self.domains.items()}

    def encoded(self, params: Params) -> dict[str, Any]:
        """A trial's values in Optuna's words."""
        return {name: encode(self.domains[name], value) for name, value in params.items()}


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


Draw = tuple[Params, Mapping[str, Any]]


class Sampler(Protocol):
    """Proposes a trial as (params, attributes): a pure function of its arguments and the plan.

    `earlier` holds the proposals before it, `told` how the first of them ended; the rest is running.
    """

    model_based: ClassVar[bool]
    """whether the proposal depends on `told`"""

    def __init__(self, plan: Plan) -> None: ...

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        """What trial `number` is."""
        ...


class Random:
    """Independent draws, each trial from its own seed."""

    model_based: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        """The draw of that number."""
        import optuna

        sampler = optuna.samplers.RandomSampler(seed=self._plan.seed_of("random", number))
        return _ask(optuna.create_study(sampler=sampler), self._plan), {}


class _Sobol:
    """Scrambled Sobol points in order; the index is the trial's number."""

    model_based: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._study: Study | None = None
        self._points: list[Params] = []

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
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
        _add_dummy(study, self._plan, {})
        return study


class _Grid:
    """Every combination once; the index is the trial's number."""

    model_based: ClassVar[bool] = False

    def __init__(self, plan: Plan) -> None:
        self._values = grid_values(plan.domains)
        if plan.start:
            raise UserError("a grid visits every point in its own order: remove search.start")
        if plan.trials > len(self._values):
            raise UserError(
                f"search.trials must be at most the grid's size {len(self._values)}, but got {plan.trials}: "
                "leave search.trials out to visit every point once"
            )

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        return self._values[number], {}


class _Tpe:
    """Start-up draws as in `Random`, then a fresh sampler for every ask on one in-memory study."""

    model_based: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        self._plan, self._random, self._history = plan, Random(plan), _History(plan)

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        if number < self._plan.startup:
            return self._random.propose(number, earlier, told)
        import optuna

        sampler = optuna.samplers.TPESampler(seed=self._plan.seed_of("tpe", number), n_startup_trials=0)
        return self._history.ask(sampler, earlier, told)


class _Gp:
    """The same with a Gaussian process. Trials that were stopped teach it nothing, running ones are counted in.

    It is fitted anew for every proposal, from torch's default start: nothing is handed on. Torch computes it in this
    process, which is therefore prepared as a worker's is: other threads or another code branch of MKL give other bits.
    """

    model_based: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        self._plan, self._random, self._history = plan, Random(plan), _History(plan)

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        if number < self._plan.startup:
            return self._random.propose(number, earlier, told)
        from ..execution.environment import prepare_process

        prepare_process()
        import optuna

        sampler = optuna.samplers.GPSampler(
            seed=self._plan.seed_of("gp", number), n_startup_trials=0, warn_independent_sampling=False
        )
        return self._history.ask(sampler, earlier, told)


class _CmaEs:
    """Start-up draws as in `Random`, then generations of CMA-ES; only complete trials count towards one.

    Optuna keeps the strategy's state as a pickle in an attribute of the trial that began a generation. None of those
    leaves this process: what is stored of a proposal is its generation, and the state follows from the first trials
    that completed each. A fresh study for every ask holds what Optuna looks at: a dummy with the state, and the
    complete trials of its generation.
    """

    model_based: ClassVar[bool] = True

    def __init__(self, plan: Plan) -> None:
        for name, domain in plan.domains.items():
            if isinstance(domain, ChoiceDomain) and len(domain.choices) > 1:
                raise UserError(
                    f"cmaes needs ranges of numbers, but nuisance.{name} is a choice ({domain}): "
                    "give a range, or take another search.sampler"
                )
        self._plan, self._random = plan, Random(plan)
        self._generation, self._state = 0, dict[str, Any]()

    def propose(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        if number < self._plan.startup:
            return self._random.propose(number, earlier, told)
        while True:
            params, attributes = self._ask(number, earlier, told)
            state = {name: value for name, value in attributes.items() if name.startswith(_CMA_STATE)}
            if not state:
                return params, attributes
            self._generation, self._state = self._generation + 1, state  # perhaps that one is complete too

    def _ask(self, number: int, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        import optuna
        from optuna.trial import create_trial

        seed = self._plan.seed_of("cmaes", number)
        sampler = optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        _add_dummy(study, self._plan, self._state)
        for proposal, end in zip(earlier, told, strict=False):
            if end.state is State.COMPLETE and proposal.attributes.get(_CMA_GENERATION) == self._generation:
                trial = create_trial(
                    value=end.value,
                    params=self._plan.encoded(proposal.params),
                    distributions=self._plan.distributions(),
                    system_attrs={_CMA_GENERATION: self._generation},
                )
                study.add_trial(trial)
        params = _ask(study, self._plan)
        return params, study.get_trials(deepcopy=False)[-1].system_attrs


_CMA_GENERATION, _CMA_STATE = "cma:generation", "cma:optimizer"
"""attributes of Optuna's sampler"""


class _History:
    """An in-memory study of all trials so far, told and running."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.study: Study | None = None
        self._told = 0

    def ask(self, sampler: BaseSampler, earlier: Sequence[Proposal], told: Sequence[Told]) -> Draw:
        """What `sampler` proposes next."""
        import optuna

        study = self.study = self.study or optuna.create_study(direction="maximize")
        self._catch_up(study, earlier, told)
        study.sampler = sampler
        params = _ask(study, self._plan)
        return params, dict(study.get_trials(deepcopy=False)[-1].system_attrs)

    def _catch_up(self, study: Study, earlier: Sequence[Proposal], told: Sequence[Told]) -> None:
        from optuna.trial import Trial, TrialState, create_trial

        for proposal in earlier[len(study.get_trials(deepcopy=False)) :]:
            running = create_trial(
                state=TrialState.RUNNING,
                params=self._plan.encoded(proposal.params),
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


def _add_dummy(study: Study, plan: Plan, attributes: Mapping[str, Any]) -> None:
    """A finished trial, for samplers that learn their space from one; it never reaches anybody."""
    import optuna

    distributions = plan.distributions()
    lowest = {name: getattr(d, "low", 0) for name, d in distributions.items()}
    dummy = optuna.trial.create_trial(
        params=lowest, distributions=distributions, value=0.0, system_attrs=dict(attributes)
    )
    study.add_trial(dummy)


def _ask(study: Study, plan: Plan) -> Params:
    drawn = study.ask(plan.distributions()).params
    return {name: decode(domain, drawn[name]) for name, domain in plan.domains.items()}


SAMPLERS: Mapping[str, type[Sampler]]
SAMPLERS = {"tpe": _Tpe, "gp": _Gp, "cmaes": _CmaEs, "random": Random, "qmc": _Sobol, "grid": _Grid}
"""Name in `search.sampler` -> sampler."""
