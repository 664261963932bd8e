"""What a sweep's repeats say about its arms: intervals.py has the statistics, verdicts.py makes the comparison."""

from .intervals import MANY_REPLICATES, POWER, Estimate, detectable_difference, estimate
from .verdicts import (
    ArmResult,
    Basis,
    Comparison,
    Pair,
    ReplicateResult,
    Verdict,
    compare,
    metric_value,
    to_json,
)

__all__ = [
    "MANY_REPLICATES",
    "POWER",
    "ArmResult",
    "Basis",
    "Comparison",
    "Estimate",
    "Pair",
    "ReplicateResult",
    "Verdict",
    "compare",
    "detectable_difference",
    "estimate",
    "metric_value",
    "to_json",
]
