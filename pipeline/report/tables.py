"""What people read: the comparison in words and tables, and the tables of `plan`, `status`, `list`, `show`.

Turns results into rich renderables and plain text. Computes nothing and knows no ledger: the caller
passes what it has.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..comparison import MANY_REPLICATES, ArmResult, Basis, Comparison, Estimate, Pair, Verdict
from ..records import Params, Phase, State, TrialRecord, Value
from .plot import curve
from .progress import STATE_STYLES

VERDICT_STYLES: Mapping[str, str] = {
    Verdict.BETTER: "green",
    Verdict.WORSE: "red",
    Verdict.EQUIVALENT: "cyan",
    Verdict.IDENTICAL: "cyan",
    Verdict.UNDECIDED: "dim",
    Verdict.DIVERGED: "yellow",
}

_PREPOSITIONS: Mapping[Verdict, str] = {
    Verdict.BETTER: "than",
    Verdict.WORSE: "than",
    Verdict.EQUIVALENT: "to",
    Verdict.IDENTICAL: "to",
}


def value_text(value: Value) -> str:
    """A hyperparameter's value as people write it: `0.001`, `128-64`, `log_std`."""
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def params_text(params: Params, separator: str = ", ") -> str:
    """`learning_rate=0.001, beta_warmup_epochs=5`."""
    return separator.join(f"{name}={value_text(value)}" for name, value in params.items())


def _digits(found: Estimate) -> int:
    """Decimals that show two significant digits of the half width; 2 without an interval."""
    half = _half(found)
    return 2 if not half else min(max(1 - math.floor(math.log10(half)), 0), 6)


def _half(found: Estimate) -> float | None:
    return None if found.low is None or found.high is None else (found.high - found.low) / 2


def _interval(found: Estimate, sign: str = "") -> str:
    """`[0.71, 1.89]`, empty for a single value."""
    digits = _digits(found)
    return "" if found.low is None else f"[{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"


def _plus_minus(found: Estimate | None, digits: int, sign: str = "") -> str:
    half = None if found is None else _half(found)
    mean = "—" if found is None else f"{found.mean:{sign}.{digits}f}"
    return mean if half is None else f"{mean} ±{half:.{digits}f}"


def _column_digits(column: Sequence[Estimate | None]) -> int:
    """One number of decimals for a column: two where its intervals allow."""
    digits = [_digits(found) for found in column if found is not None] or [2]
    return max(min(digits), min(2, max(digits)))


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _count(number: int, word: str) -> str:
    return f"{_thousands(number)} {word}{'' if number == 1 else 's'}"


def verdict_sentences(comparison: Comparison) -> list[str]:
    """What was found, in words: the population once, then one sentence per compared level."""
    sentences = [_population(comparison)]
    if comparison.provisional:
        missing = _count(comparison.missing_repeats, "repeat")
        sentences.append(f"Provisional: {missing} still to come; all of this may change.")
    levels: dict[str, list[Pair]] = {}
    for pair in comparison.pairs:
        levels.setdefault(_level(pair.level), []).append(pair)
    sentences.extend(_sentence(level, pairs, comparison) for level, pairs in levels.items())
    lost = [arm for arm in comparison.arms if arm.repeats_lost]
    if lost:
        counted = ", ".join(f"{arm.label} {lost_text(arm, comparison)}" for arm in lost)
        sentences.append(
            f"Repeats that gave no value: {counted}. Means are over the others; such an arm is called better "
            "only if that also holds with these repeats ranked last, and never equivalent."
        )
    return sentences


def lost_text(arm: ArmResult, comparison: Comparison) -> str:
    """`2 of 15 diverged`, `1 of 15 failed`, or both; empty when all repeats converged."""
    failed = arm.ended[Phase.REPEAT][State.FAILED]
    counts = {"diverged": arm.repeats_lost - failed, "failed": failed}
    total = comparison.replicates * comparison.repeats
    return ", ".join(f"{count} of {total} {word}" for word, count in counts.items() if count)


def _population(comparison: Comparison) -> str:
    if not comparison.pairs:
        return "There is one arm: nothing to compare."
    images = f" of {_count(comparison.test_images, 'test image')}" if comparison.test_images else ""
    family = f"{_count(len(comparison.pairs), 'comparison')} (Holm)"
    family = f"; false differences held at {100 * comparison.alpha:g}% over {family}"
    what = f"Differences in {comparison.metric}, nats per image, with {100 * (1 - comparison.alpha):g}% intervals"
    if comparison.replicates > 1:
        over = f"over searches ({comparison.replicates} an arm) and training seeds"
        return f"{what}, {over}, on this split{images}{family}."
    over = "over the training seeds of the chosen configurations"
    caveat = "With one search an arm nothing can be said of the arms themselves."
    return f"{what}, {over}, on this split{images}{family}. {caveat}"


def _level(level: Params) -> str:
    return value_text(next(iter(level.values()))) if len(level) == 1 else params_text(level)


