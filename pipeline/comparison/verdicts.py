"""What a sweep's repeats say about its arms: means, intervals, verdicts; never more than they can.

Makes the comparison. Knows no ledger, no study file, no terminal and no wording (report/ has that):
records in, frozen results out, the same bytes whatever order the records come in.

The unit of inference is the replicate, an independent search: its value is the mean of its converged
repeats. Differences are paired with the matched baseline arm (common random numbers). Intervals are
pointwise; verdicts hold the family-wise error of all pairs of a family together. All metrics are
maximised; differences are nats per image.

- Bouthillier et al., Accounting for variance in machine learning benchmarks, MLSys 2021
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from ..records import Phase, TrialRecord, Value, canonical_json, derive_seed
from .arms import arm_result, by_arm
from .intervals import Probability, Sample, holm, more_replicates, probability, sample, welch
from .results import ArmResult, Basis, Comparison, Pair, ReplicateResult, Verdict

if TYPE_CHECKING:
    from ..space import Arm


def compare(
    *,
    arms: Sequence[Arm],
    baselines: Mapping[str, str],
    records: Iterable[TrialRecord],
    metric: str,
    factors: Sequence[str],
    replicates: int,
    repeats: int,
    alpha: float = 0.05,
    margin_nats: float = 0.5,
    pixels: int | None = None,
    bins: int | None = None,
    test_images: int | None = None,
    likelihood: str | None = None,
    streams: str = "common",
    all_pairs: bool = False,
) -> Comparison:
    """Compares every arm with its matched baseline by the sweep's records of all phases.

    `baselines`: arm id -> id of its matched baseline (itself for a baseline). `factors`: the compared
    scientific factors. `pixels`: dimensions of an image, None where the likelihood is continuous and so are
    the data. `bins`: values a pixel had before it was dequantised.
    `likelihood`: the fixed one; None: an arm's or a trial's own, or not known. `all_pairs`: also every
    arm with every other one of its context. Raises UserError when repeats do not report `metric`.
    """
    mine = by_arm(records)
    results = tuple(
        arm_result(
            arm,
            baselines[arm.id],
            mine.get(arm.id, []),
            metric=metric,
            replicates=replicates,
            repeats=repeats,
            alpha=alpha,
            pixels=pixels,
            likelihood=likelihood,
            bins=bins,
        )
        for arm in arms
    )
    ended = sum(sum(result.ended[Phase.REPEAT].values()) for result in results)
    by_id = {result.id: result for result in results}
    matched = [(result, by_id[result.baseline]) for result in results if result.baseline != result.id]
    judge = Judge(frozenset(factors), alpha, margin_nats, discrete=pixels is not None)
    return Comparison(
        metric=metric,
        alpha=alpha,
        margin_nats=margin_nats,
        replicates=replicates,
        repeats=repeats,
        streams=streams,
        test_images=test_images,
        factors=tuple(factors),
        missing_repeats=len(results) * replicates * repeats - ended,
        arms=results,
        pairs=judge.family(matched),
        all_pairs=judge.family(_every_pair(results, frozenset(factors))) if all_pairs else (),
    )


def _every_pair(results: Sequence[ArmResult], factors: frozenset[str]) -> list[tuple[ArmResult, ArmResult]]:
    """(later, earlier) of all arms that agree in what is not compared."""
    context = {
        result.id: canonical_json({name: value for name, value in result.values.items() if name not in factors})
        for result in results
    }
    return [(later, earlier) for earlier, later in combinations(results, 2) if context[earlier.id] == context[later.id]]


def comparable(one: ArmResult, other: ArmResult, *, discrete: bool) -> bool:
    """Whether nats of two arms on the same images measure the same thing.

    One likelihood, or several that give probabilities to the same discrete values; so does a density of dequantised
    ones, by its integral over each value's unit (Theis et al. 2016). Other densities of different families do not: on
    grey levels a narrow enough density is worth any number of nats.
    """
    return discrete or len({*one.likelihoods, *other.likelihoods}) <= 1


@dataclass(frozen=True, slots=True)
class _Found:
    """One pair before its family is judged."""

    arm: ArmResult
    base: ArmResult
    basis: Basis
    sample: Sample | None
    probability: Probability | None
    p: float
    p_equal: float


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges families of pairs of arms."""

    factors: frozenset[str]
    """the compared scientific factors"""
    alpha: float
    margin_nats: float
    discrete: bool
    """whether the data are counts (dequantised ones, too) or black and white"""
    paired: bool = True
    """whether replicates with the same number belong together"""

    def family(self, matched: Sequence[tuple[ArmResult, ArmResult]]) -> tuple[Pair, ...]:
        """One Pair for each (arm, baseline), in order; Holm over those that can be compared, by each of the tests."""
        found = [self._found(arm, base) for arm, base in matched if comparable(arm, base, discrete=self.discrete)]
        p_holm, p_equal_holm = holm([one.p for one in found]), holm([one.p_equal for one in found])
        judged = {
            (one.arm.id, one.base.id): self._pair(one, p_holm[i], p_equal_holm[i], len(found))
            for i, one in enumerate(found)
        }
        return tuple(judged.get((arm.id, base.id)) or self._incomparable(arm, base) for arm, base in matched)

    def _found(self, arm: ArmResult, base: ArmResult) -> _Found:
        seed = derive_seed("bootstrap", *sorted((arm.id, base.id)))
        basis, found = self._difference(arm, base, seed)
        p = 1.0 if found is None else self._p_lost_last(arm, base, found, seed)
        p_equal = 1.0 if found is None else found.p_equivalent(self.margin_nats)
        return _Found(arm, base, basis, found, self._probability(arm, base), p, p_equal)

    def _difference(
        self, arm: ArmResult, base: ArmResult, seed: int, last: float | None = None
    ) -> tuple[Basis, Sample | None]:
        """Arm minus baseline: over replicates, or over repeats where one replicate is common.

        `last`: the value of lost repeats; None leaves them out.
        """
        if not self.paired:
            return _basis(arm, base), welch(_values(arm, last), _values(base, last))
        both = [(x.ended(last), y.ended(last)) for x, y in _common(arm, base)]
        common = [(x, y) for x, y in both if x and y]
        if len(common) == 1:
            x, y = common[0]
            values = [x[number] - y[number] for number in sorted(x.keys() & y.keys())]
            return Basis.CONFIGURATIONS, sample(values, seed)
        means = [math.fsum(x.values()) / len(x) - math.fsum(y.values()) / len(y) for x, y in common]
        return _basis(arm, base), sample(means, seed)

    def _p_lost_last(self, arm: ArmResult, base: ArmResult, found: Sample, seed: int) -> float:
        """p-value of a difference that also holds with the winner's lost repeats ranked last.

        Last is the worst converged value minus the range (as the search tells divergence). The larger of
        the two p-values tests "both hold" at the same level. Last places are skewed by design and have no
        interval: the t test stands whatever their skewness.
        """
        p = found.p_differs()
        if p == 1 or not (arm if found.mean > 0 else base).repeats_lost:
            return p
        known = [v for side in (arm, base) for one in side.replicates for v in one.values if v is not None]
        last = min(known) - ((max(known) - min(known)) or 1.0)
        ranked = self._difference(arm, base, seed, last)[1]
        if ranked is None or ranked.mean * found.mean <= 0:
            return 1.0
        return max(p, replace(ranked, coverage=None).p_differs())

    def _probability(self, arm: ArmResult, base: ArmResult) -> Probability | None:
        """P(arm > baseline) over replicates, or over repeats where one replicate is common.

        Unpaired: over all pairings, with the interval of the smaller number of replicates.
        """
        ours, theirs = ([one.ranked for one in side.replicates] for side in (arm, base))
        pairs = list(zip(ours, theirs, strict=False)) if self.paired else [(x, y) for x in ours for y in theirs]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if self.paired and len(known) == 1:
            ((x, y),) = ((x.ended(-math.inf), y.ended(-math.inf)) for x, y in _common(arm, base) if _both(x, y))
            known = [(x[number], y[number]) for number in sorted(x.keys() & y.keys())]
        wins = math.fsum(1.0 if x > y else 0.5 if x == y else 0.0 for x, y in known)
        count = len(known)
        if not self.paired:
            count = min(sum(one is not None for one in side) for side in (ours, theirs))
        return probability(wins / max(len(known), 1) * count, count, self.alpha)

    def _pair(self, one: _Found, p_holm: float, p_equal_holm: float, family: int) -> Pair:
        arm, base, found = one.arm, one.base, one.sample
        lost = arm.repeats_lost + base.repeats_lost
        inside = p_equal_holm <= self.alpha and not lost
        verdict = self._verdict(arm, base, found, p_holm <= self.alpha, inside)
        difference = None if found is None else found.estimate(self.alpha)
        more = None
        open_ = verdict is Verdict.UNDECIDED and one.basis is Basis.SEARCHES and not lost
        if open_ and difference is not None and difference.sd is not None and not difference.hidden:
            more = more_replicates(difference, alpha=self.alpha, margin=self.margin_nats, pairs=family)
        return Pair(
            arm=arm.id,
            baseline=base.id,
            level=self._part(arm, compared=True),
            context=self._part(arm, compared=False),
            basis=one.basis,
            difference=difference,
            probability=one.probability,
            p=one.p,
            p_holm=p_holm,
            equivalence_p=one.p_equal,
            equivalence_p_holm=p_equal_holm,
            verdict=verdict,
            inside_margin=inside,
            more_replicates=more,
        )

    def _incomparable(self, arm: ArmResult, base: ArmResult) -> Pair:
        return Pair(
            arm=arm.id,
            baseline=base.id,
            level=self._part(arm, compared=True),
            context=self._part(arm, compared=False),
            basis=_basis(arm, base),
            difference=None,
            probability=None,
            p=1.0,
            p_holm=1.0,
            equivalence_p=1.0,
            equivalence_p_holm=1.0,
            verdict=Verdict.INCOMPARABLE,
            inside_margin=False,
            more_replicates=None,
        )

    def _part(self, arm: ArmResult, *, compared: bool) -> dict[str, Value]:
        return {name: value for name, value in arm.values.items() if (name in self.factors) == compared}

    def _verdict(self, arm: ArmResult, base: ArmResult, found: Sample | None, differs: bool, inside: bool) -> Verdict:
        for side in (arm, base):
            if side.estimate is None and side.repeats_lost:
                return Verdict.DIVERGED
        if found is None:
            return Verdict.UNDECIDED
        if self.paired and _identical(arm, base):
            return Verdict.IDENTICAL
        if differs:
            return Verdict.BETTER if found.mean > 0 else Verdict.WORSE
        return Verdict.EQUIVALENT if inside else Verdict.UNDECIDED


def _common(arm: ArmResult, base: ArmResult) -> list[tuple[ReplicateResult, ReplicateResult]]:
    return list(zip(arm.replicates, base.replicates, strict=False))


def _both(one: ReplicateResult, other: ReplicateResult) -> bool:
    return one.ranked is not None and other.ranked is not None


def _basis(arm: ArmResult, base: ArmResult) -> Basis:
    return Basis.SEARCHES if arm.basis is base.basis is Basis.SEARCHES else Basis.CONFIGURATIONS


def _values(arm: ArmResult, last: float | None) -> list[float]:
    """One value a replicate, or a repeat of the only one."""
    ended = [found for one in arm.replicates if (found := one.ended(last))]
    if arm.basis is Basis.CONFIGURATIONS:
        return [value for found in ended for value in found.values()]
    return [math.fsum(found.values()) / len(found) for found in ended]


def _identical(arm: ArmResult, base: ArmResult) -> bool:
    """Every repeat that ended in both has the same value, or was lost in both."""
    shared = [
        (x[number], y[number])
        for a, b in _common(arm, base)
        for x, y in [(a.ended(-math.inf), b.ended(-math.inf))]
        for number in x.keys() & y.keys()
    ]
    return bool(shared) and all(x == y for x, y in shared)
