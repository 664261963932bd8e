"""The tables of `plan`, `status`, `list`, `show`; those of the comparison are comparison.py's.

Turns what the caller has into rich renderables and plain text. Computes nothing and knows no ledger.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..comparison import metric_value
from ..picking import FrontPoint
from ..records import Params, Phase, State, TrialRecord
from .comparison import plain_table
from .numbers import count_text, params_text, value_text
from .plot import curve
from .progress import STATE_STYLES


@dataclass(frozen=True, slots=True)
class SweepLine:
    """One sweep in `list`."""

    name: str
    status: str
    created_at: float
    """Unix seconds"""
    done: int
    """ended trials"""
    total: int
    question: str = ""


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    """Names and values side by side."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    return table


def front_table(front: Sequence[FrontPoint]) -> Table:
    """The arms that no other beats, with what they were judged by."""
    table = plain_table()
    table.add_column("no other arm beats", overflow="fold")
    for name in front[0].objectives:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for point in front:
        cells = [f"{value:.2f}".removesuffix(".00") for value in point.objectives.values()]
        table.add_row(Text(point.label), *cells, "taken" if point.taken else "", style="bold" if point.taken else None)
    return table


def plan_table(
    *, facts: Sequence[tuple[str, str]], arms: Sequence[str], baselines: Sequence[str] = (), limit: int = 24
) -> Group:
    """What a study would do: facts, then its arms by label, those named in `baselines` marked."""
    lines = [Text(f"  {arm}" + ("  (baseline)" if arm in baselines else "")) for arm in arms[:limit]]
    more = [Text(f"  … and {len(arms) - limit} more", style="dim")] if len(arms) > limit else []
    return Group(facts_table(facts), Text(f"\n{count_text(len(arms), 'arm')}", style="bold"), *lines, *more)


def status_table(
    *,
    arms: Sequence[tuple[str, str]],
    counts: Mapping[tuple[str, Phase, State], int],
    expected: Mapping[Phase, int],
    best: Mapping[str, float] | None = None,
) -> Table:
    """Progress by arm. `arms`: (id, label). `expected`: trials of one arm by phase.

    `best`: best validation value by arm id.
    """
    ends = [State.COMPLETE, State.STOPPED, State.DIVERGED, State.FAILED]
    shown = [s for s in (State.RUNNING, *ends[1:]) if any(counts.get((a, p, s)) for a, _ in arms for p in Phase)]
    table = plain_table()
    table.add_column("arm", overflow="fold")
    for title in (
        *(phase for phase in Phase if expected.get(phase)),
        *shown,
        *(["best"] if best else []),
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for arm, label in arms:
        cells = [Text(label)]
        for phase in (phase for phase in Phase if expected.get(phase)):
            done = sum(counts.get((arm, phase, state), 0) for state in ends)
            style = STATE_STYLES[State.COMPLETE] if done >= expected[phase] else "" if done else "dim"
            cells.append(Text(f"{done}/{expected[phase]}", style=style))
        for state in shown:
            number = sum(counts.get((arm, phase, state), 0) for phase in Phase)
            cells.append(Text(str(number or "·"), style=STATE_STYLES[state] if number else "dim"))
        if best:
            cells.append(Text(f"{best[arm]:.2f}" if arm in best else "—"))
        table.add_row(*cells)
    return table


def list_table(sweeps: Sequence[SweepLine]) -> Table:
    """All sweeps of a working directory, in the order given. Times are UTC."""
    table = plain_table()
    for title in ("sweep", "status", "trials", "begun (UTC)", "question"):
        table.add_column(title, justify="right" if title == "trials" else "left", no_wrap=title != "question")
    for sweep in sweeps:
        begun = time.strftime("%Y-%m-%d %H:%M", time.gmtime(sweep.created_at))
        cells = (sweep.name, sweep.status, f"{sweep.done}/{sweep.total}", begun, sweep.question)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def trials_table(records: Sequence[TrialRecord], *, labels: Mapping[str, str], metric: str) -> Table:
    """Every trial on a line of its own, in the order given; `labels`: an arm's id -> its label."""
    table = plain_table()
    for title in ("trial", "arm", "state"):
        table.add_column(title, no_wrap=title != "arm", overflow="fold")
    tuned = list(dict.fromkeys(name for record in records for name in record.params))
    for title in ("epochs", metric, *tuned):
        table.add_column(title, justify="right", overflow="fold")
    for record in records:
        value, outcome = metric_value(record, metric), record.outcome
        table.add_row(
            Text(str(record.key)),
            Text(labels[record.key.arm]),
            Text(record.state, style=STATE_STYLES[record.state]),
            str(outcome.epochs) if outcome else "·",
            "—" if value is None else f"{value:.2f}",
            *(Text(value_text(record.params[name]) if name in record.params else "·") for name in tuned),
        )
    return table


def trial_view(
    record: TrialRecord, *, label: str, hyperparameters: Params, command: str = "", metric: str = "val/elbo"
) -> Group:
    """One trial: what it was, how it ended, its curve, and the command that trains it alone."""
    outcome = record.outcome
    key = record.key
    facts = [
        ("trial", str(key)),
        ("arm", label),
        ("", f"replicate {key.replicate}, {key.phase} {key.number}"),
        ("state", str(record.state)),
        ("seed", str(record.seed)),
        ("tuned", params_text(record.params) or "nothing"),
        ("all", params_text(hyperparameters)),
    ]
    parts: list[RenderableType] = []
    if outcome is not None:
        facts += [("epochs", str(outcome.epochs))] + ([("cause", outcome.cause)] if outcome.cause else [])
        facts += [(name, f"{value:.4f}") for name, value in sorted(outcome.metrics.items())]
        values = outcome.curves.get(metric, ())
        if len(values) > 1:
            parts = [Text(f"\n{metric} by epoch", style="bold"), Text("\n".join(curve(values)))]
    if command:
        parts.append(Text.assemble(("\nalone: ", "dim"), command))
    return Group(facts_table(facts), *parts)


def render_text(renderable: RenderableType, width: int = 100) -> str:
    """The renderable as plain text for a file: no colours, no trailing blanks."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, no_color=True, force_terminal=False, legacy_windows=False).print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).rstrip() + "\n"
