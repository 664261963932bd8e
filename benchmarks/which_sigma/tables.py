"""The page's tables, as Markdown. Words and numbers in, text out; all statistics are numbers.py's."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.comparison import Estimate, Pair, Verdict

from ..markdown import table
from .numbers import Row, at_best, at_rate, best_rate, ease, fell_apart, grid, judged
from .studies import BASELINE, GRIDS, OTHER_DATA, QUESTIONS
from .summaries import Summary, Values, mean

ONE_RATE = 1e-3
"""the "one setting": Adam's default in torch"""
Kept = Mapping[str, Summary]


def tables(kept: Kept) -> dict[str, str]:
    """Every table of the page, by its name."""
    grids = {f"grid-{name}": grid_table(kept[name]) for name in GRIDS}
    return {
        "studies": studies_table(kept),
        **grids,
        "close": close_table(kept["close"]),
        "protocols": protocols_table(kept),
        "tuned": tuned_table(kept["tuned"]),
        "chosen": chosen_table(kept["tuned"]),
        "other-data": other_data_table(kept),
        "posteriors": posteriors_table(kept["posteriors"]),
    }


def verdicts(summary: Summary, values: Mapping[str, Values]) -> dict[str, Row]:
    """scale -> row of one family."""
    return {row.scale: row for row in judged(values, alpha=summary.alpha, margin_nats=summary.margin_nats)}


def cell(row: Row) -> str:
    """`+0.42 [0.20, 0.64] better`; `(2 lost)` where trainings diverged."""
    if row.pair is None:
        return "–" if row.mean is None else f"{row.mean:.2f}".replace("-", "−")
    return difference(row.pair) + (f" ({row.lost} of {row.count} diverged)" if row.lost else "")


def difference(pair: Pair) -> str:
    """A difference, its interval and the verdict; what is shown beyond doubt is set in bold."""
    if pair.verdict is Verdict.DIVERGED:
        return "diverged"
    if pair.verdict is Verdict.IDENTICAL:
        return "identical"
    found = pair.difference
    if found is None:
        return "–"
    word = f"**{pair.verdict}**" if pair.verdict in (Verdict.BETTER, Verdict.WORSE) else str(pair.verdict)
    if pair.inside_margin and pair.verdict is not Verdict.EQUIVALENT:
        word += ", by less than the margin"
    return f"{with_interval(found)} {word}"


def with_interval(found: Estimate) -> str:
    """`+0.42 [0.20, 0.64]`; the mean alone where there is no interval."""
    interval = "" if found.low is None else f" [{signed(found.low)}, {signed(found.high or 0.0)}]"
    return f"{signed(found.mean)}{interval}"


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def studies_table(kept: Kept) -> str:
    """What was run."""
    rows = []
    for name, summary in kept.items():
        question = QUESTIONS[name]
        replicates = max(len(one.tests) for one in summary.cells)
        lost = sum(one.lost for one in summary.cells)
        errors = mean([one.image_se for one in summary.cells])
        rows.append(
            [
                f"[`{name}`](which-sigma/{name}.json)",
                question.told,
                f"[{question.file}](../configs/which_sigma/{question.file})",
                f"{len(summary.cells)} × {replicates}",
                str(lost),
                "–" if errors is None else f"{errors:.2f}",
            ]
        )
    return table(["kept as", "what", "study file", "arms × replicates", "repeats that diverged", "image error"], rows)


def grid_table(summary: Summary) -> str:
    """One grid: at one rate, at the best, over all."""
    values = grid(summary)
    one, best = (verdicts(summary, found) for found in (at_rate(values, ONE_RATE), at_best(values)))
    easy = verdicts(summary, ease(values))
    largest = summary.levels("learning_rate")[-1]
    rows = [
        [
            f"`{scale}`",
            cell(one[scale]),
            f"{cell(best[scale])} at {best_rate(rates):g}",
            cell(easy[scale]),
            f"{fell_apart(rates, largest)} of {len(rates[largest])}",
        ]
        for scale, rates in values.items()
    ]
    head = [
        "scale",
        f"at a rate of {ONE_RATE:g}",
        "at its best rate",
        "a rate drawn blindly",
        f"fell apart at {largest:g}",
    ]
    return table(head, rows)


