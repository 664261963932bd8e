"""How bad a configuration may get when its nuisance values are a little off, from the search trials near it.

The neighbourhood of a configuration is a box in the unit cube of the nuisance domains (their logarithms
where they are searched so): each number moves by at most `RADIUS` of its range and stays in its domain; a
choice keeps its value. Every point of the box is valued as the trial nearest to it (largest move of any
number), of all the arm's searches; the score is the worst decile over the box. So a trial counts by the room
it speaks for: a sampler that tries one spot again and again, or one arm that has more trials near by than
another, does not change what is asked. A diverged trial is below all values. A trial is one training, so
the score holds the noise of training as well, and it is no better than the trials are dense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..comparison import metric_value
from ..errors import UserError, VaeSweepError
from ..records import Params, TrialRecord, Value, canonical_json, derive_seed
from ..study_file.values import ChoiceDomain, FloatDomain, IntDomain
from .candidates import Candidate, Contest

Range = FloatDomain | IntDomain

RADIUS = 0.15
"""of a range; of two decades it is a factor of two"""
MIN_TRIALS = 5
"""search trials in the box, below which nothing is said"""
POINTS = 1000
"""at which the box is valued: the decile's own standard error is 1% of the box"""


@dataclass(frozen=True, slots=True)
class Score:
    """A candidate's worst decile."""

    candidate: Candidate
    value: float
    """nats per image; -inf where more than a tenth of the box is nearest to diverged trials"""
    trials: int
    """search trials in the box"""
    replicates: int
    """searches they are of"""
    changes: str
    """the box in words"""


def by_worst_decile(contest: Contest) -> tuple[list[Score], tuple[str, ...]]:
    """The score of every candidate with enough trials near it, in the contest's order; the others, with the reason.

    Raises UserError where no number is tuned, and VaeSweepError where no candidate has enough trials.
    """
    if all(isinstance(domain, ChoiceDomain) for domain in contest.domains.values()):
        what = ", ".join(contest.domains) or "nothing"
        raise UserError(f"--rule robust changes tuned numbers a little, but tuned here is {what}; take --rule max")
    scores, skipped, most = [], [], 0
    for candidate in contest.candidates:
        found: Score = contest.memo.get(candidate.trial) or _score(candidate, contest)
        contest.memo[candidate.trial] = found
        most = max(most, found.trials)
        if found.trials >= MIN_TRIALS:
            scores.append(found)
        else:
            where = f"{candidate.arm.label}, replicate {candidate.result.replicate}"
            skipped.append(f"{where}: {found.trials} search trials near it, {MIN_TRIALS} needed")
    if not scores:
        raise VaeSweepError(
            f"--rule robust needs {MIN_TRIALS} search trials within {RADIUS:.0%} of each tuned range around a chosen "
            f"configuration, but got at most {most}; raise search.trials (run --extend), or take --rule one_se"
        )
    return scores, tuple(skipped)


def _score(candidate: Candidate, contest: Contest) -> Score:
    numbers = {name: domain for name, domain in contest.domains.items() if not isinstance(domain, ChoiceDomain)}
    choices = [name for name in contest.domains if name not in numbers]
    alike = [row for row in contest.searched[candidate.arm.id] if _same(row.params, candidate.params, choices)]
    centre = np.array(_place(candidate.params, numbers))
    changes = _in_words(candidate.params, numbers)
    if not alike:
        return Score(candidate, -math.inf, 0, 0, changes)
    places = np.array([_place(row.params, numbers) for row in alike])
    near = np.max(np.abs(places - centre), axis=1) <= RADIUS + 1e-12
    value = worst_decile(centre, places, [_value(row, contest.metric) for row in alike])
    replicates = {row.key.replicate for row, inside in zip(alike, near, strict=True) if inside}
    return Score(candidate, value, int(near.sum()), len(replicates), changes)


def worst_decile(centre: np.ndarray, places: np.ndarray, values: Sequence[float]) -> float:
    """The value that a tenth of the box around `centre` (D,) is no better than.

    `places`: (N, D) in the unit cube, one a trial; `values`: N, -inf where it diverged.
    """
    low, high = np.maximum(centre - RADIUS, 0.0), np.minimum(centre + RADIUS, 1.0)
    draws = np.random.default_rng(derive_seed("robust", "points")).random((POINTS, len(centre)))
    points = low + draws * (high - low)
    nearest = np.zeros(POINTS, dtype=np.int64)
    least = np.full(POINTS, np.inf)
    for number, place in enumerate(places):  # ties go to the trial with the lower key
        distance = np.max(np.abs(points - place), axis=1)
        nearest = np.where(distance < least, number, nearest)
        least = np.minimum(distance, least)
    ordered = np.sort(np.array(values, dtype=np.float64)[nearest])
    return float(ordered[math.ceil(0.1 * POINTS) - 1])


def _value(row: TrialRecord, metric: str) -> float:
    found = metric_value(row, metric)
    return -math.inf if found is None else found


def _same(one: Params, other: Params, names: Sequence[str]) -> bool:
    return all(canonical_json(one[name]) == canonical_json(other[name]) for name in names)


def _place(params: Params, numbers: Mapping[str, Range]) -> list[float]:
    """Where the nuisance values lie in the unit cube."""
    return [_unit(params[name], domain) for name, domain in numbers.items()]


def _unit(value: Value, domain: Range) -> float:
    assert isinstance(value, int | float)
    x, low, high = float(value), float(domain.low), float(domain.high)
    if domain.log:
        x, low, high = math.log(x), math.log(low), math.log(high)
    return (x - low) / (high - low) if high > low else 0.5


def _in_words(params: Params, numbers: Mapping[str, Range]) -> str:
    """`learning_rate is anything from 0.001 to 0.004`."""
    parts = []
    for name, domain in numbers.items():
        at = _unit(params[name], domain)
        low, high = (_back(min(max(at + move, 0.0), 1.0), domain) for move in (-RADIUS, RADIUS))
        parts.append(f"{name} is anything from {low:.3g} to {high:.3g}")
    return " and ".join(parts)


def _back(at: float, domain: Range) -> float:
    if domain.log:
        return math.exp(math.log(domain.low) + at * (math.log(domain.high) - math.log(domain.low)))
    return domain.low + at * (domain.high - domain.low)
