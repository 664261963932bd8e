"""Whether the tracker has what the ledger has, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..tracking.base import RecordedRun, RunRecord, RunStatus, Tracker
from .deliver import parent_status, sweep_of
from .records import STATUS, Subject, run_record, sweep_run

if TYPE_CHECKING:
    from ..ledger.store import Ledger


def check(ledger: Ledger, tracker: Tracker, subject: Subject) -> list[str]:
    """What the tracker has otherwise than the ledger, one line each; empty when they agree."""
    record = sweep_of(ledger, subject.sweep)
    parent = sweep_run(record, subject)
    found: dict[str, list[RecordedRun]] = {}
    for run in tracker.recorded(parent):
        found.setdefault(run.ledger_id, []).append(run)
    due = None if record.status == "running" else parent_status(record)
    lines = _differences("the parent run", found.pop(parent.ledger_id, []), due, None)
    for trial in ledger.trials(subject.sweep, states=STATUS):
        expected = run_record(trial, subject, parent=parent, reproducible=record.reproducible)
        lines += _differences(str(trial.key), found.pop(expected.ledger_id, []), expected.status, expected)
        lines += [
            f"{trial.key}: {name} is gone from {subject.paths.trial(parent.name, trial.key)}"
            for name in sorted(trial.files.keys() - expected.files.keys())
        ]
    lines += [f"{ledger_id}: recorded, but not an ended trial of the ledger" for ledger_id in sorted(found)]
    return lines


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
