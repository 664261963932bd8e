"""One search from its first trial to its last repeat: search, then shortlist, then repeats.

Which trials are due, and what they are, is a pure function of the study and of how earlier trials ended: the same
after any restart and in any order of arrival. Knows no worker and no ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from .config import Study
from .picking import choose, shortlist
from .records import ENDED, Params, Phase, State, TrialKey, TrialOutcome, TrialRecord, TrialTask
from .space import Arm, has_shortlist, hyperparameters, search_trials, trial_seed
from .study import Proposal, Search

METRIC_CURVE = "val/elbo"


class Stages:
    """All trials of one arm and replicate."""

    def __init__(self, study: Study, arm: Arm, replicate: int, records: Iterable[TrialRecord] = ()) -> None:
        """`records`: what the ledger already holds of this arm and replicate."""
        self._study, self.arm, self.replicate = study, arm, replicate
        self.records: dict[TrialKey, TrialRecord] = {}
        self._search = Search(
            sampler=study.search.sampler,
            pruner=study.search.pruner,
            domains=study.nuisance,
            trials=search_trials(study),
            startup=study.search.startup,
            lag=study.search.lag,
            pruner_startup=study.search.pruner_startup,
            pruner_warmup_epochs=study.search.pruner_warmup_epochs,
            epochs=cast(int, hyperparameters(study, arm, {})["epochs"]),
            seed=study.seed,
            replicate=replicate,
            start=study.search.start,
        )
        self._restore(sorted(records, key=lambda record: record.key))

    @property
    def finished(self) -> bool:
        """Whether every trial of all phases has ended."""
        repeats = self._of(Phase.REPEAT)
        return len(repeats) == self._study.confirm.repeats and _all_ended(repeats)

    def expected(self) -> dict[Phase, int]:
        """Trials by phase: as planned, or as it came once the shortlist is known."""
        counts = {phase: sum(key.phase is phase for key in self.records) for phase in Phase}
        if not counts[Phase.REPEAT]:
            planned = self._study.confirm.candidates * self._study.confirm.candidate_seeds
            counts[Phase.SHORTLIST] = counts[Phase.SHORTLIST] or (planned if has_shortlist(self._study) else 0)
        return counts | {Phase.SEARCH: search_trials(self._study), Phase.REPEAT: self._study.confirm.repeats}

    def due(self) -> list[TrialRecord]:
        """New trials that may run now; each is handed out once."""
        new = list(self._search_due())
        if not new and self._search.finished:
            new = self._confirm_due()
        self.records.update((record.key, record) for record in new)
        return new

    def put(self, record: TrialRecord) -> None:
        """Takes the new version of a record of ours; an ended search trial is told to the search."""
        before = self.records[record.key]
        self.records[record.key] = record
        if record.key.phase is Phase.SEARCH and record.state in ENDED and before.state not in ENDED:
            self._tell(record)

    def task(self, record: TrialRecord) -> TrialTask:
        """What a worker needs to train the trial."""
        repeat = record.key.phase is Phase.REPEAT
        return TrialTask(
            key=record.key,
            hyperparameters=hyperparameters(self._study, self.arm, record.params),
            seed=record.seed,
            thresholds=record.thresholds,
            evaluate_test=repeat,
            keep_weights=repeat,
        )

    def _restore(self, records: Sequence[TrialRecord]) -> None:
        self.records = {record.key: record for record in records}
        searched = self._of(Phase.SEARCH)
        self._search.restore([Proposal(r.key.number, r.params, tuple(r.thresholds), r.proposal) for r in searched])
        for record in searched:
            if record.state in ENDED:
                self._tell(record)

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
            missing = [record for record in wanted if record.key not in self.records]
            tried = self._of(Phase.SHORTLIST)
            if missing or not _all_ended(tried):
                return missing
            values = [_value(record) for record in tried]
            places = [(place, values[place * seeds : (place + 1) * seeds]) for place in range(len(candidates))]
            chosen = params[choose(places)]
        repeats = [self._new(Phase.REPEAT, i, i, chosen) for i in range(self._study.confirm.repeats)]
        return [record for record in repeats if record.key not in self.records]

    def _new(self, phase: Phase, number: int, seed_index: int, params: Params) -> TrialRecord:
        key = TrialKey(self.arm.id, self.replicate, phase, number)
        return TrialRecord(key, params, trial_seed(self._study, phase, self.replicate, seed_index))

    def _of(self, phase: Phase) -> list[TrialRecord]:
        return [self.records[key] for key in sorted(self.records) if key.phase is phase]


def _all_ended(records: Sequence[TrialRecord]) -> bool:
    return all(record.state in ENDED for record in records)


def _value(record: TrialRecord) -> float | None:
    """The metric at the last epoch; None when the trial diverged or failed."""
    if record.outcome is None or record.outcome.state is not State.COMPLETE:
        return None
    value = record.outcome.metrics.get(METRIC_CURVE, math.nan)
    return value if math.isfinite(value) else None
