"""What a study spans: its arms, the hyperparameters and seed of every trial, how many trials there are.

Also the defaults and the rules that tie one section to another. Pure functions of a Study; knows no
file, no sampler and no result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from .config import HYPERPARAMETERS, SearchSection, Study, TrainSection
from .errors import StudyFileError, UserError
from .records import Params, Phase, Value, canonical_json, derive_seed, digest
from .study_file.values import ChoiceDomain, FloatDomain

if TYPE_CHECKING:
    from .data.dataset import DataSet

MAX_ARMS = 10_000
MAX_TRIALS = 1_000_000
"""of one search"""
DEFAULT_TRIALS = 16

KIND_OF_FORM: Mapping[str, str] = {
    "counts": "counts",
    "binarised": "binary",
    "binary_sampled": "binary",
    "grey": "real",
    "dequantised": "real",
}
"""what `data.form` makes of the images -> the kind of data a likelihood must take"""

_WHY_NOT = {
    ("bernoulli", "real"): "a cross-entropy on grey levels is no likelihood",
    ("bernoulli", "counts"): "a count has more than two values",
    ("binomial", "real"): "grey levels are no counts",
    ("continuous_bernoulli", "binary"): "its density lies between 0 and 1, not on them; take bernoulli",
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
    from .search.study import waits_for_results

    search, trials = study.search, search_trials(study)
    lagged = waits_for_results(search.sampler, search.pruner)
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
    yield from _scale_rules(study)
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
            likelihood = LIKELIHOODS.find(name)
            if likelihood is None or kind not in likelihood.kinds:
                why = _WHY_NOT.get((str(name), kind), f"it is a density or mass of other data than {kind}")
                rule = f"must be a likelihood for `form: {study.data.form}`, got {name!r}: {why}"
                yield BrokenRule(path, f"{rule}; valid: {', '.join(valid)}", ("data.form",))


_PART_OF = {"beta_warmup_epochs": "warmup", "beta_cycles": "warmup", "capacity_epochs": "capacity"}
"""a hyperparameter -> the number of an objective that it is a part of"""


def _objective_rules(study: Study) -> Iterator[BrokenRule]:
    """What no objective of the study reads must be left as it is: else a sweep would search what changes nothing."""
    from .vae.objectives import NUMBERS, OBJECTIVES

    ((where, named),) = _values(study, "objective").items()
    objectives = [objective for name in named if (objective := OBJECTIVES.find(name)) is not None]
    for name in (*NUMBERS, *_PART_OF):
        number = _PART_OF.get(name, name)
        if not objectives or any(number in objective.reads for objective in objectives):
            continue
        readers = [other for other, objective in OBJECTIVES.items() if number in objective.reads]
        unread = TrainSection.model_fields[name].default
        text = f"must be {unread:g} with {_listed(named)}, which does not read it"
        remedy = f"set `train.objective` to {' or '.join(readers)}"
        reads = (where, "nuisance.objective")
        roles = [role for role in ("scientific", "nuisance") if name in getattr(study, role)]
        if roles:
            yield BrokenRule(f"{roles[0]}.{name}", f"{text}; {remedy}, or drop the role", reads)
        elif (value := getattr(study.train, name)) != unread:
            yield BrokenRule(f"train.{name}", f"{text}, got {value:g}; {remedy}", reads)
    if study.train.beta_cycles and study.train.beta_warmup_epochs:
        text = "the rate's weight rises either once or in cycles; set one of them to 0"
        yield BrokenRule("train.beta_cycles", text, ("train.beta_warmup_epochs",))


def _scale_rules(study: Study) -> Iterator[BrokenRule]:
    """Every σ that a trial may be told to start from must be one that its scale reaches."""
    from .vae.scales import SCALES

    ((where, scales),) = _values(study, "scale").items()
    ((_, protocols),) = _values(study, "protocol").items()
    ((given, sigmas),) = _values(study, "initial_sigma").items()
    domain = study.nuisance.get("initial_sigma")
    if isinstance(domain, FloatDomain):
        sigmas = (domain.low, domain.high)
    starts = {
        1.0 if sigma is None else float(str(sigma)) for sigma in sigmas if sigma is not None or _matches(protocols)
    }
    for name in scales:
        scale = SCALES.find(name)
        missed = sorted(sigma for sigma in starts if scale is not None and not scale.reaches(sigma))
        if scale is not None and missed:
            bounds = f"{scale.lowest:.4g} < σ < {scale.highest:.4g}" if name != "fixed" else "σ = 1"
            text = f"{name} has {bounds}, but trials would start from σ = {missed[0]:g}"
            yield BrokenRule(
                where, f"{text}; set model.initial_sigma to what all scales reach", (given, "train.protocol")
            )


def _matches(protocols: tuple[Value, ...]) -> bool:
    return any(protocol != "as_shipped" for protocol in protocols)


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
    if search.sampler == "cmaes":
        yield from _cmaes_rules(study)
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
    yield from _pruner_rules(study)


def _cmaes_rules(study: Study) -> Iterator[BrokenRule]:
    for name, domain in study.nuisance.items():
        if isinstance(domain, ChoiceDomain) and len(domain.choices) > 1:
            text = f"cmaes needs ranges of numbers, got the choice {domain}; give a range or take another sampler"
            yield BrokenRule(f"nuisance.{name}", text, ("search.sampler",))


def _pruner_rules(study: Study) -> Iterator[BrokenRule]:
    """What the stopping rule does not read must be left as it is."""
    from .search.pruners import PRUNERS

    search, named = study.search, study.search.pruner
    for name in [field for field in SearchSection.model_fields if field.startswith("pruner_")]:
        value, unread = getattr(search, name), SearchSection.model_fields[name].default
        if named in PRUNERS and name not in PRUNERS[named].reads and value != unread:
            readers = [rule for rule, pruner in PRUNERS.items() if name in pruner.reads]
            text = f"must be left out with {named}, which does not read it, got {value:g}"
            remedy = f"it is for the stopping rule {' or '.join(readers)}"
            yield BrokenRule(f"search.{name}", f"{text}; {remedy}", ("search.pruner",))
    if named == "threshold" and search.pruner_threshold_nats is None:
        text = "is required by the threshold rule: give the nats per image below which a trial stops, such as -150"
        yield BrokenRule("search.pruner_threshold_nats", text, ("search.pruner",))


MAX_NETWORKS_TRIED = 32
SIZED = ("conv",)
"""networks whose `hidden` is what may not fit"""


def refuse_networks(study: Study, dataset: DataSet) -> None:
    """Raises StudyFileError where networks of the study cannot be trained on these images.

    What is built is thrown away; at most MAX_NETWORKS_TRIED different ones. The rest is found when it is trained.
    """
    from .vae.admission import admit
    from .vae.model import build_vae

    names = ("network", "hidden", "activation", "likelihood", "latent_dim")
    places = [next(iter(_values(study, name))) for name in names]
    choices = [
        next(iter(_values(study, name).values())) or (getattr(study.nuisance[name], "low", 1),) for name in names
    ]
    problems = dict[str, None]()
    trained = (values for values in product(*choices) if values[0] != "mlp")  # which fits whatever there is
    for values in islice(trained, MAX_NETWORKS_TRIED):
        given: dict[str, Any] = dict(zip(names, values, strict=True))
        try:
            images: dict[str, Any] = {
                "pixels": dataset.pixels,
                "image_shape": dataset.image_shape,
                "levels": dataset.levels,
            }
            admit(build_vae(posterior="diagonal", **images, **given), dataset.pixels)
        except UserError as error:
            place = places[1] if given["network"] in SIZED else places[0]
            problems[f"{place}: {error}"] = None
    if problems:
        raise StudyFileError(study.name, list(problems))


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
