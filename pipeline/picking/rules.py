"""The rules by which `best` takes a configuration: one table, name -> function of a Contest.

A rule looks at validation data only, and at nothing that depends on the order of arrival.

- Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (one standard error)
- Zeleny, Multiple Criteria Decision Making, 1982 (the point nearest to the ideal one)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..records import Params, Value
from .candidates import Candidate, Contest, Standing
from .robust import by_worst_decile


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One arm that no other beats in every objective."""

    label: str
    values: Params
    """the arm's scientific values"""
    objectives: Mapping[str, float]
    """by name, means over the arm's chosen configurations"""
    taken: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule takes, and why."""

    candidate: Candidate
    why: str
    front: tuple[FrontPoint, ...] = ()
    """empty but for `pareto`"""
    left_out: tuple[str, ...] = ()
    """what the rule could not judge, with the reason"""


@dataclass(frozen=True, slots=True)
class Objective:
    """Something to trade validation values against."""

    sign: int
    """1: more is better, -1: less is"""
    words: str
    source: Callable[[Candidate], Value]
    """None where a candidate does not report it"""


OBJECTIVES: Mapping[str, Objective] = {
    "elbo": Objective(1, "mean val/elbo", lambda one: one.validation),
    "size": Objective(-1, "latent_dim", lambda one: one.hyperparameters.get("latent_dim")),
    "units": Objective(-1, "hidden units of encoder", lambda one: hidden_units(one)),
    "rate": Objective(-1, "val/rate", lambda one: one.measures.get("val/rate")),
    "distortion": Objective(-1, "val/distortion", lambda one: one.measures.get("val/distortion")),
    "active_units": Objective(1, "val/active_units", lambda one: one.measures.get("val/active_units")),
    "epochs": Objective(-1, "epochs trained", lambda one: one.measures["epochs"]),
}
"""name in `best --objectives` -> what it looks at, and which way is better"""
DEFAULT_OBJECTIVES = ("elbo", "size")


def hidden_units(candidate: Candidate) -> int:
    """Sum of the widths in `hidden`; 0 where it is not known."""
    hidden = candidate.hyperparameters.get("hidden")
    return sum(hidden) if isinstance(hidden, tuple) else 0


def highest(contest: Contest) -> Choice:
    """`max`: the highest mean validation value of all chosen configurations."""
    best, metric = contest.candidates[0], contest.metric
    mean = f"mean of {len(best.values)} fresh seeds" if len(best.values) > 1 else "one training"
    arms, several = len(contest.standings), len(contest.candidates) > 1
    over = f"over {arms} arms" if arms > 1 else "of one arm"
    of = f"of {len(contest.candidates)} chosen configurations {over}" if several else "the only candidate"
    return Choice(best, f"highest {metric} ({best.validation:.2f} nats, {mean}) {of}")


def one_standard_error(contest: Contest) -> Choice:
    """`one_se`: the smallest model among the arms within one standard error of the best arm's mean.

    An arm's mean is over its searches' chosen configurations, and the standard error that of the best
    arm's mean over its searches; with one search it is over the training seeds of that search's chosen
    configuration. Small is the smaller `latent_dim`, then fewer hidden units, then the higher mean.
    Of the arm's configurations the one with the highest validation value is taken.
    """
    standings = contest.complete()
    best = max(standings, key=lambda one: one.mean)  # the first of equals
    error = best.standard_error
    near = [one for one in standings if one.mean >= best.mean - (error or 0.0)]
    taken = min(near, key=lambda one: (*_size(one.best), -one.mean))
    of = f"the best arm's mean {contest.metric} ({best.arm.label}: {best.mean:.2f} nats)"
    if error is None:
        why = f"highest mean {contest.metric} ({best.mean:.2f} nats): one training tells no standard error"
    elif taken is best:
        why = (
            f"the best arm by mean {contest.metric} ({best.mean:.2f} nats), and none smaller is within one "
            f"standard error of it ({error:.2f}, {best.over})"
        )
    else:
        why = (
            f"smallest model (latent_dim {taken.best.hyperparameters.get('latent_dim', 'unknown')}) whose mean "
            f"({taken.mean:.2f}) is within one standard error ({error:.2f}, {best.over}) of {of}"
        )
    return Choice(taken.best, why, left_out=_incomplete(contest))


def _size(candidate: Candidate) -> tuple[float, int]:
    latent = candidate.hyperparameters.get("latent_dim")
    return (latent if isinstance(latent, int) else math.inf, hidden_units(candidate))


def _incomplete(contest: Contest) -> tuple[str, ...]:
    complete = {one.arm.id for one in contest.complete()}
    lost = [one.arm.label for one in contest.standings if one.arm.id not in complete]
    return tuple(f"{label}: fewer searches converged than of other arms" for label in lost)


def pareto(contest: Contest) -> Choice:
    """`pareto`: of the arms that no other beats in every objective, the one nearest to the best of everything.

    An arm's objectives are means over its searches' chosen configurations. For the distance each objective
    is scaled to 0..1 over the front; ties go to the better in the first objective, then in the second, ...
    """
    names = contest.objectives or DEFAULT_OBJECTIVES
    points = {one.arm.id: objectives_of(one, names) for one in contest.complete()}
    for name in names:
        if any(values[name] is None for values in points.values()):
            raise UserError(f"--objectives must be reported by every arm, but {name!r} is not; leave it out")
    signed = {arm: [OBJECTIVES[n].sign * float(values[n] or 0) for n in names] for arm, values in points.items()}
    front: dict[str, list[float]] = {}
    for arm, mine in sorted(signed.items(), key=lambda item: [-value for value in item[1]]):
        if not any(_beats(other, mine) for other in front.values()):  # what beats an arm comes before it
            front[arm] = mine
    ends = [(min(column), max(column)) for column in zip(*front.values(), strict=True)]

    def distance(arm: str) -> float:
        scaled = ((high - x) / ((high - low) or 1.0) for x, (low, high) in zip(front[arm], ends, strict=True))
        return math.fsum(part**2 for part in scaled)

    taken = min(front, key=lambda arm: (distance(arm), *(-value for value in front[arm])))
    by_id = {one.arm.id: one.arm for one in contest.standings}
    rows = tuple(
        FrontPoint(one.label, one.values, {name: float(points[one.id][name] or 0) for name in names}, one.id == taken)
        for one in (by_id[arm] for arm in front)
    )
    best_of = ", ".join(f"{'high' if OBJECTIVES[name].sign > 0 else 'low'} {name}" for name in names)
    why = f"the only arm that no other beats in {best_of}"
    if len(front) > 1:
        why = (
            f"of the {len(front)} arms that no other beats in {best_of}, the nearest to the best of everything "
            "(each scaled to 0..1 over the front)"
        )
    return Choice(contest.standing(taken).best, why, rows, _incomplete(contest))


def objectives_of(standing: Standing, names: Sequence[str]) -> dict[str, float | None]:
    """An arm's objectives: means over its candidates; None where one does not report it."""
    found: dict[str, float | None] = {}
    for name in names:
        values = [OBJECTIVES[name].source(one) for one in standing.candidates]
        known = [float(value) for value in values if isinstance(value, int | float)]
        found[name] = math.fsum(known) / len(known) if len(known) == len(values) else None
    return found


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def robust(contest: Contest) -> Choice:
    """`robust`: the highest worst decile of validation values under small changes of the nuisance values.

    See robust.py for the estimator. Ties go to the higher validation value.
    """
    scores, skipped = by_worst_decile(contest)
    place = min(range(len(scores)), key=lambda at: (-scores[at].value, at))
    best = scores[place]
    found = f"{best.value:.2f} nats" if math.isfinite(best.value) else "diverged, as of all others"
    why = (
        f"of {len(scores)} chosen configurations the highest worst decile of {contest.metric} ({found}; itself "
        f"{best.candidate.validation:.2f}) under small changes, here {best.changes}; told by the {best.trials} "
        f"search trials so near, of {best.replicates} searches"
    )
    return Choice(best.candidate, why, left_out=skipped)


Rule = Callable[[Contest], Choice]

RULES: Mapping[str, Rule] = {
    "max": highest,
    "one_se": one_standard_error,
    "pareto": pareto,
    "robust": robust,
}
"""name in `best --rule` -> rule"""
