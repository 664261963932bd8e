"""Ask, tell and stopping rules of one search.

What is proposed for trial n is a pure function of (seed, replicate, n, results of trials 0..n-lag): neither the number
of workers, nor the order in which trials end, nor a restart can change it. For that, results are buffered and told to
the model in number order, only when the ask that needs them comes. Everything is maximised. Knows no arm (equal spaces
get equal draws), no ledger, no worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import UserError
from ..records import ENDED, Params, State
from ..study_file.values import Domain
from .pruners import PRUNERS, Setting, Thresholds
from .samplers import SAMPLERS, Draw, Plan, Proposal, Random, Told, quiet

DIVERGED_VALUE = -1e9
"""Told for a diverged trial while no trial is complete (nats per image; only its rank matters)."""


def waits_for_results(sampler: str, pruner: str) -> bool:
    """Whether a search's trials after the start-up need results of earlier ones; else all may be asked at once."""
    return SAMPLERS[sampler].model_based or PRUNERS[pruner].looks_at_others


class Search:
    """One tuning of one arm.

    Trial n >= `startup` of a model-based sampler, or of any with a stopping rule that looks at others, is asked
    with exactly trials 0..n-lag told; all others depend on nothing told and may be asked at once.
    """

    def __init__(
        self,
        *,
        sampler: str,
        pruner: str,
        setting: Setting,
        domains: Mapping[str, Domain],
        trials: int,
        startup: int,
        lag: int,
        seed: int,
        replicate: int,
        start: Sequence[Params] = (),
    ) -> None:
        """`start`: params of the first trials; names they leave out are drawn at random.

        Raises UserError when `start` leaves the domains, or the sampler cannot search them: a grid needs finitely many
        values and enough of them, cmaes numbers.
        """
        assert lag >= 1, lag
        # Studies that differ only in the order of their nuisance section are one study.
        domains = {name: domains[name] for name in sorted(domains)}
        self._plan = Plan(domains, seed, replicate, trials, startup, _inside(domains, start))
        self._sampler = SAMPLERS[sampler](self._plan)
        self._random = Random(self._plan)
        self._pruner, self._setting = PRUNERS[pruner], setting
        self._running: dict[int, list[float]] = {}
        """curves so far of trials that have not ended, where the stopping rule looks at them"""
        self._lag = lag if self._sampler.model_based or self._pruner.looks_at_others else None
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
        proposal = Proposal(number, params, self._thresholds(number, visible), attributes)
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
        self._running.pop(number, None)
        while self._gapless in self._told:
            self._gapless += 1

    def report(self, number: int, epoch: int, value: float) -> None:
        """A running trial's metric after `epoch`; heeded by stopping rules that look at rivals only."""
        if self._pruner.looks_at_rivals and number not in self._told:
            curve = self._running.setdefault(number, [])
            del curve[epoch - 1 :]  # it may have begun anew
            if len(curve) == epoch - 1:
                curve.append(value)

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

    def _propose(self, number: int, visible: int) -> Draw:
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

    def _thresholds(self, number: int, visible: int) -> Thresholds:
        if self._pruner.looks_at_rivals:
            curves: dict[int, Sequence[float]] = {**self._running, **{n: t.curve for n, t in self._told.items()}}
        else:
            curves = {n: t.curve for n in range(visible) if (t := self._told[n]).state is State.COMPLETE}
        # A stop after the last epoch would save nothing and cost a result.
        thresholds = self._pruner.thresholds(curves, number, self._setting)[:-1]
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
