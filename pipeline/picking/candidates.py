"""Who stands for election: the configuration that each search chose, and how each arm stands on validation data.

Holds what the rules choose from; chooses nothing. Of test data it knows only whether a repeat converged.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..comparison import ArmResult, ReplicateResult, estimate, metric_value
from ..records import ENDED, Params, Phase, TrialKey, TrialRecord, canonical_json
from ..study_file.values import Domain


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one search chose; it converged on validation data and in at least one repeat."""

    arm: ArmResult
    result: ReplicateResult
    params: Params
    """the nuisance values"""
    hyperparameters: Params
    """as far as they are known here: fixed ones, the arm's, the nuisance values"""
    values: tuple[float, ...]
    """the search metric of the trainings that it was chosen by: the shortlist's, or the search's own"""
    fresh: tuple[float, ...]
    """the search metric of all its trainings on fresh seeds, repeats included: how much seeds matter"""
    measures: Mapping[str, float]
    """means over the trainings behind `values`: every metric, and `epochs`"""
    trial: TrialKey
    """the first converged repeat"""
    seed: int
    """of that repeat"""

    @property
    def validation(self) -> float:
        """What it is judged by, nats per image."""
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True, slots=True)
class Standing:
    """One arm by its searches' chosen configurations."""

    arm: ArmResult
    candidates: tuple[Candidate, ...]
    """by replicate; at least one"""
    mean: float
    """of the candidates' validation values"""
    standard_error: float | None
    """of `mean`; None where nothing tells it"""
    over: str
    """what the standard error is over, in words"""

    @property
    def best(self) -> Candidate:
        """Its candidate with the highest validation value; ties go to the first replicate."""
        return min(self.candidates, key=lambda one: (-one.validation, one.result.replicate))


@dataclass(frozen=True, slots=True)
class Contest:
    """All that a rule may look at."""

    candidates: tuple[Candidate, ...]
    """best first"""
    standings: tuple[Standing, ...]
    """of the arms with a candidate, in the study's order"""
    metric: str
    """on validation data, maximised"""
    domains: Mapping[str, Domain] = field(default_factory=dict)
    """of the nuisance hyperparameters"""
    searched: Mapping[str, Sequence[TrialRecord]] = field(default_factory=dict)
    """arm id -> its ended search trials of all replicates, in key order"""
    objectives: tuple[str, ...] = ()
    """asked for; empty: the rule's own"""
    memo: dict[TrialKey, Any] = field(default_factory=dict)
    """what a rule has computed of a candidate, by its trial; resamples share it"""

    def complete(self) -> list[Standing]:
        """The arms of which as many searches converged as of any: the others' means would flatter them."""
        most = max(len(one.candidates) for one in self.standings)
        return [one for one in self.standings if len(one.candidates) == most]

    def standing(self, arm: str) -> Standing:
        """An arm's, by its id."""
        return next(one for one in self.standings if one.arm.id == arm)

    def resampled(self, replicates: Sequence[int]) -> Contest | None:
        """The contest had the sweep had these replicates, each as often as it is named; None without candidates."""
        standings = []
        for one in self.standings:
            known = {candidate.result.replicate: candidate for candidate in one.candidates}
            found = tuple(known[number] for number in replicates if number in known)
            if found:
                standings.append(_standing(one.arm, found))
        drawn = set(replicates)
        candidates = tuple(one for one in self.candidates if one.result.replicate in drawn)
        return replace(self, standings=tuple(standings), candidates=candidates) if candidates else None


def make_contest(
    arms: Sequence[ArmResult],
    records: Iterable[TrialRecord],
    *,
    metric: str,
    fixed: Params,
    domains: Mapping[str, Domain],
    objectives: Sequence[str] = (),
) -> Contest:
    """The contest among `arms`. `fixed`: hyperparameters that no arm and no search decides."""
    by_search: dict[tuple[str, int], list[TrialRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.key):
        if record.state in ENDED:
            by_search[record.key.arm, record.key.replicate].append(record)
    standings: list[Standing] = []
    candidates: list[Candidate] = []
    searched: dict[str, Sequence[TrialRecord]] = {}
    for arm in arms:
        results = [(result, by_search[arm.id, result.replicate]) for result in arm.replicates]
        found = tuple(c for r, rows in results if (c := _candidate(arm, r, rows, metric, fixed)) is not None)
        searched[arm.id] = [row for _, rows in results for row in rows if row.key.phase == Phase.SEARCH]
        if found:
            standings.append(_standing(arm, found))
            candidates += found
    order = {arm.id: position for position, arm in enumerate(arms)}
    candidates.sort(key=lambda one: (-one.validation, order[one.arm.id], one.result.replicate))
    return Contest(tuple(candidates), tuple(standings), metric, domains, searched, tuple(objectives))


def _candidate(
    arm: ArmResult, result: ReplicateResult, rows: Sequence[TrialRecord], metric: str, fixed: Params
) -> Candidate | None:
    """None where no repeat converged, or where the configuration never converged on validation data."""
    if result.mean is None or result.params is None:
        return None
    params = canonical_json(dict(result.params))
    mine = [row for row in rows if canonical_json(dict(row.params)) == params]
    judged = [row for row in mine if row.key.phase == Phase.SHORTLIST]
    judged = judged or [row for row in mine if row.key.phase == Phase.SEARCH]
    values = [metric_value(row, metric) for row in judged]
    known = tuple(value for value in values if value is not None)
    if not known or len(known) < len(values):
        return None
    number = next(n for n, value in enumerate(result.values) if value is not None)
    repeat = next(row for row in mine if row.key.phase == Phase.REPEAT and row.key.number == number)
    fresh = [row for row in mine if row.key.phase != Phase.SEARCH and row.outcome and metric in row.outcome.metrics]
    again = (metric_value(row, metric) for row in fresh)
    return Candidate(
        arm=arm,
        result=result,
        params=result.params,
        hyperparameters={**fixed, **arm.values, **result.params},
        values=known,
        fresh=tuple(value for value in again if value is not None),
        measures=_measures(judged),
        trial=repeat.key,
        seed=repeat.seed,
    )


def _measures(rows: Sequence[TrialRecord]) -> dict[str, float]:
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    names = sorted(set.intersection(*(set(outcome.metrics) for outcome in outcomes)))
    means = {name: math.fsum(outcome.metrics[name] for outcome in outcomes) / len(outcomes) for name in names}
    return {**means, "epochs": sum(outcome.epochs for outcome in outcomes) / len(outcomes)}


def _standing(arm: ArmResult, found: tuple[Candidate, ...]) -> Standing:
    """Several searches tell the error of their mean; one tells only what its training seeds do."""
    over = estimate([one.validation for one in found], 0.5)
    assert over is not None
    if len(found) > 1 and over.sd is not None:
        return Standing(arm, found, over.mean, over.sd / math.sqrt(len(found)), f"over {len(found)} searches")
    seeds = estimate(found[0].fresh, 0.5)
    if seeds is None or seeds.sd is None:
        return Standing(arm, found, over.mean, None, "unknown: one training")
    error = seeds.sd / math.sqrt(len(found[0].values))
    words = f"over training seeds only ({seeds.count} trainings of the one configuration)"
    return Standing(arm, found, over.mean, error, words)
