"""Which configuration to take, and why: out of a search, and out of the whole sweep.

Selection is on validation data only; test values are carried along for the reader. The rules of the choice
over all arms are in rules.py. Knows no ledger and no terminal. All metrics are maximised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..comparison import ArmResult, Comparison, Estimate, estimate
from ..errors import UserError, VaeSweepError
from ..records import Params, Phase, TrialKey, TrialRecord
from ..study_file.values import Domain
from .candidates import Candidate, Contest, make_contest
from .certainty import Certainty, certainty
from .rules import OBJECTIVES, RULES, Choice, FrontPoint, highest


@dataclass(frozen=True, slots=True)
class Pick:
    """The configuration to take over all arms, and what speaks for it."""

    rule: str
    arm: str
    label: str
    values: Params
    """the arm's scientific values"""
    replicate: int
    params: Params
    """the nuisance values"""
    trial: TrialKey
    """the first converged repeat: its weights are the ones to export"""
    seed: int
    """of that repeat"""
    validation: float
    """what the choice was made by, nats per image"""
    validation_seeds: int
    """trainings behind `validation`"""
    test: Estimate
    """over the configuration's own converged repeats: not what it was chosen by"""
    why: str
    gave_up: str
    """against the rule `max`, or of `max` against the next best arm"""
    sure: Certainty
    """how far the sweep bears it out"""
    front: tuple[FrontPoint, ...] = ()
    """what `pareto` chose from, best in the first objective first"""


def shortlist(ranking: Sequence[int], candidates: int) -> list[int]:
    """The search's best trials to be trained again, best first; `ranking` is best first too."""
    return list(dict.fromkeys(ranking))[:candidates]


def choose(candidates: Sequence[tuple[int, Sequence[float | None] | None]]) -> int:
    """The number with the best mean over its seeds, of (number, value per seed).

    A candidate that diverged (None, or a None among its values) comes after all converged ones; ties
    go to the lower number; if all diverged, the first one given is taken.
    """
    means = {number: _mean(values) for number, values in candidates}
    converged = {number: mean for number, mean in means.items() if mean is not None}
    if not converged:
        return candidates[0][0]
    return min(converged, key=lambda number: (-converged[number], number))


