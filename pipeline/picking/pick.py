"""Which configuration to take, and why: out of a search, and out of the whole sweep.

Selection is on validation data only; test values are carried along for the reader. Knows no ledger,
no study file and no terminal. All metrics are maximised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..comparison import ArmResult, Comparison, Estimate, ReplicateResult, estimate, metric_value
from ..errors import UserError, VaeSweepError
from ..records import ENDED, Params, Phase, TrialKey, TrialRecord, canonical_json


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
    """the next best arm and how far behind it is"""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The chosen configuration of one search."""

    arm: ArmResult
    result: ReplicateResult
    validation: float
    seeds: int


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
    where: Params | None = None,
) -> Pick:
    """The best chosen configuration by mean validation value, over all searches of all arms.

    The value is the shortlist's mean, or the search's own value where nothing was trained again.
    `where` keeps only the arms with these scientific values. Raises UserError when no arm has them,
    and VaeSweepError when no chosen configuration converged, on validation data and in a repeat.
    """
    arms = _matching(comparison, where or {})
    rows = sorted(records, key=lambda record: record.key)
    found = [
        chosen
        for arm in arms
        for result in arm.replicates
        if (chosen := _chosen(arm, result, rows, search_metric)) is not None
    ]
    if not found:
        ended = sum(sum(arm.ended[Phase.REPEAT].values()) for arm in arms)
        raise VaeSweepError(
            "a pick needs a configuration that converged on validation data and in a repeat, but got "
            f"{ended} ended repeats and none such; let the sweep finish, or narrow the nuisance ranges"
        )
    order = {arm.id: position for position, arm in enumerate(arms)}
    found.sort(key=lambda one: (-one.validation, order[one.arm.id], one.result.replicate))
    best = found[0]
    number = next(n for n, value in enumerate(best.result.values) if value is not None)
    key = TrialKey(best.arm.id, best.result.replicate, Phase.REPEAT, number)
    test = estimate([value for value in best.result.values if value is not None], comparison.alpha)
    assert test is not None and best.result.params is not None
    return Pick(
        rule="max",
        arm=best.arm.id,
        label=best.arm.label,
        values=best.arm.values,
        replicate=best.result.replicate,
        params=best.result.params,
        trial=key,
        seed=next(record.seed for record in rows if record.key == key),
        validation=best.validation,
        validation_seeds=best.seeds,
        test=test,
        why=_why(best, found, search_metric, comparison.metric),
        gave_up=_gave_up(best, found, arms),
    )


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


def _chosen(arm: ArmResult, result: ReplicateResult, rows: Sequence[TrialRecord], metric: str) -> _Chosen | None:
    """None where no repeat converged, or where the configuration never converged on validation data."""
    if result.mean is None or result.params is None:
        return None
    params = canonical_json(dict(result.params))
    mine = [
        record
        for record in rows
        if (record.key.arm, record.key.replicate) == (arm.id, result.replicate)
        and record.state in ENDED
        and canonical_json(dict(record.params)) == params
    ]
    for phase in (Phase.SHORTLIST, Phase.SEARCH):
        values = [metric_value(record, metric) for record in mine if record.key.phase == phase]
        mean = _mean(values)
        if values:
            return None if mean is None else _Chosen(arm, result, mean, len(values))
    return None


def _why(best: _Chosen, found: Sequence[_Chosen], metric: str, test_metric: str) -> str:
    arms = len({one.arm.id for one in found})
    mean = f"mean of {best.seeds} fresh seeds" if best.seeds > 1 else "one training"
    of = f"of {len(found)} chosen configurations over {arms} arms" if len(found) > 1 else "the only candidate"
    return (
        f"highest {metric} ({best.validation:.2f} nats, {mean}) {of}; "
        f"chosen on validation data, {test_metric} was not looked at"
    )


def _gave_up(best: _Chosen, found: Sequence[_Chosen], arms: Sequence[ArmResult]) -> str:
    other = next((one for one in found if one.arm.id != best.arm.id), None)
    missing = len(arms) - len({one.arm.id for one in found})
    parts = []
    if other is not None:
        behind = best.validation - other.validation
        parts.append(f"next best arm {other.arm.label}: {other.validation:.2f} nats, {behind:.2f} behind")
    if missing:
        parts.append(f"{missing} arm{'s' if missing > 1 else ''} without a converged configuration left out")
    return "; ".join(parts) or "nothing: there is no other arm"
