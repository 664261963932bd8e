"""Words and tables: the sentences say what was found and no more; tables fit and name everything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from pipeline.comparison import Comparison, Verdict, compare
from pipeline.comparison.coverage_table import COUNTS, STUDENT
from pipeline.records import Phase, State, TrialKey, TrialOutcome, TrialRecord, Value
from pipeline.report.comparison import comparison_table, pairs_table
from pipeline.report.numbers import params_text, value_text
from pipeline.report.plot import curve
from pipeline.report.tables import SweepLine, list_table, plan_table, render_text, status_table, trial_view
from pipeline.report.verdicts import verdict_sentences, verdict_text
from pipeline.space import Arm

Table = Mapping[tuple[str, int], Sequence[Sequence[float | None]]]


def row(mean: float, spread: float = 0.1, count: int = 5) -> list[list[float | None]]:
    return [[mean + spread * (2 * i / (count - 1) - 1)] * 2 for i in range(count)]


def compared(
    table: Table,
    *,
    repeats: int = 2,
    epochs: Mapping[str, int] | None = None,
    margin: float = 0.5,
    all_pairs: bool = False,
) -> Comparison:
    """Arms by (scale, latent_dim), each against the first scale."""
    ids = {key: f"{key[0]}.{key[1]}" for key in table}
    first = next(iter(table))[0]
    records = []
    for key, values in table.items():
        for r, line in enumerate(values):
            for n, value in enumerate(line):
                state = State.DIVERGED if value is None else State.COMPLETE
                metrics = {} if value is None else {"test/elbo": value}
                outcome = TrialOutcome(state, metrics=metrics, epochs=(epochs or {}).get(key[0], 10))
                records.append(TrialRecord(TrialKey(ids[key], r, Phase.REPEAT, n), {}, 0, state, outcome=outcome))
    return compare(
        arms=[Arm(ids[key], {"scale": key[0], "latent_dim": key[1]}) for key in table],
        baselines={ids[key]: ids[first, key[1]] for key in table},
        records=records,
        metric="test/elbo",
        factors=("scale",),
        replicates=max(len(values) for values in table.values()),
        repeats=repeats,
        margin_nats=margin,
        pixels=64,
        test_images=270,
        all_pairs=all_pairs,
    )


MIXED: Table = {
    ("log_variance", 2): row(-111),
    ("log_variance", 8): row(-110),
    ("log_std", 2): row(-110.9, spread=1.0),
    ("log_std", 8): row(-108.7, spread=0.3),
    ("softplus_std", 2): row(-111),
    ("softplus_std", 8): row(-110.01, spread=0.12),
    ("raw_variance", 2): [[None, None]] * 5,
    ("raw_variance", 8): row(-120, spread=0.5),
}


class TestSentences:
    def test_every_verdict_in_words(self) -> None:
        sentences = verdict_sentences(compared(MIXED))
        population, lost, log_std, softplus_std, raw_variance = sentences
        assert "over searches (5 an arm) and training seeds, on this split of 270 test images" in population
        assert "held at 5% over 6 comparisons" in population
        assert log_std == (
            "log_std: better than log_variance at latent_dim=8 by 1.30 nats [1.10, 1.50]; undecided at "
            "latent_dim=2 (+0.10 [-0.78, +0.98]; about 31 more replicates would settle it)."
        )
        assert softplus_std == (
            "softplus_std: equivalent to log_variance at latent_dim=8 (within ±0.5 nats: -0.010 [-0.030, +0.010]); "
            "identical at latent_dim=2 (every paired value equal)."
        )
        assert "worse than log_variance at latent_dim=8 by 10.00 nats [9.61, 10.39]" in raw_variance
        assert "diverged at latent_dim=2 (no repeat of scale=raw_variance latent_dim=2 converged)" in raw_variance
        assert "scale=raw_variance latent_dim=2 10 of 10 diverged" in lost and "ranked last" in lost

    def test_one_replicate_speaks_of_configurations_only(self) -> None:
        table: Table = {("a", 2): [[-110.0, -110.2, -110.1]], ("b", 2): [[-108.0, -108.3, -108.2]]}
        population, sentence = verdict_sentences(compared(table, repeats=3))
        assert "nothing can be said of the arms themselves" in population and "over searches" not in population
        assert sentence.startswith("b, chosen configurations only: better than a at latent_dim=2 by 1.93 nats")
        assert "chosen configurations only" in render_text(comparison_table(compared(table, repeats=3))).replace(
            "\n", " "
        )

    def test_one_common_search_is_marked(self) -> None:
        table: Table = {("a", 2): [[-110.0, -110.2], [None, None]], ("b", 2): [[-100.0, -100.2], [-99.0, -99.0]]}
        result = compared(table)
        assert "one search in common: the chosen configurations only" in " ".join(verdict_sentences(result))
        assert "(one search)" in render_text(comparison_table(result))

    def test_provisional_and_empty(self) -> None:
        table: Table = {("a", 2): [[-110.0], [-111.0]], ("b", 2): [[], []]}
        result = compared(table)
        sentences = verdict_sentences(result)
        assert sentences[1] == "Provisional: 6 repeats still to come; all of this may change."
        assert sentences[2] == "b: no result yet against a at latent_dim=2."
        assert render_text(comparison_table(result)).lstrip().startswith("provisional · 6 repeats to come")

    def test_lost_repeats_are_named_as_the_reason(self) -> None:
        arm = row(-109, spread=0.2)
        arm[0] = [-109.0, None]
        arm[1] = [None, -109.1]
        (_, lost, sentence) = verdict_sentences(compared({("a", 2): row(-110), ("b", 2): arm}))
        assert "undecided against a" in sentence and "lost repeats ranked last" in sentence
        assert "b latent_dim=2 2 of 10 diverged" in lost

    def test_significant_but_not_in_the_family(self) -> None:
        table = {("a", 2): row(-110), **{(name, 2): row(-109.955, spread=0.065) for name in "bcdefgh"}}
        assert "not significant among 7 comparisons" in verdict_sentences(compared(table, margin=0.01))[1]

    def test_skewed_values_are_marked_or_have_no_interval(self) -> None:
        base = [[-110.0]] * 5
        hidden: Table = {("a", 2): base, ("b", 2): [[-109.1], [-109.0], [-109.2], [-109.1], [-99.0]]}
        found = compared(hidden, repeats=1)
        assert verdict_sentences(found)[1] == (
            "b: undecided against a at latent_dim=2 (+2.92; no interval and no verdict: with 5 values as skewed as "
            f"these 95% intervals held in {100 * STUDENT['lognormal 1'][COUNTS.index(5)]:.1f}% of simulations; from 20 "
            "replicates on a bootstrap is taken)."
        )
        text = render_text(comparison_table(found))
        assert "without ±: too skewed" in text and "+2.92 ±" not in text
        marked: Table = {("a", 2): base, ("b", 2): [[-109.0], [-109.1], [-109.15], [-109.0], [-108.6]]}
        share = f"{100 * STUDENT['lognormal 0.5'][COUNTS.index(5)]:.1f}%"
        (_, sentence) = verdict_sentences(compared(marked, repeats=1))
        assert sentence.startswith("b: better than a") and f"held in {share} of simulations" in sentence
        text = " ".join(render_text(comparison_table(compared(marked, repeats=1))).split())
        assert f"hold in {share} or more" in text

    def test_few_values_cannot_show_skewness(self) -> None:
        few: Table = {("a", 2): row(-110, count=3), ("b", 2): row(-109, count=3)}
        assert "3 values cannot show skewness" in render_text(comparison_table(compared(few)))
        many: Table = {("a", 2): row(-110), ("b", 2): row(-109)}
        assert "cannot show" not in render_text(comparison_table(compared(many)))

    def test_unpaired_streams_and_other_densities(self) -> None:
        found = compared({("a", 2): row(-110), ("b", 2): row(-109)})
        population, _ = verdict_sentences(replace(found, streams="independent"))
        assert "unpaired streams: each arm with random numbers of its own" in population
        arms = tuple(replace(arm, likelihoods=(name,)) for arm, name in zip(found.arms, ("g", "h"), strict=True))
        pair = replace(found.pairs[0], verdict=Verdict.INCOMPARABLE, difference=None)
        (population, sentence) = verdict_sentences(replace(found, arms=arms, pairs=(pair,)))
        assert sentence == "b: incomparable with a at latent_dim=2 (likelihoods g and h: other densities)."
        assert "over 0 comparisons" in population

    def test_one_arm(self) -> None:
        assert verdict_sentences(compared({("a", 2): row(-1)})) == ["There is one arm: nothing to compare."]

    def test_styled_text_is_the_same_text(self) -> None:
        text = verdict_text(compared(MIXED))
        assert text.plain == "\n".join(verdict_sentences(compared(MIXED)))
        styled = {text.plain[span.start : span.end]: span.style for span in text.spans}
        assert styled["better"] == "bold green" and styled["worse"] == "bold red"


class TestComparisonTable:
    @pytest.mark.parametrize("width", [80, 100])
    def test_fits_and_holds_every_arm(self, width: int) -> None:
        lines = render_text(comparison_table(compared(MIXED), width), width).splitlines()
        assert max(map(len, lines)) <= width
        body = [line for line in lines if " -1" in line or "diverged" in line]
        assert not any("…" in line for line in lines)
        better = next(line for line in body if "better" in line)
        assert "-108.70 ±0.29" in better and "+1.30 ±0.20" in better
        assert ("bits/dim" in "\n".join(lines)) == (width >= 90)
        assert any("raw_variance" in line and "10/10" in line for line in lines)

    def test_groups_by_what_is_matched_baseline_first(self) -> None:
        lines = render_text(comparison_table(compared(MIXED))).splitlines()
        names = [word for line in lines for word in line.split() if "_variance" in word or "_std" in word]
        assert names == ["log_variance", "log_std", "softplus_std", "raw_variance"] * 2
        assert [line.split()[0] for line in lines if "baseline" in line] == ["2", "8"]

    def test_budgets_go_to_the_caption_when_equal(self) -> None:
        table: Table = {("a", 2): row(-110), ("b", 2): row(-109)}
        assert "each arm 0 search trials, 100 epochs" in render_text(comparison_table(compared(table)))
        text = render_text(comparison_table(compared(table, epochs={"b": 7})))
        assert "each arm" not in text and "epochs" in text and " 70" in text

    def test_divergence_comes_before_the_means(self) -> None:
        head = render_text(comparison_table(compared(MIXED))).splitlines()[1]
        assert head.index("diverged") < head.index("test/elbo") < head.index("difference")
        assert "over the converged" in render_text(comparison_table(compared(MIXED)))

    def test_error_over_images_beside_the_value_or_below(self) -> None:
        found = compared(MIXED)
        told = replace(found, arms=tuple(replace(arm, image_se=1 + i / 10) for i, arm in enumerate(found.arms)))
        wide, narrow = render_text(comparison_table(told, 120), 120), render_text(comparison_table(told, 100))
        assert "  images  " in wide.splitlines()[1] and " 1.70 " in wide
        assert "over the 270 test images, in part common to all arms: 1.00 to 1.70 nats" in narrow
        assert "images" not in render_text(comparison_table(found, 120), 120).replace("test images", "")

    def test_all_pairs(self) -> None:
        text = render_text(pairs_table(compared(MIXED, all_pairs=True)))
        assert "over 12 comparisons (Holm), a family of its own" in " ".join(text.split())
        rows = [line for line in text.splitlines() if "raw_variance" in line and "softplus_std" in line]
        assert len(rows) == 2 and "worse" in rows[1] and "0% [0, 43]" in rows[1]
        assert "there is no other pair" in render_text(pairs_table(compared({("a", 2): row(-1)}, all_pairs=True)))

    def test_no_arms_without_scientific_values(self) -> None:
        empty = replace(compared({("a", 2): row(-1)}), arms=(), pairs=())
        render_text(comparison_table(empty))


class TestOtherTables:
    def test_status(self) -> None:
        counts = {
            ("a", Phase.SEARCH, State.COMPLETE): 14,
            ("a", Phase.SEARCH, State.DIVERGED): 2,
            ("b", Phase.SEARCH, State.RUNNING): 3,
            ("b", Phase.SEARCH, State.WAITING): 1,
        }
        expected = {Phase.SEARCH: 16, Phase.SHORTLIST: 0, Phase.REPEAT: 3}
        table = status_table(arms=[("a", "A"), ("b", "B")], counts=counts, expected=expected, best={"a": -1.5})
        header, _, first, second = render_text(table).split("\n", 1)[1].splitlines()[:4]
        assert header.split() == ["arm", "search", "repeat", "running", "diverged", "best"]
        assert first.split() == ["A", "16/16", "0/3", "·", "2", "-1.50"]
        assert second.split() == ["B", "0/16", "0/3", "3", "·", "—"]

    def test_list_and_plan(self) -> None:
        text = render_text(list_table([SweepLine("s[1]", "running", 0.0, 3, 9, "why [bold]?")]))
        assert "s[1]" in text and "1970-01-01 00:00" in text and "3/9" in text and "why [bold]?" in text
        plan = render_text(plan_table(facts=[("trials", "96")], arms=[f"x={i}" for i in range(30)], baselines=["x=0"]))
        assert "30 arms" in plan and "x=0  (baseline)" in plan and "… and 6 more" in plan and "x=29" not in plan

    def test_trial(self) -> None:
        values = tuple(-110 - 50 * math.exp(-i / 5) for i in range(30))
        outcome = TrialOutcome(
            State.STOPPED,
            curves={"val/elbo": values},
            metrics={"val/elbo": -110.5},
            cause="below the median",
            epochs=30,
        )
        key = TrialKey("abc", 1, Phase.SEARCH, 4)
        record = TrialRecord(key, {"learning_rate": 0.01234}, 99, State.STOPPED, outcome=outcome)
        text = render_text(trial_view(record, label="x=1", hyperparameters={"hidden": (64, 32)}, command="vae-sweep t"))
        for words in ("abc/1/search/4", "below the median", "0.01234", "hidden=64-32", "-160.00", "vae-sweep t", "99"):
            assert words in text
        waiting = render_text(trial_view(TrialRecord(key, {}, 1), label="x", hyperparameters={}))
        assert "waiting" in waiting and "nothing" in waiting

    def test_curve(self) -> None:
        lines = curve([0.0, 1.0, 2.0, 3.0], width=10, height=2)
        assert [line[:6] for line in lines] == ["3.00 ┤", "0.00 ┤"]
        assert [ord(c) - 0x2800 for c in lines[1][6:]] == [0x40 | 0x10, 0]
        assert [ord(c) - 0x2800 for c in lines[0][6:]] == [0, 0x04 | 0x08]
        assert len(curve(list(map(float, range(1000))), width=20)[0]) <= 20 + 8
        assert curve([math.nan]) == ["no finite value"]
        assert "nan" not in "".join(curve([1.0, math.nan, math.inf, 2.0])), "gaps, not numbers"

    @pytest.mark.parametrize(
        ("value", "text"), [(0.001, "0.001"), (1e-5, "1e-05"), ((128, 64), "128-64"), ((), "none"), (True, "True")]
    )
    def test_values(self, value: Value, text: str) -> None:
        assert value_text(value) == text
        assert params_text({"a": value, "b": 1}) == f"a={text}, b=1"

    def test_text_has_no_colours(self) -> None:
        text = render_text(comparison_table(compared(MIXED)))
        assert "\x1b" not in text and text.endswith("\n") and not any(line.endswith(" ") for line in text.splitlines())
