"""What an arm's repeats report of test images beside the compared metric: means with intervals, never a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..records import ENDED, Phase, State, TrialRecord
from .intervals import estimate
from .results import FurtherMetric

PREFIX = "test/"
RECORDED_BY_0_1_0 = frozenset({"test/elbo", "test/elbo_se", "test/rate", "test/distortion", "test/active_units"})
"""An arm with nothing else has no further metrics: its results print as they always did."""


def further_metrics(
    records: Sequence[TrialRecord], *, metric: str, replicates: int, repeats: int, alpha: float
) -> Mapping[str, FurtherMetric]:
    """By name, every `test/` metric of an arm's converged repeats but the compared one and standard errors.

    Intervals are Student's t over replicates, or over the repeats of the only one, as the compared metric's are below
    20 values. A repeat that lacks a metric, or has no finite value of it, is left out of that metric alone.
    """
    found = [(r.key.replicate, r.key.number, r.outcome.metrics) for r in records if _converged(r) and r.outcome]
    names = sorted({name for _, _, metrics in found for name in metrics if name.startswith(PREFIX)})
    if RECORDED_BY_0_1_0.issuperset(names):
        return {}
    errors = {f"{name}_se" for name in names}
    made = {}
    for name in (name for name in names if name != metric and name not in errors):
        values = {(i, n): metrics[name] for i, n, metrics in found if math.isfinite(metrics.get(name, math.nan))}
        if replicates > 1:
            each = [_mean([value for (i, _), value in values.items() if i == r]) for r in range(replicates)]
        else:
            each = [values.get((0, n)) for n in range(repeats)]
        mean = estimate([value for value in each if value is not None], alpha)
        if mean is not None:
            made[name] = FurtherMetric(mean, tuple(each))
    return made


def _converged(record: TrialRecord) -> bool:
    return record.key.phase is Phase.REPEAT and record.state in ENDED - {State.DIVERGED, State.FAILED}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
