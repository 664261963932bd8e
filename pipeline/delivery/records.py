"""What a tracker is told: a sweep and its trials as runs, made of the ledger's rows.

Pure, but for a look at which files are there. Knows no tracker and no delivery.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrackerError
from ..ledger.schema import SweepRecord
from ..paths import WorkPaths
from ..records import Params, State, TrialOutcome, TrialRecord, Value, digest
from ..tracking.base import DatasetInfo, MetricPoint, Picture, RunRecord, RunStatus, SweepRun

if TYPE_CHECKING:
    from ..ledger.store import Ledger

FULL_CURVES = ("train/elbo", "val/elbo")
"""Curves with a point at every epoch."""
CURVE_POINTS = 20
"""Most points of any other curve."""
MAX_KEYS = 30
"""Most metric names of a run."""
STATUS: Mapping[State, RunStatus] = {
    State.COMPLETE: "FINISHED",
    State.DIVERGED: "FINISHED",
    State.STOPPED: "KILLED",
    State.FAILED: "FAILED",
}
"""how a trial ended -> how MLflow says it"""

PARENT = "parent"
"""The delivery item that is the sweep itself."""

_MAX_CAUSE = 2000
_PICTURE = re.compile(r"(?P<key>samples|reconstructions)(-(?P<epoch>[0-9]+))?\.png")
"""What image grids show; all pictures are files of the run."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is said of a sweep beyond the ledger's rows; made from the study by the caller."""

    sweep: str
    paths: WorkPaths
    describe: Callable[[TrialRecord], Params]
    """a trial's complete hyperparameters by their study-file names"""
    arm_label: Callable[[str], str]
    """arm id -> label"""
    dataset: DatasetInfo | None = None
    git_commit: str | None = None
    study: str = ""
    """what `describe` and `arm_label` know: `SweepRecord.study`; empty: any"""


def sweep_of(ledger: Ledger, name: str) -> SweepRecord:
    """The sweep's row. Raises TrackerError where there is none."""
    record = ledger.sweep(name)
    if record is None:
        raise TrackerError(f"Only a sweep of the ledger is delivered, but {name!r} is not in it. See `vae-sweep list`.")
    return record


def parent_status(record: SweepRecord) -> RunStatus:
    """What the run of a sweep that is over ends with."""
    return "FINISHED" if record.status == "finished" else "KILLED"


def sweep_run(record: SweepRecord, subject: Subject) -> SweepRun:
    """The parent run of a sweep."""
    study = json.loads(record.study)
    file = subject.paths.study(record.name)
    tags = {
        "study_hash": record.study_hash,
        "version": str(study.get("version", "")),
        "git_commit": subject.git_commit or "",
    }
    return SweepRun(
        name=record.name,
        ledger_id=digest([record.name, record.created_at], 16),
        study_yaml=file.read_text() if file.is_file() else record.study + "\n",
        question=str(study.get("question", "")),
        started_ms=to_ms(record.created_at),
        tags={key: value for key, value in tags.items() if value},
        dataset=subject.dataset,
        factors=tuple(study.get("scientific", ())),
        metrics=(study["compare"]["metric"], study["search"]["metric"]) if "compare" in study else (),
        epochs=study.get("train", {}).get("epochs", 1),
    )


