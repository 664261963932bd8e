"""Whether the tracker has what the ledger has, and nothing else; what of it can be mended by delivering again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..tracking.base import RecordedRun, RunRecord, RunStatus, Tracker
from .records import PARENT, STATUS, Subject, parent_status, run_record, sweep_of, sweep_run

if TYPE_CHECKING:
    from ..ledger.store import Ledger


def check(ledger: Ledger, tracker: Tracker, subject: Subject) -> list[str]:
    """What the tracker has otherwise than the ledger, one line each; empty when they agree."""
    found, lines = _by_ledger_id(tracker, ledger, subject, files=True), list[str]()
    record = sweep_of(ledger, subject.sweep)
    parent = sweep_run(record, subject)
    due = None if record.status == "running" else parent_status(record)
    lines += _differences("the parent run", found.pop(parent.ledger_id, []), due, None)
    for trial in ledger.trials(subject.sweep, states=STATUS):
        expected = run_record(trial, subject, parent=parent, reproducible=record.reproducible)
        lines += _differences(str(trial.key), found.pop(expected.ledger_id, []), expected.status, expected)
        lines += [
            f"{trial.key}: {name} is gone from {subject.paths.trial(parent.name, trial.key)}"
            for name in sorted(trial.files.keys() - expected.files.keys())
        ]
    return [*lines, *(f"{ledger_id}: recorded, but not an ended trial of the ledger" for ledger_id in sorted(found))]


def undone(ledger: Ledger, tracker: Tracker, subject: Subject, *, files: bool) -> set[str]:
    """Items that were delivered and are not there as they were: somebody removed them, or a store was set back.

    `files`: looks for missing artifacts as well. Raises TrackerAway and TrackerError.
    """
    done = ledger.deliveries(subject.sweep, tracker.target, state="done")
    if not done:
        return set()
    record = sweep_of(ledger, subject.sweep)
    parent = sweep_run(record, subject)
    found = _by_ledger_id(tracker, ledger, subject, files=files)
    if parent.ledger_id not in found:
        return set(done)  # the runs name a parent that is gone
    wrong: set[str] = set()
    for trial in ledger.trials(subject.sweep, states=STATUS):
        if str(trial.key) not in done:
            continue
        expected = run_record(trial, subject, parent=parent, reproducible=record.reproducible)
        if _differences("", found.get(expected.ledger_id, []), expected.status, expected, files=files):
            wrong.add(str(trial.key))
    if PARENT in done and record.status != "running":
        ended = parent_status(record)
        wrong |= {PARENT} if any(run.status != ended for run in found[parent.ledger_id]) else set()
    return wrong


def _by_ledger_id(
    tracker: Tracker, ledger: Ledger, subject: Subject, *, files: bool
) -> dict[str, Collection[RecordedRun]]:
    found: dict[str, list[RecordedRun]] = {}
    for run in tracker.recorded(sweep_run(sweep_of(ledger, subject.sweep), subject), files=files):
        found.setdefault(run.ledger_id, []).append(run)
    return dict(found)


def _differences(
    name: str,
    found: Collection[RecordedRun],
    status: RunStatus | None,
    expected: RunRecord | None,
    *,
    files: bool = True,
) -> Sequence[str]:
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
        if files:
            lines += [f"{name}: {file} is missing" for file in sorted(expected.files.keys() - run.artifacts)]
    return lines
