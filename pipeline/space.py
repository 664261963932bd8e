"""What a study spans: its arms, the hyperparameters and seed of every trial, how many trials there are.

Also the defaults and the rules that tie one section to another. Pure functions of a Study; knows no
file, no sampler and no result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from .config import HYPERPARAMETERS, Study
from .records import Params, Phase, Value, canonical_json, derive_seed, digest

MAX_ARMS = 10_000
MAX_TRIALS = 1_000_000
"""of one search"""
DEFAULT_TRIALS = 16

KIND_OF_FORM: Mapping[str, str] = {"counts": "counts", "binarised": "binary", "grey": "real"}
"""what `data.form` makes of the images -> the kind of data a likelihood must take"""

_WHY_NOT = {
    ("bernoulli", "real"): "a cross-entropy on grey levels is no likelihood",
    ("bernoulli", "counts"): "a count has more than two values",
    ("binomial", "real"): "grey levels are no counts",
}


# --------------------------------------------------------------------------------------------- arms


@dataclass(frozen=True, slots=True)
class Arm:
    """One combination of the scientific values."""

    id: str
    """hash of the values, whatever their position and order"""
    values: dict[str, Value]

    @property
    def label(self) -> str:
        """For people: `scale=log_std latent_dim=2`."""
        return " ".join(f"{name}={_spelled(value)}" for name, value in self.values.items()) or "(one arm)"


def _spelled(value: Value) -> str:
    return "-".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _arm(values: dict[str, Value]) -> Arm:
    return Arm(digest(values), values)


def arms(study: Study) -> tuple[Arm, ...]:
    """Every arm in the file's order, the last factor running fastest; one empty arm without factors."""
    factors = study.scientific
    return tuple(_arm(dict(zip(factors, values, strict=True))) for values in product(*factors.values()))


def baseline_arm(study: Study, arm: Arm) -> Arm:
    """The arm that `arm` is compared with: the study's baseline values put over its own."""
    return _arm({name: study.compare.baseline.get(name, value) for name, value in arm.values.items()})


# ------------------------------------------------------------------------------------------- trials


def hyperparameters(study: Study, arm: Arm, params: Params) -> dict[str, Value]:
    """Every hyperparameter of one trial: fixed ones, then the arm's, then the trial's nuisance values."""
    fixed = {name: getattr(getattr(study, row.section), name) for name, row in HYPERPARAMETERS.items()}
    return {**fixed, **arm.values, **params}


def stream_seed(study: Study, arm: Arm | None) -> int:
    """What an arm's searches and trainings derive their seeds from: the study's seed, so that arms are compared on
    common random numbers, unless the study asks for independent streams."""
    if arm is None or study.search.streams == "common":
        return study.seed
    return derive_seed(study.seed, "stream", arm.id)


def trial_seed(study: Study, phase: Phase, replicate: int, index: int, arm: Arm | None = None) -> int:
    """Seed of a training; the same for all arms where streams are common."""
    if study.train.seed is not None:
        return study.train.seed
    return derive_seed(stream_seed(study, arm), "trial", phase, replicate, index)


# ------------------------------------------------------------------------------------------- counts


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """Trials of a whole sweep, by phase."""

    search: int
    shortlist: int
    repeat: int

    @property
    def total(self) -> int:
        """All phases together."""
        return self.search + self.shortlist + self.repeat


def arm_count(study: Study) -> int:
    """How many arms there are, without building them."""
    return math.prod(len(values) for values in study.scientific.values())


def search_count(study: Study) -> int:
    """How many searches there are: arms times replicates."""
    return arm_count(study) * study.search.replicates


def search_trials(study: Study) -> int:
    """Trials of one search: what is given, a grid's size, 1 without nuisance, else DEFAULT_TRIALS."""
    if study.search.trials is not None:
        return study.search.trials
    if not study.nuisance:
        return 1
    size = grid_size(study) if study.search.sampler == "grid" else None
    return DEFAULT_TRIALS if size is None else size


