"""From kept values to three answers: at one learning rate, at each scale's best, and over the whole grid.

The verdicts are those of `vae-sweep compare`: the same tests, intervals and Holm's correction, over one table each.
Only what is compared is made here, as arms of their own.

- Best rate: for replicate r the rate whose mean over the *other* replicates is highest, so that no value is both what a
  rate was chosen by and what is told of it.
- Ease: what a rate drawn blindly from the grid costs, the mean over the grid of (best - value), each at most `CAP` nats
  and a diverged training `CAP`; negated, so that higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.comparison import ArmResult, Basis, Pair, ReplicateResult, estimate
from pipeline.comparison.verdicts import Judge

from .studies import BASELINE
from .summaries import Summary, Values, mean

CAP = 10.0
"""nats: more than that is as bad as diverging"""
Grid = Mapping[str, Mapping[float, Values]]
"""scale -> learning rate -> values by replicate"""


@dataclass(frozen=True, slots=True)
class Row:
    """One scale in one table."""

    scale: str
    mean: float | None
    lost: int
    """values that are not there because training diverged"""
    count: int
    pair: Pair | None
    """against the baseline; None for the baseline itself"""


def grid(summary: Summary, **context: object) -> Grid:
    """The values of all arms that have these values, too, by scale and learning rate."""
    found: dict[str, dict[float, Values]] = {}
    for cell in summary.cells:
        if all(cell.values[key] == value for key, value in context.items()):
            found.setdefault(cell.values["scale"], {})[cell.values["learning_rate"]] = cell.tests
    return found


def at_rate(values: Grid, rate: float) -> dict[str, Values]:
    """scale -> values at one learning rate."""
    return {scale: rates[rate] for scale, rates in values.items()}


def best_rate(rates: Mapping[float, Values], without: int | None = None) -> float:
    """The rate with the highest mean, replicate `without` left out; one that diverged anywhere comes last."""

    def score(rate: float) -> float:
        kept = [value for number, value in enumerate(rates[rate]) if number != without]
        known = [value for value in kept if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(kept) > 0 else -math.inf

    return max(rates, key=lambda rate: (score(rate), -rate))


def at_best(values: Grid) -> dict[str, Values]:
    """scale -> value of each replicate at the rate that the others chose."""
    return {
        scale: tuple(rates[best_rate(rates, without=r)][r] for r in range(len(next(iter(rates.values())))))
        for scale, rates in values.items()
    }


def ease(values: Grid) -> dict[str, Values]:
    """scale -> minus what a blindly drawn rate costs, by replicate."""
    return {
        scale: tuple(-cost for cost in _costs(rates, at_best({scale: rates})[scale])) for scale, rates in values.items()
    }


def _costs(rates: Mapping[float, Values], best: Values) -> list[float]:
    costs = []
    for number, reached in enumerate(best):
        values = [rates[rate][number] for rate in rates]
        each = [CAP if v is None or reached is None else min(CAP, reached - v) for v in values]
        costs.append(math.fsum(each) / len(each))
    return costs


def fell_apart(rates: Mapping[float, Values], rate: float) -> int:
    """Replicates that diverged at this rate, or came out more than `CAP` nats below the mean at the best one."""
    best = mean(rates[best_rate(rates)])
    return sum(value is None or best is None or value < best - CAP for value in rates[rate])


def judged(values: Mapping[str, Values], *, alpha: float, margin_nats: float, baseline: str = BASELINE) -> list[Row]:
    """Every scale against the baseline: one family."""
    arms = {scale: _arm(scale, each, baseline, alpha) for scale, each in values.items()}
    judge = Judge(frozenset({"scale"}), alpha, margin_nats, discrete=True)
    rivals = [scale for scale in arms if scale != baseline]
    pairs = dict(zip(rivals, judge.family([(arms[scale], arms[baseline]) for scale in rivals]), strict=True))
    return [Row(scale, mean(each), each.count(None), len(each), pairs.get(scale)) for scale, each in values.items()]


def _arm(scale: str, values: Sequence[float | None], baseline: str, alpha: float) -> ArmResult:
    replicates = tuple(
        ReplicateResult(number, {}, (value,), (0,) if value is None else (), value)
        for number, value in enumerate(values)
    )
    known = [value for value in values if value is not None]
    return ArmResult(
        id=scale,
        label=scale,
        values={"scale": scale},
        baseline=baseline,
        estimate=estimate(known, alpha),
        basis=Basis.SEARCHES,
        bits_per_dim=None,
        image_se=None,
        likelihoods=(),
        repeats_lost=len(values) - len(known),
        ended={},
        epochs={},
        replicates=replicates,
        further={},
    )
