"""What a sweep's repeats say about its arms.

intervals.py has the statistics and coverage.py how far they can be relied on; arms.py, further.py and verdicts.py make
the comparison of a sweep, against.py that of two sweeps; results.py is what they find.
"""

from .against import Against, Side, compare_sweeps
from .arms import metric_value
from .coverage import unseen_skewness
from .intervals import (
    BOOTSTRAP_COUNT,
    MANY_REPLICATES,
    POWER,
    Estimate,
    Probability,
    detectable_difference,
    estimate,
)
from .results import ArmResult, Basis, Comparison, FurtherMetric, Pair, ReplicateResult, Verdict, to_json
from .verdicts import compare

__all__ = [
    "BOOTSTRAP_COUNT",
    "MANY_REPLICATES",
    "POWER",
    "Against",
    "ArmResult",
    "Basis",
    "Comparison",
    "Estimate",
    "FurtherMetric",
    "Pair",
    "Probability",
    "ReplicateResult",
    "Side",
    "Verdict",
    "compare",
    "compare_sweeps",
    "detectable_difference",
    "estimate",
    "metric_value",
    "to_json",
    "unseen_skewness",
]
