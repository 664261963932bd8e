"""The further test metrics of a comparison as text: what each is called, which belong together, a cell an arm.

Knows no terminal and no page; both print these tables. docs/results.md says what each metric is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ..comparison import Comparison
from .numbers import column_digits, plus_minus, value_text


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric is shown."""

    title: str
    group: str
    figure: bool = False
    """worth a figure over a factor that is a number"""


MODELS, SAMPLES, LATENTS, USE, HEADS, OTHERS = (
    "Likelihood",
    "Samples from the prior",
    "What the latents carry",
    "How many latents are used",
    "The encoder's heads",
    "Other metrics",
)
MEASURES: Mapping[str, Measure] = {
    "test/log_likelihood_iw": Measure("likelihood bound", MODELS, figure=True),
    "test/iw_ess": Measure("ESS, of K", MODELS),
    "test/bits_per_dim": Measure("bits/dim", MODELS),
    "test/frechet_pca": Measure("Fréchet (PCA)", SAMPLES, figure=True),
    "test/distortion": Measure("distortion", MODELS),
    "test/rate": Measure("rate", LATENTS),
    "test/mutual_information": Measure("mutual information", LATENTS, figure=True),
    "test/total_correlation": Measure("total correlation", LATENTS, figure=True),
    "test/dimension_kl": Measure("KL by dimension", LATENTS),
    "test/active_units": Measure("active units", USE, figure=True),
    "test/collapsed_units": Measure("collapsed units", USE),
    "test/mig": Measure("MIG", USE, figure=True),
    "test/mean_head_snr": Measure("mean head SNR", HEADS),
    "test/scale_head_snr": Measure("scale head SNR", HEADS),
    "test/scale_at_limit": Measure("σ at its limit", HEADS),
}
"""In the order of the columns. Others are shown under their own names."""
NUMBERS_OF = {"test/iw_samples": (MODELS, "K"), "test/frechet_images": (SAMPLES, "images")}
"""what is the same in all repeats: said in the title of a group, not by arm"""


def title_of(metric: str) -> str:
    """What a metric is called."""
    return MEASURES[metric].title if metric in MEASURES else metric.removeprefix("test/")


@dataclass(frozen=True, slots=True)
class FurtherTable:
    """Some metrics of all arms."""

    title: str
    columns: tuple[str, ...]
    cells: Mapping[str, tuple[str, ...]]
    """by arm id; a mean with its half interval"""


def further_metrics(comparison: Comparison) -> tuple[str, ...]:
    """The metrics that some arm has, in the order they are shown."""
    there = {name for arm in comparison.arms for name in arm.further} - NUMBERS_OF.keys()
    return (*(name for name in MEASURES if name in there), *sorted(there - MEASURES.keys()))


def further_tables(comparison: Comparison) -> tuple[FurtherTable, ...]:
    """One table a group that has something; none without further metrics."""
    names = further_metrics(comparison)
    order = (MODELS, SAMPLES, LATENTS, USE, HEADS, OTHERS)
    groups = {group: [name for name in names if _group(name) == group] for group in order}
    return tuple(_table(comparison, group, found) for group, found in groups.items() if found)


def _group(metric: str) -> str:
    return MEASURES[metric].group if metric in MEASURES else OTHERS


def _table(comparison: Comparison, title: str, names: Sequence[str]) -> FurtherTable:
    columns = []
    for name in names:
        column = [arm.further[name].estimate if name in arm.further else None for arm in comparison.arms]
        digits = column_digits(column)
        columns.append([plus_minus(found, digits) for found in column])
    cells = {arm.id: tuple(column[i] for column in columns) for i, arm in enumerate(comparison.arms)}
    numbers = [
        f"{word} = {value:g}"
        for name, (group, word) in NUMBERS_OF.items()
        if group == title and (value := _common(comparison, name))
    ]
    said = f"{title} ({', '.join(numbers)})" if numbers else title
    return FurtherTable(said, tuple(map(title_of, names)), cells)


def _common(comparison: Comparison, name: str) -> float | None:
    """The value that all arms have of it; None where they have none or several."""
    found = {arm.further[name].estimate.mean for arm in comparison.arms if name in arm.further}
    return found.pop() if len(found) == 1 else None


def further_text(comparison: Comparison) -> tuple[Table, ...]:
    """The tables for a terminal."""
    from .comparison import plain_table

    made = []
    names = sorted(comparison.arms[0].values, key=lambda name: name in comparison.factors) if comparison.arms else []
    for one in further_tables(comparison):
        table = plain_table(caption=f"{one.title}: test images, mean ± half the interval; nats, shares, counts, ratios")
        for name in names:
            table.add_column(name, no_wrap=True)
        for column in one.columns:
            table.add_column(column, justify="right")
        for arm in comparison.arms:
            table.add_row(*map(Text, (*(value_text(arm.values[name]) for name in names), *one.cells[arm.id])))
        made.append(table)
    return tuple(made)
