"""Two sweeps of the same images: each arm against the one with the same values in the other sweep.

Nats are compared on the same images in the same form and split, or not at all. Replicates are paired where both
sweeps drew the same random numbers for all arms, and judged by Welch's t where not. Knows no ledger and no wording.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from ..records import canonical_json
from ..study_file.identity import study_differences
from .results import ArmResult, Comparison, Pair, Verdict
from .verdicts import Judge


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two sweeps."""

    name: str
    study: Mapping[str, Any]
    """resolved, with the facts of its data"""
    comparison: Comparison
    fingerprint: Mapping[str, str] | None = None
    """what its numbers depend on beside the study"""


@dataclass(frozen=True, slots=True)
class Against:
    """Every arm of one sweep against its match in another: results only."""

    name: str
    against: str
    """the other sweep: differences are `name` minus this one"""
    differences: tuple[str, ...]
    """`path: value there -> value here` of all else that differs between the two"""
    paired: bool
    """whether replicates with the same number share their random numbers"""
    metric: str
    alpha: float
    margin_nats: float
    test_images: int | None
    missing_repeats: int
    """of both; 0: final"""
    arms: tuple[ArmResult, ...]
    against_arms: tuple[ArmResult, ...]
    pairs: tuple[Pair, ...]
    """one family; `arm` is an id of `arms`, `baseline` one of `against_arms`"""
    unmatched: tuple[str, ...]
    """labels of arms, of either, that have no match"""


def compare_sweeps(one: Side, other: Side) -> Against:
    """Compares `one` with `other`, at the margin and alpha of `one`.

    Raises UserError where the images differ, where no arm has a match, and where no match can be compared.
    """
    _same_data(one, other)
    matched = [
        (arm, base)
        for arm in one.comparison.arms
        for base in other.comparison.arms
        if _match(one.study, arm, other.study, base)
    ]
    if not matched:
        raise UserError(
            f"Two sweeps are compared arm by arm, but no arm of {one.name} has the values of one of {other.name}: "
            f"{_labels(one)} there and {_labels(other)} here. Compare sweeps that share scientific values."
        )
    discrete = one.study["data"]["kind"] != "real" or "bins" in one.study["data"]
    paired = one.study["seed"] == other.study["seed"] and {one.comparison.streams, other.comparison.streams} == {
        "common"
    }
    judge = Judge(frozenset(), one.comparison.alpha, one.comparison.margin_nats, discrete=discrete, paired=paired)
    pairs = judge.family([(_renamed(arm, one), _renamed(base, other)) for arm, base in matched])
    if all(pair.verdict is Verdict.INCOMPARABLE for pair in pairs):
        names = sorted({name for arm, base in matched for name in (*arm.likelihoods, *base.likelihoods)})
        raise UserError(
            "Nats of densities are compared under one likelihood, but "
            f"{one.name} and {other.name} have {' and '.join(names)}: a density's height depends on its family, and "
            "bits per dimension do not mend that. Run both sweeps with the same model.likelihood."
        )
    ids = {arm.id for arm, _ in matched}, {base.id for _, base in matched}
    unmatched = [
        f"{side.name}: {arm.label}"
        for side, used in zip((one, other), ids, strict=True)
        for arm in side.comparison.arms
        if arm.id not in used
    ]
    return Against(
        name=one.name,
        against=other.name,
        differences=tuple(_differences(one, other)),
        paired=paired,
        metric=one.comparison.metric,
        alpha=one.comparison.alpha,
        margin_nats=one.comparison.margin_nats,
        test_images=one.comparison.test_images,
        missing_repeats=one.comparison.missing_repeats + other.comparison.missing_repeats,
        arms=one.comparison.arms,
        against_arms=other.comparison.arms,
        pairs=tuple(
            replace(pair, arm=arm.id, baseline=base.id) for pair, (arm, base) in zip(pairs, matched, strict=True)
        ),
        unmatched=tuple(unmatched),
    )


def _renamed(arm: ArmResult, side: Side) -> ArmResult:
    """Equal arms of two sweeps have the same id: here they are told apart."""
    return replace(arm, id=f"{side.name}/{arm.id}")


def _labels(side: Side) -> str:
    some = "; ".join(arm.label for arm in side.comparison.arms[:3])
    return f"{some}{'; …' if len(side.comparison.arms) > 3 else ''}"


_UNKNOWN = "tuned"


def _match(study: Mapping[str, Any], arm: ArmResult, other: Mapping[str, Any], base: ArmResult) -> bool:
    """Whether two arms agree in every factor of either sweep; one that the other sweep tunes is left out."""
    both = [(_value(study, arm, f), _value(other, base, f)) for f in {**study["scientific"], **other["scientific"]}]
    return all(x == y for x, y in both if _UNKNOWN not in (x, y))


def _value(study: Mapping[str, Any], arm: ArmResult, factor: str) -> str:
    for values in (arm.values, study["model"], study["train"]):
        if factor in values:
            return canonical_json(values[factor])
    return _UNKNOWN


def _same_data(one: Side, other: Side) -> None:
    """Raises UserError where the two have other images, another form of them or another split."""
    ours, theirs = one.study["data"], other.study["data"]
    if ours["sha256"] == theirs["sha256"]:
        return
    facts = ("name", "form", "levels", "side", "take", "split", "split_seed", "images")
    told = [
        f"data.{fact} {theirs.get(fact)} -> {ours.get(fact)}" for fact in facts if ours.get(fact) != theirs.get(fact)
    ]
    raise UserError(
        "Nats per image, and bits per dimension too, are compared on the same test images in the same form only, but "
        f"{other.name} and {one.name} differ in their data: {', '.join(told) or 'the pixels themselves'}. "
        "Run one of them again on the other's data."
    )


def _differences(one: Side, other: Side) -> list[str]:
    lines = study_differences(other.study, one.study)
    before, after = other.fingerprint or {}, one.fingerprint or {}
    if before and after:
        names = sorted({*before, *after})
        lines += [
            f"numerics.{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
            for name in names
            if before.get(name) != after.get(name)
        ]
    return lines
