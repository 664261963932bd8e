"""The figures of a sweep as plotly figures: for the report page and for notebooks.

Every function takes the comparison (which arms there are, what they are compared in) and records of results.py or
analysis/, and returns a `plotly.graph_objects.Figure` with one panel for each context, that is for each combination
of the scientific values that are not compared: six scales in three latent sizes are three panels of six. `only` keeps
one context. Compared levels differ in colour, dash and symbol at once, so that they are told apart in black and
white. What would flatten all the rest lies on the panel's edge. Knows no page and no file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import plotly.graph_objects as go

from ..analysis.shapes import Importance, RateDistortion, SearchPoint, Sensitivity, TuningCurve
from ..comparison import ArmResult, Comparison, Estimate, Pair
from ..records import Params, Value
from .drawing import arm_line, each_arm, empty_figure, plain_text
from .numbers import value_text
from .panels import COLOURS, Panel, bounds, level_of, padded, panels, spread, styles, visible

PATTERNS = ("", "/", ".", "x", "-", "+")
MARGIN_BAND = "#dfe7ee"

# -------------------------------------------------------------------------------------- comparison


def differences(comparison: Comparison, *, only: Params | None = None) -> go.Figure:
    """Forest plot: every arm minus its matched baseline, its interval, and the margin of equivalence as a band.

    Nats per image. All panels have the same range; an arm beyond it stands on the edge with its value.
    """
    pairs = {pair.arm: pair for pair in comparison.pairs}
    every = [bounds(pair.difference) for pair in comparison.pairs if pair.difference]
    limit = spread([max(abs(low), abs(high)) for low, high in every] + [2 * comparison.margin_nats])
    shown = [Panel(p.context, tuple(a for a in p.arms if a.id in pairs)) for p in panels(comparison, only)]
    margin = comparison.margin_nats
    span = (
        max(-limit, min([-2 * margin, *(low for low, _ in every)])),
        min(limit, max([2 * margin, *(high for _, high in every)])),
    )
    figure = empty_figure(shown, "difference, nats per image", "", rows=True)

    def word(arm: ArmResult) -> str:
        return f"{pairs[arm.id].verdict}{_one_search(pairs[arm.id], comparison)}"

    for row, panel in enumerate(shown, 1):
        _forest(figure, row, panel.arms, comparison, lambda arm: pairs[arm.id].difference, span, word)
        below = {"layer": "below", "row": row, "col": 1, "exclude_empty_subplots": False}
        figure.add_vrect(x0=-margin, x1=margin, fillcolor=MARGIN_BAND, line_width=0, **below)
        figure.add_vline(x=0, line={"color": "#555", "width": 1}, **below)
    return figure


def arm_means(comparison: Comparison, *, only: Params | None = None) -> go.Figure:
    """Mean of every arm with its interval, nats per image; each panel has a range of its own."""
    shown = panels(comparison, only)
    figure = empty_figure(shown, f"{comparison.metric}, nats per image", "", rows=True)
    for row, panel in enumerate(shown, 1):
        known = [bounds(arm.estimate) for arm in panel.arms if arm.estimate]
        low, high = visible([value for ends in known for value in ends], top=True)
        _forest(figure, row, panel.arms, comparison, lambda arm: arm.estimate, (low, high), lambda _: "")
    return figure


def _one_search(pair: Pair, comparison: Comparison) -> str:
    return " (one search)" if comparison.replicates > 1 and pair.basis == "configurations" else ""


def _forest(
    figure: go.Figure,
    row: int,
    arms: Sequence[ArmResult],
    comparison: Comparison,
    value: Callable[[ArmResult], Estimate | None],
    span: tuple[float, float],
    word: Callable[[ArmResult], str],
) -> None:
    """One line an arm: a point with its whisker, its name, and a word under the name."""
    looks = styles(comparison)
    ticks = []
    for y, arm in enumerate(arms):
        level = level_of(arm, comparison.factors)
        note = word(arm)
        ticks.append(plain_text(level) + (f"<br><span style='color:#555'>{plain_text(note)}</span>" if note else ""))
        found = value(arm)
        if found is None:
            continue
        low, high = bounds(found)
        edge = span[0] if found.mean < span[0] else span[1] if found.mean > span[1] else None
        trace = {"name": plain_text(level), "y": [y], "showlegend": False, "mode": "markers"}
        symbol, hover = (
            looks[level].symbol,
            f"{plain_text(level)}: {found.mean:.4g} [{low:.4g}, {high:.4g}]<extra></extra>",
        )
        if edge is not None:
            symbol = "triangle-left" if edge == span[0] else "triangle-right"
            side = "middle right" if edge == span[0] else "middle left"
            trace |= {"mode": "markers+text", "text": [f" {found.mean:.1f} ".replace("-", "−")], "textposition": side}
        else:
            bars = {"array": [high - found.mean], "arrayminus": [found.mean - low], "thickness": 2, "width": 5}
            trace["error_x"] = {"type": "data", **bars, "color": looks[level].colour}
        marker = {"symbol": symbol, "size": 10, "color": looks[level].colour}
        x = [found.mean if edge is None else edge]
        figure.add_trace(go.Scatter(x=x, marker=marker, hovertemplate=hover, cliponaxis=False, **trace), row=row, col=1)
    pad = 0.03 * (span[1] - span[0])
    figure.update_xaxes(range=[span[0] - pad, span[1] + pad], row=row, col=1)
    lines = {"tickvals": list(range(len(arms))), "ticktext": ticks, "range": [len(arms) - 0.4, -0.6]}
    figure.update_yaxes(**lines, showgrid=False, zeroline=False, row=row, col=1)


# ---------------------------------------------------------------------------------------- searches


def tuning_curves(
    comparison: Comparison,
    curves: Iterable[TuningCurve],
    *,
    by: Literal["trials", "epochs"] = "trials",
    only: Params | None = None,
) -> go.Figure:
    """Best validation value so far, mean over an arm's searches, with the last point's interval.

    `by`: trials of one search, or mean epochs that they took. Nats per image.
    """
    of = {curve.arm: curve for curve in curves}
    shown = panels(comparison, only)
    x_title = "trials of one search" if by == "trials" else "epochs of one search"
    figure = empty_figure(shown, x_title, "best val/elbo so far")
    for row, arm, style in each_arm(shown, comparison, of):
        curve = of[arm.id]
        x = curve.trials if by == "trials" else curve.epochs
        line = arm_line(arm, comparison, style, list(x), list(curve.mean), row)
        if curve.mean and curve.mean[-1] is not None and curve.low[-1] is not None and curve.high[-1] is not None:
            above, below = curve.high[-1] - curve.mean[-1], curve.mean[-1] - curve.low[-1]
            rest = [0.0] * (len(curve.mean) - 1)
            bars = {"array": [*rest, above], "arrayminus": [*rest, below], "width": 4, "thickness": 1.2}
            line.update(error_y={"type": "data", **bars})
        figure.add_trace(line, row=row, col=1)
    for row, panel in enumerate(shown, 1):
        mine = [of[arm.id] for arm in panel.arms if arm.id in of]
        low, high = visible([value for curve in mine for value in curve.mean if value is not None], top=True)
        tops = [curve.high[-1] for curve in mine if curve.high and curve.high[-1] is not None]
        figure.update_yaxes(range=padded(low, min(max([high, *tops]), high + 0.2 * (high - low))), row=row, col=1)
    return figure


def random_search_bands(
    comparison: Comparison, curves: Iterable[TuningCurve], *, only: Params | None = None
) -> go.Figure:
    """What the best of 1, 2, 4, … random trials would reach: median and simultaneous band (OPDA), arms side by side.

    A whisker without an end cap inside the panel: the data bound nothing on that side.
    """
    of = {curve.arm: curve.band for curve in curves if curve.band is not None}
    shown = panels(comparison, only)
    figure = empty_figure(shown, "random trials", "best val/elbo")
    for row, panel in enumerate(shown, 1):
        mine = [arm for arm in panel.arms if arm.id in of]
        medians = [value for arm in mine for value in of[arm.id].median if math.isfinite(value)]
        low, high = visible(medians, top=True)
        ticks = sorted({2**i for arm in mine for i in range(12) if 2**i <= len(of[arm.id].trials)})
        for position, (_, arm, style) in enumerate(each_arm([panel], comparison, of)):
            band = of[arm.id]
            at = [band.trials.index(tick) for tick in ticks if tick in band.trials]
            x = [i + 0.7 * ((position + 0.5) / max(len(mine), 1) - 0.5) for i in range(len(at))]
            trace = arm_line(arm, comparison, style, x, [band.median[i] for i in at], row)
            up = [max(min(band.high[i], high + 10 * (high - low)) - band.median[i], 0.0) for i in at]
            down = [max(band.median[i] - max(band.low[i], low - 10 * (high - low)), 0.0) for i in at]
            bars = {"type": "data", "array": up, "arrayminus": down, "width": 3, "thickness": 1.2}
            trace.update(mode="markers", error_y=bars)
            figure.add_trace(trace, row=row, col=1)
        figure.update_xaxes(tickvals=list(range(len(ticks))), ticktext=[str(tick) for tick in ticks], row=row, col=1)
        figure.update_yaxes(range=padded(low, high + 0.25 * (high - low)), row=row, col=1)
    return figure


def sensitivity(
    comparison: Comparison, points: Iterable[SearchPoint], parameter: str, *, only: Params | None = None
) -> go.Figure:
    """Validation value of every search trial over one nuisance parameter; lines join the best in each eighth.

    At the bottom: trials below the panel's range are strokes, diverged ones crosses. Numbers that span a factor of
    30 get a log axis.
    """
    mine = [point for point in points if parameter in point.params]
    number = all(isinstance(p.params[parameter], int | float) for p in mine)
    numbers = [float(p.params[parameter]) for p in mine] if number else []  # type: ignore[arg-type]
    log = bool(numbers) and min(numbers) > 0 and max(numbers) > 30 * min(numbers)
    names = list(dict.fromkeys(value_text(p.params[parameter]) for p in mine))
    shown = panels(comparison, only)
    figure = empty_figure(shown, parameter, "val/elbo")
    by_arm: dict[str, list[SearchPoint]] = {}
    for point in mine:
        by_arm.setdefault(point.arm, []).append(point)
    limits = []
    for panel in shown:
        known = [p.value for arm in panel.arms for p in by_arm.get(arm.id, ()) if p.value is not None]
        limits.append(visible(known, top=True))

    def place(value: Value) -> float:
        return float(value) if number else float(names.index(value_text(value)))  # type: ignore[arg-type]

    for row, arm, style in each_arm(shown, comparison, by_arm):
        low, high = limits[row - 1]
        floor, y = low - 0.08 * (high - low), []
        x = [place(point.params[parameter]) for point in by_arm[arm.id]]
        for point in by_arm[arm.id]:
            y.append(floor if point.value is None or point.value < low else point.value)
        marks = ["x-thin" if p.value is None else "line-ns" if p.value < low else style.symbol
                 for p in by_arm[arm.id]]  # fmt: skip
        marker = {"symbol": marks, "color": style.colour, "size": 6, "opacity": 0.7}
        marker["line"] = {
            "color": style.colour,
            "width": [1.5 if mark in ("x-thin", "line-ns") else 0 for mark in marks],
        }
        cloud = go.Scatter(x=x, y=y, mode="markers", marker=marker, showlegend=False, hoverinfo="x+y")
        figure.add_trace(cloud, row=row, col=1)
        best = _envelope([(a, p.value) for a, p in zip(x, by_arm[arm.id], strict=True)], log)
        trace = arm_line(arm, comparison, style, [a for a, _ in best], [v for _, v in best], row)
        figure.add_trace(trace.update(mode="lines"), row=row, col=1)
    for row, (low, high) in enumerate(limits, 1):
        figure.update_yaxes(range=[low - 0.13 * (high - low), high + 0.05 * (high - low)], row=row, col=1)
    if log:
        figure.update_xaxes(type="log", dtick=1, exponentformat="power")
    elif not number:
        figure.update_xaxes(tickvals=list(range(len(names))), ticktext=[plain_text(name) for name in names])
    return figure


def _envelope(points: Sequence[tuple[float, float | None]], log: bool) -> list[tuple[float, float]]:
    """The best point in each eighth of the range of x, left to right."""
    known = [(x, value) for x, value in points if value is not None]
    if not known:
        return []
    where = [math.log(x) if log else x for x, _ in known]
    low, span = min(where), (max(where) - min(where)) or 1.0
    best: dict[int, tuple[float, float]] = {}
    for at, point in zip(where, known, strict=True):
        eighth = min(int(8 * (at - low) / span), 7)
        if eighth not in best or point[1] > best[eighth][1]:
            best[eighth] = point
    return [best[eighth] for eighth in sorted(best)]


def easy_shares(
    comparison: Comparison, found: Iterable[Sensitivity], *, within: float | None = None, only: Params | None = None
) -> go.Figure:
    """Share of the nuisance space within some nats of an arm's best, with its Clopper-Pearson interval.

    `within`: nats; None: the middle one of those that were computed.
    """
    of = {one.arm: one for one in found if one.shares}
    every = sorted({share.within for one in of.values() for share in one.shares})
    wanted = within if within is not None else every[len(every) // 2] if every else 0.0
    shown = panels(comparison, only)
    figure = empty_figure(shown, f"% of random trials within {wanted:g} nats", "", rows=True)

    def value(arm: ArmResult) -> Estimate | None:
        for share in of[arm.id].shares if arm.id in of else ():
            if share.within == wanted:
                return Estimate(100 * share.share, None, 100 * share.low, 100 * share.high, of[arm.id].draws)
        return None

    for row, panel in enumerate(shown, 1):
        _forest(figure, row, panel.arms, comparison, value, (0.0, 100.0), lambda _: "")
    return figure


def importances(comparison: Comparison, found: Iterable[Importance], *, only: Params | None = None) -> go.Figure:
    """How much of the spread of validation values each nuisance parameter explains: one bar an arm, parts sum to 1."""
    of: dict[str, dict[str, float]] = {}
    for one in found:
        of.setdefault(one.parameter, {})[one.arm] = one.importance
    shown = panels(comparison, only)
    figure = empty_figure(shown, "share of the spread explained", "", rows=True)
    for row, panel in enumerate(shown, 1):
        levels = [level_of(arm, comparison.factors) for arm in panel.arms]
        for i, (parameter, shares) in enumerate(of.items()):
            colour = COLOURS[(i + 1) % len(COLOURS)]
            pattern = {"shape": PATTERNS[i % len(PATTERNS)], "fgcolor": "#fff", "fillmode": "overlay", "size": 6}
            bar = go.Bar(
                x=[shares.get(arm.id) for arm in panel.arms],
                y=list(range(len(panel.arms))),
                orientation="h",
                name=plain_text(parameter),
                marker={"color": colour, "pattern": pattern},
                showlegend=row == 1,
                hovertemplate=f"{plain_text(parameter)}: %{{x:.2f}}<extra></extra>",
            )
            figure.add_trace(bar, row=row, col=1)
        ticks = {"tickvals": list(range(len(levels))), "ticktext": [plain_text(level) for level in levels]}
        figure.update_yaxes(**ticks, range=[len(levels) - 0.4, -0.6], showgrid=False, row=row, col=1)
    figure.update_layout(barmode="stack", bargap=0.35, showlegend=True)
    return figure.update_xaxes(range=[0, 1.02])


# ----------------------------------------------------------------------------------------- models


def rate_distortion(
    comparison: Comparison, points: Iterable[RateDistortion], *, only: Params | None = None
) -> go.Figure:
    """Every converged repeat in the rate-distortion plane, nats per image; one dotted line joins equal ELBOs.

    Alemi et al., Fixing a broken ELBO, 2018 (arXiv 1711.00464).
    """
    by_arm: dict[str, list[RateDistortion]] = {}
    for point in points:
        by_arm.setdefault(point.arm, []).append(point)
    shown = panels(comparison, only)
    figure = empty_figure(shown, "rate, nats", "distortion, nats")
    spans: dict[int, tuple[float, float, float, float]] = {}
    for row, panel in enumerate(shown, 1):
        mine = [point for arm in panel.arms for point in by_arm.get(arm.id, ())]
        if not mine:
            continue
        rates, distortions = [p.rate for p in mine], [p.distortion for p in mine]
        left, right = visible(rates)
        low, high = visible(distortions)
        best = min(p.rate + p.distortion for p in mine)
        ends, spans[row] = padded(left, right), (left, right, low, high)
        line = {"color": "#777", "width": 1, "dash": "dot"}
        where = {"x": ends, "y": [best - x for x in ends], "mode": "lines", "line": line, "hoverinfo": "skip"}
        figure.add_trace(go.Scatter(**where, showlegend=False), row=row, col=1)
        figure.update_xaxes(range=ends, row=row, col=1)
        figure.update_yaxes(range=padded(low, high), row=row, col=1)
    for row, arm, style in each_arm(shown, comparison, by_arm):
        left, right, low, high = spans[row]
        x = [min(max(p.rate, left), right) for p in by_arm[arm.id]]
        y = [min(max(p.distortion, low), high) for p in by_arm[arm.id]]
        figure.add_trace(arm_line(arm, comparison, style, x, y, row).update(mode="markers"), row=row, col=1)
    return figure


def sigma_histograms(
    comparison: Comparison,
    histograms: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    only: Params | None = None,
) -> go.Figure:
    """Posterior σ over test images and latents, by arm. `histograms`: arm -> (edges of log10 σ, counts)."""
    shown = panels(comparison, only)
    figure = empty_figure(shown, "posterior σ", "% of images × latents")
    seen: dict[int, list[float]] = {}
    for row, arm, style in each_arm(shown, comparison, histograms):
        edges, counts = histograms[arm.id]
        total = sum(counts) or 1.0
        middles = [10 ** ((low + high) / 2) for low, high in pairwise(edges)]
        seen.setdefault(row, []).extend(x for x, count in zip(middles, counts, strict=True) if count > 0.001 * total)
        trace = arm_line(arm, comparison, style, middles, [100 * count / total for count in counts], row)
        trace.update(mode="lines", line={"shape": "hvh"})
        figure.add_trace(trace, row=row, col=1)
    figure.update_xaxes(type="log", dtick=1, exponentformat="power")
    for row, values in seen.items():
        figure.update_xaxes(range=[math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1], row=row, col=1)
    return figure.update_yaxes(rangemode="tozero")


def learning_curves(
    comparison: Comparison, curves: Mapping[str, Sequence[float]], *, only: Params | None = None
) -> go.Figure:
    """Validation value by epoch. `curves`: arm -> values, one an epoch, nats per image."""
    shown = panels(comparison, only)
    figure = empty_figure(shown, "epoch", "val/elbo")
    for row, arm, style in each_arm(shown, comparison, curves):
        values = list(curves[arm.id])
        trace = arm_line(arm, comparison, style, list(range(1, len(values) + 1)), values, row)
        figure.add_trace(trace.update(mode="lines"), row=row, col=1)
    for row, panel in enumerate(shown, 1):
        known = [value for arm in panel.arms for value in curves.get(arm.id, ())]
        figure.update_yaxes(range=padded(*visible(known, top=True)), row=row, col=1)
    return figure
