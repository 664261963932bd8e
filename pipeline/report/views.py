"""What the verbs `plan`, `status`, `show`, `best` and `train` say, as JSON-able facts and as rich renderables.

Composes report.py's tables; opens nothing and changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from ..comparison import detectable_difference
from ..config import Study
from ..data.dataset import DataSet
from ..picking import Pick
from ..records import ENDED, Phase, State, TrialOutcome, TrialRecord, derive_seed
from ..results import Results, why_not_reproducible
from ..search.samplers import SAMPLERS
from ..space import arms, baseline_arm, hyperparameters, in_flight_limit, search_count, search_trials, trial_counts
from ..stages import METRIC_CURVE
from ..sweep import tally
from .numbers import params_text
from .plot import curve
from .progress import duration
from .tables import facts_table, front_table, plan_table, status_table

ASSUMED_SD_NATS = 1.0
"""paired standard deviation between searches; 0.3 to 1.3 nats were seen on digits"""


# ---------------------------------------------------------------------------------------------- plan


def plan_view(study: Study, dataset: DataSet, workers: int, slots: int) -> Group:
    """What the study would do on `workers` workers."""
    every = arms(study)
    counts = trial_counts(study)
    trials = search_trials(study)
    startup = min(study.search.startup, trials) if SAMPLERS[study.search.sampler].model_based else trials
    in_flight = in_flight_limit(study)
    most = -(-in_flight // slots)
    useful = f"{most} worker{'' if most == 1 else 's'}"
    facts = [
        ("study", study.name + (f": {study.question}" if study.question else "")),
        ("data", f"{dataset.id}, {dataset.pixels} values an image, {dataset.kind}"),
        *_data_facts(dataset),
        ("searches", f"{len(every)} arms × {study.search.replicates} replicates = {search_count(study)}"),
        (
            "trials a search",
            f"{trials}: {startup} drawn at once, {trials - startup} proposed by {study.search.sampler}",
        ),
        (
            "trials in all",
            f"{counts.total}: {counts.search} search, {counts.shortlist} shortlist, {counts.repeat} repeat",
        ),
        (
            "in flight",
            f"at most {in_flight}: more than {useful} of {slots} slots will not help",
        ),
        ("cost", _cost(study, dataset, workers, slots)),
        ("can detect", _power(study, len(every))),
    ]
    baselines = [arm.label for arm in every if baseline_arm(study, arm).id == arm.id and len(every) > 1]
    return plan_table(facts=facts, arms=[arm.label for arm in every], baselines=baselines)


def _data_facts(dataset: DataSet) -> list[tuple[str, str]]:
    facts = list(dataset.facts)
    if dataset.factors is not None:
        sizes = zip(dataset.factors.names, dataset.factors.sizes, strict=True)
        facts.append(("factors", ", ".join(f"{name} ({size})" for name, size in sizes)))
    if dataset.log_likelihood is not None:
        train, val, test = dataset.log_likelihood
        text = f"train {train:.4f}, val {val:.4f}, test {test:.4f} nats an image, exact: what an ELBO can reach at best"
        facts.append(("log p(x)", text))
    return facts


def _power(study: Study, arm_count: int) -> str:
    if study.search.replicates < 2:
        return "nothing about arms: with one replicate the verdict is about the chosen configurations only"
    pairs = sum(baseline_arm(study, arm).id != arm.id for arm in arms(study))
    found = detectable_difference(
        sd=ASSUMED_SD_NATS, replicates=study.search.replicates, alpha=study.compare.alpha, pairs=pairs
    )
    return (
        f"{found:.1f} nats with power 80% over {pairs} comparisons, if searches of two arms differ by a standard "
        f"deviation of {ASSUMED_SD_NATS:g} nat (more replicates detect less)"
    )


def _cost(study: Study, dataset: DataSet, workers: int, slots: int) -> str:
    """Measured now: a few packed steps of each structure, here, on one core."""
    counts = trial_counts(study)
    seconds = 0.0
    measured: dict[Any, float] = {}
    for arm in arms(study):
        values = hyperparameters(study, arm, {name: _middle(domain) for name, domain in study.nuisance.items()})
        from ..packed.structure import structure_of

        structure = structure_of(values)
        if structure not in measured:
            measured[structure] = _epoch_seconds(dataset, values, slots, derive_seed(study.seed, "bank"))
        seconds += measured[structure] * int(values["epochs"])  # type: ignore[arg-type]
    seconds *= counts.total / len(arms(study))
    return (
        f"about {duration(seconds)} of one core like this one, so {duration(seconds / workers)} on {workers} workers "
        f"(measured just now, {slots} slots; stopping and divergence make it less)"
    )


def _middle(domain: Any) -> Any:
    if hasattr(domain, "choices"):
        return domain.choices[0]
    return (domain.low * domain.high) ** 0.5 if domain.log else type(domain.low)((domain.low + domain.high) / 2)


def _epoch_seconds(dataset: DataSet, values: Mapping[str, Any], slots: int, bank_seed: int) -> float:
    from ..execution.inline import measure_epoch

    return measure_epoch(dataset, values, slots=slots, bank_seed=bank_seed)


# -------------------------------------------------------------------------------------------- status


def status_facts(results: Results, standing: str) -> dict[str, Any]:
    """How far a sweep is, ready for JSON."""
    counts = tally(results.records)
    states = {state: sum(n for (_, _, s), n in counts.items() if s is state) for state in State}
    outcomes = [record.outcome for record in results.records if record.outcome is not None]
    return {
        "name": results.sweep.name,
        "status": standing,
        "total": trial_counts(results.study).total,
        "trials": {str(state): count for state, count in states.items()},
        "epochs": sum(outcome.epochs for outcome in outcomes),
        "worker_seconds": round(sum(outcome.worker_seconds for outcome in outcomes), 3),
        "attempts": sum(record.attempts for record in results.records),
        "hosts": sorted({outcome.host for outcome in outcomes if outcome.host}),
        "workers": sorted({outcome.worker for outcome in outcomes if outcome.worker}),
        "created_at": results.sweep.created_at,
        "finished_at": results.sweep.finished_at,
        "reproducible": results.sweep.reproducible,
        "fingerprint": dict(results.sweep.fingerprint or {}),
    }


def status_view(results: Results, facts: Mapping[str, Any]) -> Group:
    """The same for people."""
    study, counts = results.study, tally(results.records)
    done = sum(n for (_, _, state), n in counts.items() if state in ENDED)
    expected = trial_counts(study)
    per_arm = {
        Phase.SEARCH: expected.search // len(results.arms),
        Phase.SHORTLIST: expected.shortlist // len(results.arms),
        Phase.REPEAT: expected.repeat // len(results.arms),
    }
    best: dict[str, float] = {}
    for record in results.records:
        if record.state is State.COMPLETE and record.outcome is not None:
            value = record.outcome.metrics.get(METRIC_CURVE)
            if value is not None:
                best[record.key.arm] = max(value, best.get(record.key.arm, value))
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(facts["created_at"]))
    lines = [
        ("sweep", f"{facts['name']}: {facts['status']}"),
        ("trials", f"{done} of {facts['total']} ended"),
        ("begun", began),
        ("spent", f"{facts['epochs']} epochs, {duration(facts['worker_seconds'])} of worker time"),
        ("reproducible", "yes" if facts["reproducible"] else f"no: {why_not_reproducible(results.study)}"),
    ]
    if facts["hosts"]:
        lines.append(("trained by", f"{', '.join(facts['workers'])} on {', '.join(facts['hosts'])}"))
    table = status_table(arms=[(arm.id, arm.label) for arm in results.arms], counts=counts, expected=per_arm, best=best)
    return Group(facts_table(lines), Text(""), table)


def trial_facts(results: Results, record: TrialRecord) -> dict[str, Any]:
    """One trial, ready for JSON."""
    outcome = record.outcome
    return {
        "trial": str(record.key),
        "arm": dict(results.arm(record.key.arm).values),
        "state": str(record.state),
        "seed": record.seed,
        "attempts": record.attempts,
        "hyperparameters": dict(results.hyperparameters(record)),
        "files": dict(record.files),
        **({} if outcome is None else outcome_facts(outcome)),
    }


# -------------------------------------------------------------------------------------- best, train


def best_facts(results: Results, pick: Pick) -> dict[str, Any]:
    """The pick, ready for JSON."""
    record = results.record(str(pick.trial))
    sure, found = pick.sure, pick.sure.difference
    return {
        "rule": pick.rule,
        "arm": dict(pick.values),
        "tuned": dict(pick.params),
        "trial": str(pick.trial),
        "seed": pick.seed,
        "validation": pick.validation,
        "test": {"mean": pick.test.mean, "low": pick.test.low, "high": pick.test.high, "repeats": pick.test.count},
        "why": pick.why,
        "gave_up": pick.gave_up,
        "sure": {
            "text": sure.text,
            "led": sure.led,
            "searches": sure.searches,
            "probability": sure.probability,
            "rival": sure.rival,
            "verdict": sure.verdict,
            "difference": None if found is None else {"mean": found.mean, "low": found.low, "high": found.high},
            "more_replicates": sure.more_replicates,
        },
        "front": [
            {"arm": dict(point.values), "objectives": dict(point.objectives), "taken": point.taken}
            for point in pick.front
        ],
        "hyperparameters": dict(results.hyperparameters(record)),
    }


def best_view(results: Results, pick: Pick) -> Group:
    """The pick for people."""
    test = f"{pick.test.mean:.2f} nats per image"
    if pick.test.low is not None:
        level = 100 * (1 - results.comparison.alpha)
        test += f", {level:g}% interval [{pick.test.low:.2f}, {pick.test.high:.2f}]"
    test += f" over {pick.test.count} fresh training{'' if pick.test.count == 1 else 's'} of it"
    record = results.record(str(pick.trial))
    missing = results.comparison.missing_repeats
    provisional = [("provisional", f"{missing} repeats are still to come; all of this may change")] if missing else []
    facts = facts_table(
        [
            *provisional,
            ("take", f"{pick.label} with {params_text(pick.params) or 'nothing tuned'}"),
            ("why", pick.why),
            ("gave up", pick.gave_up),
            ("how sure", pick.sure.text),
            (results.comparison.metric, test),
            ("trained as", str(pick.trial)),
            ("all", params_text(results.hyperparameters(record))),
        ]
    )
    return Group(facts, Text(""), front_table(pick.front)) if pick.front else Group(facts)


def outcome_facts(outcome: TrialOutcome) -> dict[str, Any]:
    """How a training ended, ready for JSON: numbers only, no times."""
    return {
        "ended": str(outcome.state),
        "cause": outcome.cause,
        "epochs": outcome.epochs,
        "metrics": dict(outcome.metrics),
        "curves": {name: list(values) for name, values in outcome.curves.items()},
    }


def outcome_view(outcome: TrialOutcome, folder: Path, same: bool | None) -> Group:
    """How a training ended, for people."""
    facts = [("state", str(outcome.state)), ("epochs", str(outcome.epochs))]
    if outcome.cause:
        facts.append(("cause", outcome.cause))
    facts += [(name, f"{value:.4f}") for name, value in sorted(outcome.metrics.items())]
    if same is not None:
        other = "OTHER numbers than in the ledger: another processor, device or version? `status --json` has them"
        facts.append(("ledger", "the same numbers, to the last bit" if same else other))
    facts.append(("written to", str(folder)))
    values = outcome.curves.get(METRIC_CURVE, ())
    plot = [Text(f"\n{METRIC_CURVE} by epoch", style="bold"), Text("\n".join(curve(values)))] if len(values) > 1 else []
    return Group(facts_table(facts), *plot)
