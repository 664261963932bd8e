"""The comparison's statistics: against scipy, against simulated truth, and in every odd case."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline import space
from pipeline.comparison import (
    MANY_REPLICATES,
    Basis,
    Comparison,
    Verdict,
    compare,
    detectable_difference,
    estimate,
    to_json,
)
from pipeline.comparison.intervals import holm, more_replicates, probability, sample, welch
from pipeline.config import load_study
from pipeline.errors import UserError
from pipeline.records import Phase, State, TrialKey, TrialOutcome, TrialRecord
from pipeline.space import Arm

METRIC = "test/elbo"
TWO = (Arm("a", {"scale": "log_variance"}), Arm("b", {"scale": "log_std"}))


def p_two_sided(values: Sequence[float], seed: int | None = None) -> float:
    found = sample(values, seed)
    return 1.0 if found is None else found.p_differs()


def p_equivalence(values: Sequence[float], margin: float, seed: int | None = None) -> float:
    found = sample(values, seed)
    return 1.0 if found is None else found.p_equivalent(margin)


def trial(
    arm: str,
    replicate: int,
    number: int,
    value: float | None,
    *,
    phase: Phase = Phase.REPEAT,
    state: State | None = None,
    metric: str = METRIC,
) -> TrialRecord:
    state = state or (State.DIVERGED if value is None else State.COMPLETE)
    metrics = {} if value is None else {metric: value}
    outcome = TrialOutcome(state, metrics=metrics, epochs=10, started_at=random.random(), host="h")
    key = TrialKey(arm, replicate, phase, number)
    return TrialRecord(key, {"learning_rate": 0.01 * (replicate + 1)}, 1, state, outcome=outcome)


def repeats(arm: str, table: Sequence[Sequence[float | None]]) -> list[TrialRecord]:
    """`table`: values by replicate, then repeat."""
    return [trial(arm, r, n, value) for r, row in enumerate(table) for n, value in enumerate(row)]


def compared(
    tables: Mapping[str, Sequence[Sequence[float | None]]],
    *,
    replicates: int | None = None,
    n_repeats: int | None = None,
    margin: float = 0.5,
    pixels: int | None = None,
    bins: int | None = None,
    shuffle: Callable[[list[TrialRecord]], None] | None = None,
) -> Comparison:
    """Compares arms, the first the baseline of all others."""
    first = next(iter(tables))
    records = [record for arm, table in tables.items() for record in repeats(arm, table)]
    if shuffle:
        shuffle(records)
    return compare(
        arms=[Arm(arm, {"scale": arm}) for arm in tables],
        baselines=dict.fromkeys(tables, first),
        records=records,
        metric=METRIC,
        factors=("scale",),
        replicates=replicates or len(tables[first]),
        repeats=n_repeats or max(len(row) for table in tables.values() for row in table),
        margin_nats=margin,
        pixels=pixels,
        bins=bins,
    )


def around(mean: float, count: int = 6, spread: float = 0.1) -> list[list[float | None]]:
    """Two repeats a replicate, with replicate means spread evenly around `mean`."""
    offsets = [spread * (2 * i / (count - 1) - 1) for i in range(count)]
    return [[mean + offset - 0.01, mean + offset + 0.01] for offset in offsets]


class TestNumbers:
    def test_estimate_by_hand(self) -> None:
        found = estimate([1.0, 2.0, 3.0], 0.05)
        assert found is not None and found.sd == 1.0 and found.mean == 2.0
        assert found.high is not None and found.high - 2 == pytest.approx(4.302652729911275 / math.sqrt(3))

    def test_against_scipy(self) -> None:
        values = [0.3, -1.2, 2.4, 0.9, 1.7]
        found = estimate(values, 0.1)
        assert found is not None
        low, high = stats.t.interval(0.9, 4, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
        assert p_two_sided(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-12)
        lower = stats.ttest_1samp(values, -2, alternative="greater").pvalue
        upper = stats.ttest_1samp(values, 2, alternative="less").pvalue
        assert p_equivalence(values, 2) == pytest.approx(max(lower, upper), rel=1e-12)

    def test_degenerate(self) -> None:
        assert estimate([], 0.05) is None
        assert p_two_sided([]) == p_two_sided([3.0]) == p_equivalence([0.0], 1) == 1.0
        assert p_two_sided([2.0, 2.0]) == 0.0 and p_two_sided([0.0, 0.0]) == 1.0
        assert p_equivalence([0.0, 0.0], 0.5) == 0.0 and p_equivalence([0.5, 0.5], 0.5) == 1.0

    def test_holm(self) -> None:
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]

    def test_interval_covers(self) -> None:
        draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
        found = [estimate(list(map(float, row)), 0.05) for row in draws]
        shown = [(e.low, e.high) for e in found if e is not None and e.low is not None and e.high is not None]
        assert 0.93 < len(shown) / len(found) < 0.97, "one in twenty looks too skewed"
        covered = np.mean([low <= 3.0 <= high for low, high in shown])
        assert covered == pytest.approx(0.95, abs=2.5 * math.sqrt(0.95 * 0.05 / 4000))

    def test_more_replicates_settle(self) -> None:
        found = estimate([0.5, 1.5, -0.5, 1.0], 0.05)
        assert found is not None and found.sd is not None
        more = more_replicates(found, alpha=0.05, margin=0.1, pairs=1)
        total = found.count + more
        power = [
            p_two_sided(list(map(float, row))) <= 0.05
            for row in np.random.default_rng(1).normal(found.mean, found.sd, (2000, total))
        ]
        assert 0.75 < np.mean(power) < 0.92
        assert more_replicates(found, alpha=0.05, margin=0.1, pairs=9) > more
        hopeless = estimate([5.0, -5.0, 0.1], 0.05)
        assert hopeless is not None
        assert more_replicates(hopeless, alpha=0.05, margin=0.1, pairs=1) == MANY_REPLICATES

    def test_detectable_difference(self) -> None:
        least = detectable_difference(sd=1.0, replicates=8, alpha=0.05, pairs=1)
        rows = np.random.default_rng(2).normal(least, 1.0, (2000, 8))
        power = np.mean([p_two_sided(list(map(float, row))) <= 0.05 for row in rows])
        assert power == pytest.approx(0.8, abs=0.05)
        assert detectable_difference(sd=1.0, replicates=1, alpha=0.05, pairs=1) == math.inf


class TestBootstrap:
    """From twenty values on, where a seed is given."""

    SKEWED = tuple(float(v) for v in np.random.default_rng(5).exponential(size=25))

    def test_interval_and_p_value_agree_to_the_resample(self) -> None:
        for shift in np.linspace(0.5, 1.5, 41):
            values = [value - float(shift) for value in self.SKEWED]
            found = estimate(values, 0.05, 7)
            assert found is not None and found.low is not None and found.high is not None
            assert found.method == "bootstrap" and (found.low <= 0 <= found.high) == (p_two_sided(values, 7) > 0.05)
            wide = estimate(values, 0.1, 7)
            assert wide is not None and wide.low is not None and wide.high is not None
            inside = wide.low > -0.4 and wide.high < 0.4
            assert inside == (p_equivalence(values, 0.4, 7) <= 0.05), "two one-sided tests are the 90% interval"

    def test_same_seed_same_bits_and_mirrored_values_mirror(self) -> None:
        found, again = estimate(self.SKEWED, 0.05, 7), estimate(list(self.SKEWED), 0.05, 7)
        mirrored = estimate([-value for value in self.SKEWED], 0.05, 7)
        assert found is not None and found == again and mirrored is not None and found.high is not None
        assert mirrored.low == pytest.approx(-found.high, rel=1e-12)
        assert found != estimate(self.SKEWED, 0.05, 8)

    def test_near_t_for_many_normal_values(self) -> None:
        values = [float(v) for v in np.random.default_rng(0).normal(size=200)]
        found, plain = estimate(values, 0.05, 1), estimate(values, 0.05)
        assert found is not None and plain is not None and found.high is not None and plain.high is not None
        assert found.high - found.mean == pytest.approx(plain.high - plain.mean, rel=0.05)

    def test_far_out_the_p_value_is_that_of_t(self) -> None:
        """Holm over hundreds of pairs needs smaller p-values than 10 000 resamples can give."""
        values = [value + 30 for value in self.SKEWED]
        assert 0 < p_two_sided(values, 7) < 1e-12

    def test_fewer_values_or_no_seed_is_t(self) -> None:
        assert estimate(self.SKEWED[:19], 0.05, 7) == estimate(self.SKEWED[:19], 0.05)
        plain = estimate(self.SKEWED, 0.05)
        assert plain is not None and plain.method == "t"

    def test_hardly_any_spread(self) -> None:
        same = estimate([1.0] * 25, 0.05, 7)
        assert same is not None and (same.low, same.high) == (1.0, 1.0) and p_two_sided([1.0] * 25, 7) == 0.0
        nearly = [0.0] * 24 + [1.0]
        found = estimate(nearly, 0.05, 7)
        assert found is not None and found.low is None, "most resamples have no spread at all"
        assert p_two_sided(nearly, 7) > 0.05

    def test_replicates_of_a_sweep(self) -> None:
        rng = np.random.default_rng(1)
        tables = {arm: rng.normal(mean, 1, (24, 1)).tolist() for arm, mean in (("a", 0), ("b", 2), ("c", 0))}
        one, other = (compared(tables, shuffle=random.Random(seed).shuffle) for seed in (1, 2))
        assert to_json(one) == to_json(other)
        assert [pair.verdict for pair in one.pairs] == [Verdict.BETTER, Verdict.UNDECIDED]
        assert {pair.difference.method for pair in one.pairs if pair.difference} == {"bootstrap"}
        assert {arm.estimate.method for arm in one.arms if arm.estimate} == {"bootstrap"}


class TestWelch:
    def test_against_scipy(self) -> None:
        x, y = [0.3, -1.2, 2.4, 0.9], [1.7, 3.1, 2.2, 2.9, 1.1, 2.0]
        found, theirs = welch(x, y), stats.ttest_ind(x, y, equal_var=False)
        assert found is not None and found.p_differs() == pytest.approx(theirs.pvalue, rel=1e-12)
        interval, shown = theirs.confidence_interval(0.9), found.estimate(0.1)
        assert (shown.low, shown.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
        assert shown.method == "welch" and shown.count == 4 and shown.sd is None

    def test_degenerate(self) -> None:
        assert welch([], [1.0]) is None
        single = welch([1.0], [2.0, 3.0])
        assert single is not None and single.p_differs() == 1.0 and single.estimate(0.05).low is None
        same = welch([1.0, 1.0], [2.0, 2.0])
        assert same is not None and same.p_differs() == 0.0


class TestProbability:
    def test_against_scipy(self) -> None:
        for wins, count in ((0, 3), (3, 3), (4, 9), (12, 30)):
            found = probability(wins, count, 0.1)
            theirs = stats.binomtest(wins, count).proportion_ci(0.9, method="wilson")
            assert found is not None and (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert probability(0, 0, 0.05) is None

    def chance(self, a: list[list[float | None]], b: list[list[float | None]]) -> tuple[float, int]:
        found = compared({"a": a, "b": b}).pairs[0].probability
        assert found is not None
        return found.value, found.count

    def test_a_tie_is_half_a_win_and_a_lost_replicate_loses(self) -> None:
        assert self.chance([[1.0], [1.0], [1.0], [1.0]], [[2.0], [1.0], [0.0], [3.0]]) == (2.5 / 4, 4)
        assert self.chance([[1.0], [1.0], [None]], [[None], [2.0], [None]]) == (1.5 / 3, 3)
        assert self.chance([[1.0], [1.0], [None]], [[None], [None], [None]]) == (0.5 / 3, 3)

    def test_of_one_search_it_is_over_repeats(self) -> None:
        assert self.chance([[1.0, 1.0, None]], [[2.0, None, 0.0]]) == (2 / 3, 3)

    def test_nothing_yet(self) -> None:
        assert compared({"a": [[]], "b": [[]]}, n_repeats=1).pairs[0].probability is None


class TestAllPairs:
    def test_every_pair_of_a_context_and_a_family_of_its_own(self) -> None:
        arms = [Arm(f"{s}{d}", {"scale": s, "latent_dim": d}) for d in (2, 8) for s in "abc"]
        spread = {"a": around(-110, spread=0.1), "b": around(-109, spread=0.3), "c": around(-109, spread=0.3)}
        records = [r for arm in arms for r in repeats(arm.id, spread[str(arm.values["scale"])])]
        kept = {"metric": METRIC, "factors": ("scale",), "replicates": 6, "repeats": 2}
        baselines = {arm.id: f"a{arm.values['latent_dim']}" for arm in arms}
        every, usual = (
            compare(arms=arms, baselines=baselines, records=records, all_pairs=asked, **kept)  # type: ignore[arg-type]
            for asked in (True, False)
        )
        assert every.pairs == usual.pairs and usual.all_pairs == ()
        assert [(p.arm, p.baseline) for p in every.all_pairs] == [
            (f"{x}{d}", f"{y}{d}") for d in (2, 8) for x, y in ("ba", "ca", "cb")
        ]
        assert [p.verdict for p in every.all_pairs[:3]] == [Verdict.BETTER, Verdict.BETTER, Verdict.IDENTICAL]
        first = every.all_pairs[0]
        assert first.p == every.pairs[0].p and first.p_holm > every.pairs[0].p_holm, "more pairs, a stricter Holm"


class TestWhatIsCompared:
    def result(self, *, pixels: int | None, likelihood: str | None = None) -> Comparison:
        arms = [Arm(name, {"likelihood": name}) for name in ("gaussian", "gaussian_learned")]
        if likelihood:
            arms = [Arm(arm.id, {"scale": arm.id}) for arm in arms]
        return compare(
            arms=arms,
            baselines=dict.fromkeys(("gaussian", "gaussian_learned"), "gaussian"),
            records=[r for arm in arms for r in repeats(arm.id, around(-1.0 if arm is arms[0] else 500.0))],
            metric=METRIC,
            factors=tuple(arms[0].values),
            replicates=6,
            repeats=2,
            pixels=pixels,
            likelihood=likelihood,
        )

    def test_densities_of_different_families_get_no_verdict(self) -> None:
        found = self.result(pixels=None)
        (pair,) = found.pairs
        assert pair.verdict is Verdict.INCOMPARABLE and pair.difference is None and pair.p == pair.p_holm == 1.0
        assert found.arms[1].likelihoods == ("gaussian_learned",) and found.arms[1].estimate is not None

    def test_one_density_or_masses_of_the_same_values_do(self) -> None:
        assert self.result(pixels=None, likelihood="gaussian").pairs[0].verdict is Verdict.BETTER
        assert self.result(pixels=64).pairs[0].verdict is Verdict.BETTER

    def test_a_tuned_likelihood_counts_as_chosen(self) -> None:
        records = repeats("a", around(-1.0)) + repeats("b", around(-1.0))
        tuned = [replace(r, params={"likelihood": f"gaussian{'_learned' * (r.key.arm == 'b')}"}) for r in records]
        arms, kept = [Arm("a", {"scale": "a"}), Arm("b", {"scale": "b"})], {"metric": METRIC, "factors": ("scale",)}
        found = compare(
            arms=arms,
            baselines={"a": "a", "b": "a"},
            records=tuned,
            replicates=6,
            repeats=2,
            **kept,  # type: ignore[arg-type]
        )
        assert found.pairs[0].verdict is Verdict.INCOMPARABLE

    def test_error_over_images_is_the_mean_of_converged_repeats(self) -> None:
        records = repeats("a", [[-1.0, -2.0, None]])
        assert self.error(records) is None, "an old trial does not report it"
        told = [
            replace(r, outcome=replace(r.outcome, metrics={**r.outcome.metrics, f"{METRIC}_se": 1.0 + r.key.number}))
            for r in records
            if r.outcome is not None
        ]
        assert self.error(told) == 1.5

    def error(self, records: list[TrialRecord]) -> float | None:
        kept = {"metric": METRIC, "factors": ("scale",), "replicates": 1, "repeats": 3}
        found = compare(arms=TWO[:1], baselines={"a": "a"}, records=records, **kept)  # type: ignore[arg-type]
        return found.arms[0].image_se


class TestSkewed:
    def test_no_verdict_without_an_interval(self) -> None:
        base = [[-110.0]] * 6
        skewed: list[list[float | None]] = [[-109.0 + x] for x in (0.0, 0.01, 0.02, 0.01, 0.0, 30.0)]
        (pair,) = compared({"a": base, "b": skewed}).pairs
        assert pair.difference is not None and pair.difference.hidden and pair.difference.low is None
        assert pair.verdict is Verdict.UNDECIDED and pair.p == pair.equivalence_p == 1.0
        assert pair.more_replicates is None
        found = compared({"a": base, "b": skewed}).arms[1].estimate
        assert found is not None and found.low is None and found.sd is not None


class TestVerdicts:
    def test_better_and_worse_are_mirrored(self) -> None:
        good, bad = around(-108), around(-110, spread=0.3)
        (up,), (down,) = (compared({"a": x, "b": y}).pairs for x, y in ((bad, good), (good, bad)))
        assert (up.verdict, down.verdict) == (Verdict.BETTER, Verdict.WORSE)
        assert up.difference is not None and up.difference.mean == pytest.approx(2.0)
        assert up.difference.count == 6, "the unit is the replicate, not the repeat"
        assert up.p == down.p and up.basis is Basis.SEARCHES and not up.inside_margin

    def test_paired_by_replicate(self) -> None:
        """The difference is tiny beside the replicates' spread, and found by pairing."""
        base = around(-110, spread=5.0)
        arm = [[v + 1 + 0.05 * (i % 2) for v in row if v is not None] for i, row in enumerate(base)]
        (pair,) = compared({"a": base, "b": arm}).pairs
        assert pair.verdict is Verdict.BETTER
        ours, theirs = ([sum(v for v in row if v is not None) / 2 for row in table] for table in (arm, base))
        assert pair.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-6)

    def test_equivalent_undecided_and_margin(self) -> None:
        tables = {"a": around(-110), "b": around(-110, spread=0.12)}
        assert compared(tables).pairs[0].verdict is Verdict.EQUIVALENT
        (pair,) = compared(tables, margin=0.001).pairs
        assert pair.verdict is Verdict.UNDECIDED and pair.more_replicates is not None
        significant = compared({"a": around(-110), "b": around(-109.8, spread=0.12)}).pairs[0]
        assert significant.verdict is Verdict.BETTER and significant.inside_margin

    def test_identical(self) -> None:
        assert compared({"a": around(-110), "b": around(-110)}).pairs[0].verdict is Verdict.IDENTICAL
        lost: list[list[float | None]] = [[-110.0, None], [-111.0, -112.0]]
        assert compared({"a": lost, "b": lost}).pairs[0].verdict is Verdict.IDENTICAL
        assert (
            compared({"a": lost, "b": [[-110.0, -110.0], [-111.0, -112.0]]}).pairs[0].verdict is not Verdict.IDENTICAL
        )

    def test_diverged_everywhere(self) -> None:
        result = compared({"a": around(-110), "b": [[None, None]] * 6})
        (pair,) = result.pairs
        assert pair.verdict is Verdict.DIVERGED and pair.difference is None and pair.p == 1.0
        assert result.arms[1].estimate is None and result.arms[1].repeats_lost == 12
        assert compared({"a": [[None, None]] * 6, "b": around(-110)}).pairs[0].verdict is Verdict.DIVERGED

    def test_a_winner_must_win_with_lost_repeats_last(self) -> None:
        base = around(-110)
        arm = [list(row) for row in around(-109, spread=0.12)]
        assert compared({"a": base, "b": arm}).pairs[0].verdict is Verdict.BETTER
        arm[0][1] = arm[3][0] = None
        (pair,) = compared({"a": base, "b": arm}).pairs
        assert pair.verdict is Verdict.UNDECIDED and pair.p > 0.05
        assert pair.difference is not None and pair.difference.mean > 0.9, "means are over converged repeats"
        arm[1][1] = arm[5][0] = None
        far = [[None if v is None else v + 1000 for v in row] for row in arm]
        assert compared({"a": base, "b": far}).pairs[0].verdict is Verdict.UNDECIDED, "whatever the distance"
        one = [list(row) for row in around(-109, count=12, spread=0.12)]
        one[0][1] = None
        assert compared({"a": around(-110, count=12), "b": one}).pairs[0].verdict is Verdict.BETTER

    def test_losing_most_repeats_is_no_win(self) -> None:
        """Ranked last, the lost repeats turn the sign: significant, but the other way."""
        arm: list[list[float | None]] = [[row[0], None] for row in around(-109, spread=0.12)]
        assert compared({"a": around(-110), "b": arm}).pairs[0].verdict is Verdict.UNDECIDED

    def test_a_loser_with_lost_repeats_still_loses(self) -> None:
        arm = [list(row) for row in around(-112, spread=0.12)]
        arm[2][0] = None
        assert compared({"a": around(-110), "b": arm}).pairs[0].verdict is Verdict.WORSE

    @pytest.mark.parametrize("end", [State.DIVERGED, State.FAILED, State.COMPLETE])
    def test_a_lost_repeat_is_never_equivalent(self, end: State) -> None:
        value = math.nan if end is State.COMPLETE else None
        kept = [r for r in repeats("b", around(-110, spread=0.12)) if r.key.number or r.key.replicate]
        result = compare(
            arms=TWO,
            baselines={"a": "a", "b": "a"},
            records=[*repeats("a", around(-110)), *kept, trial("b", 0, 0, value, state=end)],
            metric=METRIC,
            factors=("scale",),
            replicates=6,
            repeats=2,
        )
        assert result.pairs[0].verdict is Verdict.UNDECIDED and result.arms[1].repeats_lost == 1
        assert not result.provisional and "NaN" not in to_json(result)

    def test_one_replicate_speaks_of_configurations(self) -> None:
        (pair,) = compared({"a": [[-110.0, -110.2, -110.1]], "b": [[-108.0, -108.3, -108.2]]}).pairs
        assert pair.basis is Basis.CONFIGURATIONS and pair.verdict is Verdict.BETTER
        assert pair.difference is not None and pair.difference.count == 3 and pair.more_replicates is None
        (single,) = compared({"a": [[-110.0]], "b": [[-90.0]]}).pairs
        assert single.verdict is Verdict.UNDECIDED and single.p == 1.0

    def test_one_common_replicate_speaks_of_configurations(self) -> None:
        tables: dict[str, list[list[float | None]]] = {
            "a": [[-110.0, -110.2], [None, None]],
            "b": [[-100.0, -100.2], [-101.0, -101.0]],
        }
        assert compared(tables).pairs[0].basis is Basis.CONFIGURATIONS

    def test_family_is_holm_over_pairs(self) -> None:
        arms: dict[str, list[list[float | None]]] = {"a": around(-110)}
        arms |= {name: around(-109.963, spread=0.06) for name in "bcdefgh"}
        pairs = compared(arms, margin=0.01).pairs
        assert all(0.01 < pair.p < 0.05 for pair in pairs)
        assert all(pair.p_holm > 0.05 and pair.verdict is Verdict.UNDECIDED for pair in pairs)


