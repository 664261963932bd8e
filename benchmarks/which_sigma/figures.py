"""The page's figures, as SVG; the same bytes from the same values. The only importer of matplotlib.

Knows no statistics: what is drawn is what the tables say.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from pipeline.comparison import Verdict

from .numbers import Row, at_best, at_rate, ease, grid
from .studies import BASELINE, QUESTIONS, ROOT
from .summaries import mean
from .tables import ONE_RATE, Kept, verdicts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = ROOT / "docs" / "images"
PANELS = ("adam", "adam-jacobian", "sgd", "sgd-jacobian")
DEPTH = 12.0
"""nats below the best that are shown"""
COLOURS = {
    BASELINE: "#000000",
    "log_std": "#0072b2",
    "softplus_std": "#009e73",
    "softplus_variance_shifted": "#e69f00",
    "elu_std": "#56b4e9",
    "sigmoid_std_wide": "#cc79a7",
    "log_variance_hardtanh": "#999999",
    "raw_std": "#d55e00",
}
"""Okabe and Ito's, told apart by colour-blind readers"""
MARKS = {Verdict.BETTER: "#0072b2", Verdict.WORSE: "#d55e00"}
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "which-sigma",  # names inside the file: else drawn at random
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def figures(kept: Kept) -> dict[Path, bytes]:
    """path -> SVG."""
    with matplotlib.rc_context(SETTINGS):
        return {
            IMAGES / "which-sigma-rates.svg": _svg(rates_figure(kept)),
            IMAGES / "which-sigma-differences.svg": _svg(differences_figure(kept)),
        }


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return b"".join(line.rstrip() + b"\n" for line in buffer.getvalue().splitlines())


def rates_figure(kept: Kept) -> Figure:
    """Test ELBO against the learning rate, a panel a study."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    best = max(value for name in PANELS for cell in kept[name].cells if (value := mean(cell.tests)) is not None)
    for panel, name in zip(panels.flat, PANELS, strict=True):
        values = grid(kept[name])
        for scale, colour in COLOURS.items():
            points = [(rate, mean(each)) for rate, each in values[scale].items() if None not in each]
            shown = [(rate, value) for rate, value in points if value is not None]
            style = {"linewidth": 2.2, "zorder": 3} if scale == BASELINE else {"linewidth": 1.3}
            panel.plot(*zip(*shown, strict=True), color=colour, marker="o", markersize=3.5, label=scale, **style)
        panel.set_xscale("log")
        panel.set_ylim(best - DEPTH, best + 0.5)
        panel.set_title(QUESTIONS[name].told, fontsize=10, loc="left")
        panel.grid(visible=True, alpha=0.25)
    for panel in panels[1]:
        panel.set_xlabel("learning rate")
    for panel in panels[:, 0]:
        panel.set_ylabel("test ELBO, nats an image")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def differences_figure(kept: Kept) -> Figure:
    """Every scale against log σ²: at one rate, at its best, over the grid, and tuned."""
    adam, matched, tuned = kept["adam"], kept["adam-jacobian"], kept["tuned"]
    eight = {scale: one.tests for scale, one in tuned.row({"latent_dim": 8}).items()}
    panels = {
        f"as shipped, rate {ONE_RATE:g}": verdicts(adam, at_rate(grid(adam), ONE_RATE)),
        f"J matched, rate {ONE_RATE:g}": verdicts(matched, at_rate(grid(matched), ONE_RATE)),
        "as shipped, each at its best rate": verdicts(adam, at_best(grid(adam))),
        "as shipped, tuned by TPE": verdicts(tuned, eight),
        "as shipped, a rate drawn blindly": verdicts(adam, ease(grid(adam))),
    }
    scales = [scale for scale in adam.levels("scale") if scale != BASELINE][::-1]
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        _forest(axes, rows, scales)
        axes.set_title(title, fontsize=9, loc="left")
    figure.supxlabel(
        "nats better than log σ² (right is better); 95% intervals; grey band: the margin of equivalence", fontsize=9
    )
    return figure


def _forest(axes: Axes, rows: Mapping[str, Row], scales: list[str]) -> None:
    axes.axvspan(-0.5, 0.5, color="#eeeeee", zorder=0)
    axes.axvline(0, color="#888888", linewidth=0.8, zorder=1)
    axes.set_xlim(-4, 4)
    axes.set_yticks(range(len(scales)), scales)
    for place, scale in enumerate(scales):
        pair = rows[scale].pair if scale in rows else None
        if pair is None or pair.difference is None:
            word = "not asked" if scale not in rows else "diverged"
            axes.text(0, place, word, ha="center", va="center", fontsize=7, color="#777777")
            continue
        found, colour = pair.difference, MARKS.get(pair.verdict, "#555555")
        if abs(found.mean) > 4:
            side, sign = ("right", "→") if found.mean > 0 else ("left", "←")
            axes.text(
                3.9 if side == "right" else -3.9,
                place,
                f"{sign} {found.mean:.1f}",
                ha=side,
                va="center",
                fontsize=7,
                color=colour,
            )
            continue
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(found.mean, place, "o", color=colour, markersize=4)
