"""Picking: the shortlist, the choice inside a search and the choice over all arms."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.comparison import Comparison, Verdict, compare
from pipeline.errors import UserError, VaeSweepError
from pipeline.picking import OBJECTIVES, RULES, Pick, choose, parse_where, pick, shortlist, where_text
from pipeline.picking.certainty import head_to_head
from pipeline.picking.robust import RADIUS, worst_decile
from pipeline.records import Params, Phase, State, TrialKey, TrialOutcome, TrialRecord, Value
from pipeline.space import Arm
from pipeline.study_file.values import ChoiceDomain, Domain, FloatDomain

ARMS = (Arm("a", {"scale": "log_variance"}), Arm("b", {"scale": "log_std"}))


def trial(arm: str, replicate: int, phase: Phase, number: int, value: float | None, rate: float = 0.01) -> TrialRecord:
    state = State.DIVERGED if value is None else State.COMPLETE
    name = "test/elbo" if phase is Phase.REPEAT else "val/elbo"
    outcome = TrialOutcome(state, metrics={} if value is None else {name: value}, epochs=1)
    key = TrialKey(arm, replicate, phase, number)
    return TrialRecord(key, {"learning_rate": rate}, 100 + number, state, outcome=outcome)


def one_arm(
    arm: str,
    validation: Sequence[float | None],
    test: Sequence[float | None],
    *,
    phase: Phase = Phase.SHORTLIST,
    replicate: int = 0,
) -> list[TrialRecord]:
    """The chosen configuration (rate 0.01), and a rival in the search that was not chosen."""
    return [
        trial(arm, replicate, Phase.SEARCH, 0, -1.0, rate=0.5),
        *(trial(arm, replicate, phase, n + 1, value) for n, value in enumerate(validation)),
        *(trial(arm, replicate, Phase.REPEAT, n, value) for n, value in enumerate(test)),
    ]


def compared(records: Sequence[TrialRecord], replicates: int = 1, arms: Sequence[Arm] = ARMS) -> Comparison:
    return compare(
        arms=arms,
        baselines={arm.id: arms[0].id for arm in arms},
        records=records,
        metric="test/elbo",
        factors=tuple(arms[0].values),
        replicates=replicates,
        repeats=2,
    )


def test_shortlist() -> None:
    assert shortlist([4, 0, 7, 2], 2) == [4, 0]
    assert shortlist([4], 3) == [4]
    assert shortlist([4, 4, 1], 2) == [4, 1]


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([(5, [-3.0, -1.0]), (2, [-2.5, -2.5])], 5),
        ([(5, [-1.0, -3.0]), (2, [-2.0, -2.0])], 2),  # a tie
        ([(5, None), (2, [-900.0])], 2),
        ([(5, [0.0, None]), (2, [-900.0, -900.0])], 2),
        ([(5, [0.0, float("nan")]), (2, [-900.0, -900.0])], 2),
        ([(5, None), (2, None)], 5),
    ],
)
def test_choose(candidates: list[tuple[int, list[float | None] | None]], expected: int) -> None:
    assert choose(candidates) == expected


def test_validation_decides_and_test_is_reported() -> None:
    records = [*one_arm("a", [-10.0, -12.0], [-50.0, -52.0]), *one_arm("b", [-10.0, -13.0], [-1.0, -2.0])]
    found = pick(compared(records), records)
    assert (found.arm, found.validation, found.validation_seeds) == ("a", -11.0, 2)
    assert found.test.mean == -51.0 and found.test.count == 2 and found.test.low is not None
    assert found.params == {"learning_rate": 0.01} and found.seed == 100
    assert found.trial == TrialKey("a", 0, Phase.REPEAT, 0)
    assert "mean of 2 fresh seeds" in found.why and "test/elbo was not looked at" in found.why
    assert found.gave_up == "next best arm scale=log_std: -11.50 nats, 0.50 behind"


def test_without_shortlist_the_search_decides() -> None:
    records = [
        *one_arm("a", [-12.0], [-5.0], phase=Phase.SEARCH),
        *one_arm("b", [-11.0], [-6.0], phase=Phase.SEARCH),
    ]
    found = pick(compared(records), records)
    assert (found.arm, found.validation, found.validation_seeds) == ("b", -11.0, 1)


def test_replicates_compete_and_order_is_no_matter() -> None:
    records = [
        *one_arm("a", [-9.0, -9.0], [-7.0], replicate=1),
        *one_arm("a", [-10.0, -10.0], [-5.0]),
        *one_arm("b", [-9.0, -9.0], [-6.0]),
    ]
    found = pick(compared(records, 2), records)
    assert (found.arm, found.replicate) == ("a", 1), "a tie goes to the arm that comes first"
    assert pick(compared(records[::-1], 2), records[::-1]) == found


def test_an_arm_that_only_diverged_is_left_out() -> None:
    records = [*one_arm("a", [-1.0, -1.0], [None, None]), *one_arm("b", [-99.0, -99.0], [None, -98.0])]
    found = pick(compared(records), records)
    assert found.arm == "b" and found.trial.number == 1 and found.seed == 101
    assert found.gave_up == "1 arm without a converged configuration left out"


def test_a_shortlist_that_diverged_is_not_picked() -> None:
    records = [*one_arm("a", [-1.0, None], [-1.0]), *one_arm("b", [-99.0, -99.0], [-98.0])]
    assert pick(compared(records), records).arm == "b"


def test_nothing_converged() -> None:
    records = [*one_arm("a", [-1.0], [None]), *one_arm("b", [-1.0], [None])]
    with pytest.raises(VaeSweepError, match="got 2 ended repeats and none such"):
        pick(compared(records), records)


def test_where() -> None:
    records = [*one_arm("a", [-10.0], [-5.0]), *one_arm("b", [-11.0], [-6.0])]
    assert pick(compared(records), records, where={"scale": "log_std"}).arm == "b"
    with pytest.raises(UserError, match="scale=std; the arms are: scale=log_variance; scale=log_std"):
        pick(compared(records), records, where={"scale": "std"})


# ------------------------------------------------------------------------------------------ every rule

RATES: Mapping[str, Domain] = {"learning_rate": FloatDomain(low=1e-4, high=1e-1, log=True)}
SIZES = tuple(Arm(f"z{size}", {"latent_dim": size}) for size in (2, 4, 8))


def whole_sweep(seed: int = 0) -> list[TrialRecord]:
    """Three arms, three searches of 24 trials with the highest near a rate of 0.01, two candidates, two repeats."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm in SIZES:
        top = -20.0 + math.log2(int(str(arm.values["latent_dim"])))
        for replicate in range(3):
            rates = [float(10 ** (-4 + 3 * (n + 0.5) / 24)) for n in range(24)]
            for n, rate in enumerate(rates):
                value = top - 4 * (math.log10(rate) + 2) ** 2 + 0.1 * rng.normal()
                rows.append(trial(arm.id, replicate, Phase.SEARCH, n, None if n == 23 else value, rate=rate))
            near = sorted(rates, key=lambda rate: abs(math.log10(rate) + 2))
            for n in range(4):
                value = top - n // 2 + 0.1 * rng.normal()
                rows.append(trial(arm.id, replicate, Phase.SHORTLIST, n, value, rate=near[n // 2]))
            for n in range(2):
                rows.append(trial(arm.id, replicate, Phase.REPEAT, n, top - 1 + 0.1 * rng.normal(), rate=near[0]))
    return rows


def picked(
    rows: Sequence[TrialRecord],
    rule: str,
    *,
    where: Params | None = None,
    arms: Sequence[Arm] = SIZES,
    domains: Mapping[str, Domain] = RATES,
    **options: Any,
) -> Pick:
    comparison = compared(rows, 1 + max(row.key.replicate for row in rows), arms)
    return pick(comparison, rows, rule=rule, where=where, fixed={"latent_dim": 8}, domains=domains, **options)


def with_metrics(row: TrialRecord, metrics: Mapping[str, float]) -> TrialRecord:
    assert row.outcome is not None
    return replace(row, outcome=replace(row.outcome, metrics=metrics))


@pytest.mark.parametrize("rule", RULES)
class TestRule:
    """What every rule of the table promises."""

    def test_the_order_of_records_is_no_matter(self, rule: str) -> None:
        rows = whole_sweep()
        expected = picked(rows, rule)
        assert expected.rule == rule
        for seed in range(3):
            random.Random(seed).shuffle(rows)
            assert picked(rows, rule) == expected

    def test_test_values_are_not_looked_at(self, rule: str) -> None:
        rows = whole_sweep()
        repeats = [row for row in rows if row.key.phase is Phase.REPEAT]
        others = [row for row in rows if row.key.phase is not Phase.REPEAT]
        values = [row.outcome.metrics for row in repeats if row.outcome is not None]
        expected = picked(rows, rule)
        means = set()
        for seed in range(5):
            random.Random(seed).shuffle(values)
            shuffled = [with_metrics(row, metrics) for row, metrics in zip(repeats, values, strict=True)]
            found = picked([*others, *shuffled], rule)
            means.add(found.test.mean)
            assert (found.trial, found.why, found.gave_up) == (expected.trial, expected.why, expected.gave_up)
        assert len(means) > 1, "the shuffle changed nothing"

    @pytest.mark.parametrize("size", [2, 4, 8])
    def test_where_is_respected(self, rule: str, size: int) -> None:
        found = picked(whole_sweep(), rule, where={"latent_dim": size})
        assert found.values == {"latent_dim": size}
        assert ("without --where there is latent_dim=8" in found.gave_up) == (size < 8)

    def test_a_converged_configuration_is_taken(self, rule: str) -> None:
        rows = whole_sweep()
        free = picked(rows, rule)
        lost = [
            replace(row, state=State.DIVERGED, outcome=TrialOutcome(State.DIVERGED))
            if row.key.arm == free.arm and row.key.phase is Phase.REPEAT
            else row
            for row in rows
        ]
        found = picked(lost, rule)
        assert found.arm != free.arm and "1 arm without a converged configuration left out" in found.gave_up
        trained = next(row for row in lost if row.key == found.trial)
        assert trained.state is State.COMPLETE and trained.key.phase is Phase.REPEAT
        assert (trained.params, trained.seed) == (found.params, found.seed)

    def test_nothing_converged(self, rule: str) -> None:
        rows = [replace(row, state=State.DIVERGED, outcome=TrialOutcome(State.DIVERGED)) for row in whole_sweep()]
        with pytest.raises(VaeSweepError, match="got 18 ended repeats and none such"):
            picked(rows, rule)

    def test_it_says_how_sure_and_against_what(self, rule: str) -> None:
        found = picked(whole_sweep(), rule)
        assert found.sure.searches == 3 and found.sure.probability is not None
        assert found.sure.rival and found.sure.rival in found.sure.text and found.sure.difference is not None
        assert "chosen on validation data" in found.why and found.gave_up

    def test_one_search_an_arm_claims_nothing_of_the_arms(self, rule: str) -> None:
        found = picked([row for row in whole_sweep() if row.key.replicate == 0], rule)
        assert found.sure.probability is None and "one search an arm" in found.sure.text


def test_a_rule_and_objectives_must_be_known() -> None:
    rows = whole_sweep()
    for rule, objectives, expected in [
        ("best", (), "one of max, one_se, pareto, robust, but got 'best'"),
        ("max", ("elbo", "size"), "is for --rule pareto"),
        ("pareto", ("elbo", "speed"), "got 'speed'"),
        ("pareto", ("elbo",), "two or more different names"),
        ("pareto", ("elbo", "elbo"), "two or more different names"),
        ("pareto", ("elbo", "rate"), "'rate' is not"),
    ]:
        with pytest.raises(UserError, match=expected):
            picked(rows, rule, objectives=objectives)


# ------------------------------------------------------------------------------------ one standard error


def arms_of(table: Mapping[str, Sequence[Sequence[float]]]) -> list[TrialRecord]:
    """`table`: arm -> shortlist values by replicate."""
    return [
        row
        for arm, searches in table.items()
        for replicate, values in enumerate(searches)
        for row in one_arm(arm, values, [-50.0, -51.0 - replicate], replicate=replicate)
    ]


def test_one_se_takes_the_smallest_within_the_error_of_the_best() -> None:
    """z8: mean -10, deviation 1, so an error of 1 / sqrt(3) = 0.577 over three searches."""
    best = [[-9.0], [-10.0], [-11.0]]
    table = {"z2": [[-10.6]] * 3, "z4": [[-10.5], [-10.4], [-10.6]], "z8": best}
    found = picked(arms_of(table), "one_se")
    assert found.arm == "z4", "z2 is 0.6 behind, z4 is 0.5 behind"
    assert found.params == {"learning_rate": 0.01} and found.replicate == 1, "the best search of the arm"
    assert "(0.58, over 3 searches)" in found.why and found.gave_up.startswith("1.40 nats of val/elbo against")
    table["z2"] = [[-10.57]] * 3
    assert picked(arms_of(table), "one_se").arm == "z2"
    table["z2"] = table["z4"] = [[-10.58]] * 3
    found = picked(arms_of(table), "one_se")
    assert found.arm == "z8" and found.gave_up == "nothing: the rule max takes the same"


def test_one_se_of_one_search_is_over_its_training_seeds() -> None:
    """z8: two shortlist trainings at -8.9 and -10.9 give 1.414 / sqrt(2) = 1."""
    found = picked(arms_of({"z2": [[-10.9, -10.9]], "z4": [[-10.0, -10.0]], "z8": [[-8.9, -10.9]]}), "one_se")
    assert found.arm == "z2" and "(1.00, over training seeds only (2 trainings" in found.why
    found = picked(arms_of({"z2": [[-10.9]], "z4": [[-10.1]], "z8": [[-10.0]]}), "one_se")
    assert found.arm == "z8" and "one training tells no standard error" in found.why


def test_one_se_prefers_fewer_hidden_units_among_equal_latents() -> None:
    arms = tuple(Arm(f"h{width}", {"hidden": (width, width)}) for width in (64, 32, 128))
    rows = arms_of({"h64": [[-10.0], [-11.0]], "h32": [[-10.2], [-11.2]], "h128": [[-9.9], [-10.9]]})
    assert picked(rows, "one_se", arms=arms).arm == "h32"


def test_an_arm_that_lost_a_search_is_not_flattered() -> None:
    rows = arms_of({"z2": [[-1.0]], "z4": [[-10.0], [-11.0]], "z8": [[-10.0], [-11.0]]})
    found = picked(rows, "one_se")
    assert found.arm == "z4" and "latent_dim=2: fewer searches converged than of other arms" in found.gave_up


# ----------------------------------------------------------------------------------------------- pareto


def test_the_front_is_what_no_arm_beats() -> None:
    arms = tuple(Arm(f"z{size}", {"latent_dim": size}) for size in (1, 2, 3, 4, 5))
    values = {"z1": -30.0, "z2": -12.0, "z3": -13.0, "z4": -11.0, "z5": -10.0}
    rows = arms_of({arm: [[value], [value - 1]] for arm, value in values.items()})
    found = picked(rows, "pareto", arms=arms)
    assert [point.label for point in found.front] == [f"latent_dim={n}" for n in (5, 4, 2, 1)], "2 beats 3"
    assert found.front[0].objectives == {"elbo": -10.5, "size": 5.0}
    assert [point.label for point in found.front if point.taken] == ["latent_dim=2"] and found.arm == "z2"
    assert "4 arms that no other beats in high elbo, low size" in found.why


def test_pareto_of_two_ends_takes_the_first_objective() -> None:
    rows = arms_of({"z2": [[-12.0]], "z4": [[-13.0]], "z8": [[-10.0]]})
    assert picked(rows, "pareto").arm == "z8"
    assert picked(rows, "pareto", objectives=("size", "elbo")).arm == "z2"
    rows = arms_of({"z2": [[-9.0]], "z4": [[-13.0]], "z8": [[-10.0]]})
    found = picked(rows, "pareto")
    assert found.arm == "z2" and found.why.startswith("the only arm that no other beats") and len(found.front) == 1


def test_every_objective_has_its_source_and_direction() -> None:
    """The arm z2 is worse in val/elbo, and better in what is asked for; z4 is worse in both."""
    names = {"rate": "val/rate", "distortion": "val/distortion", "active_units": "val/active_units"}
    assert set(OBJECTIVES) == {"elbo", "size", "units", "epochs", *names}
    for name, metric in names.items():
        sign = OBJECTIVES[name].sign
        score = {"z2": 3.0 * sign, "z4": 1.0 * sign, "z8": 2.0 * sign}
        rows = [
            with_metrics(row, {**row.outcome.metrics, metric: score[row.key.arm]}) if row.outcome else row
            for row in arms_of({"z2": [[-12.0]], "z4": [[-13.0]], "z8": [[-10.0]]})
        ]
        found = picked(rows, "pareto", objectives=("elbo", name))
        assert [point.label for point in found.front] == ["latent_dim=8", "latent_dim=2"], name


# ----------------------------------------------------------------------------------------------- robust


def search_of(arm: str, rates: Sequence[float], values: Sequence[float | None]) -> list[TrialRecord]:
    pairs = enumerate(zip(rates, values, strict=True))
    return [trial(arm, 0, Phase.SEARCH, n + 10, value, rate=rate) for n, (rate, value) in pairs]


def around(rate: float) -> list[float]:
    """Nine rates in the neighbourhood, the domain being three decades wide."""
    return [rate * 10 ** (3 * RADIUS * step / 4) for step in range(-4, 5)]


def test_robust_prefers_the_plateau_to_the_peak() -> None:
    arms = SIZES[:2]
    peak, plateau = [-30.0] * 4 + [-10.0] + [-30.0] * 4, [-12.0] * 9
    rows = [
        *arms_of({"z2": [[-10.0]], "z4": [[-12.0]]}),
        *search_of("z2", around(0.01), peak),
        *search_of("z4", around(0.01), plateau),
    ]
    assert picked(rows, "max", arms=arms).arm == "z2"
    found = picked(rows, "robust", arms=arms)
    assert found.arm == "z4" and "worst decile of val/elbo (-12.00 nats" in found.why
    assert (
        "learning_rate is anything from 0.00355 to 0.0282" in found.why and "the 9 search trials so near" in found.why
    )
    assert found.gave_up == "2.00 nats of val/elbo against the rule max, which takes latent_dim=2 (-10.00)"


def test_robust_ranks_divergence_nearby_below_every_value() -> None:
    rows = [
        *arms_of({"z2": [[-10.0]], "z4": [[-12.0]]}),
        *search_of("z2", around(0.01), [-10.0] * 7 + [None] * 2),
        *search_of("z4", around(0.01), [-900.0] * 9),
    ]
    assert picked(rows, "robust", arms=SIZES[:2]).arm == "z4"
    rows = [row for row in rows if row.key.arm == "z2"]
    assert "diverged, as of all others" in picked(rows, "robust", arms=SIZES[:2]).why


def test_robust_says_where_there_are_too_few_trials() -> None:
    rows = [
        *arms_of({"z2": [[-10.0]], "z4": [[-12.0]]}),
        *search_of("z2", around(0.01)[:3], [-10.0] * 3),
        *search_of("z4", around(0.01), [-12.0] * 9),
    ]
    found = picked(rows, "robust", arms=SIZES[:2])
    assert found.arm == "z4"
    assert "not judged: latent_dim=2, replicate 0: 3 search trials near it, 5 needed" in found.gave_up
    few = [row for row in rows if row.key.arm == "z2"]
    with pytest.raises(VaeSweepError, match=r"needs 5 search trials within 15% .* but got at most 3"):
        picked(few, "robust", arms=SIZES[:2])
    for domains in ({}, {"learning_rate": ChoiceDomain(choices=(0.5, 0.01))}):
        with pytest.raises(UserError, match="changes tuned numbers a little"):
            picked(rows, "robust", arms=SIZES[:2], domains=domains)


def test_the_worst_decile_is_by_room_and_not_by_trials() -> None:
    """On a grid the decile of the box is that of the function; trials heaped on one spot do not count more."""
    places = (np.arange(1000) + 0.5)[:, None] / 1000
    centre = np.array([0.5])
    assert worst_decile(centre, places, places[:, 0].tolist()) == pytest.approx(0.35 + 0.1 * 2 * RADIUS, abs=0.01)
    heap = np.full((5000, 1), 0.65)
    heaped = np.concatenate([places, heap])
    assert worst_decile(centre, heaped, heaped[:, 0].tolist()) == pytest.approx(0.38, abs=0.01)
    edge = worst_decile(np.array([1.0]), places, places[:, 0].tolist())
    assert edge == pytest.approx(0.85 + 0.1 * RADIUS, abs=0.01), "the box ends at the domain"


# ---------------------------------------------------------------------------------- how sure, and --where


def test_how_sure_follows_the_evidence() -> None:
    clear = arms_of({"z2": [[-20.0]] * 4, "z4": [[-21.0]] * 4, "z8": [[-10.0], [-10.1], [-9.9], [-10.2]]})
    found = picked(clear, "max")
    assert (found.sure.led, found.sure.searches, found.sure.probability) == (4, 4, 1.0)
    toss = arms_of({"z2": [[-30.0]] * 4, "z4": [[-9.0], [-11.0]] * 2, "z8": [[-11.0], [-9.001]] * 2})
    found = picked(toss, "max")
    assert found.arm == "z4" and found.sure.led == 2
    assert found.sure.probability is not None and 0.6 < found.sure.probability < 0.99
    assert found.sure.verdict is Verdict.IDENTICAL, "the repeats of all arms are the same here"


def test_the_rival_is_judged_as_compare_does_it() -> None:
    tables = {"z2": (-10.0, -10.1, -9.9), "z4": (-12.0, -12.2, -12.1), "z8": (-10.05, -9.95, -10.1)}
    rows = [
        row
        for arm, values in tables.items()
        for replicate, value in enumerate(values)
        for row in one_arm(arm, [value], [value, value - 0.01], replicate=replicate)
    ]
    comparison = compared(rows, 3, SIZES)
    two, four, eight = comparison.arms
    ours = next(pair for pair in comparison.pairs if pair.arm == "z4")
    assert head_to_head(comparison, four, two) is ours and ours.verdict is Verdict.WORSE
    turned = head_to_head(comparison, two, four)
    assert turned.verdict is Verdict.BETTER and ours.difference and turned.difference
    assert turned.difference.mean == -ours.difference.mean and turned.difference.low == -(ours.difference.high or 0)
    other = head_to_head(comparison, eight, four)
    assert other.verdict is Verdict.BETTER and other.difference is not None
    assert other.difference.mean == pytest.approx(2.0667, abs=1e-3)


def test_where_in_words() -> None:
    factors: dict[str, Sequence[Value]] = {
        "latent_dim": (4, 8),
        "scale": ("log_std", "log_variance"),
        "hidden": ((64, 32), ()),
        "beta": (0.5, 1.0),
        "initial_sigma": (None, 0.1),
    }
    for texts, expected in [
        (["latent_dim=8"], {"latent_dim": 8}),
        (["latent_dim=8,scale=log_std"], {"latent_dim": 8, "scale": "log_std"}),
        (["latent_dim=8", "scale = log_std"], {"latent_dim": 8, "scale": "log_std"}),
        (["hidden=[64, 32],beta=1"], {"hidden": (64, 32), "beta": 1.0}),
        (["hidden=64-32 beta=5e-1"], {"hidden": (64, 32), "beta": 0.5}),
        (["hidden=none", "initial_sigma=none"], {"hidden": (), "initial_sigma": None}),
        ([], {}),
    ]:
        found = parse_where(texts, factors)
        assert found == expected, texts
        assert parse_where([where_text(found)] if found else [], factors) == found
    for text, message in [
        ("latent=8", "got 'latent'; valid: latent_dim=4|8; scale=log_std"),
        ("latent_dim=9", "got '9'; valid: 4, 8"),
        ("scale=LOG_STD", "got 'LOG_STD'"),
        ("latent_dim", "takes FACTOR=VALUE"),
        ("latent_dim=", "takes FACTOR=VALUE"),
        ("latent_dim=4,latent_dim=8", "latent_dim twice"),
    ]:
        with pytest.raises(UserError) as error:
            parse_where([text], factors)
        assert message in str(error.value)
    with pytest.raises(UserError, match="only one arm"):
        parse_where(["latent_dim=8"], {})