def _sentence(level: str, pairs: Sequence[Pair], comparison: Comparison) -> str:
    by_id = {arm.id: arm for arm in comparison.arms}
    clauses = []
    named = False
    for verdict in Verdict:
        for pair in (pair for pair in pairs if pair.verdict == verdict):
            base = {name: by_id[pair.baseline].values[name] for name in pair.level}
            against = "" if named else _level(base)
            clauses.append(_clause(pair, against, by_id, comparison))
            named = True
    only = ", chosen configurations only" if comparison.replicates == 1 else ""
    return f"{level}{only}: {'; '.join(clauses)}."


def _clause(pair: Pair, base: str, by_id: Mapping[str, ArmResult], comparison: Comparison) -> str:
    """One pair in words; `base` is empty where the sentence has named it already."""
    found = pair.difference
    waiting = found is None and pair.verdict is Verdict.UNDECIDED
    against = f" {_PREPOSITIONS.get(pair.verdict, 'against')} {base}" if base else ""
    at = f" at {params_text(pair.context)}" if pair.context else ""
    one_search = pair.basis is Basis.CONFIGURATIONS and comparison.replicates > 1 and found is not None
    only = ", one search in common: the chosen configurations only" if one_search else ""
    head = f"{'no result yet' if waiting else pair.verdict}{against}{at}{only}"
    if pair.verdict is Verdict.DIVERGED:
        sides = [by_id[pair.arm], by_id[pair.baseline]]
        lost = next(side.label for side in sides if side.estimate is None and side.repeats_lost)
        return f"{head} (no repeat of {lost} converged)"
    if pair.verdict is Verdict.IDENTICAL:
        return f"{head} (every paired value equal)"
    if found is None:
        return head
    if pair.verdict in (Verdict.BETTER, Verdict.WORSE):
        small = f", inside the margin of {comparison.margin_nats:g}" if pair.inside_margin else ""
        bounds = sorted(abs(bound) for bound in (found.low, found.high) if bound is not None)
        size = replace(found, mean=abs(found.mean), low=bounds[0], high=bounds[1])
        return f"{head} by {size.mean:.{_digits(size)}f} nats {_interval(size)}{small}"
    signed = f"{found.mean:+.{_digits(found)}f} {_interval(found, '+')}".rstrip()
    if pair.verdict is Verdict.EQUIVALENT:
        return f"{head} (within ±{comparison.margin_nats:g} nats: {signed})"
    outlook = _outlook(pair, by_id, comparison)
    return f"{head} ({signed}{'; ' if outlook else ''}{outlook})"


def _outlook(pair: Pair, by_id: Mapping[str, ArmResult], comparison: Comparison) -> str:
    """What keeps an undecided pair undecided, and what would settle it."""
    if by_id[pair.arm].repeats_lost or by_id[pair.baseline].repeats_lost:
        return "lost repeats ranked last"
    more = pair.more_replicates
    notes = []
    if pair.p <= comparison.alpha:
        notes.append(f"not significant among {len(comparison.pairs)} comparisons")
    if more is not None:
        many = "many" if more >= MANY_REPLICATES else f"about {more}"
        notes.append(f"{many} more replicate{'' if more == 1 else 's'} would settle it")
    return "; ".join(notes)


def verdict_text(comparison: Comparison) -> Text:
    """`verdict_sentences` as styled paragraphs, the verdict's word coloured."""
    text = Text("\n".join(verdict_sentences(comparison)))
    for verdict in Verdict:
        text.highlight_regex(rf"(?<=[:;] ){verdict}\b", f"bold {VERDICT_STYLES[verdict]}")
    text.highlight_regex(r"(?m)^Provisional:", "bold yellow")
    return text


def comparison_table(comparison: Comparison, width: int = 100) -> Table:
    """One row an arm, grouped by the values it is matched on, the baseline first in each group.

    Columns that say the same of every arm go into the caption; below 90 columns bits/dim and epochs go too.
    """
    factors = comparison.factors
    names = sorted(comparison.arms[0].values if comparison.arms else (), key=lambda name: name in factors)
    columns = _columns(comparison, wide=width >= 90)
    table = _table(caption=_caption(comparison))
    if comparison.provisional:
        table.title = f"provisional · {_count(comparison.missing_repeats, 'repeat')} to come"
    for name in names:
        table.add_column(name, no_wrap=True)
    for title, justify, _ in columns:
        table.add_column(title, justify=justify, no_wrap=width >= 90)  # "-261.13 ±41.33" may take two lines
    for group in _groups(comparison):
        for arm in group:
            hidden = () if arm is group[0] else [name for name in names if name not in factors]
            cells = [Text("" if name in hidden else value_text(arm.values[name])) for name in names]
            cells += [cell(arm) for _, _, cell in columns]
            table.add_row(*cells, end_section=arm is group[-1] and len(group) > 1)
    return table


