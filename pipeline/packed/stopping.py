"""Whether a trial stops after an epoch: a pure function of its task and its own curve. Knows no slot and no torch."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import TrialTask


def stop_cause(task: TrialTask, curve: Sequence[float]) -> str | None:
    """Why the trial ends with the last epoch of `curve`, its metric so far; None: it goes on."""
    epoch, rule = len(curve), task.stopping
    threshold = task.thresholds[epoch - 1] if epoch <= len(task.thresholds) else None
    if threshold is not None:
        what, value = ("latest", curve[-1]) if rule.by_latest else ("best", max(curve))
        if value < threshold:
            return f"{what} {value:.3f} below {threshold:.3f} after epoch {epoch}"
    if rule.patience_epochs is not None and epoch > rule.patience_epochs + 1:
        latest = rule.patience_epochs + 1
        before, now = max(curve[:-latest]), max(curve[-latest:])
        if before - rule.min_delta_nats > now:
            return f"best of {latest} epochs {now:.3f} below {before:.3f} - {rule.min_delta_nats:g} after epoch {epoch}"
    return None