def grid_size(study: Study) -> int | None:
    """How many combinations the nuisance domains have; None when one is a continuum."""
    sizes = [domain.size for domain in study.nuisance.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def has_shortlist(study: Study) -> bool:
    """Whether there is anything to choose from after a search."""
    return bool(study.nuisance) and study.confirm.candidates > 1


def trial_counts(study: Study) -> TrialCounts:
    """Trials of the whole sweep."""
    searches, confirm = search_count(study), study.confirm
    shortlist = confirm.candidates * confirm.candidate_seeds if has_shortlist(study) else 0
    return TrialCounts(searches * search_trials(study), searches * shortlist, searches * confirm.repeats)


def in_flight_limit(study: Study) -> int:
    """The most trials of the search phase that can run at once: more slots than this stand empty."""
    search, trials = study.search, search_trials(study)
    lagged = search.sampler not in ("random", "qmc", "grid") or search.pruner != "none"
    at_once = min(max(search.startup, search.lag), trials) if lagged else trials
    return search_count(study) * at_once


def most_workers(study: Study) -> int:
    """More workers than this would stand idle in every phase: a trial is trained by one of them."""
    counts = trial_counts(study)
    return max(in_flight_limit(study), counts.shortlist, counts.repeat, 1)


# --------------------------------------------------------------------------------- defaults and rules


def with_defaults(study: Study) -> Study:
    """The study with every default made explicit that depends on another section."""
    from .vae.likelihoods import NATURAL_LIKELIHOOD

    trials = search_trials(study)
    model, data, confirm = study.model, study.data, study.confirm
    if model.likelihood is None and "likelihood" not in (*study.scientific, *study.nuisance):
        model = model.model_copy(update={"likelihood": NATURAL_LIKELIHOOD[KIND_OF_FORM[data.form]]})
    if data.split_seed is None:
        data = data.model_copy(update={"split_seed": study.seed})
    if "candidates" not in confirm.model_fields_set:
        confirm = confirm.model_copy(update={"candidates": min(confirm.candidates, trials)})
    baseline = study.compare.baseline or {
        name: values[0] for name, values in list(study.scientific.items())[:1] if values
    }
    return study.model_copy(
        update={
            "model": model,
            "data": data,
            "search": study.search.model_copy(update={"trials": trials}),
            "confirm": confirm,
            "compare": study.compare.model_copy(update={"baseline": baseline}),
        }
    )


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule between values that are each right by themselves."""

    path: str
    """where in the study file"""
    text: str
    reads: tuple[str, ...] = ()
    """other places the rule looks at"""


def broken_rules(study: Study) -> Iterator[BrokenRule]:
    """Every rule that a study with its defaults breaks."""
    yield from _data_rules(study)
    yield from _role_rules(study)
    yield from _likelihood_rules(study)
    yield from _objective_rules(study)
    yield from _search_rules(study)


def _values(study: Study, name: str) -> dict[str, tuple[Value, ...]]:
    """Every value that a choice-like hyperparameter may take, by the path where it is given."""
    if name in study.scientific:
        return {f"scientific.{name}": study.scientific[name]}
    if name in study.nuisance:
        return {f"nuisance.{name}": getattr(study.nuisance[name], "choices", ())}
    section = HYPERPARAMETERS[name].section
    return {f"{section}.{name}": (getattr(getattr(study, section), name),)}


def _data_rules(study: Study) -> Iterator[BrokenRule]:
    data = study.data
    if (data.name is None) == (data.path is None):
        came = "neither" if data.name is None else "both"
        yield BrokenRule("data.name", f"either `name` or `path` must be given, got {came}", ("data.path",))
    counts = [isinstance(part, int) for part in data.split]
    if any(counts) and not all(counts):
        text = f"must be three fractions or three numbers of images, got a mixture {list(data.split)}"
        yield BrokenRule("data.split", text)
    elif not any(counts) and abs(math.fsum(data.split) - 1) > 1e-9:
        text = f"three fractions must sum to 1, got {list(data.split)}, which sum to {math.fsum(data.split):g}"
        yield BrokenRule("data.split", text)


def _role_rules(study: Study) -> Iterator[BrokenRule]:
    if (count := arm_count(study)) > MAX_ARMS:
        yield BrokenRule("scientific", f"must span at most {MAX_ARMS:,} arms, got {count:,}; drop values")
    for name, value in study.compare.baseline.items():
        known = map(canonical_json, study.scientific[name])
        if canonical_json(value) not in known:
            text = f"must be a value of scientific.{name} ({_listed(study.scientific[name])}), got {value!r}"
            yield BrokenRule(f"compare.baseline.{name}", text, (f"scientific.{name}",))
    for index, start in enumerate(study.search.start):
        for name, value in start.items():
            domain = study.nuisance[name]
            if not domain.contains(value):
                text = f"must lie in its domain ({domain}), got {value!r}"
                yield BrokenRule(f"search.start.{index}.{name}", text, (f"nuisance.{name}",))
    if study.train.seed is not None and not study.is_single:
        text = "is for a single training: with it all repeats would be the same one; set the study's `seed`"
        yield BrokenRule("train.seed", text)


def _likelihood_rules(study: Study) -> Iterator[BrokenRule]:
    from .vae.likelihoods import LIKELIHOODS

    kind = KIND_OF_FORM[study.data.form]
    valid = [name for name, likelihood in LIKELIHOODS.items() if kind in likelihood.kinds]
    for path, names in _values(study, "likelihood").items():
        for name in names:
            if name not in valid:
                why = _WHY_NOT.get((str(name), kind), f"it is a density or mass of other data than {kind}")
                rule = f"must be a likelihood for `form: {study.data.form}`, got {name!r}: {why}"
                yield BrokenRule(path, f"{rule}; valid: {', '.join(valid)}", ("data.form",))


def _objective_rules(study: Study) -> Iterator[BrokenRule]:
    ((where, objectives),) = _values(study, "objective").items()
    if set(objectives) != {"elbo"}:
        return
    reads = (where, "nuisance.objective")
    text = "must be 1 with the elbo, which has no weight on the rate; set `train.objective: beta`"
    if "beta" in study.scientific or "beta" in study.nuisance:
        role = "scientific" if "beta" in study.scientific else "nuisance"
        yield BrokenRule(f"{role}.beta", f"{text}, or drop the role", reads)
    elif study.train.beta != 1:
        yield BrokenRule("train.beta", f"{text}, got {study.train.beta}", reads)


def _search_rules(study: Study) -> Iterator[BrokenRule]:
    search, trials = study.search, search_trials(study)
    given: tuple[str, ...] = ("search.trials", "search.sampler")
    if not study.nuisance or search.sampler == "grid":
        given = (*given, "nuisance")  # the default number of trials depends on it
    if not study.nuisance and trials != 1:
        text = f"must be 1 where nothing is tuned (no `nuisance`), got {trials}; raise confirm.repeats"
        yield BrokenRule("search.trials", text, given)
    if study.nuisance and search.sampler == "grid":
        yield from _grid_rules(study, trials)
    if trials > MAX_TRIALS:
        text = f"a search may have at most {MAX_TRIALS:,} trials, got {trials:,}"
        yield BrokenRule("search.trials", text, given)
    if study.confirm.candidates > trials:
        text = f"must be at most search.trials = {trials}, got {study.confirm.candidates}"
        yield BrokenRule("confirm.candidates", text, given)
    if len(search.start) > trials:
        text = f"must hold at most search.trials = {trials} entries, got {len(search.start)}"
        yield BrokenRule("search.start", text, given)
    if search.pruner != "none" and "epochs" in (*study.scientific, *study.nuisance):
        text = f"a stopping rule compares equal numbers of epochs, got {search.pruner!r} while epochs vary"
        yield BrokenRule("search.pruner", f"{text}; fix train.epochs or take pruner: none")


def _grid_rules(study: Study, trials: int) -> Iterator[BrokenRule]:
    for name, domain in study.nuisance.items():
        if domain.size is None:
            text = f"a grid needs finitely many values, got the continuum {domain}; give a `step` or a list"
            yield BrokenRule(f"nuisance.{name}", text, ("search.sampler",))
    size = grid_size(study)
    if size is not None and trials != size:
        text = f"must be the grid's size {size:,}, got {trials:,}; leave it out"
        yield BrokenRule("search.trials", text, ("search.sampler", "nuisance"))
    if study.search.start:
        yield BrokenRule("search.start", "a grid visits its points in its own order; remove `start`")


def _listed(values: tuple[Value, ...]) -> str:
    return ", ".join(map(_spelled, values))
