"""What a comparison finds, as frozen records: arms, pairs of arms, verdicts. Results only; canonical JSON of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..records import Params
from .intervals import Estimate, Probability

if TYPE_CHECKING:
    from .against import Against

JSON_VERSION = 2
"""of what `compare --json` prints: docs/results.md"""


class Verdict(StrEnum):
    """What may be said of an arm against its matched baseline."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    """the difference is inside the margin, whatever its sign"""
    IDENTICAL = "identical"
    """every paired value is equal to the last bit"""
    UNDECIDED = "undecided"
    DIVERGED = "diverged"
    """one of the two has no converged repeat"""
    INCOMPARABLE = "incomparable"
    """their likelihoods measure different things: nats of one say nothing about nats of the other"""


class Basis(StrEnum):
    """What an interval generalises over."""

    SEARCHES = "searches"
    """over independent searches and their training seeds: speaks of the arm"""
    CONFIGURATIONS = "configurations"
    """over training seeds of one chosen configuration: speaks of that configuration alone"""


@dataclass(frozen=True, slots=True)
class ReplicateResult:
    """One search of one arm: what it chose and how that configuration did on fresh seeds."""

    replicate: int
    params: Params | None
    """the chosen configuration; None before its first repeat exists"""
    values: tuple[float | None, ...]
    """the metric by repeat number; None where it diverged, failed or is not there yet"""
    lost: tuple[int, ...]
    """numbers of the repeats that ended without a value (diverged or failed): ranked last"""
    mean: float | None
    """over the converged repeats"""

    @property
    def ranked(self) -> float | None:
        """The mean, or -inf where repeats have ended and none converged; None while there is nothing."""
        return -math.inf if self.mean is None and self.lost else self.mean

    def ended(self, last: float | None) -> dict[int, float]:
        """Values by repeat number, lost repeats valued `last` (None: left out)."""
        values = ((n, last if n in self.lost else value) for n, value in enumerate(self.values))
        return {n: value for n, value in values if value is not None}


@dataclass(frozen=True, slots=True)
class FurtherMetric:
    """A test metric of an arm that is told and not judged."""

    estimate: Estimate
    """in the metric's own unit; of some more is better, of others less, of some neither"""
    values: tuple[float | None, ...]
    """what the estimate is over: a mean a replicate, or a value a repeat of the only one; None: there is none"""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm over all its replicates."""

    id: str
    label: str
    values: Params
    baseline: str
    """id of the matched baseline arm; its own id if it is one"""
    estimate: Estimate | None
    """None while no repeat has converged"""
    basis: Basis
    bits_per_dim: float | None
    """of the mean; None where the likelihood is continuous and the data are not dequantised counts"""
    image_se: float | None
    """standard error of one repeat's value over the test images, mean over converged repeats; None: not recorded"""
    likelihoods: tuple[str, ...]
    """of the chosen configurations; empty where it is not known"""
    repeats_lost: int
    """ended without a value: diverged or failed"""
    ended: Mapping[str, Mapping[str, int]]
    """ended trials by phase and state"""
    epochs: Mapping[str, int]
    """epochs spent by phase"""
    replicates: tuple[ReplicateResult, ...]
    further: Mapping[str, FurtherMetric]
    """other test metrics by name; empty where the repeats have but those of version 0.1.0"""


@dataclass(frozen=True, slots=True)
class Pair:
    """An arm against its matched baseline."""

    arm: str
    baseline: str
    level: Params
    """the compared factors' values"""
    context: Params
    """the other scientific values, the same in both"""
    basis: Basis
    difference: Estimate | None
    """arm minus baseline over common replicates (or common repeats of one)"""
    probability: Probability | None
    """that a replicate of the arm beats one of the baseline; a tie counts half, a replicate that diverged loses"""
    p: float
    """two-sided; with the winner's lost repeats ranked last, the larger of the two p-values; 1: nothing to judge by"""
    p_holm: float
    equivalence_p: float
    equivalence_p_holm: float
    verdict: Verdict
    inside_margin: bool
    """the difference is shown to be smaller than the margin, also where it is shown not to be zero"""
    more_replicates: int | None
    """roughly how many more settle an undecided pair; `MANY_REPLICATES` or more: many"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All arms and all pairs of a sweep: results only."""

    metric: str
    alpha: float
    margin_nats: float
    replicates: int
    repeats: int
    streams: str
    """`common`: all arms share their random numbers; `independent`: each has its own"""
    test_images: int | None
    factors: tuple[str, ...]
    """the compared scientific factors"""
    missing_repeats: int
    """0: final"""
    arms: tuple[ArmResult, ...]
    pairs: tuple[Pair, ...]
    """every arm against its matched baseline: one family"""
    all_pairs: tuple[Pair, ...]
    """every arm against every earlier one that it is matched with: a family of its own; empty unless asked for"""

    @property
    def provisional(self) -> bool:
        """Repeats are still to come."""
        return self.missing_repeats > 0


def to_json(comparison: Comparison | Against) -> str:
    """Results only, canonical: equal results give equal bytes. Ends with a newline."""
    content = {"version": JSON_VERSION, **asdict(comparison)}
    for arm in (*content["arms"], *content.get("against_arms", ())):
        if not arm["further"]:
            del arm["further"]  # what was printed before there was such a thing
    return json.dumps(_plain(content), sort_keys=True, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
