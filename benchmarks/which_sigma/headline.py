"""The page's first lines: what the tables say, in sentences whose numbers and words follow from the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.comparison import Verdict

from .numbers import Row, at_best, at_rate, grid
from .studies import BASELINE, OTHER_DATA
from .summaries import Summary, Values
from .tables import ONE_RATE, Kept, verdicts, with_interval

BARE = ("raw_std", "raw_variance")
"""σ and σ² put out as they are"""
ODD = (*BARE, "fixed")
"""not among the usual: they are told of by themselves"""
WORDS = {
    Verdict.IDENTICAL: "identical to the last bit",
    Verdict.EQUIVALENT: "equivalent",
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.UNDECIDED: "undecided",
    Verdict.DIVERGED: "diverged",
}


def headline(kept: Kept) -> str:
    """A list of sentences."""
    adam, close, tuned = kept["adam"], kept["close"], kept["tuned"]
    best = max(close.levels("learning_rate"))
    matched = verdicts(kept["adam-jacobian"], at_rate(grid(kept["adam-jacobian"]), ONE_RATE))
    sizes = [
        row
        for size in tuned.levels("latent_dim")
        for row in usual(tuned, {scale: one.tests for scale, one in tuned.row({"latent_dim": size}).items()})
    ]
    elsewhere = [row for name in OTHER_DATA for row in usual(kept[name], at_best(grid(kept[name])))]
    seeds = f"{len(close.cells[0].tests)} seeds"
    lines = [
        f"**One learning rate, {ONE_RATE:g}** ({seeds}). {told(usual(close, at_rate(grid(close), ONE_RATE)))}",
        f"**The best one, {best:g}** ({seeds}). {told(usual(close, at_rate(grid(close), best)))}",
        f"**Each tuned by itself, with 2, 8 and 32 latents.** {told(sizes)}",
        f"**On other data, each at its best rate.** {told(elsewhere)}",
        f"**Where a step moves every log σ equally far** (J matched, {ONE_RATE:g}). {told(usual_rows(matched))}",
        f"**σ or σ² put out bare**, each at its best rate. {bare(adam)}",
        f"**No σ to learn** (σ = 1). {single(verdicts(adam, at_best(grid(adam)))['fixed'])}",
    ]
    return "".join(f"- {line}\n" for line in lines)


def usual(summary: Summary, values: Mapping[str, Values]) -> list[Row]:
    """The rows of the scales that people use, the baseline and the odd ones left out; judged in the whole table."""
    return usual_rows(verdicts(summary, values))


def usual_rows(rows: Mapping[str, Row]) -> list[Row]:
    return [row for scale, row in rows.items() if scale != BASELINE and scale not in ODD]


def told(rows: Iterable[Row], margin_nats: float = 0.5) -> str:
    """Of 8 comparisons with log σ²: 5 equivalent, 3 undecided; 5 lie within the margin; the largest is ..."""
    pairs = [(row, row.pair) for row in rows if row.pair is not None]
    counts = Counter(pair.verdict for _, pair in pairs)
    words = ", ".join(f"{counts[verdict]} {word}" for verdict, word in WORDS.items() if counts[verdict])
    known = [(row, pair.difference) for row, pair in pairs if pair.difference is not None]
    row, found = max(known, key=lambda one: abs(one[1].mean))
    largest = f"the largest difference is {with_interval(found)} nats (`{row.scale}`)"
    inside = sum(pair.inside_margin or pair.verdict is Verdict.IDENTICAL for _, pair in pairs)
    close = f"{inside} are shown to lie within {margin_nats:g} nats"
    return f"Of {len(pairs)} comparisons with `{BASELINE}`: {words}; {close}; {largest}."


def bare(summary: Summary) -> str:
    """What becomes of the bare ones."""
    rows = verdicts(summary, at_best(grid(summary)))
    said = []
    for scale in BARE:
        cells = [one for one in summary.cells if one.values["scale"] == scale]
        lost, asked = sum(one.lost for one in cells), sum(len(one.tests) for one in cells)
        said.append(f"`{scale}`: {single(rows[scale])} {lost} of {asked} repeats diverged over all rates.")
    return " ".join(said)


def single(row: Row) -> str:
    """One difference, in words."""
    if row.pair is None or row.pair.difference is None:
        return f"{row.lost} of {row.count} diverged."
    return f"{with_interval(row.pair.difference)} nats: {WORDS[row.pair.verdict]}."
