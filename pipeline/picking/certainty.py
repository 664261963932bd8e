"""How sure a choice is: how often its arm leads, and what fresh trainings on test data say of it and its rival.

Reads test results to report on a choice, never to make one.

- Efron, Bootstrap methods: another look at the jackknife, Ann. Statist. 1979
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..comparison import MANY_REPLICATES, ArmResult, Basis, Comparison, Estimate, Pair, Verdict
from ..comparison.verdicts import Judge
from ..errors import VaeSweepError
from ..records import derive_seed
from .candidates import Contest
from .rules import Rule, highest

DRAWS = 200
"""resamples; fewer in a sweep of very many arms"""
LEAST_DRAWS = 50
MAX_WORK = 200_000
"""candidates times resamples"""


@dataclass(frozen=True, slots=True)
class Certainty:
    """What speaks for a chosen arm, and against."""

    searches: int
    """replicates in which some arm has a converged configuration"""
    led: int
    """of them with this arm's validation value the highest of all arms"""
    probability: float | None
    """share of bootstrap resamples of the searches in which the rule takes this arm; None with one search"""
    rival: str | None
    """label of the arm that it is held against; None where there is no other"""
    difference: Estimate | None
    """chosen arm minus rival, on test data"""
    verdict: Verdict | None
    more_replicates: int | None
    """roughly how many more settle it where it is undecided; None: unknown"""
    text: str


def certainty(
    contest: Contest, comparison: Comparison, rule: Rule, arm: ArmResult, rival: ArmResult | None
) -> Certainty:
    """How sure it is that `arm` is the one to take by `rule`, and that it differs from `rival`."""
    led, searches = _led(contest, arm.id)
    probability = _taken_again(contest, rule, arm.id)
    text = _lead_text(contest, rule, led, searches, probability)
    if rival is None:
        return Certainty(searches, led, probability, None, None, None, None, text)
    pair = head_to_head(comparison, arm, rival)
    text += _verdict_text(pair, rival, comparison)
    more = pair.more_replicates
    return Certainty(searches, led, probability, rival.label, pair.difference, pair.verdict, more, text)


def _led(contest: Contest, arm: str) -> tuple[int, int]:
    """Searches in which the arm has the highest validation value of all arms, and searches in all."""
    highest: dict[int, float] = {}
    for one in contest.candidates:  # best first
        highest.setdefault(one.result.replicate, one.validation)
    mine = {one.result.replicate: one.validation for one in contest.standing(arm).candidates}
    return sum(mine.get(number) == value for number, value in highest.items()), len(highest)


def _taken_again(contest: Contest, rule: Rule, arm: str) -> float | None:
    """Share of resamples in which the rule takes the arm. Replicates are drawn for all arms together: seeds are common.

    The spread of three or four replicates is not well known, so this is too sure of itself there.
    """
    searches = sorted({one.result.replicate for one in contest.candidates})
    if len(searches) < 2:
        return None
    draws = min(DRAWS, max(LEAST_DRAWS, MAX_WORK // len(contest.candidates)))
    rng = np.random.default_rng(derive_seed("best", "bootstrap"))
    taken = 0
    for drawn in rng.integers(len(searches), size=(draws, len(searches))).tolist():
        again = contest.resampled([searches[number] for number in drawn])
        try:
            taken += again is not None and rule(again).candidate.arm.id == arm
        except VaeSweepError:
            continue  # a resample of which the rule has too little to judge
    return taken / draws


def _lead_text(contest: Contest, rule: Rule, led: int, searches: int, probability: float | None) -> str:
    arms = len(contest.standings)
    if arms == 1:
        return "it is the only arm that can be taken"
    if probability is None:
        return "one search an arm: the luck of a search cannot be told from an arm's merit"
    rough = f"; rough, of {searches} searches" if searches < 5 else ""
    share = f"the rule takes its arm in {probability:.0%} of resamples of the searches (bootstrap{rough})"
    return (
        f"its arm is the highest of {arms} in {led} of {searches} searches, and {share}" if rule is highest else share
    )


def head_to_head(comparison: Comparison, arm: ArmResult, rival: ArmResult) -> Pair:
    """`arm` against `rival` on test data: the comparison's own pair where it has one.

    Otherwise judged as those are, with Bonferroni's correction for having been chosen among all arms.
    """
    for pair in comparison.pairs:
        if (pair.arm, pair.baseline) == (arm.id, rival.id):
            return pair
        if (pair.arm, pair.baseline) == (rival.id, arm.id):
            return _turned(pair)
    alpha = comparison.alpha / max(len(comparison.arms) - 1, 1)
    discrete = any(one.bits_per_dim is not None for one in comparison.arms)
    (judged,) = Judge(frozenset(), alpha, comparison.margin_nats, discrete=discrete).family([(arm, rival)])
    return judged


_MIRRORED = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}


def _turned(pair: Pair) -> Pair:
    """The same pair seen from the other side."""
    found = pair.difference
    if found is not None:
        low = None if found.high is None else -found.high
        high = None if found.low is None else -found.low
        found = replace(found, mean=-found.mean, low=low, high=high)
    verdict = _MIRRORED.get(pair.verdict, pair.verdict)
    return replace(pair, arm=pair.baseline, baseline=pair.arm, difference=found, verdict=verdict)


def _verdict_text(pair: Pair, rival: ArmResult, comparison: Comparison) -> str:
    """One sentence on the chosen arm against its rival."""
    found = pair.difference
    of = "" if pair.basis is Basis.SEARCHES else ", of these configurations only"
    head = f". Against {rival.label} it is {pair.verdict} on test data{of}"
    if found is None:
        return head
    sign = "" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
    text = f"{head} ({found.mean:+.2f}{sign} nats)"
    if pair.verdict is not Verdict.UNDECIDED:
        return text
    if pair.more_replicates is None:
        return f"{text}: {'it takes more searches' if comparison.replicates == 1 else 'some repeats gave no value'}"
    many = "many" if pair.more_replicates >= MANY_REPLICATES else f"about {pair.more_replicates}"
    return f"{text}: {many} more replicate{'' if pair.more_replicates == 1 else 's'} would settle it"
