"""How every figure is laid out: panels below one another, an arm's line in its style, text that stays text.

Knows no result and no page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from ..comparison import ArmResult, Comparison
from .panels import Panel, Style, level_of, styles

ROW_PIXELS, PANEL_PIXELS, AROUND_PIXELS = 40, 280, 70
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


def plotly_source() -> str:
    """plotly.js, minified, as the installed plotly brings it."""
    return str(get_plotlyjs())


def empty_figure(shown: Sequence[Panel], x_title: str, y_title: str, *, rows: bool = False) -> go.Figure:
    """An empty figure with one panel below the other; `rows`: one line an arm."""
    heights = [ROW_PIXELS * max(len(p.arms), 1) if rows else PANEL_PIXELS for p in shown] or [PANEL_PIXELS]
    total = sum(heights) + AROUND_PIXELS * len(heights)
    titles = [plain_text(panel.title) for panel in shown] if len(shown) > 1 else None
    gap = AROUND_PIXELS / total if len(heights) > 1 else 0.0
    figure = make_subplots(rows=len(heights), cols=1, row_heights=heights, subplot_titles=titles, vertical_spacing=gap)
    axis = {"gridcolor": "#e2e2e2", "linecolor": "#888", "showline": True, "ticks": "outside", "tickcolor": "#888"}
    axis |= {"automargin": True, "zeroline": False}
    font = {"font": {"size": 13}}
    layout: dict[str, Any] = {
        "template": "none",
        "height": total + 20,
        "font": {"family": FONT, "size": 13, "color": "#1b1b1b"},
        "margin": {"l": 8, "r": 14, "t": 24 if titles else 8, "b": 8},
        "legend": {"orientation": "h", "yanchor": "top", "y": -AROUND_PIXELS / total, "x": 0},
        "hovermode": "closest",
    }
    for i in range(1, len(heights) + 1):
        layout[f"xaxis{i}"] = {**axis, "title": {"text": plain_text(x_title), "standoff": 8, **font}}
        layout[f"yaxis{i}"] = {**axis, "title": {"text": y_title, "standoff": 6, **font}}
    return figure.update_layout(layout)


def each_arm(
    shown: Sequence[Panel], comparison: Comparison, having: Mapping[str, object]
) -> Iterable[tuple[int, ArmResult, Style]]:
    """(row of its panel, arm, style) of the arms that `having` has something of."""
    looks = styles(comparison)
    for row, panel in enumerate(shown, 1):
        for arm in panel.arms:
            if arm.id in having:
                yield row, arm, looks[level_of(arm, comparison.factors)]


def arm_line(
    arm: ArmResult, comparison: Comparison, style: Style, x: Sequence[Any], y: Sequence[Any], row: int
) -> go.Scatter:
    """A line with marks in the style of the arm's compared level; in the legend once."""
    level = plain_text(level_of(arm, comparison.factors))
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=level,
        legendgroup=level,
        showlegend=row == 1,
        mode="lines+markers",
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": style.symbol, "color": style.colour, "size": 7},
        hovertemplate=f"{level}: (%{{x:.4g}}, %{{y:.4g}})<extra></extra>",
    )


def plain_text(text: str) -> str:
    """Text that plotly shows as it is: it takes some HTML for markup."""
    return escape(text, quote=False)