def _mean(values: Sequence[float | None] | None) -> float | None:
    known = [value for value in values or () if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known and len(known) == len(values or ()) else None


def pick(
    comparison: Comparison,
    records: Iterable[TrialRecord],
    *,
    search_metric: str = "val/elbo",
    rule: str = "max",
    where: Params | None = None,
    objectives: Sequence[str] = (),
    fixed: Params | None = None,
    domains: Mapping[str, Domain] | None = None,
) -> Pick:
    """The configuration to take by `rule`, one of RULES.

    `where` keeps only the arms with these scientific values. `objectives`: for the rule `pareto`. `fixed`:
    hyperparameters that no arm and no search decides. `domains`: of the nuisance hyperparameters.
    Raises UserError when no arm has the values or the question is wrong, and VaeSweepError when no chosen
    configuration converged, on validation data and in a repeat.
    """
    _check(rule, objectives)
    arms, rows = _matching(comparison, where or {}), list(records)

    def contest_of(arms: Sequence[ArmResult]) -> Contest:
        return make_contest(
            arms, rows, metric=search_metric, fixed=fixed or {}, domains=domains or {}, objectives=objectives
        )

    contest = contest_of(arms)
    if not contest.candidates:
        raise _nothing_converged(arms)
    choice = RULES[rule](contest)
    taken, best = choice.candidate, highest(contest).candidate
    next_best = next((one for one in contest.candidates if one.arm.id != taken.arm.id), None)
    rival = best if best.arm.id != taken.arm.id else next_best
    gave_up = _gave_up_of_max(taken, next_best) if rule == "max" else _gave_up(taken, best, search_metric)
    if len(arms) < len(comparison.arms) and (outside := _outside(taken, contest_of(comparison.arms))):
        gave_up = "; ".join(filter(None, (gave_up, outside)))
    costs = [gave_up, *_left_out(choice, len(arms) - len(contest.standings))]
    test = estimate([value for value in taken.result.values if value is not None], comparison.alpha)
    assert test is not None
    return Pick(
        rule=rule,
        arm=taken.arm.id,
        label=taken.arm.label,
        values=taken.arm.values,
        replicate=taken.result.replicate,
        params=taken.params,
        trial=taken.trial,
        seed=taken.seed,
        validation=taken.validation,
        validation_seeds=len(taken.values),
        test=test,
        why=f"{choice.why}; chosen on validation data, {comparison.metric} was not looked at",
        gave_up="; ".join(filter(None, costs)) or "nothing: there is no other arm",
        sure=certainty(contest, comparison, RULES[rule], taken.arm, rival.arm if rival else None),
        front=choice.front,
    )


def _nothing_converged(arms: Sequence[ArmResult]) -> VaeSweepError:
    ended = sum(sum(arm.ended[Phase.REPEAT].values()) for arm in arms)
    return VaeSweepError(
        "a pick needs a configuration that converged on validation data and in a repeat, but got "
        f"{ended} ended repeats and none such; let the sweep finish, or narrow the nuisance ranges"
    )


def _check(rule: str, objectives: Sequence[str]) -> None:
    if rule not in RULES:
        raise UserError(f"--rule must be one of {', '.join(RULES)}, but got {rule!r}")
    if objectives and rule != "pareto":
        raise UserError(f"--objectives is for --rule pareto, but the rule is {rule}; leave one of them out")
    for name in objectives:
        if name not in OBJECTIVES:
            raise UserError(f"--objectives must be of {', '.join(OBJECTIVES)}, but got {name!r}")
    if objectives and (len(objectives) < 2 or len(set(objectives)) < len(objectives)):
        raise UserError(f"--objectives takes two or more different names, but got {', '.join(objectives)}")


def _matching(comparison: Comparison, where: Mapping[str, object]) -> list[ArmResult]:
    arms = [
        arm
        for arm in comparison.arms
        if all(name in arm.values and arm.values[name] == value for name, value in where.items())
    ]
    if not arms:
        asked = ", ".join(f"{name}={value}" for name, value in where.items())
        known = "; ".join(arm.label for arm in comparison.arms)
        raise UserError(f"--where must match an arm, but got {asked}; the arms are: {known}")
    return arms


def _gave_up_of_max(best: Candidate, other: Candidate | None) -> str:
    if other is None:
        return ""
    behind = best.validation - other.validation
    return f"next best arm {other.arm.label}: {other.validation:.2f} nats, {behind:.2f} behind"


def _gave_up(taken: Candidate, best: Candidate, metric: str) -> str:
    """What another rule's choice costs against `max`."""
    if taken is best:
        return "nothing: the rule max takes the same"
    behind = f"{best.validation - taken.validation:.2f} nats of {metric}"
    if taken.arm.id == best.arm.id:
        return f"{behind} against the rule max, which takes replicate {best.result.replicate} of the same arm"
    return f"{behind} against the rule max, which takes {best.arm.label} ({best.validation:.2f})"


def _outside(taken: Candidate, everything: Contest) -> str | None:
    """What `where` costs: the best of all arms, if that is higher."""
    best = everything.candidates[0]
    behind = best.validation - taken.validation
    return f"without --where there is {best.arm.label}, {behind:.2f} higher" if behind > 0 else None


def _left_out(choice: Choice, lost: int) -> list[str]:
    """What could not be taken: arms with nothing converged, and what the rule could not judge."""
    parts = [f"{lost} arm{'s' if lost > 1 else ''} without a converged configuration left out"] if lost else []
    if choice.left_out:
        more = f" and {len(choice.left_out) - 3} more" if len(choice.left_out) > 3 else ""
        parts.append(f"not judged: {'; '.join(choice.left_out[:3])}{more}")
    return parts
