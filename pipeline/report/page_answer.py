"""The report page's first screen: which is best, does it matter, what do I run now.

Turns a comparison and the pick into words. Reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..comparison import MANY_REPLICATES, ArmResult, Comparison, Pair, Verdict
from ..errors import VaeSweepError
from ..execution.selfchecked import failed_oracles
from ..picking import Pick
from ..results import Results, export_yaml, single_study, why_not_reproducible
from .numbers import params_text
from .page_parts import Answer, Item, count, digits_of, interval, listed, number, typeset
from .panels import level_of, spelled


def answers(results: Results) -> tuple[Answer, ...]:
    """The three questions that a stranger has."""
    try:
        taken: Pick | None = results.pick()
        why = ""
    except VaeSweepError as error:
        taken, why = None, str(error)
    return _best(results.comparison, taken, why), _matters(results.comparison), _now(results, taken)


def banners(results: Results) -> tuple[tuple[str, str], ...]:
    """What must be known before anything is believed: (title, text)."""
    found = []
    if failed := failed_oracles(results.sweep.fingerprint):
        text = f"with the versions that trained this sweep {listed(failed)} failed when selfcheck last tried"
        found.append(("Selfcheck failed", f"{text}: no number here can be relied on. Run `vae-sweep selfcheck`."))
    if results.comparison.provisional:
        missing = count(results.comparison.missing_repeats, "repeat")
        found.append(("Provisional", f"{missing} still to come; all of this may change."))
    if not results.sweep.reproducible:
        text = f"{why_not_reproducible(results.study)}: running it again may give other numbers."
        found.append(("Not reproducible", text))
    if results.comparison.pairs and results.comparison.replicates == 1:
        text = "with one search an arm, what is said holds for the chosen configurations, not for the arms."
        found.append(("One search an arm", text))
    return tuple(found)


def _best(comparison: Comparison, taken: Pick | None, why: str) -> Answer:
    if taken is None:
        return Answer("best", "Which is best?", "Not known yet", (_sentence(why),))
    arm = params_text(taken.values)
    test = number(taken.test.mean)
    if taken.test.low is not None:
        test += f" {interval(taken.test.low, taken.test.high)}"
    items = (
        Item("with", params_text(taken.params) or "nothing tuned"),
        Item(comparison.metric, f"{test} nats per image, over {count(taken.test.count, 'fresh training')} of it"),
    )
    lines, more = (_sentence(taken.gave_up),), (_sentence(taken.why),)
    headline = arm or "The only configuration"
    return Answer("best", "Which is best?", headline, lines, items, more=more, more_title="Why this one")


def _sentence(text: str) -> str:
    return typeset(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))


# ------------------------------------------------------------------------------------ does it matter


def shown_to_differ(pair: Pair) -> bool:
    """Whether the pair is shown to differ by what counts: not known to be inside the margin."""
    return pair.verdict in (Verdict.BETTER, Verdict.WORSE) and not pair.inside_margin


def shown_to_be_close(pair: Pair) -> bool:
    """Whether the difference is shown to be smaller than the margin."""
    return pair.inside_margin or pair.verdict in (Verdict.EQUIVALENT, Verdict.IDENTICAL)


def _matters(comparison: Comparison) -> Answer:
    question = "Does it matter?"
    pairs = comparison.pairs
    if not pairs:
        return Answer("matters", question, "There is nothing to compare", ("The sweep has one arm.",))
    return Answer("matters", question, _headline(comparison), _facts(comparison), _levels(comparison))


def _headline(comparison: Comparison) -> str:
    pairs, margin = comparison.pairs, f"{comparison.margin_nats:g} nats"
    differs = [pair for pair in pairs if shown_to_differ(pair) or pair.verdict is Verdict.DIVERGED]
    close = [pair for pair in pairs if shown_to_be_close(pair)]
    if differs:
        levels = list(dict.fromkeys(_level(pair, comparison) for pair in differs))
        rest = len(pairs) - len(differs) - len(close)
        tail = "" if not rest else f"; {rest} of {len(pairs)} comparisons are not settled"
        return f"Yes, for {listed(levels)}{tail}"
    if len(close) == len(pairs):
        return f"No: every difference is shown to be below {margin}"
    if close:
        return f"Not that this sweep could show: {len(close)} of {len(pairs)} differences are below {margin}, " + (
            "the others are not settled"
        )
    return "Not settled: no difference is shown, and none is shown to be small"


def _facts(comparison: Comparison) -> tuple[str, ...]:
    """The largest difference against the margin, and how large the open ones may be."""
    by_id = {arm.id: arm for arm in comparison.arms}
    known = [pair for pair in comparison.pairs if pair.difference is not None]
    shown = [pair for pair in known if shown_to_differ(pair)]
    facts = []
    pool = shown or known
    if pool:
        top = max(pool, key=lambda pair: abs(pair.difference.mean) if pair.difference else 0.0)
        assert top.difference is not None
        mean, digits = top.difference.mean, digits_of(top.difference.mean)
        times = abs(mean) / comparison.margin_nats if comparison.margin_nats else 0.0
        what = "Largest difference shown" if shown else "Largest difference seen, though not shown"
        bounds = interval(top.difference.low, top.difference.high, digits, signed=True)
        margin = f"{comparison.margin_nats:g} nats"
        size = f"{times:.0f} times the margin of {margin}" if times >= 2 else f"the margin that matters is {margin}"
        facts.append(
            f"{what}: {_place(top, comparison)} against {_baseline(top, by_id)}, "
            f"{number(mean, digits, signed=True)} nats {bounds}; {size}."
        )
    ends = [b for p in known if p.verdict is Verdict.UNDECIDED and p.difference
            for b in (p.difference.low, p.difference.high) if b is not None]  # fmt: skip
    if ends:
        low, high = (number(end, digits_of(end), signed=True) for end in (min(ends), max(ends)))
        facts.append(f"What is not settled may be anything from {low} to {high} nats.")
    facts.append(f"Each against {_baseline(comparison.pairs[0], by_id)}:")
    return tuple(facts)


def _levels(comparison: Comparison) -> tuple[Item, ...]:
    """What became of each compared level, in one line."""
    of: dict[str, list[Pair]] = {}
    for pair in comparison.pairs:
        of.setdefault(_level(pair, comparison), []).append(pair)
    return tuple(Item(level, _summary(pairs)) for level, pairs in of.items())


def _summary(pairs: Sequence[Pair]) -> str:
    parts = []
    words = list(dict.fromkeys(_word(pair) for verdict in Verdict for pair in pairs if pair.verdict is verdict))
    for word in words:
        at = [params_text(pair.context) for pair in pairs if _word(pair) == word and pair.context]
        parts.append(f"{word} at {', '.join(at)}" if at and len(words) > 1 else word)
    means = [pair.difference.mean for pair in pairs if pair.difference is not None]
    span = ""
    if means:
        ends = dict.fromkeys(number(value, digits_of(value), signed=True) for value in (min(means), max(means)))
        span = f" ({' to '.join(ends)} nats)"
    return "; ".join(parts) + span


def _word(pair: Pair) -> str:
    if pair.verdict in (Verdict.BETTER, Verdict.WORSE) and pair.inside_margin:
        return f"{pair.verdict}, but by less than the margin"
    return {Verdict.UNDECIDED: "not settled", Verdict.DIVERGED: "did not train"}.get(pair.verdict, str(pair.verdict))


def _level(pair: Pair, comparison: Comparison) -> str:
    return level_of(next(arm for arm in comparison.arms if arm.id == pair.arm), comparison.factors)


def _baseline(pair: Pair, by_id: dict[str, ArmResult]) -> str:
    return spelled({name: by_id[pair.baseline].values[name] for name in pair.level})


def _place(pair: Pair, comparison: Comparison) -> str:
    at = f" at {params_text(pair.context)}" if pair.context else ""
    return f"{_level(pair, comparison)}{at}"


# -------------------------------------------------------------------------------------- what to run


def _now(results: Results, taken: Pick | None) -> Answer:
    name, question = results.sweep.name, "What do I run now?"
    outlook, extend = _outlook(results.comparison)
    if taken is None:
        return Answer("now", question, "Let the sweep go on", outlook, commands=("vae-sweep run study.yaml",))
    headline = "Train the best configuration"
    if results.comparison.provisional:
        headline = "Let the sweep finish, or train the best one so far"
    code = export_yaml(single_study(results, results.record(str(taken.trial)), f"{name}-best"))
    return Answer(
        "now",
        question,
        headline,
        (
            "It gives the same numbers as in the sweep, on the same kind of machine, with weights and pictures.",
            *outlook,
        ),
        commands=(f"vae-sweep best {name} --export best.yaml", "vae-sweep train best.yaml", *extend),
        code=code,
        code_title="best.yaml, for those who have this page only",
    )


def _outlook(comparison: Comparison) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How many more replicates would settle what is open, in words and as commands."""
    more = sorted(pair.more_replicates for pair in comparison.pairs if pair.more_replicates is not None)
    if comparison.provisional or not more:
        return (), ()
    few = [n for n in more if n < MANY_REPLICATES]
    if not few:
        return ("No affordable number of further searches would settle the open comparisons.",), ()
    span = f"{few[0]}" if few[0] == few[-1] else f"{few[0]} to {few[-1]}"
    which = "the open comparisons" if len(few) == len(more) else f"{len(few)} of {len(more)} open comparisons"
    added = few[(len(few) - 1) // 2]  # most of what is affordable, not the most expensive pair
    command = f"vae-sweep run study.yaml --extend --set search.replicates={comparison.replicates + added}"
    return (f"To settle {which}: about {span} more searches an arm; the last command adds {added}.",), (command,)
