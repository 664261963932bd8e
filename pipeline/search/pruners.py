"""Stopping rules: what a trial's metric must reach after each epoch. Made when it is asked, they travel with it.

Some look at the trial's own curve only; most at the complete trials that the ask may see too: both are reproducible.
Those that look at rivals depend on how far the others happen to be at that moment: a sweep that uses one is tagged so.
Everything is maximised. Knows no Optuna, no arm and no worker.

- median and percentile rule: Golovin et al., Google Vizier, KDD 2017
- patience: Prechelt, Early Stopping - But When?, in Neural Networks: Tricks of the Trade, 1998
- successive halving, asynchronous: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020
- Hyperband: Li et al., Hyperband, JMLR 2018
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..records import Stopping, derive_seed

Thresholds = tuple[float | None, ...]

HALVING_FACTOR = 4
BRACKET_FACTOR = 3
"""as in Optuna's SuccessiveHalvingPruner and HyperbandPruner"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a study says of its stopping rule."""

    startup: int
    """complete trials before a trial may be stopped"""
    warmup: int
    """epochs that every trial gets"""
    epochs: int
    """of a whole trial"""
    percentile: float = 25.0
    """so many per cent of the complete trials are good enough"""
    threshold_nats: float | None = None
    """below it a trial stops; None: it never does"""
    patience_epochs: int = 5
    """its best of the latest so many epochs and one more is held to its best before"""
    min_delta_nats: float = 0.0
    """so far below is good enough"""


Curves = Mapping[int, Sequence[float]]
"""Trial number -> the metric after each of its epochs so far."""


@dataclass(frozen=True, slots=True)
class Pruner:
    """One stopping rule."""

    thresholds: Callable[[Curves, int, Setting], Thresholds]
    """(others' curves, number of the trial that is asked, setting) -> entry e: after epoch e + 1 the trial stops when
    its best so far is below"""
    looks_at_rivals: bool = False
    """others are all trials so far, running ones too; else the complete ones that the ask may see"""
    looks_at_others: bool = True
    """else a trial is judged by its own curve only, and waits for no result"""
    stopping: Callable[[Setting], Stopping] = lambda _: Stopping()
    """what travels with every trial beside its thresholds"""
    reads: frozenset[str] = frozenset({"pruner_startup", "pruner_warmup_epochs"})
    """fields of `search` that may be given; the two oldest are allowed to earlier rules that do not read them"""


def median_thresholds(curves: Sequence[Sequence[float]], startup: int, warmup: int, epochs: int) -> Thresholds:
    """Per epoch, the median of the complete trials' metric.

    None before epoch `warmup`, and everywhere while there are fewer than `startup` complete trials.
    Decides as `optuna.pruners.MedianPruner(startup, warmup)` does.
    """
    if len(curves) < max(startup, 1):
        return ()
    values = ([curve[epoch] for curve in curves if epoch < len(curve)] for epoch in range(epochs))
    return tuple(statistics.median(v) if v and e >= warmup else None for e, v in enumerate(values))


def percentile_thresholds(
    curves: Sequence[Sequence[float]], percentile: float, startup: int, warmup: int, epochs: int
) -> Thresholds:
    """Per epoch, what the best `percentile` per cent of the complete trials have reached, interpolated.

    None before epoch `warmup`, and everywhere while there are fewer than `startup` complete trials.
    Decides as `optuna.pruners.PercentilePruner(percentile, startup, warmup)` does.
    """
    import numpy as np

    if len(curves) < max(startup, 1):
        return ()
    values = ([curve[epoch] for curve in curves if epoch < len(curve)] for epoch in range(epochs))
    return tuple(float(np.percentile(v, 100 - percentile)) if v and e >= warmup else None for e, v in enumerate(values))


