"""One search from its first trial to its last repeat: search, then shortlist, then repeats.

Which trials are due, and what they are, is a pure function of the study and of how earlier trials ended: the same
after any restart and in any order of arrival. Knows no worker and no ledger.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .config import Study
from .ledger.soundness import damaged
from .picking import choose, shortlist
from .records import (
    ENDED,
    Params,
    Phase,
    State,
    Stopping,
    TrialKey,
    TrialOutcome,
    TrialRecord,
    TrialTask,
    canonical_json,
)
from .search.pruners import PRUNERS, Setting
from .search.samplers import Proposal, Told
from .search.study import Search
from .space import Arm, arms, has_shortlist, hyperparameters, search_trials, stream_seed, trial_seed

METRIC_CURVE = "val/elbo"


class Stages:
    """All trials of one arm and replicate."""

    def __init__(self, study: Study, arm: Arm, replicate: int, records: Iterable[TrialRecord] = ()) -> None:
        """`records`: what the ledger already holds of this arm and replicate."""
        self._study, self.arm, self.replicate = study, arm, replicate
        self.records: dict[TrialKey, TrialRecord] = {}
        """of an ended trial's outcome only what later trials and the progress depend on"""
        self.counts: Counter[tuple[Phase, State]] = Counter()
        """trials of each phase and state"""
        self.best: float | None = None
        """highest last value of a complete trial, nats per image"""
        self.outdated: list[TrialKey] = []
        """trials in the ledger that this study does not ask for: of a smaller one, for the driver to remove"""
        self._former: dict[TrialKey, TrialRecord] = {}
        """shortlist and repeats in the ledger, until it is clear that this study asks for the same"""
        self._ready: list[TrialRecord] = []
        """due since the restart"""
        self._fixed = hyperparameters(study, arm, {})
        self._search = Search(
            sampler=study.search.sampler,
            pruner=study.search.pruner,
            setting=_setting(study),
            domains=study.nuisance,
            trials=search_trials(study),
            startup=study.search.startup,
            lag=study.search.lag,
            seed=stream_seed(study, arm),
            replicate=replicate,
            start=study.search.start,
        )
        self._restore(sorted(records, key=lambda record: record.key))

    @property
    def finished(self) -> bool:
        """Whether every trial of all phases has ended."""
        return self._ended(Phase.REPEAT) == self._study.confirm.repeats

    @property
    def ended(self) -> int:
        """Trials of all phases that have ended."""
        return sum(self._ended(phase) for phase in Phase)

    @property
    def taken(self) -> set[TrialKey]:
        """The trials that are this study's, once there are any."""
        return {*self.records, *(record.key for record in self._ready)} - set(self.outdated)

    def expected(self) -> dict[Phase, int]:
        """Trials by phase: as planned, or as it came once the shortlist is known."""
        counts = {phase: self._known(phase) for phase in Phase}
        if not counts[Phase.REPEAT]:
            planned = self._study.confirm.candidates * self._study.confirm.candidate_seeds
            counts[Phase.SHORTLIST] = counts[Phase.SHORTLIST] or (planned if has_shortlist(self._study) else 0)
        return counts | {Phase.SEARCH: search_trials(self._study), Phase.REPEAT: self._study.confirm.repeats}

    def due(self) -> list[TrialRecord]:
        """New trials that may run now; each is handed out once."""
        new, self._ready = self._ready, []
        new += self._search_due()
        if not new and self._search.finished:
            new = self._confirm_due()
        for record in new:
            self._keep(record)
        return new

    def put(self, record: TrialRecord) -> None:
        """Takes the new version of a record of ours; an ended search trial is told to the search."""
        before = self.records[record.key]
        self._keep(record)
        if record.key.phase is Phase.SEARCH and record.state in ENDED and before.state not in ENDED:
            self._tell(self.records[record.key])

    def report(self, key: TrialKey, epoch: int, value: float) -> None:
        """A trial in training finished an epoch."""
        if key.phase is Phase.SEARCH:
            self._search.report(key.number, epoch, value)

    def task(self, record: TrialRecord) -> TrialTask:
        """What a worker needs to train the trial."""
        repeat = record.key.phase is Phase.REPEAT
        return TrialTask(
            key=record.key,
            hyperparameters={**self._fixed, **record.params},
            seed=record.seed,
            thresholds=record.thresholds,
            evaluate_test=repeat,
            keep_weights=repeat,
            stopping=stopping_of(self._study, record.key.phase),
        )

    def told(self, number: int) -> Told | None:
        """How the search's model is told of search trial `number`; None while that is open."""
        return self._search.as_told(number)

    def _restore(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            if record.key.phase is Phase.SEARCH:
                self._keep(record)
            else:
                self._former[record.key] = record
        searched = self._of(Phase.SEARCH)
        self._check(searched)
        self._search.restore([Proposal(r.key.number, r.params, tuple(r.thresholds), r.proposal) for r in searched])
        for record in searched:
            if record.state in ENDED:
                self._tell(record)
        if self._search.finished:
            self._ready = self._confirm_due()

    def _check(self, searched: Sequence[TrialRecord]) -> None:
        """Raises LedgerError where these are not the first trials of this search as far as it has come."""
        sweep = self._study.name
        for number, record in enumerate(searched):
            outcome = record.outcome or TrialOutcome(record.state)
            curve, whose = outcome.curves.get(METRIC_CURVE, ()), f"trial {str(record.key)!r} of sweep {sweep!r}"
            if record.key.number != number:
                raise damaged(whose, f"is there and number {number} of the same search is not")
            if set(record.params) != set(self._study.nuisance):
                raise damaged(
                    whose, f"has the parameters {', '.join(sorted(record.params)) or 'none'} of another study"
                )
            if outcome.state in (State.COMPLETE, State.STOPPED) and not (curve and all(map(math.isfinite, curve))):
                raise damaged(whose, f"is {outcome.state} without a finite {METRIC_CURVE} after every epoch")

    def _keep(self, record: TrialRecord) -> None:
        """Files a record and counts it."""
        before, phase = self.records.get(record.key), record.key.phase
        if before is not None:
            self.counts[phase, before.state] -= 1
        self.counts[phase, record.state] += 1
        if record.outcome is not None:
            record = replace(record, outcome=_slim(record.outcome, whole_curve=self._study.search.pruner != "none"))
            self.best = max((value for value in (self.best, _value(record)) if value is not None), default=None)
        self.records[record.key] = record

    def _tell(self, record: TrialRecord) -> None:
        outcome = record.outcome or TrialOutcome(State.FAILED)
        curve = outcome.curves.get(METRIC_CURVE, ())
        value = curve[-1] if curve and outcome.state in (State.COMPLETE, State.STOPPED) else None
        self._search.tell(record.key.number, outcome.state, value, curve)

    def _search_due(self) -> Iterable[TrialRecord]:
        while (proposal := self._search.ask()) is not None:
            record = self._new(Phase.SEARCH, proposal.number, proposal.number, proposal.params)
            yield replace(record, thresholds=proposal.thresholds, proposal=proposal.attributes)

    def _confirm_due(self) -> list[TrialRecord]:
        """The shortlist once the search has ended, the repeats once the shortlist has; missing ones only."""
        candidates = shortlist(self._search.ranking(), self._study.confirm.candidates) or [0]
        params = [self.records[TrialKey(self.arm.id, self.replicate, Phase.SEARCH, n)].params for n in candidates]
        chosen = params[0]
        if has_shortlist(self._study) and len(candidates) > 1:
            seeds = self._study.confirm.candidate_seeds
            wanted = [
                self._new(Phase.SHORTLIST, place * seeds + seed, seed, candidate)
                for place, candidate in enumerate(params)
                for seed in range(seeds)
            ]
            missing = self._missing(Phase.SHORTLIST, wanted)
            if missing or self._ended(Phase.SHORTLIST) < len(wanted):
                return missing
            values = [_value(record) for record in self._of(Phase.SHORTLIST)]
            places = [(place, values[place * seeds : (place + 1) * seeds]) for place in range(len(candidates))]
            chosen = params[choose(places)]
        repeats = [self._new(Phase.REPEAT, i, i, chosen) for i in range(self._study.confirm.repeats)]
        return self._missing(Phase.REPEAT, repeats)

    def _missing(self, phase: Phase, wanted: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Those that are to be trained; one in the ledger is taken over if it is the same trial."""
        former = {key: record for key, record in self._former.items() if key.phase is phase}
        missing = []
        for record in wanted:
            if record.key in self.records:
                continue
            known = former.get(record.key)
            if known is None or not _is_same(known, record):
                missing.append(record)
                continue
            del former[record.key], self._former[record.key]
            if known.state in ENDED:
                self._keep(known)
            else:
                missing.append(replace(known, state=State.WAITING))
        for key in former:
            del self._former[key]
            self.outdated.append(key)
        return missing

    def _new(self, phase: Phase, number: int, seed_index: int, params: Params) -> TrialRecord:
        key = TrialKey(self.arm.id, self.replicate, phase, number)
        return TrialRecord(key, params, trial_seed(self._study, phase, self.replicate, seed_index, self.arm))

    def _of(self, phase: Phase) -> list[TrialRecord]:
        found = [record for record in self.records.values() if record.key.phase is phase]
        return sorted(found, key=lambda record: record.key.number)

    def _known(self, phase: Phase) -> int:
        return sum(self.counts[phase, state] for state in State)

    def _ended(self, phase: Phase) -> int:
        return sum(self.counts[phase, state] for state in ENDED)


def _setting(study: Study) -> Setting:
    search = study.search
    return Setting(
        startup=search.pruner_startup,
        warmup=search.pruner_warmup_epochs,
        epochs=study.train.epochs,
        percentile=search.pruner_percentile,
        threshold_nats=search.pruner_threshold_nats,
        patience_epochs=search.pruner_patience_epochs,
        min_delta_nats=search.pruner_min_delta_nats,
    )


def stopping_of(study: Study, phase: Phase) -> Stopping:
    """How trials of a phase are judged beside their thresholds: those that measure a configuration never stop."""
    return PRUNERS[study.search.pruner].stopping(_setting(study)) if phase is Phase.SEARCH else Stopping()


def standing(study: Study, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials among a sweep's `records` that belong to `study`.

    All of them, but while a sweep is being extended: then some of the smaller one's may yet turn out to be others.
    """
    confirmed = {(r.key.arm, r.key.replicate) for r in records if r.key.phase is not Phase.SEARCH}
    by_search: dict[tuple[str, int], list[TrialRecord]] = defaultdict(list)
    for record in records:
        by_search[record.key.arm, record.key.replicate].append(record)
    known = {arm.id: arm for arm in arms(study)}
    kept: set[TrialKey] = set()
    for (arm, replicate), mine in by_search.items():
        if arm not in known:  # a larger study has begun since the caller read this one
            continue
        if (arm, replicate) in confirmed:
            kept |= Stages(study, known[arm], replicate, mine).taken
        else:
            kept.update(record.key for record in mine)
    return [record for record in records if record.key in kept]


def _is_same(record: TrialRecord, other: TrialRecord) -> bool:
    """Whether two records of a key are of the same training."""
    return record.seed == other.seed and canonical_json(dict(record.params)) == canonical_json(dict(other.params))


def _slim(outcome: TrialOutcome, *, whole_curve: bool) -> TrialOutcome:
    """Only what later trials depend on: a sweep's curves would fill the memory, and the ledger has them."""
    curve = outcome.curves.get(METRIC_CURVE, ())
    metrics = {name: value for name, value in outcome.metrics.items() if name == METRIC_CURVE}
    curves = {METRIC_CURVE: curve if whole_curve else curve[-1:]}
    return replace(outcome, curves=curves, metrics=metrics, epoch_times=(), files={})


def _value(record: TrialRecord) -> float | None:
    """The metric at the last epoch; None when the trial diverged or failed."""
    if record.outcome is None or record.outcome.state is not State.COMPLETE:
        return None
    value = record.outcome.metrics.get(METRIC_CURVE, math.nan)
    return value if math.isfinite(value) else None
