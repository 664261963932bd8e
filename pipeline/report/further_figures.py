"""Figures of further test metrics: over a scientific factor that is a number. Knows no page and no file."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ..comparison import ArmResult, Comparison, FurtherMetric
from ..records import Value
from .drawing import empty_figure, plain_text
from .numbers import params_text, value_text
from .panels import COLOURS, DASHES, SYMBOLS, Panel, Style, bounds, level_of, padded, styles


def further_metric(comparison: Comparison, metric: str, factor: str) -> go.Figure:
    """A further test metric over a scientific factor that is a number: arms that agree in all else make a line.

    Small marks are what the means and intervals are over: replicates, or repeats of the only one. The metric's unit.
    """
    figure, looks = empty_figure([Panel({}, ())], factor, metric), styles(comparison)
    groups: dict[str, list[tuple[float, ArmResult, FurtherMetric]]] = {}
    for arm in comparison.arms:
        at, found = arm.values.get(factor), arm.further.get(metric)
        if found is not None and is_number(at):
            rest = {name: value for name, value in arm.values.items() if name != factor}
            groups.setdefault(params_text(rest), []).append((float(at), arm, found))  # type: ignore[arg-type]
    levels = sorted({at for group in groups.values() for at, _, _ in group})
    log = bool(levels) and levels[0] > 0 and levels[-1] >= 8 * levels[0]
    for i, (name, group) in enumerate(groups.items()):
        group.sort(key=lambda entry: entry[0])
        own = Style(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], SYMBOLS[i % len(SYMBOLS)])
        style = looks[level_of(group[0][1], comparison.factors)] if lines_are_levels(comparison, factor) else own
        aside = 0.02 * (i - (len(groups) - 1) / 2)  # of the width, so that intervals stand side by side
        placed = [(_aside(at, aside, levels, log), found) for at, _, found in group]
        for trace in _with_its_points(placed, style, name):
            figure.add_trace(trace, row=1, col=1)
    figure.update_xaxes(type="log" if log else "linear", tickvals=levels, ticktext=[*map(value_text, levels)])
    return figure.update_yaxes(range=_around([one for group in groups.values() for _, _, one in group]))


def _aside(at: float, share: float, levels: Sequence[float], log: bool) -> float:
    """A place moved by a share of the axis."""
    low, high = levels[0], levels[-1]
    moved: float = at * (high / low) ** share if log else at + share * (high - low)
    return moved


def _around(found: Sequence[FurtherMetric]) -> list[float] | None:
    """The values, and of their intervals as much as leaves the values a third of the height."""
    values = [value for one in found for value in (*one.values, one.estimate.mean) if value is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    room, ends = (high - low) or abs(high) or 1.0, [bounds(one.estimate) for one in found]
    return padded(max(min(a for a, _ in ends), low - room), min(max(b for _, b in ends), high + room))


def lines_are_levels(comparison: Comparison, factor: str) -> bool:
    """Whether the lines over a factor are the compared levels, which have a style of their own everywhere."""
    return {name for arm in comparison.arms for name in arm.values} - {factor} == set(comparison.factors)


def is_number(value: Value | None) -> bool:
    """Whether a hyperparameter's value is a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _with_its_points(
    group: Sequence[tuple[float, FurtherMetric]], style: Style, name: str
) -> tuple[go.Scatter, go.Scatter]:
    means = [found.estimate for _, found in group]
    ends = [bounds(mean) for mean in means]
    bars = {
        "array": [high - mean.mean for mean, (_, high) in zip(means, ends, strict=True)],
        "arrayminus": [mean.mean - low for mean, (low, _) in zip(means, ends, strict=True)],
    }
    line = go.Scatter(
        x=[at for at, _ in group],
        y=[mean.mean for mean in means],
        name=plain_text(name),
        mode="lines+markers",
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": style.symbol, "color": style.colour, "size": 9},
        error_y={"type": "data", "width": 4, "thickness": 1.2, "color": style.colour, **bars},
        hovertemplate=f"{plain_text(name)}: (%{{x:.4g}}, %{{y:.4g}})<extra></extra>",
    )
    points = [(at, value) for at, found in group for value in found.values if value is not None]
    marker = {"symbol": "circle-open", "color": style.colour, "size": 5, "opacity": 0.7}
    x, y = [at for at, _ in points], [value for _, value in points]
    return line, go.Scatter(x=x, y=y, mode="markers", marker=marker, showlegend=False, hoverinfo="x+y")
