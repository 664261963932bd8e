"""Which nuisance parameters matter: Optuna's functional ANOVA over the trials of an arm's searches.

Of Optuna's evaluators fANOVA names the parameter that matters from about 10 trials on; PED-ANOVA, its default, looks at
the best tenth alone, which is one or two of the trials that our searches have. Parameters are given to it in the
coordinates in which they are drawn, else its averages over a log-scaled range would be averages over its upper end.

- Hutter, Hoos & Leyton-Brown, An efficient approach for assessing hyperparameter importance, ICML 2014
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..records import Params, Value
from ..study_file.values import ChoiceDomain, Domain
from .domains import encode
from .samplers import quiet
from .study import diverged_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 10
"""Below so many the forest cannot tell parameters apart."""
TREES, DEPTH = 32, 6
"""Half of Optuna's trees, and shallower: the same shares in a sixth of the time, which grows with trials squared."""


def importances(
    domains: Mapping[str, Domain], trials: Sequence[tuple[Params, float | None]], seed: int
) -> dict[str, float]:
    """Share of the spread of values that each parameter explains; they sum to 1. `trials`: (parameters, value).

    In the order of `domains`; a diverged trial's value is None. Empty for fewer than `MIN_TRIALS` trials, for trials
    that all ended alike, and without parameters; a single parameter that varies has all of it. Give the trials in one
    fixed order.
    """
    varying = [name for name, domain in domains.items() if not _coordinate(domain)[1].single()]
    if len(varying) < 2:
        return {name: float(name in varying) for name in domains} if varying else {}
    values = _values(trials)
    if len(trials) < MIN_TRIALS or min(values) == max(values):
        return {}
    found = _fanova({name: domains[name] for name in varying}, [params for params, _ in trials], values, seed)
    return {name: float(found.get(name, 0.0)) for name in domains}


def _values(trials: Sequence[tuple[Params, float | None]]) -> list[float]:
    """Diverged trials valued as the searches' models were told, by all trials here."""
    last = diverged_value([value for _, value in trials if value is not None])
    return [last if value is None else value for _, value in trials]


def _fanova(
    domains: Mapping[str, Domain], params: Sequence[Params], values: Sequence[float], seed: int
) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    coordinates = {name: _coordinate(domain) for name, domain in domains.items()}
    distributions = {name: distribution for name, (_, distribution) in coordinates.items()}
    with quiet():
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: place(one[name]) for name, (place, _) in coordinates.items()},
                    distributions=distributions,
                    value=value,
                )
                for one, value in zip(params, values, strict=True)
            ]
        )
        forest = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=seed % 2**32)
        return get_param_importances(study, evaluator=forest)


def _coordinate(domain: Domain) -> tuple[Callable[[Value], Value], BaseDistribution]:
    """Where a value lies in its domain as it is drawn, 0 to 1 (a choice: its index), and that in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(domain, ChoiceDomain):
        return partial(encode, domain), CategoricalDistribution(range(len(domain.choices)))
    scale = math.log if domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    if low == high:
        return lambda value: 0.0, FloatDistribution(0.0, 0.0)
    return lambda value: (scale(_number(value)) - low) / (high - low), FloatDistribution(0.0, 1.0)


def _number(value: Value) -> float:
    assert isinstance(value, int | float), value
    return float(value)
