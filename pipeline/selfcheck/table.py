"""The table of oracles, in the order of their numbers, and how they are examined."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import engine, estimators, formulas, linear
from .base import Line, Oracle, worst


def _oracle(measure: object) -> Oracle:
    claim = (getattr(measure, "__doc__", None) or "").strip()
    return Oracle(claim, measure)  # type: ignore[arg-type]


ORACLES: Mapping[str, Oracle] = {
    name: _oracle(measure)
    for name, measure in {
        "O1": engine.sgd,
        "O2": engine.adam,
        "O3": engine.mirrored,
        "O4": linear.closed_form,
        "O5": linear.optimum,
        "O6": linear.rotation,
        "O7": linear.rates,
        "O8": linear.trained,
        "O9": estimators.beta_is_variance,
        "O10": estimators.gradient_noise,
        "O11": estimators.importance_weights,
        "O12": estimators.importance_rate,
        "O13": formulas.continuous_bernoulli,
        "O14": formulas.discretized_logistic,
        "O15": formulas.optimal_variance,
        "O16": formulas.divergences,
        "O17": estimators.sampled_kl,
        "O18": formulas.derivatives,
        "O19": formulas.total_correlation,
        "O20": formulas.natural_parameters,
        "O21": formulas.sample_deviation,
        "O22": formulas.floats,
        "O23": formulas.information_gap,
        "O24": formulas.baselines,
        "O25": engine.relabelled,
    }.items()
}
"""name -> oracle"""


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of one oracle."""

    name: str
    claim: str
    lines: tuple[Line, ...]
    seconds: float
    error: str = ""
    """why it could not be measured at all"""

    @property
    def holds(self) -> bool:
        """Whether every line does."""
        return not self.error and all(line.holds for line in self.lines)

    @property
    def shown(self) -> Line | None:
        """The line to show for all of them."""
        return worst(self.lines) if self.lines else None


def examine(oracles: Mapping[str, Oracle] = ORACLES) -> Iterator[Examined]:
    """Measures one after the other; one that raises does not hold."""
    for name, oracle in oracles.items():
        began, lines, error = time.perf_counter(), tuple[Line, ...](), ""
        try:
            lines = tuple(oracle.measure())
        except Exception as raised:  # a damaged installation may raise anything, and should say so
            error = f"{type(raised).__name__}: {raised}"
        yield Examined(name, oracle.claim, lines, time.perf_counter() - began, error)
