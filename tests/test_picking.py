"""Picking: the shortlist, the choice inside a search and the choice over all arms."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.comparison import Comparison, compare
from pipeline.errors import UserError, VaeSweepError
from pipeline.picking import choose, pick, shortlist
from pipeline.records import Phase, State, TrialKey, TrialOutcome, TrialRecord
from pipeline.space import Arm

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


def compared(records: Sequence[TrialRecord], replicates: int = 1) -> Comparison:
    return compare(
        arms=ARMS,
        baselines={"a": "a", "b": "a"},
        records=records,
        metric="test/elbo",
        factors=("scale",),
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
