"""What a sweep's repeats say about its arms: means, intervals, verdicts; never more than they can.

Holds the statistics. Knows no ledger, no study file, no terminal and no wording (report.py has that):
records in, frozen results out, the same bytes whatever order the records come in.

The unit of inference is the replicate, an independent search: its value is the mean of its converged
repeats. Differences are paired with the matched baseline arm (common random numbers). Intervals are
pointwise t intervals; verdicts hold the family-wise error of all pairs together. All metrics are
maximised; differences are nats per image.

- Bouthillier et al., Accounting for variance in machine learning benchmarks, MLSys 2021
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..records import ENDED, Params, Phase, State, TrialRecord
from .intervals import Estimate, estimate, holm, more_replicates, p_equivalence, p_two_sided

if TYPE_CHECKING:
    from ..space import Arm


class Verdict(StrEnum):
    """What may be said of an arm against its matched baseline."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    """the difference is inside the margin, whatever its sign"""
    IDENTICAL = "identical"
    """every paired value is equal to the last bit"""
    UNDECIDED = "undecided"
    DIVERGED = "diverged"
    """one of the two has no converged repeat"""


class Basis(StrEnum):
    """What an interval generalises over."""

    SEARCHES = "searches"
    """over independent searches and their training seeds: speaks of the arm"""
    CONFIGURATIONS = "configurations"
    """over training seeds of one chosen configuration: speaks of that configuration alone"""


@dataclass(frozen=True, slots=True)
class ReplicateResult:
    """One search of one arm: what it chose and how that configuration did on fresh seeds."""

    replicate: int
    params: Params | None
    """the chosen configuration; None before its first repeat exists"""
    values: tuple[float | None, ...]
    """the metric by repeat number; None where it diverged, failed or is not there yet"""
    lost: tuple[int, ...]
    """numbers of the repeats that ended without a value (diverged or failed): ranked last"""
    mean: float | None
    """over the converged repeats"""

    def ended(self, last: float | None) -> dict[int, float]:
        """Values by repeat number, lost repeats valued `last` (None: left out)."""
        values = ((n, last if n in self.lost else value) for n, value in enumerate(self.values))
        return {n: value for n, value in values if value is not None}


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm over all its replicates."""

    id: str
    label: str
    values: Params
    baseline: str
    """id of the matched baseline arm; its own id if it is one"""
    estimate: Estimate | None
    """None while no repeat has converged"""
    basis: Basis
    bits_per_dim: float | None
    """of the mean; None where the likelihood is continuous"""
    repeats_lost: int
    """ended without a value: diverged or failed"""
    ended: Mapping[str, Mapping[str, int]]
    """ended trials by phase and state"""
    epochs: Mapping[str, int]
    """epochs spent by phase"""
    replicates: tuple[ReplicateResult, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """An arm against its matched baseline."""

    arm: str
    baseline: str
    level: Params
    """the compared factors' values"""
    context: Params
    """the other scientific values, the same in both"""
    basis: Basis
    difference: Estimate | None
    """arm minus baseline over common replicates (or common repeats of one)"""
    p: float
    """two-sided; with the winner's lost repeats ranked last, the larger of the two p-values"""
    p_holm: float
    equivalence_p: float
    equivalence_p_holm: float
    verdict: Verdict
    inside_margin: bool
    """the difference is shown to be smaller than the margin, also where it is shown not to be zero"""
    more_replicates: int | None
    """roughly how many more settle an undecided pair; `MANY_REPLICATES` or more: many"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All arms and all pairs of a sweep: results only."""

    metric: str
    alpha: float
    margin_nats: float
    replicates: int
    repeats: int
    test_images: int | None
    factors: tuple[str, ...]
    """the compared scientific factors"""
    missing_repeats: int
    """0: final"""
    arms: tuple[ArmResult, ...]
    pairs: tuple[Pair, ...]

    @property
    def provisional(self) -> bool:
        """Repeats are still to come."""
        return self.missing_repeats > 0


def compare(
    *,
    arms: Sequence[Arm],
    baselines: Mapping[str, str],
    records: Iterable[TrialRecord],
    metric: str,
    factors: Sequence[str],
    replicates: int,
    repeats: int,
    alpha: float = 0.05,
    margin_nats: float = 0.5,
    pixels: int | None = None,
    test_images: int | None = None,
) -> Comparison:
    """Compares every arm with its matched baseline by the sweep's records of all phases.

    `baselines`: arm id -> id of its matched baseline (itself for a baseline). `factors`: the compared
    scientific factors. `pixels`: dimensions of an image, None where the likelihood is continuous.
    Raises UserError when repeats do not report `metric`.
    """
    by_arm: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.key):
        by_arm[record.key.arm].append(record)
    results = tuple(
        _arm(arm, baselines[arm.id], by_arm[arm.id], metric, replicates, repeats, alpha, pixels) for arm in arms
    )
    ended = sum(sum(result.ended[Phase.REPEAT].values()) for result in results)
    by_id = {result.id: result for result in results}
    matched = [(result, by_id[result.baseline]) for result in results if result.baseline != result.id]
    return Comparison(
        metric=metric,
        alpha=alpha,
        margin_nats=margin_nats,
        replicates=replicates,
        repeats=repeats,
        test_images=test_images,
        factors=tuple(factors),
        missing_repeats=len(results) * replicates * repeats - ended,
        arms=results,
        pairs=_pairs(matched, frozenset(factors), alpha, margin_nats),
    )