def close_table(summary: Summary) -> str:
    """A few rates, each a family of its own."""
    rates = summary.levels("learning_rate")
    found = {rate: verdicts(summary, at_rate(grid(summary), rate)) for rate in rates}
    rows = [[f"`{scale}`", *(cell(found[rate][scale]) for rate in rates)] for scale in summary.levels("scale")]
    return table(["scale", *(f"at a rate of {rate:g}" for rate in rates)], rows)


def protocols_table(kept: Kept) -> str:
    """At one rate, under all protocols and both optimizers."""
    found = {name: verdicts(kept[name], at_rate(grid(kept[name]), ONE_RATE)) for name in GRIDS}
    scales = list(found[GRIDS[0]])
    rows = [[f"`{scale}`", *(cell(found[name][scale]) for name in GRIDS)] for scale in scales]
    return table(["scale", *(QUESTIONS[name].told for name in GRIDS)], rows)


def tuned_table(summary: Summary) -> str:
    """Each scale tuned by itself, by latent size."""
    sizes = summary.levels("latent_dim")
    found = {size: verdicts(summary, _tests(summary, size)) for size in sizes}
    rows = [[f"`{scale}`", *(cell(found[size][scale]) for size in sizes)] for scale in summary.levels("scale")]
    return table(["scale", *(f"{size} latents" for size in sizes)], rows)


def _tests(summary: Summary, latents: int) -> dict[str, Values]:
    return {scale: one.tests for scale, one in summary.row({"latent_dim": latents}).items()}


def chosen_table(summary: Summary) -> str:
    """The learning rates that searches chose (quartiles), and what the models are like."""
    rows = []
    for scale, one in summary.row({"latent_dim": 8}).items():
        rates = sorted(params["learning_rate"] for params in one.params if params)
        quarter = len(rates) // 4
        spread = [rates[quarter], rates[len(rates) // 2], rates[-1 - quarter]] if rates else []
        bound, rate, units = (one.further[key] for key in ("test/log_likelihood_iw", "test/rate", "test/active_units"))
        rows.append(
            [
                f"`{scale}`",
                " / ".join(f"{value:.1e}".replace("e-0", "e-") for value in spread),
                *(
                    "–" if value is None else f"{value:.{digits}f}"
                    for value, digits in ((mean(one.tests), 2), (bound, 2), (rate, 2), (units, 1))
                ),
            ]
        )
    head = ["scale", "learning rates chosen: quartiles", "test ELBO", "IW bound", "rate, nats", "active units of 8"]
    return table(head, rows)


def other_data_table(kept: Kept) -> str:
    """At one rate and at the best, on other data."""
    columns = {}
    for name in OTHER_DATA:
        values = grid(kept[name])
        columns[f"{name}, at {ONE_RATE:g}"] = verdicts(kept[name], at_rate(values, ONE_RATE))
        columns[f"{name}, at its best rate"] = verdicts(kept[name], at_best(values))
    scales = kept[OTHER_DATA[0]].levels("scale")
    rows = [
        [f"`{scale}`", *(cell(found[scale]) if scale in found else "not asked" for found in columns.values())]
        for scale in scales
    ]
    return table(["scale", *columns], rows)


def posteriors_table(summary: Summary) -> str:
    """Each family and scale at its best rate, against the diagonal posterior with log σ²."""
    arms = {
        f"{family}/{scale}": values
        for family in summary.levels("posterior")
        for scale, values in at_best(grid(summary, posterior=family)).items()
    }
    first = f"diagonal/{BASELINE}"
    found = judged(arms, alpha=summary.alpha, margin_nats=summary.margin_nats, baseline=first)
    rows = {row.scale: cell(row) for row in found}
    families = summary.levels("posterior")
    return table(
        ["scale", *(f"`{family}`" for family in families)],
        [[f"`{scale}`", *(rows[f"{family}/{scale}"] for family in families)] for scale in summary.levels("scale")],
    )