class TestCalibration:
    @pytest.mark.slow
    def test_identical_arms_are_told_apart_at_alpha(self) -> None:
        """Three arms of no effect against a baseline: any false verdict in at most 5% of sweeps."""
        sweeps, rng = 2000, np.random.default_rng(3)
        wrong = 0
        for _ in range(sweeps):
            shared = rng.normal(size=(4, 1))  # common random numbers
            tables = {arm: (shared + rng.normal(size=(4, 1))).tolist() for arm in "abcd"}
            found = {pair.verdict for pair in compared(tables).pairs}
            wrong += bool(found & {Verdict.BETTER, Verdict.WORSE})
        assert wrong / sweeps <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)
        assert wrong, "a test that never errs has no power"

    def test_arms_at_the_margin_are_rarely_equivalent(self) -> None:
        sweeps, rng = 600, np.random.default_rng(4)
        wrong = 0
        for _ in range(sweeps):
            tables = {"a": np.zeros((6, 1)).tolist(), "b": rng.normal(0.5, 0.2, (6, 1)).tolist()}
            wrong += compared(tables).pairs[0].inside_margin
        assert 0 < wrong / sweeps <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)


class TestWhole:
    def test_order_of_records_is_no_matter(self) -> None:
        tables: dict[str, list[list[float | None]]] = {
            "a": around(-110.123),
            "b": around(-109.7),
            "c": [[None, None], *around(-110)[1:]],
        }
        texts = {to_json(compared(tables, shuffle=random.Random(seed).shuffle)) for seed in range(5)}
        assert len(texts) == 1

    def test_json_is_canonical_and_holds_results_only(self) -> None:
        text = to_json(compared({"a": around(-110), "b": around(-109)}, pixels=64))
        content = json.loads(text)
        assert text.endswith("}\n") and text == json.dumps(content, sort_keys=True, indent=1) + "\n"
        assert content["pairs"][0]["verdict"] == "better"
        assert content["arms"][0]["replicates"][1]["params"] == {"learning_rate": 0.02}
        for word in ("host", "worker", "started_at", "attempts", "path"):
            assert word not in text

    def test_bits_per_dim(self) -> None:
        arm = compared({"a": [[-64 * math.log(2)], [-64 * math.log(2)]]}, pixels=64).arms[0]
        assert arm.bits_per_dim == pytest.approx(1.0)
        assert compared({"a": around(-110)}).arms[0].bits_per_dim is None

    def test_bits_per_dim_of_dequantised_counts(self) -> None:
        """A density of 1 on [0, 1] gives each of 17 values 1/17: log2(17) bits, as the uniform distribution has."""
        (uniform,) = compared({"a": [[0.0], [0.0]]}, pixels=64, bins=17).arms
        assert uniform.bits_per_dim == pytest.approx(math.log2(17))
        twice = 64 * math.log(2)  # a density twice as high saves a bit
        assert compared({"a": [[twice]] * 2}, pixels=64, bins=17).arms[0].bits_per_dim == pytest.approx(math.log2(8.5))

    def test_provisional_counts_what_is_missing(self) -> None:
        result = compared({"a": around(-110), "b": [[-109.0]]}, n_repeats=3)
        assert result.provisional and result.missing_repeats == 2 * 6 * 3 - 13
        assert result.arms[1].replicates[1].params is None
        empty = compared({"a": [[]], "b": [[]]}, n_repeats=2, replicates=3)
        assert empty.missing_repeats == 12 and empty.pairs[0].verdict is Verdict.UNDECIDED
        to_json(empty)

    def test_budgets_and_divergence_are_counted(self) -> None:
        search = [trial("a", 0, n, None if n < 2 else -1.0, phase=Phase.SEARCH, metric="val/elbo") for n in range(5)]
        result = compare(
            arms=TWO[:1],
            baselines={"a": "a"},
            records=[*search, *repeats("a", [[-1.0, None]])],
            metric=METRIC,
            factors=("scale",),
            replicates=1,
            repeats=2,
        )
        (arm,) = result.arms
        assert arm.ended["search"]["diverged"] == 2 and sum(arm.ended["search"].values()) == 5
        assert arm.epochs == {"search": 50, "shortlist": 0, "repeat": 20} and arm.repeats_lost == 1
        assert result.pairs == ()

    def test_unknown_metric(self) -> None:
        with pytest.raises(UserError, match="'test/fid'; use one of: test/elbo"):
            compare(
                arms=TWO,
                baselines={"a": "a", "b": "a"},
                records=repeats("a", around(-1)),
                metric="test/fid",
                factors=("scale",),
                replicates=6,
                repeats=2,
            )

    def test_several_factors_from_a_study(self, tmp_path: Path) -> None:
        file = tmp_path / "study.yaml"
        file.write_text(
            "version: 1\nname: two\ndata: {name: digits}\n"
            "scientific: {scale: [log_std, log_variance], latent_dim: [2, 8]}\n"
            "compare: {baseline: {scale: log_variance}}\n"
        )
        study = load_study(file)
        arms = space.arms(study)
        records = [
            record
            for arm in arms
            for record in repeats(arm.id, around(-110 + (arm.values["scale"] == "log_std"), spread=0.1))
        ]
        result = compare(
            arms=arms,
            baselines={arm.id: space.baseline_arm(study, arm).id for arm in arms},
            records=records,
            metric=study.compare.metric,
            factors=tuple(study.compare.baseline),
            replicates=6,
            repeats=2,
        )
        assert [(pair.level, pair.context) for pair in result.pairs] == [
            ({"scale": "log_std"}, {"latent_dim": 2}),
            ({"scale": "log_std"}, {"latent_dim": 8}),
        ]
        assert {pair.verdict for pair in result.pairs} == {Verdict.BETTER}