def _arm(
    arm: Arm,
    baseline: str,
    records: Sequence[TrialRecord],
    metric: str,
    replicates: int,
    repeats: int,
    alpha: float,
    pixels: int | None,
) -> ArmResult:
    ended = [record for record in records if record.state in ENDED]
    states = [(record.key.phase, record.state) for record in ended]
    found = tuple(_replicate(records, number, metric, repeats) for number in range(replicates))
    means = [one.mean for one in found if one.mean is not None]
    basis = Basis.SEARCHES if replicates > 1 else Basis.CONFIGURATIONS
    if basis is Basis.CONFIGURATIONS:
        means = [value for one in found for value in one.values if value is not None]
    mean = estimate(means, alpha)
    return ArmResult(
        id=arm.id,
        label=arm.label,
        values=dict(arm.values),
        baseline=baseline,
        estimate=mean,
        basis=basis,
        bits_per_dim=None if mean is None or pixels is None else -mean.mean / (pixels * math.log(2)),
        repeats_lost=sum(len(one.lost) for one in found),
        ended={str(phase): {str(state): states.count((phase, state)) for state in sorted(ENDED)} for phase in Phase},
        epochs={
            str(phase): sum(r.outcome.epochs for r in ended if r.outcome and r.key.phase == phase) for phase in Phase
        },
        replicates=found,
    )


def _replicate(records: Sequence[TrialRecord], number: int, metric: str, repeats: int) -> ReplicateResult:
    mine = [r for r in records if r.key.phase == Phase.REPEAT and r.key.replicate == number]
    found = {r.key.number: metric_value(r, metric) for r in mine if r.state in ENDED}
    converged = [value for value in found.values() if value is not None]
    return ReplicateResult(
        replicate=number,
        params=dict(mine[0].params) if mine else None,
        values=tuple(found.get(n) for n in range(repeats)),
        lost=tuple(n for n, value in found.items() if value is None),
        mean=math.fsum(converged) / len(converged) if converged else None,
    )


def metric_value(record: TrialRecord, metric: str) -> float | None:
    """The trial's final metric; None where it diverged, failed, is not finite or has not ended.

    Raises UserError when a converged trial does not report `metric`.
    """
    if record.outcome is None or record.state in (State.DIVERGED, State.FAILED):
        return None
    if metric not in record.outcome.metrics:
        known = ", ".join(sorted(record.outcome.metrics)) or "none"
        raise UserError(f"a metric must be one that trials report, but got {metric!r}; use one of: {known}")
    value = float(record.outcome.metrics[metric])
    return value if math.isfinite(value) else None


