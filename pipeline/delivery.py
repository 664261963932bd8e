"""Delivery: what the ledger has and the tracker has not, is recorded there, once, behind the training.

Knows the ledger and the `Tracker` protocol; no MLflow, no study file and no training. Runs in its own process:
whatever happens to it or to the tracker, the ledger says what is left. An item is marked begun before the
tracker hears of it and done when it is complete there; what is begun and not done is delivered "in doubt".
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import LeaseHeldError, TrackerAway, TrackerError
from .ledger.schema import Holder, Role, SweepRecord
from .paths import WorkPaths
from .records import Params, State, TrialOutcome, TrialRecord, Value, digest
from .tracking.base import DatasetInfo, MetricPoint, RecordedRun, RunRecord, RunStatus, SweepRun, Tracker

if TYPE_CHECKING:
    from .ledger.store import Ledger

FULL_CURVES = ("train/elbo", "val/elbo")
"""Curves with a point at every epoch."""
CURVE_POINTS = 20
"""Most points of any other curve."""
MAX_KEYS = 30
"""Most metric names of a run."""
PARENT = "parent"
"""The delivery item that is the sweep itself."""

Clock = Callable[[], float]

_BATCH = 20
_HEARTBEAT_SECONDS = 5.0
_BACK_OFF_SECONDS = (1.0, 30.0)
_MAX_CAUSE = 2000
_STATUS: Mapping[State, RunStatus] = {
    State.COMPLETE: "FINISHED",
    State.DIVERGED: "FINISHED",
    State.STOPPED: "KILLED",
    State.FAILED: "FAILED",
}


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


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """How a round of delivery went."""

    delivered: int
    remaining: int
    """ended trials that the tracker has not got, refused ones included"""
    away: str | None = None
    """why the tracker could not be reached"""
    refused: Mapping[str, str] = field(default_factory=dict)
    """item -> why the tracker would not have it"""


# -- records


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
        ledger_id=digest([record.name, record.study_hash, record.created_at], 16),
        study_yaml=file.read_text() if file.is_file() else record.study + "\n",
        question=str(study.get("question", "")),
        started_ms=_ms(record.created_at),
        tags={key: value for key, value in tags.items() if value},
        dataset=subject.dataset,
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
        "reproducible": _spelled(reproducible),
        "nonfinite_points": str(len(points) - len(finite)),
        "missing_files": str(len(record.files) - len(files)),
    }
    key = record.key
    return RunRecord(
        ledger_id=f"{parent.ledger_id}/{key}",
        name=f"{tags['arm']} · {key.phase} {key.replicate}.{key.number}",
        params={name: _spelled(value) for name, value in subject.describe(record).items()},
        metrics=finite,
        tags={name: value for name, value in tags.items() if value not in ("", "0") or name in _COUNTED_FROM_0},
        files=files,
        started_ms=_ms(outcome.started_at),
        ended_ms=_ms(outcome.ended_at),
        status=_STATUS[record.state],
    )


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
    """The curves at their epochs, then the metrics that have no curve, at the last one."""
    last_ms = _ms(outcome.ended_at)
    singles = {key: value for key, value in outcome.metrics.items() if key not in outcome.curves}
    singles |= {"cost/epochs": float(outcome.epochs), "cost/worker_seconds": outcome.worker_seconds}
    points = []
    for key in _chosen_keys(outcome.curves, singles):
        if key in singles:
            points.append(MetricPoint(key, singles[key], outcome.epochs, last_ms))
            continue
        curve = outcome.curves[key]
        for index in range(len(curve)) if key in FULL_CURVES else _spread(len(curve)):
            known = index < len(outcome.epoch_times)
            at = _ms(outcome.epoch_times[index]) if known else last_ms
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


def _spelled(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


# -- delivering


def deliver_pending(ledger: Ledger, tracker: Tracker, subject: Subject, *, clock: Clock = time.time) -> DeliveryReport:
    """Delivers every ended trial that the tracker has not got, oldest first.

    Stops early, without an error, when the tracker is away. A trial that the tracker refuses is reported and
    the others go on. Raises TrackerError when the tracker refuses the sweep itself, LeaseHeldError when another
    process delivers it.
    """
    with hold_lease(ledger, subject.sweep, "delivery", clock) as beat:
        return _deliver(ledger, tracker, subject, beat, {})


def follow(
    ledger: Ledger,
    tracker: Tracker,
    subject: Subject,
    *,
    final_files: Callable[[], Mapping[str, str]] | None = None,
    patience_seconds: float = 600.0,
    idle_seconds: float = 0.5,
    clock: Clock = time.time,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] | None = None,
) -> DeliveryReport:
    """Delivers beside a running sweep until it is over and everything is delivered, then finishes the parent.

    Over means finished, stopped, or its driver gone. `final_files` makes the parent's last artifacts. When the
    tracker is still away `patience_seconds` after the end, or refuses something, it returns with the rest
    remaining. Stands by while another process delivers the sweep. Every problem is one line to `say` (default:
    stderr). Raises as `deliver_pending` does.
    """
    say = say or _to_stderr
    pause, since_over, total = 0.0, None, 0
    refused: dict[str, str] = {}
    with hold_lease(ledger, subject.sweep, "delivery", clock, lambda: sleep(idle_seconds)) as beat:
        while True:
            over = _is_over(ledger, subject.sweep, clock())  # before looking: what ends after is seen next time
            report = _deliver(ledger, tracker, subject, beat, refused)
            total += report.delivered
            for item in report.refused.keys() - refused.keys():
                say(f"{item}: {report.refused[item]}")
            refused.update(report.refused)
            away = report.away
            complete = over and away is None and report.remaining <= len(refused)
            if complete:
                away = _try_to_finish(ledger, tracker, subject, final_files)
            if away and not pause:
                say(f"The tracker is away, trying again: {away}")
            if pause and not away:
                say("The tracker answers again.")
            if complete and away is None:
                return DeliveryReport(total, report.remaining, None, refused)
            pause = min(max(2 * pause, _BACK_OFF_SECONDS[0]), _BACK_OFF_SECONDS[1]) if away else 0.0
            since_over = (since_over or clock()) if over and away else None
            if since_over is not None and clock() - since_over >= patience_seconds:
                return DeliveryReport(total, report.remaining, away, refused)
            _wait(pause or idle_seconds, beat, sleep)


def finish(
    ledger: Ledger, tracker: Tracker, subject: Subject, *, files: Mapping[str, str], metrics: Mapping[str, float]
) -> None:
    """Ends the parent run with its last artifacts: FINISHED when the sweep is, else KILLED. May be repeated.

    Raises TrackerAway or TrackerError.
    """
    record = _sweep(ledger, subject.sweep)
    run = sweep_run(record, subject)
    counts = Counter[str]()
    for (_, _, state), count in ledger.counts(subject.sweep).items():
        counts[str(state)] += count
    tags = {f"trials_{state}": str(count) for state, count in sorted(counts.items())}
    ledger.mark_begun(subject.sweep, tracker.target, [PARENT])
    run_id = tracker.open_sweep(run)
    tracker.finish_sweep(
        run,
        files=files,
        metrics=metrics,
        tags=tags | {"status": record.status, "reproducible": _spelled(record.reproducible)},
        status=_parent_status(record),
        ended_ms=_ms(_ended_at(ledger, record)),
    )
    ledger.mark_done(subject.sweep, tracker.target, {PARENT: run_id})


def check(ledger: Ledger, tracker: Tracker, subject: Subject) -> list[str]:
    """What the tracker has otherwise than the ledger, one line each; empty when they agree."""
    record = _sweep(ledger, subject.sweep)
    parent = sweep_run(record, subject)
    found: dict[str, list[RecordedRun]] = {}
    for run in tracker.recorded(parent):
        found.setdefault(run.ledger_id, []).append(run)
    due = None if record.status == "running" else _parent_status(record)
    lines = _differences("the parent run", found.pop(parent.ledger_id, []), due, None)
    for trial in ledger.trials(subject.sweep, states=_STATUS):
        expected = run_record(trial, subject, parent=parent, reproducible=record.reproducible)
        lines += _differences(str(trial.key), found.pop(expected.ledger_id, []), expected.status, expected)
        lines += [
            f"{trial.key}: {name} is gone from {subject.paths.trial(parent.name, trial.key)}"
            for name in sorted(trial.files.keys() - expected.files.keys())
        ]
    lines += [f"{ledger_id}: recorded, but not an ended trial of the ledger" for ledger_id in sorted(found)]
    return lines


# -- inside


def _deliver(
    ledger: Ledger, tracker: Tracker, subject: Subject, beat: Callable[[], None], skip: Mapping[str, str]
) -> DeliveryReport:
    sweep, target = subject.sweep, tracker.target
    record = _sweep(ledger, sweep)
    parent = sweep_run(record, subject)
    delivered, refused = 0, dict(skip)
    doubtful: set[str] | None = None
    away = _try_to_open(tracker, parent)
    while away is None:
        beat()
        trials = ledger.undelivered(sweep, target, _BATCH + len(refused))
        batch = {str(trial.key): trial for trial in trials if str(trial.key) not in refused}
        if not batch:
            break
        doubtful = doubtful if doubtful is not None else set(ledger.deliveries(sweep, target, state="begun"))
        ledger.mark_begun(sweep, target, batch)
        done: dict[str, str] = {}
        try:
            for item, trial in batch.items():
                beat()
                run = run_record(trial, subject, parent=parent, reproducible=record.reproducible)
                try:
                    done[item] = tracker.deliver(parent, run, in_doubt=item in doubtful)
                except TrackerAway:
                    raise
                except TrackerError as error:
                    refused[item] = str(error)
        except TrackerAway as error:
            away = str(error)
        finally:
            if done:
                ledger.mark_done(sweep, target, done)
        doubtful |= batch.keys() - done.keys()
        delivered += len(done)
    new = {item: why for item, why in refused.items() if item not in skip}
    return DeliveryReport(delivered, ledger.count_undelivered(sweep, target), away, new)


def _try_to_open(tracker: Tracker, parent: SweepRun) -> str | None:
    """Makes the parent, so that people see the sweep before its first end; why not, when away."""
    try:
        tracker.open_sweep(parent)
    except TrackerAway as error:
        return str(error)
    return None


def _try_to_finish(
    ledger: Ledger,
    tracker: Tracker,
    subject: Subject,
    final_files: Callable[[], Mapping[str, str]] | None,
) -> str | None:
    """Finishes the parent; why not, when the tracker is away."""
    try:
        finish(ledger, tracker, subject, files=final_files() if final_files else {}, metrics={})
    except TrackerAway as error:
        return str(error)
    return None


def _is_over(ledger: Ledger, sweep: str, now: float) -> bool:
    lease = ledger.lease(sweep, "driver")
    return _sweep(ledger, sweep).status != "running" or lease is None or not lease.is_live(now)


@contextmanager
def hold_lease(
    ledger: Ledger, sweep: str, role: Role, clock: Clock = time.time, stand_by: Callable[[], None] | None = None
) -> Iterator[Callable[[], None]]:
    """Holds a role of the sweep; the value, called often, is its heartbeat. Raises LeaseHeldError."""
    _sweep(ledger, sweep)
    holder = Holder.current()
    while True:
        try:
            last = clock()
            ledger.acquire_lease(sweep, role, holder=holder, now=last)
            break
        except LeaseHeldError:
            if stand_by is None:
                raise
        stand_by()

    def beat() -> None:
        nonlocal last
        now = clock()
        if now - last >= _HEARTBEAT_SECONDS:
            ledger.heartbeat(sweep, role, holder, now)
            last = now

    try:
        yield beat
    finally:
        ledger.release_lease(sweep, role, holder)


def _wait(seconds: float, beat: Callable[[], None], sleep: Callable[[float], None]) -> None:
    while seconds > 0:
        sleep(min(seconds, _HEARTBEAT_SECONDS))
        seconds -= _HEARTBEAT_SECONDS
        beat()


def _sweep(ledger: Ledger, name: str) -> SweepRecord:
    record = ledger.sweep(name)
    if record is None:
        raise TrackerError(f"Only a sweep of the ledger is delivered, but {name!r} is not in it. See `vae-sweep list`.")
    return record


def _ended_at(ledger: Ledger, record: SweepRecord) -> float:
    if record.finished_at is not None:
        return record.finished_at
    outcomes = (trial.outcome for trial in ledger.trials(record.name, states=_STATUS))
    return max((outcome.ended_at for outcome in outcomes if outcome), default=record.created_at)


def _parent_status(record: SweepRecord) -> RunStatus:
    return "FINISHED" if record.status == "finished" else "KILLED"


def _differences(
    name: str, found: Sequence[RecordedRun], status: RunStatus | None, expected: RunRecord | None
) -> list[str]:
    if not found:
        return [f"{name}: missing"]
    lines = [f"{name}: recorded {len(found)} times"] if len(found) > 1 else []
    for run in found:
        if status and run.status != status:
            lines.append(f"{name}: is {run.status}, not {status}")
        if expected is None:
            continue
        values = [point.value for point in expected.metrics if point.key == "val/elbo"]
        if values and run.metrics.get("val/elbo") != values[-1]:
            lines.append(f"{name}: last val/elbo is {run.metrics.get('val/elbo')}, not {values[-1]}")
        lines += [f"{name}: {file} is missing" for file in sorted(expected.files.keys() - run.artifacts)]
    return lines


def _to_stderr(line: str) -> None:
    print(line.replace("\n", " "), file=sys.stderr, flush=True)