def run_record(record: TrialRecord, subject: Subject, *, parent: SweepRun, reproducible: bool) -> RunRecord:
    """The run of one ended trial: the same bytes whenever it is made.

    Points that are not finite are left out and counted in the tag `nonfinite_points`, files that are gone in
    `missing_files`. Raises TrackerError for a trial that has not ended.
    """
    outcome = record.outcome
    if outcome is None:
        raise TrackerError(f"Only ended trials are delivered, but {record.key} is {record.state}. Wait for it.")
    points = _points(outcome)
    finite = tuple(point for point in points if math.isfinite(point.value))
    folder = subject.paths.trial(parent.name, record.key)
    files = {name: folder / name for name in sorted(record.files) if (folder / name).is_file()}
    tags = _tags(record, outcome, subject) | {
        "reproducible": spelled(reproducible),
        "nonfinite_points": str(len(points) - len(finite)),
        "missing_files": str(len(record.files) - len(files)),
    }
    key = record.key
    return RunRecord(
        ledger_id=f"{parent.ledger_id}/{key}",
        name=f"{tags['arm']} · {key.phase} {key.replicate}.{key.number}",
        params={name: spelled(value) for name, value in subject.describe(record).items()},
        metrics=finite,
        tags={name: value for name, value in tags.items() if value not in ("", "0") or name in _COUNTED_FROM_0},
        files=files,
        started_ms=to_ms(outcome.started_at),
        ended_ms=to_ms(outcome.ended_at),
        status=STATUS[record.state],
        pictures=_pictures(outcome, {name: folder / name for name in record.files if (folder / name).is_file()}),
    )


def _pictures(outcome: TrialOutcome, files: Mapping[str, Path]) -> tuple[Picture, ...]:
    """The pictures among a trial's files, those made while it trained at their epochs."""
    found = []
    for name, file in sorted(files.items()):
        shown = _PICTURE.fullmatch(name)
        if shown:
            step = int(shown["epoch"] or outcome.epochs)
            known = 0 < step <= len(outcome.epoch_times)
            at = to_ms(outcome.epoch_times[step - 1] if known else outcome.ended_at)
            found.append(Picture(f"pictures/{shown['key']}", step, at, file))
    return tuple(found)


_COUNTED_FROM_0 = frozenset({"replicate", "number", "seed"})


def _tags(record: TrialRecord, outcome: TrialOutcome, subject: Subject) -> dict[str, str]:
    key = record.key
    return {
        "arm": subject.arm_label(key.arm),
        "arm_id": key.arm,
        "replicate": str(key.replicate),
        "phase": str(key.phase),
        "number": str(key.number),
        "seed": str(record.seed),
        "state": str(record.state),
        "diverged": "true" if record.state is State.DIVERGED else "",
        "cause": (outcome.cause or "")[:_MAX_CAUSE],
        "attempts": str(record.attempts),
        "worker": outcome.worker,
        "host": outcome.host,
        "git_commit": subject.git_commit or "",
    }


def _points(outcome: TrialOutcome) -> list[MetricPoint]:
    """The curves at their epochs, and the metrics that have no curve."""
    last_ms = to_ms(outcome.ended_at)
    singles = {key: value for key, value in outcome.metrics.items() if key not in outcome.curves}
    singles |= {"cost/epochs": float(outcome.epochs), "cost/worker_seconds": outcome.worker_seconds}
    points = []
    for key in _chosen_keys(outcome.curves, singles):
        if key in singles:
            points.append(MetricPoint(key, singles[key], 0, last_ms))  # at step 0 MLflow's charts show it as a bar
            continue
        curve = outcome.curves[key]
        for index in range(len(curve)) if key in FULL_CURVES else _spread(len(curve)):
            known = index < len(outcome.epoch_times)
            at = to_ms(outcome.epoch_times[index]) if known else last_ms
            points.append(MetricPoint(key, curve[index], index + 1, at))
    return points


def _chosen_keys(curves: Mapping[str, Sequence[float]], singles: Mapping[str, float]) -> list[str]:
    """At most MAX_KEYS: what results are read from comes first."""

    def rank(key: str) -> tuple[bool, bool, bool, str]:
        return key not in FULL_CURVES, not key.startswith("test/"), key in curves, key

    return sorted({*curves, *singles}, key=rank)[:MAX_KEYS]


def _spread(count: int) -> list[int]:
    """At most CURVE_POINTS of range(count), evenly spread, both ends in."""
    if count <= CURVE_POINTS:
        return list(range(count))
    return [round(step * (count - 1) / (CURVE_POINTS - 1)) for step in range(CURVE_POINTS)]


def spelled(value: Value) -> str:
    """A value as a tag or a param."""
    return value if isinstance(value, str) else json.dumps(value)


def to_ms(seconds: float) -> int:
    """Milliseconds."""
    return round(seconds * 1000)