def _pairs(
    matched: Sequence[tuple[ArmResult, ArmResult]], factors: frozenset[str], alpha: float, margin: float
) -> tuple[Pair, ...]:
    paired = [_differences(arm, base) for arm, base in matched]
    p = [_p_lost_last(arm, base, values) for (arm, base), (_, values) in zip(matched, paired, strict=True)]
    p_equal = [p_equivalence(values, margin) for _, values in paired]
    p_holm, p_equal_holm = holm(p), holm(p_equal)
    pairs = []
    for i, ((arm, base), (basis, values)) in enumerate(zip(matched, paired, strict=True)):
        found, lost = estimate(values, alpha), arm.repeats_lost + base.repeats_lost
        inside = p_equal_holm[i] <= alpha and not lost
        verdict = _verdict(arm, base, found, p_holm[i] <= alpha, inside)
        more = None
        if found is not None and not lost and (verdict, basis) == (Verdict.UNDECIDED, Basis.SEARCHES):
            more = more_replicates(found, alpha=alpha, margin=margin, pairs=len(matched))
        level = {name: value for name, value in arm.values.items() if name in factors}
        context = {name: value for name, value in arm.values.items() if name not in factors}
        pairs.append(
            Pair(
                arm=arm.id,
                baseline=base.id,
                level=level,
                context=context,
                basis=basis,
                difference=found,
                p=p[i],
                p_holm=p_holm[i],
                equivalence_p=p_equal[i],
                equivalence_p_holm=p_equal_holm[i],
                verdict=verdict,
                inside_margin=inside,
                more_replicates=more,
            )
        )
    return tuple(pairs)


def _differences(arm: ArmResult, base: ArmResult, last: float | None = None) -> tuple[Basis, list[float]]:
    """Paired values, arm minus baseline: over replicates, or over repeats where one replicate is common.

    `last`: the value of lost repeats; None leaves them out.
    """
    both = [(a.ended(last), b.ended(last)) for a, b in zip(arm.replicates, base.replicates, strict=True)]
    common = [(x, y) for x, y in both if x and y]
    if len(common) == 1:
        x, y = common[0]
        return Basis.CONFIGURATIONS, [x[number] - y[number] for number in sorted(x.keys() & y.keys())]
    means = [math.fsum(x.values()) / len(x) - math.fsum(y.values()) / len(y) for x, y in common]
    return arm.basis, means


def _p_lost_last(arm: ArmResult, base: ArmResult, values: Sequence[float]) -> float:
    """p-value of a difference that also holds with the winner's lost repeats ranked last.

    Last is the worst converged value minus the range (as the search tells divergence). The larger of
    the two p-values tests "both hold" at the same level.
    """
    p = p_two_sided(values)
    sign = math.fsum(values)
    if p == 1 or not (arm if sign > 0 else base).repeats_lost:
        return p
    known = [v for side in (arm, base) for one in side.replicates for v in one.values if v is not None]
    last = min(known) - ((max(known) - min(known)) or 1.0)
    ranked = _differences(arm, base, last)[1]
    return 1.0 if math.fsum(ranked) * sign <= 0 else max(p, p_two_sided(ranked))


def _verdict(arm: ArmResult, base: ArmResult, found: Estimate | None, differs: bool, inside: bool) -> Verdict:
    for side in (arm, base):
        if side.estimate is None and side.repeats_lost:
            return Verdict.DIVERGED
    if found is None:
        return Verdict.UNDECIDED
    if _identical(arm, base):
        return Verdict.IDENTICAL
    if differs:
        return Verdict.BETTER if found.mean > 0 else Verdict.WORSE
    return Verdict.EQUIVALENT if inside else Verdict.UNDECIDED


def _identical(arm: ArmResult, base: ArmResult) -> bool:
    """Every repeat that ended in both has the same value, or was lost in both."""
    shared = [
        (x[number], y[number])
        for a, b in zip(arm.replicates, base.replicates, strict=True)
        for x, y in [(a.ended(-math.inf), b.ended(-math.inf))]
        for number in x.keys() & y.keys()
    ]
    return bool(shared) and all(x == y for x, y in shared)


def to_json(comparison: Comparison) -> str:
    """Results only, canonical: equal results give equal bytes. Ends with a newline."""
    content = {"version": 1, **asdict(comparison)}
    return json.dumps(_plain(content), sort_keys=True, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