def halving_thresholds(
    curves: Sequence[Sequence[float]], first_rung: int, factor: int, epochs: int, rate: int = 0
) -> Thresholds:
    """At epochs first_rung * factor^(rate + k): what puts a trial among the best 1/factor that came there.

    Decides as `optuna.pruners.SuccessiveHalvingPruner(first_rung, factor, rate)` would for a metric that only grows, if
    the rivals came no further than they are now.
    """
    thresholds: list[float | None] = [None] * epochs
    rung = first_rung * factor**rate
    while rung <= epochs:
        there = sorted((curve[rung - 1] for curve in curves if len(curve) >= rung), reverse=True)
        better = max((len(there) + 1) // factor - 1, 0)  # so many may be better than one that goes on
        thresholds[rung - 1] = there[better] if len(there) > better else None
        rung *= factor
    return tuple(thresholds)


def bracket_of(number: int, first_rung: int, factor: int, epochs: int) -> int:
    """The Hyperband bracket of a trial: drawn by number, wide brackets more often; as Optuna allots them."""
    brackets = math.floor(math.log(max(epochs / first_rung, 1), factor)) + 1
    budgets = [math.ceil(brackets * factor**s / (s + 1)) for s in reversed(range(brackets))]
    place = derive_seed("bracket", number) % sum(budgets)
    for bracket, budget in enumerate(budgets):
        place -= budget
        if place < 0:
            return bracket
    raise AssertionError("unreachable: a remainder is below its divisor")


def _median(curves: Curves, number: int, setting: Setting) -> Thresholds:
    return median_thresholds(list(curves.values()), setting.startup, setting.warmup, setting.epochs)


def _percentile(curves: Curves, number: int, setting: Setting) -> Thresholds:
    known = list(curves.values())
    return percentile_thresholds(known, setting.percentile, setting.startup, setting.warmup, setting.epochs)


def _threshold(curves: Curves, number: int, setting: Setting) -> Thresholds:
    """Decides as `optuna.pruners.ThresholdPruner(lower=threshold, n_warmup_steps=warmup)` does."""
    return tuple(setting.threshold_nats if epoch >= setting.warmup else None for epoch in range(setting.epochs))


def _patience(setting: Setting) -> Stopping:
    """Decides as `optuna.pruners.PatientPruner(None, patience, min_delta)` does."""
    return Stopping(patience_epochs=setting.patience_epochs, min_delta_nats=setting.min_delta_nats)


def _halving(curves: Curves, number: int, setting: Setting) -> Thresholds:
    return halving_thresholds(list(curves.values()), max(setting.warmup, 1), HALVING_FACTOR, setting.epochs)


def _hyperband(curves: Curves, number: int, setting: Setting) -> Thresholds:
    first_rung, epochs = max(setting.warmup, 1), setting.epochs

    def bracket(of: int) -> int:
        return bracket_of(of, first_rung, BRACKET_FACTOR, epochs)

    mine = bracket(number)
    rivals = [curve for other, curve in curves.items() if bracket(other) == mine]
    return halving_thresholds(rivals, first_rung, BRACKET_FACTOR, epochs, rate=mine)


PRUNERS: Mapping[str, Pruner] = {
    "none": Pruner(lambda *_: (), looks_at_others=False),
    "median": Pruner(_median),
    "percentile": Pruner(_percentile, reads=frozenset({"pruner_startup", "pruner_warmup_epochs", "pruner_percentile"})),
    "threshold": Pruner(
        _threshold,
        looks_at_others=False,
        stopping=lambda _: Stopping(by_latest=True),
        reads=frozenset({"pruner_warmup_epochs", "pruner_threshold_nats"}),
    ),
    "patient": Pruner(
        lambda *_: (),
        looks_at_others=False,
        stopping=_patience,
        reads=frozenset({"pruner_patience_epochs", "pruner_min_delta_nats"}),
    ),
    "successive_halving": Pruner(_halving, looks_at_rivals=True),
    "hyperband": Pruner(_hyperband, looks_at_rivals=True),
}
"""Name in `search.pruner` -> stopping rule."""
