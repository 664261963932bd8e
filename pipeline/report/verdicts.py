"""The comparison in words: whom the sentences are about, and one verdict for every pair; never more than it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.text import Text

from ..comparison import (
    BOOTSTRAP_COUNT,
    MANY_REPLICATES,
    Against,
    ArmResult,
    Basis,
    Comparison,
    Estimate,
    Pair,
    Verdict,
)
from ..records import Phase, State
from .numbers import count_text, digits_of, interval_text, level_text, params_text

VERDICT_STYLES: Mapping[str, str] = {
    Verdict.BETTER: "green",
    Verdict.WORSE: "red",
    Verdict.EQUIVALENT: "cyan",
    Verdict.IDENTICAL: "cyan",
    Verdict.UNDECIDED: "dim",
    Verdict.DIVERGED: "yellow",
    Verdict.INCOMPARABLE: "yellow",
}
"""verdict -> its colour in a terminal"""
PLAIN_COVERAGE = 0.94
"""Coverage is mentioned below this: values look skewed."""

_PREPOSITIONS: Mapping[Verdict, str] = {
    Verdict.BETTER: "than",
    Verdict.WORSE: "than",
    Verdict.EQUIVALENT: "to",
    Verdict.IDENTICAL: "to",
    Verdict.INCOMPARABLE: "with",
}


def verdict_sentences(comparison: Comparison) -> list[str]:
    """What was found, in words: the population and what diverged once, then one sentence per compared level."""
    sentences = [_population(comparison)]
    if comparison.provisional:
        sentences.append(_provisional(comparison.missing_repeats))
    sentences += _lost_sentences([(arm, arm.label) for arm in comparison.arms])
    levels: dict[str, list[Pair]] = {}
    for pair in comparison.pairs:
        levels.setdefault(level_text(pair.level), []).append(pair)
    sentences.extend(_sentence(level, pairs, comparison) for level, pairs in levels.items())
    return sentences


def against_sentences(found: Against) -> list[str]:
    """Two sweeps in words: the population and what diverged once, then one sentence per pair."""
    how = (
        "paired: both sweeps drew the same random numbers"
        if found.paired
        else "not paired: the sweeps drew different random numbers (Welch's t)"
    )
    if any(line.startswith("seed: ") for line in found.differences):
        how += ", and measured with other noise, whose error no interval holds"
    basis = {pair.basis for pair in found.pairs}
    over = "searches and training seeds" if basis == {Basis.SEARCHES} else "training seeds of chosen configurations"
    sentences = [
        f"Differences in {found.metric}, {found.name} minus {found.against}, nats per image, with "
        f"{_confidence(found)} intervals, over {over}, {how}, on this split{_images(found)}"
        f"{_family(found, found.pairs)}."
    ]
    if found.missing_repeats:
        sentences.append(_provisional(found.missing_repeats))
    ours, theirs = ({arm.id: arm for arm in side} for side in (found.arms, found.against_arms))
    sentences += _lost_sentences(
        [(arm, f"{name}: {arm.label}") for name, side in _sides(found) for arm in side],
    )
    for pair in found.pairs:
        arm, base = ours[pair.arm], theirs[pair.baseline]
        other = found.against if arm.id == base.id else f"{found.against}: {base.label}"
        sentences.append(f"{arm.label}: {_clause(pair, other, '', arm, base, found, found.pairs)}.")
    return sentences


def _sides(found: Against) -> list[tuple[str, Sequence[ArmResult]]]:
    return [(found.name, found.arms), (found.against, found.against_arms)]


def lost_text(arm: ArmResult) -> str:
    """`2 of 15 diverged`, `1 of 15 failed`, or both; empty when all repeats converged."""
    failed = arm.ended[Phase.REPEAT][State.FAILED]
    counts = {"diverged": arm.repeats_lost - failed, "failed": failed}
    total = sum(len(one.values) for one in arm.replicates)
    return ", ".join(f"{count} of {total} {word}" for word, count in counts.items() if count)


def pairs_sentence(comparison: Comparison) -> str:
    """What the table of all pairs is about."""
    if not comparison.all_pairs:
        return "No two arms are matched: there is no other pair."
    return f"All pairs, arm minus the other{_family(comparison, comparison.all_pairs)}, a family of its own."


def coverage_text(found: Estimate) -> str:
    """What is to be known of an interval for skewed values; empty where they do not look skewed."""
    if found.coverage is None or found.coverage >= PLAIN_COVERAGE:
        return ""
    values = f"{found.count} values as skewed as these"
    if found.hidden:
        share = f"{100 * found.coverage:.1f}%"
        return f"no interval and no verdict: with {values} 95% intervals held in {share} of simulations"
    return f"95% intervals held in {100 * found.coverage:.1f}% of simulations with {values}"


def _provisional(missing: int) -> str:
    return f"Provisional: {count_text(missing, 'repeat')} still to come; all of this may change."


def _lost_sentences(arms: Sequence[tuple[ArmResult, str]]) -> list[str]:
    counted = ", ".join(f"{label} {lost_text(arm)}" for arm, label in arms if arm.repeats_lost)
    if not counted:
        return []
    return [
        f"Repeats that gave no value: {counted}. Means are over the others; such an arm is called better "
        "only if that also holds with these repeats ranked last, and never equivalent."
    ]


def _confidence(found: Comparison | Against) -> str:
    return f"{100 * (1 - found.alpha):g}%"


def _images(found: Comparison | Against) -> str:
    return f" of {count_text(found.test_images, 'test image')}" if found.test_images else ""


def _family(found: Comparison | Against, pairs: Sequence[Pair]) -> str:
    compared = sum(pair.verdict is not Verdict.INCOMPARABLE for pair in pairs)
    return f"; false differences held at {100 * found.alpha:g}% over {count_text(compared, 'comparison')} (Holm)"


def _population(comparison: Comparison) -> str:
    if not comparison.pairs:
        return "There is one arm: nothing to compare."
    where = f"on this split{_images(comparison)}{_family(comparison, comparison.pairs)}"
    what = f"Differences in {comparison.metric}, nats per image, with {_confidence(comparison)} intervals"
    streams = "" if comparison.streams == "common" else ", unpaired streams: each arm with random numbers of its own"
    if comparison.replicates > 1:
        over = f"over searches ({comparison.replicates} an arm) and training seeds"
        return f"{what}, {over}{streams}, {where}."
    over = "over the training seeds of the chosen configurations"
    caveat = "With one search an arm nothing can be said of the arms themselves."
    return f"{what}, {over}{streams}, {where}. {caveat}"


def _sentence(level: str, pairs: Sequence[Pair], comparison: Comparison) -> str:
    by_id = {arm.id: arm for arm in comparison.arms}
    clauses = []
    named = False
    for verdict in Verdict:
        for pair in (pair for pair in pairs if pair.verdict == verdict):
            arm, base = by_id[pair.arm], by_id[pair.baseline]
            against = "" if named else level_text({name: base.values[name] for name in pair.level})
            at = f" at {params_text(pair.context)}" if pair.context else ""
            clauses.append(_clause(pair, against, at, arm, base, comparison, comparison.pairs))
            named = True
    only = ", chosen configurations only" if comparison.replicates == 1 else ""
    return f"{level}{only}: {'; '.join(clauses)}."


def _clause(
    pair: Pair,
    other: str,
    at: str,
    arm: ArmResult,
    base: ArmResult,
    found: Comparison | Against,
    family: Sequence[Pair],
) -> str:
    """One pair in words; `other` is empty where the sentence has named it already."""
    size = pair.difference
    waiting = size is None and pair.verdict is Verdict.UNDECIDED
    against = f" {_PREPOSITIONS.get(pair.verdict, 'against')} {other}" if other else ""
    one_search = pair.basis is Basis.CONFIGURATIONS and arm.basis is Basis.SEARCHES and size is not None
    only = ", one search in common: the chosen configurations only" if one_search else ""
    head = f"{'no result yet' if waiting else pair.verdict}{against}{at}{only}"
    if pair.verdict is Verdict.DIVERGED:
        lost = next(side.label for side in (arm, base) if side.estimate is None and side.repeats_lost)
        return f"{head} (no repeat of {lost} converged)"
    if pair.verdict is Verdict.INCOMPARABLE:
        return f"{head} (likelihoods {' and '.join(sorted({*arm.likelihoods, *base.likelihoods}))}: other densities)"
    if pair.verdict is Verdict.IDENTICAL:
        return f"{head} (every paired value equal)"
    if size is None:
        return head
    notes = [note for note in (_over_converged(arm, base), coverage_text(size)) if note]
    if pair.verdict in (Verdict.BETTER, Verdict.WORSE):
        small = f", inside the margin of {found.margin_nats:g}" if pair.inside_margin else ""
        bounds = sorted(abs(bound) for bound in (size.low, size.high) if bound is not None)
        size = replace(size, mean=abs(size.mean), low=bounds[0], high=bounds[1])
        aside = f" ({'; '.join(notes)})" if notes else ""
        return f"{head} by {size.mean:.{digits_of(size)}f} nats {interval_text(size)}{small}{aside}"
    signed = f"{size.mean:+.{digits_of(size)}f} {interval_text(size, '+')}".rstrip()
    if pair.verdict is Verdict.EQUIVALENT:
        return f"{head} ({'; '.join([f'within ±{found.margin_nats:g} nats: {signed}', *notes])})"
    return f"{head} ({'; '.join([signed, *notes, *_outlook(pair, arm, base, found, len(family))])})"


def _over_converged(arm: ArmResult, base: ArmResult) -> str:
    lost = [f"{lost_text(side)}" for side in (arm, base) if side.repeats_lost]
    return f"over the converged, {' and '.join(lost)}" if lost else ""


def _outlook(pair: Pair, arm: ArmResult, base: ArmResult, found: Comparison | Against, family: int) -> list[str]:
    """What keeps an undecided pair undecided, and what would settle it."""
    if arm.repeats_lost or base.repeats_lost:
        return ["lost repeats ranked last"]
    if pair.difference is not None and pair.difference.hidden:
        few = pair.difference.method == "t" and pair.difference.count < BOOTSTRAP_COUNT
        return [f"from {BOOTSTRAP_COUNT} replicates on a bootstrap is taken"] if few else []
    more = pair.more_replicates
    notes = []
    if pair.p <= found.alpha:
        notes.append(f"not significant among {family} comparisons")
    if more is not None:
        many = "many" if more >= MANY_REPLICATES else f"about {more}"
        notes.append(f"{many} more replicate{'' if more == 1 else 's'} would settle it")
    return notes


def verdict_text(found: Comparison | Against) -> Text:
    """`verdict_sentences` or `against_sentences` as styled paragraphs, the verdict's word coloured."""
    sentences = against_sentences(found) if isinstance(found, Against) else verdict_sentences(found)
    text = Text("\n".join(sentences))
    for verdict in Verdict:
        text.highlight_regex(rf"(?<=[:;] ){verdict}\b", f"bold {VERDICT_STYLES[verdict]}")
    text.highlight_regex(r"(?m)^Provisional:", "bold yellow")
    return text