# ------------------------------------------------------------------------------------ further metrics


def measured(replicate: int, number: int, **metrics: float) -> TrialRecord:
    """A converged repeat of arm `a` that reports `test/...`."""
    record = trial("a", replicate, number, -1.0)
    assert record.outcome is not None
    outcome = replace(record.outcome, metrics={METRIC: -1.0, **{f"test/{name}": v for name, v in metrics.items()}})
    return replace(record, outcome=outcome)


def further(records: Sequence[TrialRecord], replicates: int) -> Comparison:
    return compare(
        arms=TWO[:1], baselines={"a": "a"}, records=records, metric=METRIC, factors=["scale"], replicates=replicates,
        repeats=2,
    )  # fmt: skip


def test_further_metrics_are_means_over_replicates_and_nothing_is_made_of_them() -> None:
    records = [
        measured(0, 0, mig=0.1, mig_se=0.01, elbo_se=0.3),
        measured(0, 1, mig=0.3, rate=5.0),
        measured(1, 0, mig=0.6),
        measured(1, 1, mig=math.nan, rate=math.inf),
        trial("a", 2, 0, None),
        measured(2, 1, rate=7.0),
    ]
    (arm,) = further(records, 3).arms
    assert arm.further.keys() == {"test/mig", "test/rate"}
    assert arm.further["test/mig"].values == (math.fsum([0.1, 0.3]) / 2, 0.6, None)
    assert arm.further["test/mig"].estimate == estimate(
        [value for value in arm.further["test/mig"].values if value is not None], 0.05
    )
    assert arm.further["test/rate"].values == (5.0, None, 7.0)
    (one,) = further(records[:2], 1).arms
    assert one.further["test/mig"].values == (0.1, 0.3), "with one replicate the repeats are the unit"
    bare = [measured(r, n, rate=1.0, distortion=0.0, active_units=2.0, elbo_se=0.1) for r in range(3) for n in range(2)]
    with_more = further([*bare[:-1], measured(2, 1, rate=1.0, mig=0.5, elbo_se=0.1)], 3)
    assert with_more.arms[0].further.keys() == {"test/rate", "test/distortion", "test/active_units", "test/mig"}
    printed = json.loads(to_json(with_more))["arms"][0]
    old = json.loads(to_json(further(bare, 3)))["arms"][0]
    assert "further" not in old, "a ledger of version 0.1.0 gives the bytes it always gave"
    assert {name: value for name, value in printed.items() if name != "further"} == old
