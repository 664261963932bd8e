"""The search trials of a sweep as the analyses need them: what they reached, what it cost, which are independent draws.

Knows no statistics and no figure; records in any order in, the same records out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..comparison import metric_value
from ..records import ENDED, Phase, State, TrialRecord
from ..search.pruners import PRUNERS
from .shapes import SearchPoint

if TYPE_CHECKING:
    from ..config import SearchSection


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """One ended search trial."""

    point: SearchPoint
    best_value: float
    """what it counts as where the best is looked for, -inf unless it completed"""
    completed: bool
    """to its last epoch: neither stopped, nor diverged, nor failed"""
    diverged: bool
    epochs: int
    independent: bool
    """drawn at random and under no stopping rule that looks at others: nothing it did depends on another trial"""


def drawn_at_random(search: SearchSection, number: int) -> bool:
    """Whether trial `number` of a search was drawn at random, whatever the others did.

    Not so: points that were given, points of a sequence or a grid, and what a model proposed.
    """
    if number < len(search.start) or search.sampler in ("qmc", "grid"):
        return False
    return search.sampler == "random" or number < search.startup


def search_trials(records: Iterable[TrialRecord], search: SearchSection) -> list[SearchTrial]:
    """The ended search trials, in key order."""
    ended = [record for record in records if record.key.phase is Phase.SEARCH and record.state in ENDED]
    return [_trial(record, search) for record in sorted(ended, key=lambda record: record.key)]


def _trial(record: TrialRecord, search: SearchSection) -> SearchTrial:
    key, value = record.key, metric_value(record, search.metric)
    at_random = drawn_at_random(search, key.number)
    completed = record.state is State.COMPLETE and value is not None
    alone = not PRUNERS[search.pruner].looks_at_others
    return SearchTrial(
        point=SearchPoint(key.arm, key.replicate, key.number, dict(record.params), value, at_random),
        best_value=value if completed and value is not None else -math.inf,
        completed=completed,
        diverged=record.state is State.DIVERGED,
        epochs=record.outcome.epochs if record.outcome else 0,
        independent=at_random and (alone or all(threshold is None for threshold in record.thresholds)),
    )


def without_gaps(trials: Sequence[SearchTrial], replicates: int) -> list[list[SearchTrial]]:
    """By replicate, the first trials of each search up to the first that has not ended.

    Beyond a gap those that end early are there and those that train on are not: no fair sample.
    """
    searches: list[list[SearchTrial]] = [[] for _ in range(replicates)]
    for trial in trials:
        mine = searches[trial.point.replicate]
        if trial.point.number == len(mine):
            mine.append(trial)
    return searches
