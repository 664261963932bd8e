"""The evidence of a report page that lies in the searches: how they went, and what the value depends on.

Turns analyses into words and figures. Reads no file and computes no statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..analysis.shapes import Analysis, TuningCurve
from ..comparison import Comparison
from ..records import Params
from ..results import Results
from . import figures
from .numbers import value_text
from .page_parts import Section, Table, interval, number, share
from .page_sections import MOST_ROWS, arm_cells, arm_columns, arm_table, charts

MOST_PARAMETERS = 4
"""nuisance parameters drawn"""

LEAST_DRAWS = 10
"""random trials of an arm from which on a band says something: of fewer it leaves the panel on both sides"""


def tuning(comparison: Comparison, analysis: Analysis) -> Section:
    """How far the searches had come."""
    curves = [curve for curve in analysis.tuning if curve.trials and curve.mean[-1] is not None]
    if not curves:
        return Section("tuning", "Tuning curves", "No search has a value yet.")
    margin = comparison.margin_nats
    late = [curve for curve in curves if _settled(curve, margin) > 0.75 * curve.trials[-1]]
    reading = (
        f"In {len(late)} of {len(curves)} arms the best value so far still rose by more than {margin:g} nats "
        "in the last quarter of the search"
        + (": more trials would probably help these." if late else ": nothing says that more trials would help.")
    )

    def by(axis: Any) -> Callable[[Params], Any]:
        return lambda context: figures.tuning_curves(comparison, analysis.tuning, by=axis, only=context)

    drawn = [charts(comparison, "tuning", "Best validation value by trials", by("trials"), title="By trials")]
    spent = [curve.epochs[-1] for curve in curves]
    if max(spent) > 1.05 * min(spent):
        label = "Best validation value by epochs spent"
        drawn.append(charts(comparison, "tuning-epochs", label, by("epochs"), title="By epochs spent"))
    if any(curve.band is not None and curve.band.draws >= LEAST_DRAWS for curve in curves):
        label = "Best of so many random trials: median and simultaneous confidence band"
        bands = charts(
            comparison,
            "bands",
            label,
            lambda context: figures.random_search_bands(comparison, analysis.tuning, only=context),
            title="What random search would reach (median and simultaneous band, OPDA)",
        )
        drawn.append(bands)
    return Section("tuning", "Tuning curves", reading, charts=tuple(drawn), tables=_tuning_tables(comparison, curves))


def _tuning_tables(comparison: Comparison, curves: Sequence[TuningCurve]) -> tuple[Table, ...]:
    """The curves at no more than 16 places, how they end, and the bands where there are some."""
    last = max(curve.trials[-1] for curve in curves)
    at = sorted({round(1 + i * (last - 1) / 15) for i in range(16)})
    means = {}
    ends = {}
    for curve in curves:
        of = dict(zip(curve.trials, curve.mean, strict=True))
        means[curve.arm] = [number(of.get(trial)) for trial in at]
        ends[curve.arm] = (
            interval(curve.low[-1], curve.high[-1]),
            f"{_settled(curve, comparison.margin_nats)} of {curve.trials[-1]}",
            f"{curve.epochs[-1]:.0f}",
        )
    tables = [
        arm_table(comparison, "Best val/elbo after so many trials, mean over searches", list(map(str, at)), means),
        arm_table(
            comparison,
            "How the searches ended",
            ("interval at the end", f"trials to within {comparison.margin_nats:g} nats", "epochs a search"),
            ends,
        ),
    ]
    bands = {curve.arm: curve.band for curve in curves if curve.band is not None}
    if bands:
        places = sorted({2**i for i in range(12)} & {trial for band in bands.values() for trial in band.trials})
        rows = {}
        for arm, band in bands.items():
            cells = {t: (m, lo, hi) for t, m, lo, hi in zip(band.trials, band.median, band.low, band.high, strict=True)}
            rows[arm] = [
                f"{number(cells[place][0])} {interval(*cells[place][1:])}" if place in cells else "—"
                for place in places
            ]
            rows[arm].append(str(band.draws))
        columns = (*(f"best of {place}" for place in places), "random trials behind it")
        tables.append(arm_table(comparison, "What random search would reach: median and band", columns, rows))
    return tuple(tables)


def _settled(curve: TuningCurve, margin: float) -> int:
    """Trials after which the mean best is within the margin of its last value."""
    last = curve.mean[-1]
    assert last is not None
    return next(
        n for n, value in zip(curve.trials, curve.mean, strict=True) if value is not None and value >= last - margin
    )


def sensitivity(results: Results, analysis: Analysis) -> Section:
    """What the value depends on."""
    comparison, parameters = results.comparison, list(results.study.nuisance)
    if not parameters:
        return Section("sensitivity", "Sensitivity", "Nothing was tuned.")
    of: dict[str, list[float]] = {name: [] for name in parameters}
    for one in analysis.importances:
        of.setdefault(one.parameter, []).append(one.importance)
    mean = {name: sum(values) / len(values) if values else 0.0 for name, values in of.items()}
    first = sorted(parameters, key=lambda name: (-mean[name], parameters.index(name)))
    reading = (
        "Each mark is a search trial; at the bottom, strokes are worse than the chart shows and crosses diverged. "
        "A line joins the best trial of each eighth of the range."
    )
    if analysis.importances and len(parameters) > 1:
        reading = (
            f"{first[0]} explains most of the spread ({share(mean[first[0]])} on average over the arms). " + reading
        )
    drawn = [
        charts(
            comparison,
            f"sensitivity-{i}",
            f"Validation value by {name}",
            lambda context, name=name: figures.sensitivity(comparison, analysis.points, name, only=context),  # type: ignore[misc]
            title=f"By {name}",
        )
        for i, name in enumerate(first[:MOST_PARAMETERS])
    ]
    tables = []
    if any(one.shares for one in analysis.sensitivity):
        label = "Share of random trials nearly as good as the arm's best"
        drawn.append(
            charts(
                comparison,
                "easy",
                label,
                lambda context: figures.easy_shares(comparison, analysis.sensitivity, only=context),
                title="How easy an arm is to tune",
                legend=False,
            )
        )
        tables.append(_easy(comparison, analysis))
    if analysis.importances and len(parameters) > 1:
        label = "How much of the spread each tuned parameter explains"
        shares = charts(
            comparison,
            "importances",
            label,
            lambda context: figures.importances(comparison, analysis.importances, only=context),
            title="What the spread depends on",
            legend=False,
        )
        drawn.append(shares)
        found = {(one.arm, one.parameter): one.importance for one in analysis.importances}
        rows = {arm.id: [number(found.get((arm.id, name))) for name in parameters] for arm in comparison.arms}
        tables.append(arm_table(comparison, "Share of the spread explained", parameters, rows))
    tables.append(_trials(results, analysis))
    return Section("sensitivity", "Sensitivity to what was tuned", reading, charts=tuple(drawn), tables=tuple(tables))


def _easy(comparison: Comparison, analysis: Analysis) -> Table:
    within = sorted({one.within for arm in analysis.sensitivity for one in arm.shares})
    rows = {}
    for arm in analysis.sensitivity:
        of = {one.within: f"{share(one.share)} [{share(one.low)}, {share(one.high)}]" for one in arm.shares}
        rows[arm.arm] = (*(of.get(size, "—") for size in within), str(arm.draws), number(arm.best))
    columns = (*(f"within {size:g} nats" for size in within), "random trials", "best val/elbo")
    return arm_table(comparison, "Share of random trials within some nats of the arm's best", columns, rows)


def _trials(results: Results, analysis: Analysis) -> Table:
    """Every search trial, or the best of every arm where all of them would be most of the page."""
    comparison, parameters = results.comparison, list(results.study.nuisance)
    by_arm: dict[str, list[Any]] = {}
    for point in analysis.points:
        by_arm.setdefault(point.arm, []).append(point)
    body = []
    most = 3 if len(analysis.points) > MOST_ROWS else MOST_ROWS
    for arm in comparison.arms:
        mine = by_arm.get(arm.id, [])
        ranked = sorted(mine, key=lambda p: (p.value is None, -(p.value or 0.0), p.replicate, p.number))
        for point in ranked[:most]:
            cells = (value_text(point.params.get(name)) for name in parameters)
            body.append((*arm_cells(comparison, arm), number(point.value), *cells, f"{point.replicate}/{point.number}"))
    heads = arm_columns(comparison) or ("arm",)
    caption = "The three best search trials of every arm" if most == 3 else "Every search trial, best first"
    return Table(caption, (*heads, "val/elbo", *parameters, "search/trial"), tuple(body), headers=len(heads))
