"""From a sweep's records to its analyses, arm by arm: which records each of them is made from.

Pure functions of records: the same bytes whatever order they come in; of times, workers and hosts nothing is read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..comparison import ArmResult, metric_value
from ..records import ENDED, Phase, State, TrialRecord, derive_seed
from .optimism import optimism
from .searches import SearchTrial, search_trials, without_gaps
from .sensitivity import sensitivity
from .shapes import Analysis, Importance, Optimism, RateDistortion, VarianceSplit
from .tuning import tuning_curve
from .variance import variance_split

if TYPE_CHECKING:
    from ..config import Study
    from ..results import Results

_T = TypeVar("_T")


def analysis_of(results: Results) -> Analysis:
    """All analyses of a sweep, finished or not."""
    study = results.study
    search, alpha, metric = study.search, study.compare.alpha, study.compare.metric
    by_arm: defaultdict[str, list[TrialRecord]] = defaultdict(list)
    for record in sorted(results.records, key=lambda record: record.key):
        by_arm[record.key.arm].append(record)
    trials = {arm.id: search_trials(by_arm[arm.id], search) for arm in results.arms}
    searches = {arm: without_gaps(found, search.replicates) for arm, found in trials.items()}
    repeats = {arm.id: [r for r in by_arm[arm.id] if _is_ended_repeat(r)] for arm in results.arms}
    tuned = searches if study.nuisance else {}
    return Analysis(
        tuning=_present([tuning_curve(arm, found, alpha) for arm, found in tuned.items()]),
        sensitivity=_present([sensitivity(arm, found, alpha) for arm, found in tuned.items()]),
        points=tuple(trial.point for found in trials.values() for trial in found),
        importances=tuple(one for arm, found in trials.items() for one in _importances(arm, found, study)),
        variance=_present([_variance(arm, repeats[arm.id], metric) for arm in results.comparison.arms]),
        optimism=_present([_optimism(arm, trials[arm], repeats[arm], study) for arm in trials]),
        rate_distortion=tuple(one for found in repeats.values() for one in _rate_distortion(found)),
    )


def _present(found: Iterable[_T | None]) -> tuple[_T, ...]:
    return tuple(one for one in found if one is not None)


def _is_ended_repeat(record: TrialRecord) -> bool:
    return record.key.phase is Phase.REPEAT and record.state in ENDED


def _importances(arm: str, trials: Sequence[SearchTrial], study: Study) -> list[Importance]:
    from ..search.importance import importances

    usable = [trial for trial in trials if trial.completed or trial.diverged]
    pooled = [(trial.point.params, trial.point.value if trial.completed else None) for trial in usable]
    seed = derive_seed(study.seed, "importance")
    return [Importance(arm, name, share) for name, share in importances(study.nuisance, pooled, seed).items()]


def _variance(arm: ArmResult, repeats: Sequence[TrialRecord], metric: str) -> VarianceSplit | None:
    values = [[value for value in one.values if value is not None] for one in arm.replicates]
    if not any(values):
        return None
    errors = [
        r.outcome.metrics.get(f"{metric}_se") for r in repeats if r.outcome and metric_value(r, metric) is not None
    ]
    return variance_split(arm.id, values, [error for error in errors if error is not None])


def _optimism(arm: str, trials: Sequence[SearchTrial], repeats: Sequence[TrialRecord], study: Study) -> Optimism | None:
    searches: list[tuple[float | None, list[float]]] = []
    for replicate in range(study.search.replicates):
        best = max((t.best_value for t in trials if t.point.replicate == replicate), default=-math.inf)
        mine = [metric_value(r, study.search.metric) for r in repeats if r.key.replicate == replicate]
        kept = [value for value in mine if value is not None]
        searches.append((best if math.isfinite(best) else None, kept))
    return optimism(arm, searches, study.compare.alpha)


def _rate_distortion(repeats: Sequence[TrialRecord]) -> list[RateDistortion]:
    points = []
    for record in repeats:
        metrics = record.outcome.metrics if record.outcome and record.state is not State.DIVERGED else {}
        rate, distortion = metrics.get("test/rate"), metrics.get("test/distortion")
        if rate is not None and distortion is not None:
            points.append(RateDistortion(record.key.arm, record.key.replicate, record.key.number, rate, distortion))
    return points
