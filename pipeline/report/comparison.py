"""The comparison as tables: all arms, all pairs, two sweeps. Computes nothing; verdicts.py has the words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..comparison import Against, ArmResult, Basis, Comparison, Estimate, Pair, unseen_skewness
from ..records import Phase, State
from .numbers import column_digits, count_text, level_text, params_text, plus_minus, thousands, value_text
from .progress import STATE_STYLES
from .verdicts import PLAIN_COVERAGE, VERDICT_STYLES, pairs_sentence

WIDE, WIDER = 90, 110
"""columns of the terminal from which there is room for more figures"""


def comparison_table(comparison: Comparison, width: int = 100) -> Table:
    """One row an arm, grouped by the values it is matched on, the baseline first in each group.

    Columns that say the same of every arm go into the caption; below 90 columns bits/dim and epochs go too, and
    below 110 the images' standard error and the probability of beating the baseline.
    """
    factors = comparison.factors
    names = sorted(comparison.arms[0].values if comparison.arms else (), key=lambda name: name in factors)
    columns = _columns(comparison, width)
    table = plain_table(caption=_caption(comparison, width))
    if comparison.provisional:
        table.title = f"provisional · {count_text(comparison.missing_repeats, 'repeat')} to come"
    for name in names:
        table.add_column(name, no_wrap=True)
    for title, justify, _ in columns:
        table.add_column(title, justify=justify, no_wrap=width >= WIDE)  # "-261.13 ±41.33" may take two lines
    for group in _groups(comparison):
        for arm in group:
            hidden = () if arm is group[0] else [name for name in names if name not in factors]
            cells = [Text("" if name in hidden else value_text(arm.values[name])) for name in names]
            cells += [cell(arm) for _, _, cell in columns]
            table.add_row(*cells, end_section=arm is group[-1] and len(group) > 1)
    return table


_Column = tuple[str, Literal["left", "right"], Callable[[ArmResult], Text]]


def _columns(comparison: Comparison, width: int) -> list[_Column]:
    """Title, side and cell of every column that has something to tell arms apart by; divergence comes first."""
    arms, pairs = comparison.arms, {pair.arm: pair for pair in comparison.pairs}
    digits = column_digits([arm.estimate for arm in arms])
    digits_pair = column_digits([pair.difference for pair in comparison.pairs])

    def difference(arm: ArmResult) -> Text:
        found = pairs.get(arm.id)
        return Text(plus_minus(found.difference, digits_pair, "+")) if found else Text("baseline", "dim")

    def verdict(arm: ArmResult) -> Text:
        found = pairs.get(arm.id)
        one = comparison.replicates > 1 and found is not None and found.basis is Basis.CONFIGURATIONS
        return _verdict(found, " (one search)" if one else "") if found else Text()

    columns: list[_Column] = []
    if any(_losses(arm, comparison) for arm in arms):
        columns.append(("diverged", "right", lambda a: Text(_losses(a, comparison), STATE_STYLES[State.DIVERGED])))
    columns.append((comparison.metric, "right", lambda a: Text(plus_minus(a.estimate, digits))))
    if width >= WIDER and any(arm.image_se is not None for arm in arms):
        error = lambda a: Text("—" if a.image_se is None else f"{a.image_se:.2f}")  # noqa: E731
        columns.append(("images", "right", error))
    if pairs:
        columns += [("difference", "right", difference), ("verdict", "left", verdict)]
    if width >= WIDER and pairs:
        columns.append(("beats", "right", lambda a: _beats(pairs.get(a.id))))
    if width >= WIDE and any(arm.bits_per_dim is not None for arm in arms):
        bits = lambda a: Text("—" if a.bits_per_dim is None else f"{a.bits_per_dim:.3f}")  # noqa: E731
        columns.append(("bits/dim", "right", bits))
    if width >= WIDE and len({_budget(arm) for arm in arms}) > 1:
        columns.append(("epochs", "right", lambda a: Text(thousands(_budget(a)[1]))))
    return columns


def _verdict(pair: Pair, mark: str = "") -> Text:
    return Text(f"{pair.verdict}{mark}", VERDICT_STYLES[pair.verdict])


def _beats(pair: Pair | None) -> Text:
    found = None if pair is None else pair.probability
    return Text() if found is None else Text(f"{100 * found.value:.0f}%")


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


def _caption(comparison: Comparison, width: int) -> str:
    lost = any(_losses(arm, comparison) for arm in comparison.arms)
    over = "searches" if comparison.replicates > 1 else "repeats: chosen configurations only"
    converged = ", over the converged" if any(arm.repeats_lost for arm in comparison.arms) else ""
    notes = ["diverged: repeats · search trials" if lost else "nothing diverged"]
    shown = [arm.estimate for arm in comparison.arms] + [pair.difference for pair in comparison.pairs]
    how = "bootstrap" if any(one is not None and one.method == "bootstrap" for one in shown) else "t"
    notes.append(f"± {100 * (1 - comparison.alpha):g}% {how} interval over {over}{converged}")
    notes += _skewed(shown)
    notes += _image_errors(comparison, width)
    if width >= WIDER and comparison.pairs:
        notes.append("beats: share of replicates in which the arm beats its baseline, a tie half")
    budgets = {_budget(arm) for arm in comparison.arms}
    if len(budgets) == 1:
        trials, epochs = next(iter(budgets))
        notes.append(f"each arm {thousands(trials)} search trials, {thousands(epochs)} epochs in all")
    return "\n".join(notes)


def _skewed(found: Sequence[Estimate | None]) -> list[str]:
    """How far the intervals of skewed values hold."""
    shown = [one.coverage for one in found if one is not None and one.coverage is not None and not one.hidden]
    notes = []
    fewest = min((one.count for one in found if one is not None and one.low is not None), default=0)
    if (unseen := unseen_skewness(fewest)) is not None:
        normal, skewed = (f"{100 * share:.0f}%" for share in unseen)
        notes.append(
            f"{fewest} values cannot show skewness: such intervals hold in {normal}, of exponential ones {skewed}"
        )
    if shown and min(shown) < PLAIN_COVERAGE:
        notes.append(f"some values are skewed: their 95% intervals hold in {100 * min(shown):.1f}% or more")
    if any(one is not None and one.hidden for one in found):
        notes.append("without ±: too skewed for an interval that holds in 90%")
    return notes


def _image_errors(comparison: Comparison, width: int) -> list[str]:
    errors = [arm.image_se for arm in comparison.arms if arm.image_se is not None]
    if not errors:
        return []
    images = count_text(comparison.test_images, "test image") if comparison.test_images else "test images"
    what = f"standard error over the {images}, in part common to all arms"
    if width >= WIDER:
        return [f"images: {what}"]
    ends = sorted({f"{error:.2f}" for error in (min(errors), max(errors))})
    return [f"{what}: {' to '.join(ends)} nats"]


def pairs_table(comparison: Comparison, width: int = 100) -> RenderableType:
    """Every pair of matched arms, grouped by the values it is matched on; for `all_pairs`."""
    by_id = {arm.id: arm for arm in comparison.arms}
    digits = column_digits([pair.difference for pair in comparison.all_pairs])
    table = plain_table()
    contexts = [params_text(pair.context) for pair in comparison.all_pairs]
    if any(contexts):
        table.add_column("at")
    for title in ("arm", "other"):
        table.add_column(title, overflow="fold")
    _add_found(table, width)
    for i, pair in enumerate(comparison.all_pairs):
        at = [Text("" if i and contexts[i - 1] == contexts[i] else contexts[i])] if any(contexts) else []
        other = {name: by_id[pair.baseline].values[name] for name in pair.level}
        names = [Text(level_text(level)) for level in (pair.level, other)]
        last = i + 1 < len(contexts) and contexts[i + 1] != contexts[i]
        table.add_row(*at, *names, *_found(pair, digits, width), end_section=last)
    return Group(Text(f"\n{pairs_sentence(comparison)}"), table)


def against_table(found: Against, width: int = 100) -> RenderableType:
    """What differs between two sweeps, then one row for each arm and its match."""
    ours, theirs = ({arm.id: arm for arm in side} for side in (found.arms, found.against_arms))
    digits = column_digits([pair.difference for pair in found.pairs])
    digits_arm = column_digits([arm.estimate for arm in (*found.arms, *found.against_arms)])
    table = plain_table(caption="\n".join(_skewed([pair.difference for pair in found.pairs])))
    table.add_column("arm", overflow="fold")
    for name in (found.name, found.against):
        table.add_column(name, justify="right", overflow="fold")
    _add_found(table, width)
    for pair in found.pairs:
        arm, base = ours[pair.arm], theirs[pair.baseline]
        label = arm.label if arm.id == base.id else f"{arm.label}; there {base.label}"
        means = [Text(plus_minus(side.estimate, digits_arm)) for side in (arm, base)]
        table.add_row(Text(label), *means, *_found(pair, digits, width))
    lines = [Text(f"  {line}") for line in found.differences]
    head = f"differs ({found.against} -> {found.name}):" if lines else "no value of the two studies differs"
    left = [Text(f"without a match: {'; '.join(found.unmatched)}", "dim")] if found.unmatched else []
    return Group(Text(head, "bold"), *lines, table, *left)


def _add_found(table: Table, width: int) -> None:
    table.add_column("difference", justify="right", no_wrap=width >= WIDE)
    table.add_column("verdict", no_wrap=width >= WIDE)
    table.add_column("beats", justify="right", no_wrap=True)


def _found(pair: Pair, digits: int, width: int) -> list[Text]:
    chance = pair.probability
    beats = Text("—") if chance is None else _beats(pair)
    if chance is not None and width >= WIDE:
        beats.append(f" [{100 * chance.low:.0f}, {100 * chance.high:.0f}]")
    return [Text(plus_minus(pair.difference, digits, "+")), _verdict(pair), beats]


def plain_table(*, caption: str = "") -> Table:
    """The look of every table."""
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