_Column = tuple[str, Literal["left", "right"], Callable[[ArmResult], Text]]


def _columns(comparison: Comparison, *, wide: bool) -> list[_Column]:
    """Title, side and cell of every column that has something to tell arms apart by."""
    arms = comparison.arms
    pairs = {pair.arm: pair for pair in comparison.pairs}
    digits = _column_digits([arm.estimate for arm in arms])
    digits_pair = _column_digits([pair.difference for pair in comparison.pairs])

    def difference(arm: ArmResult) -> Text:
        found = pairs.get(arm.id)
        return Text(_plus_minus(found.difference, digits_pair, "+")) if found else Text("baseline", "dim")

    def verdict(arm: ArmResult) -> Text:
        found = pairs.get(arm.id)
        one = comparison.replicates > 1 and found is not None and found.basis is Basis.CONFIGURATIONS
        mark = " (one search)" if one else ""
        return Text(f"{found.verdict}{mark}", VERDICT_STYLES[found.verdict]) if found else Text()

    columns: list[_Column] = [(comparison.metric, "right", lambda a: Text(_plus_minus(a.estimate, digits)))]
    if pairs:
        columns += [("difference", "right", difference), ("verdict", "left", verdict)]
    if wide and any(arm.bits_per_dim is not None for arm in arms):
        bits = lambda a: Text("—" if a.bits_per_dim is None else f"{a.bits_per_dim:.3f}")  # noqa: E731
        columns.append(("bits/dim", "right", bits))
    if any(_losses(arm, comparison) for arm in arms):
        columns.append(("diverged", "right", lambda a: Text(_losses(a, comparison), STATE_STYLES[State.DIVERGED])))
    if wide and len({_budget(arm) for arm in arms}) > 1:
        columns.append(("epochs", "right", lambda a: Text(_thousands(_budget(a)[1]))))
    return columns


def _groups(comparison: Comparison) -> list[list[ArmResult]]:
    """Arms by baseline, the baseline first, in the study's order."""
    groups: dict[str, list[ArmResult]] = {arm.baseline: [] for arm in comparison.arms}
    for arm in comparison.arms:
        position = 0 if arm.id == arm.baseline else len(groups[arm.baseline])
        groups[arm.baseline].insert(position, arm)
    return list(groups.values())


def _losses(arm: ArmResult, comparison: Comparison) -> str:
    """`1/15 · 2/80`: diverged or failed repeats and search trials of those due or ended; empty for none."""
    search = arm.ended[Phase.SEARCH]
    lost = search[State.DIVERGED] + search[State.FAILED]
    if not arm.repeats_lost and not lost:
        return ""
    repeats = comparison.replicates * comparison.repeats
    return f"{arm.repeats_lost}/{repeats} · {lost}/{sum(search.values())}"


def _budget(arm: ArmResult) -> tuple[int, int]:
    return sum(arm.ended[Phase.SEARCH].values()), sum(arm.epochs.values())


def _caption(comparison: Comparison) -> str:
    over = "searches" if comparison.replicates > 1 else "repeats: chosen configurations only"
    notes = [f"± {100 * (1 - comparison.alpha):g}% interval over {over}"]
    budgets = {_budget(arm) for arm in comparison.arms}
    if len(budgets) == 1:
        trials, epochs = next(iter(budgets))
        notes.append(f"each arm {_thousands(trials)} search trials, {_thousands(epochs)} epochs in all")
    lost = any(_losses(arm, comparison) for arm in comparison.arms)
    notes.append("diverged: repeats · search trials" if lost else "nothing diverged")
    return "\n".join(notes)


def _table(*, caption: str = "") -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=caption or None,
        caption_justify="left",
        title_justify="left",
        title_style="bold yellow",
        caption_style="dim",
        header_style="bold",
    )


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


def plan_table(
    *, facts: Sequence[tuple[str, str]], arms: Sequence[str], baselines: Sequence[str] = (), limit: int = 24
) -> Group:
    """What a study would do: facts, then its arms by label, those named in `baselines` marked."""
    lines = [Text(f"  {arm}" + ("  (baseline)" if arm in baselines else "")) for arm in arms[:limit]]
    more = [Text(f"  … and {len(arms) - limit} more", style="dim")] if len(arms) > limit else []
    return Group(facts_table(facts), Text(f"\n{_count(len(arms), 'arm')}", style="bold"), *lines, *more)


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
    table = _table()
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
    table = _table()
    for title in ("sweep", "status", "trials", "begun (UTC)", "question"):
        table.add_column(title, justify="right" if title == "trials" else "left", no_wrap=title != "question")
    for sweep in sweeps:
        begun = time.strftime("%Y-%m-%d %H:%M", time.gmtime(sweep.created_at))
        cells = (sweep.name, sweep.status, f"{sweep.done}/{sweep.total}", begun, sweep.question)
        table.add_row(*(Text(cell) for cell in cells))
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
