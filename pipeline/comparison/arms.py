"""One arm's results out of a sweep's records: what its searches chose, and how that did on fresh seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import UserError
from ..records import ENDED, Phase, State, TrialRecord, derive_seed
from .further import further_metrics
from .intervals import estimate
from .results import ArmResult, Basis, ReplicateResult

if TYPE_CHECKING:
    from ..space import Arm


def by_arm(records: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """The records of each arm, in key order."""
    found: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.key):
        found[record.key.arm].append(record)
    return found


def arm_result(
    arm: Arm,
    baseline: str,
    records: Sequence[TrialRecord],
    *,
    metric: str,
    replicates: int,
    repeats: int,
    alpha: float,
    pixels: int | None,
    likelihood: str | None,
    bins: int | None = None,
) -> ArmResult:
    """One arm over all its replicates. `records`: the arm's, in key order; the rest as for `compare`.

    Raises UserError when converged repeats do not report `metric`.
    """
    ended = [record for record in records if record.state in ENDED]
    states = [(record.key.phase, record.state) for record in ended]
    found = tuple(_replicate(records, number, metric, repeats) for number in range(replicates))
    means = [one.mean for one in found if one.mean is not None]
    basis = Basis.SEARCHES if replicates > 1 else Basis.CONFIGURATIONS
    if basis is Basis.CONFIGURATIONS:
        means = [value for one in found for value in one.values if value is not None]
    mean = estimate(means, alpha, derive_seed("bootstrap", arm.id))
    return ArmResult(
        id=arm.id,
        label=arm.label,
        values=dict(arm.values),
        baseline=baseline,
        estimate=mean,
        basis=basis,
        bits_per_dim=None if mean is None or pixels is None else _bits_per_dim(mean.mean, pixels, bins),
        image_se=_image_se(ended, metric),
        likelihoods=_likelihoods(arm, found, likelihood),
        repeats_lost=sum(len(one.lost) for one in found),
        ended={str(phase): {str(state): states.count((phase, state)) for state in sorted(ENDED)} for phase in Phase},
        epochs={
            str(phase): sum(r.outcome.epochs for r in ended if r.outcome and r.key.phase == phase) for phase in Phase
        },
        replicates=found,
        further=further_metrics(ended, metric=metric, replicates=replicates, repeats=repeats, alpha=alpha),
    )


def _bits_per_dim(elbo_nats: float, pixels: int, bins: int | None) -> float:
    """Of discrete values, or of dequantised ones: of these a unit holds `bins`, so each is worth log2(bins) more."""
    return -elbo_nats / (pixels * math.log(2)) + (0.0 if bins is None else math.log2(bins))


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


def _image_se(ended: Sequence[TrialRecord], metric: str) -> float | None:
    """Mean of the converged repeats' `<metric>_se`; None where one of them does not report it."""
    repeats = [r for r in ended if r.key.phase == Phase.REPEAT and metric_value(r, metric) is not None]
    errors = [r.outcome.metrics.get(f"{metric}_se", math.nan) for r in repeats if r.outcome is not None]
    mean = math.fsum(errors) / len(errors) if errors else math.nan
    return mean if math.isfinite(mean) else None


def _likelihoods(arm: Arm, found: Sequence[ReplicateResult], fixed: str | None) -> tuple[str, ...]:
    chosen = {arm.values.get("likelihood", (one.params or {}).get("likelihood", fixed)) for one in found}
    return tuple(sorted(str(name) for name in chosen if name is not None))


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
