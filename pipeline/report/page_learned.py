"""What the models learned beside the compared metric: further test metrics by arm, and over factors that are numbers.

Tells and does not judge: there is no verdict on any of them. Reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..comparison import Comparison
from .further import MEASURES, further_metrics, further_tables, title_of
from .further_figures import further_metric, is_number, lines_are_levels
from .page_parts import Charts, Section, number, typeset
from .page_sections import arm_table, chart_of, name_of

TITLE = "What the models learned"
MOST_CHARTS = 6
"""of one factor"""


def learned(comparison: Comparison) -> Section:
    """The section; it says so where the repeats have recorded nothing of it."""
    names = further_metrics(comparison)
    if not names:
        return Section("learned", TITLE, "The repeats have recorded no further test metrics.")
    sentences = [_of_the_bound(comparison), _of_disentanglement(comparison)]
    reading = " ".join(
        [
            *(one for one in sentences if one),
            "Nats per image, but for shares, counts and ratios. None of this is judged: the verdicts are on the ELBO.",
        ]
    )
    tables = tuple(
        arm_table(comparison, one.title, one.columns, {arm: [*map(typeset, row)] for arm, row in one.cells.items()})
        for one in further_tables(comparison)
    )
    return Section("learned", TITLE, reading, charts=_charts(comparison, names), tables=tables)


def _charts(comparison: Comparison, names: Sequence[str]) -> tuple[Charts, ...]:
    """For each scientific factor whose values are several numbers: its metrics side by side."""
    drawn = [name for name in names if name in MEASURES and MEASURES[name].figure]
    drawn.sort(key=lambda name: name != "test/mig")
    groups = []
    for factor in comparison.arms[0].values:
        levels = {arm.values[factor] for arm in comparison.arms}
        if len(levels) < 2 or not all(map(is_number, levels)):
            continue
        shared = lines_are_levels(comparison, factor)
        made = tuple(
            chart_of(
                f"learned-{factor}-{i}",
                title_of(name),
                f"{title_of(name)} on test images over {factor}: means with intervals, and what they are over.",
                further_metric(comparison, name, factor),
                legend=not shared and len(comparison.arms) > len(levels),
            )
            for i, name in enumerate(drawn[:MOST_CHARTS])
        )
        groups.append(Charts(f"Over {factor}", made, legend=shared))
    return tuple(groups)


def _of_the_bound(comparison: Comparison) -> str:
    gaps = [
        arm.further["test/log_likelihood_iw"].estimate.mean - arm.estimate.mean
        for arm in comparison.arms
        if arm.estimate is not None
        and arm.further.keys() >= {"test/log_likelihood_iw", "test/frechet_images"}
        # of a large test set the bound is that of its first images only
        and arm.further["test/frechet_images"].estimate.mean == comparison.test_images
    ]
    if not gaps or comparison.metric != "test/elbo":
        return ""
    return (
        f"The importance-weighted bound lies {number(min(gaps))} to {number(max(gaps))} nats above the ELBO: at least "
        "so much of what the ELBO lacks is the encoder's fault, not the decoder's."
    )


def _of_disentanglement(comparison: Comparison) -> str:
    known = {arm.id: arm.further["test/mig"].estimate.mean for arm in comparison.arms if "test/mig" in arm.further}
    if not known:
        return ""
    low, high = min(known, key=lambda arm: known[arm]), max(known, key=lambda arm: known[arm])
    return (
        f"The mutual information gap goes from {number(known[low])} ({name_of(comparison, low)}) to "
        f"{number(known[high])} ({name_of(comparison, high)}); 1 is a latent of its own for each factor."
    )
