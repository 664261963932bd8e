"""The evidence of a report page, one function a section: what is to be seen, charts, tables.

Turns results and analyses into words and figures. Reads no file (page_files.py does) and computes no statistic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..analysis.shapes import Analysis
from ..comparison import ArmResult, Comparison, Verdict
from ..config import dump_study
from ..records import Params, Phase, State
from ..results import Results
from . import figures
from .numbers import params_text, value_text
from .page_answer import shown_to_be_close, shown_to_differ
from .page_parts import (
    MISSING,
    Chart,
    Charts,
    Section,
    Table,
    count,
    interval,
    listed,
    number,
    share,
    thousands,
    typeset,
)
from .panels import level_of, panels, styles
from .verdicts import coverage_text, lost_text, verdict_sentences

MOST_PANELS = 12
"""contexts drawn; the tables have all"""
MOST_ROWS = 2000
"""of a table"""


def charts(
    comparison: Comparison, id: str, label: str, draw: Callable[[Params], Any], *, title: str = "", legend: bool = True
) -> Charts:
    """One chart for each context. `draw`: the figure of one context; `label`: what it shows, in words."""
    shown = panels(comparison)
    made = []
    for i, panel in enumerate(shown[:MOST_PANELS]):
        of = f" at {panel.title}" if panel.title else ""
        made.append(chart_of(f"{id}-{i}", panel.title, f"{label}{of}.", draw(panel.context)))
    note = (
        f"Of {len(shown)} panels the first {MOST_PANELS} are drawn; the table has all."
        if len(shown) > len(made)
        else ""
    )
    several = len(styles(comparison)) > 1
    return Charts(title, tuple(made), legend and several, note)


def chart_of(id: str, title: str, label: str, drawn: Any, *, legend: bool = False) -> Chart:
    """A figure as the page takes it. `legend`: keeps its own; else it has one only where it asks for it."""
    figure = json.loads(drawn.to_json())
    layout = figure["layout"]
    layout |= {"dragmode": False, "showlegend": legend or layout.get("showlegend", False)}
    for name, axis in layout.items():
        if name.startswith(("xaxis", "yaxis")):
            axis["fixedrange"] = True  # a finger that scrolls the page must not zoom
    return Chart(id, title, label, figure)


def arm_cells(comparison: Comparison, arm: str | ArmResult) -> tuple[str, ...]:
    """The scientific values of an arm, those that arms are matched on first."""
    found = arm if isinstance(arm, ArmResult) else next(one for one in comparison.arms if one.id == arm)
    return tuple(value_text(found.values[name]) for name in arm_columns(comparison)) or ("(one arm)",)


def arm_columns(comparison: Comparison) -> tuple[str, ...]:
    """The columns of `arm_cells`."""
    names = comparison.arms[0].values if comparison.arms else ()
    return tuple(sorted(names, key=lambda name: name in comparison.factors))


def arm_table(comparison: Comparison, caption: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """A table with one row an arm, in the order of the arms. `rows`: arm id -> further cells."""
    heads = arm_columns(comparison) or ("arm",)
    body = tuple((*arm_cells(comparison, arm), *rows[arm.id]) for arm in comparison.arms if arm.id in rows)
    return Table(caption, (*heads, *columns), body, headers=len(heads))


def name_of(comparison: Comparison, arm: str) -> str:
    """An arm in a sentence: `log_std at latent_dim=8`."""
    found = next(one for one in comparison.arms if one.id == arm)
    context = {name: value for name, value in found.values.items() if name not in comparison.factors}
    level = level_of(found, comparison.factors)
    return f"{level} at {params_text(context)}" if context else level


# -------------------------------------------------------------------------------------- comparison


def intervals(comparison: Comparison) -> Section:
    """The differences from the matched baselines."""
    if not comparison.pairs:
        return Section("intervals", "Differences", "There is one arm: nothing to compare.")
    by_id = {arm.id: level_of(arm, comparison.factors) for arm in comparison.arms}
    differ = sum(map(shown_to_differ, comparison.pairs))
    close = sum(map(shown_to_be_close, comparison.pairs))
    reading = (
        f"Of {count(len(comparison.pairs), 'comparison')}, {differ} {'is' if differ == 1 else 'are'} shown to differ "
        f"and {close} {'is' if close == 1 else 'are'} shown to lie within ±{comparison.margin_nats:g} nats "
        "(the shaded band). Right of zero is better than the baseline."
    )
    label = "Differences from the baseline with their intervals, and the margin as a band"
    drawn = charts(comparison, "differences", label, lambda c: figures.differences(comparison, only=c), legend=False)
    rows = {}
    for pair in comparison.pairs:
        found = pair.difference
        small = pair.inside_margin and pair.verdict in (Verdict.BETTER, Verdict.WORSE)
        rows[pair.arm] = (
            number(found.mean if found else None, signed=True),
            interval(found.low, found.high, signed=True) if found else "—",
            MISSING if found is None or found.coverage is None else f"{100 * found.coverage:.1f}%",
            MISSING if pair.probability is None else f"{pair.probability.value:.2f}",
            f"{pair.p_holm:.3f}",
            f"{pair.equivalence_p_holm:.3f}",
            f"{pair.verdict}, inside the margin" if small else str(pair.verdict),
        )
    columns = (
        "difference",
        f"{100 * (1 - comparison.alpha):g}% interval",
        "holds in",
        "P(better)",
        "p (Holm)",
        "p equivalence",
        "verdict",
    )
    table = arm_table(comparison, "Every arm minus its baseline, nats per image", columns, rows)
    lines = tuple(map(typeset, verdict_sentences(comparison)))
    skewed = sum(bool(pair.difference and coverage_text(pair.difference)) for pair in comparison.pairs)
    if skewed:
        reading += f" {count(skewed, 'interval')} of skewed values: the table says how often such intervals hold."
    bases = {by_id[pair.baseline] for pair in comparison.pairs}
    title = f"Differences from {bases.pop()}" if len(bases) == 1 else "Differences"
    return Section("intervals", title, reading, lines, (drawn,), tables=(table,))


def all_arms(comparison: Comparison) -> Section:
    """Means of all arms, and what each search chose."""
    known = [arm for arm in comparison.arms if arm.estimate is not None]
    reading = "No arm has a result yet."
    if known:
        top = max(known, key=lambda arm: arm.estimate.mean if arm.estimate else 0.0)
        assert top.estimate is not None
        reading = (
            f"Higher is better. The highest mean is that of {name_of(comparison, top.id)}: "
            f"{number(top.estimate.mean)} nats per image {interval(top.estimate.low, top.estimate.high)}. "
            "Each panel has its own range."
        )
    label = f"Mean {comparison.metric} of every arm with its interval"
    drawn = charts(comparison, "means", label, lambda c: figures.arm_means(comparison, only=c), legend=False)
    rows = {}
    for arm in comparison.arms:
        found = arm.estimate
        rows[arm.id] = (
            number(found.mean if found else None),
            interval(found.low, found.high) if found else "—",
            number(arm.image_se),
            number(arm.bits_per_dim, 3),
            "; ".join(params_text(one.params) for one in arm.replicates if one.params) or "—",
        )
    columns = (
        comparison.metric,
        f"{100 * (1 - comparison.alpha):g}% interval",
        "error by images",
        "bits/dim",
        "chosen, by search",
    )
    return Section(
        "arms", "All arms", reading, charts=(drawn,), tables=(arm_table(comparison, "All arms", columns, rows),)
    )


def divergence(comparison: Comparison) -> Section:
    """What did not train."""
    rows, lost = {}, []
    for arm in comparison.arms:
        cells = []
        for phase in Phase:
            ended = arm.ended[phase]
            bad = ended[State.DIVERGED] + ended[State.FAILED]
            cells.append(f"{bad} of {sum(ended.values())}")
            if bad and phase is Phase.SEARCH:
                lost.append((bad / sum(ended.values()), arm.id))
        rows[arm.id] = (*cells, lost_text(arm) or "none")
    reading = "No training diverged or failed."
    if any(cell[0] != "0" for row in rows.values() for cell in row[:-1]):
        worst = sorted(lost, reverse=True)[:3]
        named = listed([f"{name_of(comparison, arm)} ({share(part)})" for part, arm in worst])
        reading = (
            f"{count(len(lost), 'arm')} of {len(comparison.arms)} lost search trials to divergence or failure"
            + (f"; most of all {named}" if named else "")
            + ". A diverged trial is a result: it counts as worse than every other."
        )
    table = arm_table(
        comparison, "Diverged or failed, of ended trainings", (*map(str, Phase), "repeats without a value"), rows
    )
    return Section("divergence", "Divergence", reading, tables=(table,))


# ------------------------------------------------------------------------------------ spread, budget


def spread(comparison: Comparison, analysis: Analysis) -> Section:
    """Where the spread comes from, and what the searches promised too much."""
    split = {one.arm: one for one in analysis.variance}
    gaps = {one.arm: one for one in analysis.optimism}
    if not split and not gaps:
        return Section("spread", "Spread and optimism", "No repeat has ended yet.")
    both = [(one.search, one.training_seed) for one in split.values()]
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    reading = ""
    if pairs:
        more = sum(a > b for a, b in pairs)
        reading = (
            f"Independent searches differ more than repeats of one configuration in {more} of {len(pairs)} arms: "
            "that is why searches are replicated. "
        )
    if gaps:
        mean = sum(one.gap for one in gaps.values()) / len(gaps)
        reading += (
            f"A search's best value was {number(mean, signed=True)} nats above what fresh trainings of it reached."
        )
    rows = {}
    for arm in comparison.arms:
        one, gap = split.get(arm.id), gaps.get(arm.id)
        rows[arm.id] = (
            *(number(value) for value in ((one.search, one.training_seed, one.images) if one else (None, None, None))),
            number(gap.gap if gap else None, signed=True),
            interval(gap.low, gap.high, signed=True) if gap else "—",
        )
    columns = ("between searches", "between seeds", "test images", "optimism of the search", "its interval")
    table = arm_table(comparison, "Standard deviations and optimism, nats per image", columns, rows)
    return Section(
        "spread", "Spread and optimism", reading or "One search an arm: no spread is known.", tables=(table,)
    )


def rate_distortion(comparison: Comparison, analysis: Analysis) -> Section:
    """What the models do with their latents."""
    points = analysis.rate_distortion
    title = "Rate and distortion"
    if not points:
        return Section("rate-distortion", title, "No converged repeat has both.")
    rates = [point.rate for point in points]
    reading = (
        f"Models of equal ELBO lie on a line like the dotted one (the best). Rates go from {number(min(rates), 1)} to "
        f"{number(max(rates), 1)} nats: a rate near 0 means that the latents carry nothing. "
        "Marks on the upper or right edge lie beyond it."
    )
    drawn = charts(
        comparison,
        "plane",
        "Every repeat by rate and distortion on test images",
        lambda context: figures.rate_distortion(comparison, points, only=context),
    )
    heads = arm_columns(comparison) or ("arm",)
    body = tuple(
        (*arm_cells(comparison, p.arm), number(p.rate), number(p.distortion), f"{p.replicate}/{p.number}")
        for p in points
    )
    columns = (*heads, "rate", "distortion", "search/repeat")
    table = Table("Every repeat, nats per image", columns, body[:MOST_ROWS], headers=len(heads))
    return Section("rate-distortion", title, reading, charts=(drawn,), tables=(table,))


def budget(comparison: Comparison) -> Section:
    """What every arm was given and took."""
    rows = {}
    for arm in comparison.arms:
        trials = [sum(arm.ended[phase].values()) for phase in Phase]
        epochs = [arm.epochs[phase] for phase in Phase]
        rows[arm.id] = (*map(thousands, trials), thousands(sum(epochs)))
    given = {row[:-1] for row in rows.values()}
    spent = [sum(arm.epochs.values()) for arm in comparison.arms]
    reading = f"{count(sum(spent), 'epoch')} in all. "
    reading += (
        "Every arm got the same number of trainings" if len(given) == 1 else "Arms have had unequal numbers so far"
    )
    if len(set(spent)) > 1:
        reading += (
            f", but spent from {thousands(min(spent))} to {thousands(max(spent))} epochs, "
            "as trainings that diverge or are stopped end early"
        )
    columns = (*(f"{phase} trials" for phase in Phase), "epochs")
    table = arm_table(comparison, "Trainings that have ended, and epochs spent", columns, rows)
    return Section("budget", "Budget", reading + ".", tables=(table,))


def reproduce(results: Results) -> Section:
    """How to get the same numbers."""
    sweep = results.sweep
    data = json.loads(sweep.study)["data"]
    facts = [
        ("study hash", sweep.study_hash),
        ("data", str(data["id"])),
        ("data sha256", str(data["sha256"])),
        ("images", " / ".join(map(str, data["images"])) + " (train / validation / test)"),
        *sorted((sweep.fingerprint or {}).items()),
    ]
    reading = (
        "Save the study below as study.yaml and run it: under the same numerics fingerprint it gives the same results, "
        "byte for byte, on any number of workers."
    )
    if not sweep.reproducible:
        reading = "This sweep is marked as not reproducible: running it again may give other numbers."
    table = Table("Study, data and numerics fingerprint", ("what", "value"), tuple(facts))
    commands = ("vae-sweep run study.yaml", f"vae-sweep compare {sweep.name} --html report.html")
    return Section(
        "reproduce", "How to reproduce", reading, tables=(table,), commands=commands, code=dump_study(results.study)
    )
