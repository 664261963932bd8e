"""A study file's domains in Optuna's words, and as a grid. Optuna is imported inside the function that needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..records import Params, Value, canonical_json
from ..study_file.values import ChoiceDomain, Domain, IntDomain

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distribution(domain: Domain) -> BaseDistribution:
    """The domain in Optuna's words; a choice is its index, since Optuna cannot tell 1 from True."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, ChoiceDomain):
        return CategoricalDistribution(range(len(domain.choices)))
    if isinstance(domain, IntDomain):
        values = range(domain.low, domain.high + 1, domain.step)
        return IntDistribution(domain.low, values[-1], log=domain.log, step=domain.step)
    high = domain.high if domain.step is None else _steps(domain.low, domain.high, domain.step)[-1]
    return FloatDistribution(domain.low, high, log=domain.log, step=domain.step)


def _steps(low: float, high: float, step: float) -> list[float]:
    """low, low + step, ... up to high, in decimal arithmetic: 0.1 + 2 * 0.1 is 0.3."""
    first, last, by = Decimal(repr(low)), Decimal(repr(high)), Decimal(repr(step))
    return [float(first + by * i) for i in range(int((last - first) // by) + 1)]


def encode(domain: Domain, value: Value) -> Value:
    """A study file's value -> Optuna's."""
    if not isinstance(domain, ChoiceDomain):
        return value
    return [canonical_json(choice) for choice in domain.choices].index(canonical_json(value))


def decode(domain: Domain, drawn: Any) -> Value:
    """Optuna's value -> a study file's."""
    value: Value = domain.choices[drawn] if isinstance(domain, ChoiceDomain) else drawn
    return value


def grid_values(domains: Mapping[str, Domain]) -> list[Params]:
    """All combinations in the domains' order, the last one running fastest; one empty for no domain.

    Raises UserError for a continuous domain.
    """
    axes: list[Sequence[Value]] = []
    for name, domain in domains.items():
        if isinstance(domain, ChoiceDomain):
            axes.append(domain.choices)
        elif isinstance(domain, IntDomain):
            axes.append(range(domain.low, domain.high + 1, domain.step))
        elif domain.step is not None:
            axes.append(_steps(domain.low, domain.high, domain.step))
        else:
            raise UserError(
                f"a grid needs a finite number of values, but nuisance.{name} is continuous ({domain.low} "
                f"to {domain.high}): give it a `step` or `choices`, or take another search.sampler"
            )
    return [dict(zip(domains, values, strict=True)) for values in product(*axes)]
