"""The study file's sections as typed, frozen models; how they are written and hashed.

Every hyperparameter is declared once, in `ModelSection` or `TrainSection`, marked `Structural` or
`Numeric` there; roles, domains and packing read their tables from these fields. Says *what* is asked,
never where it runs; knows no arm (space.py), and not how mistakes in a file are found (study_file.py).
What a name stands for is looked up in its kit's own table, when a study is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from .records import Value, canonical_json, digest

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Structural:
    """Marks a hyperparameter that decides shapes or kernels: trials share a pack only if it agrees."""


@dataclass(frozen=True, slots=True)
class Numeric:
    """Marks a hyperparameter of which every slot of a pack has its own value."""


def valid_names() -> Mapping[str, tuple[str, ...]]:
    """What may be named in a study file: field -> names, from the tables of the kits."""
    from .packed.optimizers import OPTIMIZERS
    from .search.study import PRUNERS, SAMPLERS
    from .vae.likelihoods import LIKELIHOODS
    from .vae.networks import ACTIVATIONS, NETWORKS
    from .vae.objectives import OBJECTIVES
    from .vae.scales import SCALES

    tables: dict[str, Mapping[str, Any]] = {
        "scale": SCALES,
        "network": NETWORKS,
        "activation": ACTIVATIONS,
        "likelihood": LIKELIHOODS,
        "objective": OBJECTIVES,
        "optimizer": OPTIMIZERS,
        "sampler": SAMPLERS,
        "pruner": PRUNERS,
    }
    return {field: tuple(table) for field, table in tables.items()}


TRUSTED = "read from the ledger"
"""Validation context in which names are not looked up again: that would load torch."""


def _named(field: str) -> AfterValidator:
    def check(name: str | None, info: ValidationInfo) -> str | None:
        if info.context == TRUSTED or name is None:
            return name
        if name not in (valid := valid_names()[field]):
            raise PydanticCustomError("unknown_name", "be a known name", {"what": field, "valid": valid})
        return name

    return AfterValidator(check)


def _part(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError("must be a fraction or a count above zero")
    return value


def _value(value: Any) -> Value:
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return tuple(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("must be a plain value or a list of whole numbers")


def _number(value: Any) -> Any:
    # YAML 1.1 wants a dot and a signed exponent: PyYAML reads 1e-3 as text.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 is the same value and must have the same digest


def _safe_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        rule = "must be 1 to 64 letters, digits, `_`, `.` or `-`, the first a letter or digit"
        raise ValueError(f"{rule} (it names a folder and an experiment)")
    return name


def _version(version: int) -> int:
    if version != 1:
        raise ValueError("must be 1, the version this program reads")
    return version


Real = Annotated[
    float,
    BeforeValidator(_number),
    Field(strict=True, allow_inf_nan=False),
    AfterValidator(_positive_zero),
]
Text = Annotated[str, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Whole = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Part = Annotated[float | int, PlainValidator(_part)]
Flag = Annotated[bool, Field(strict=True)]
Loose = Annotated[Value, PlainValidator(_value)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FloatDomain(_Section):
    """A range of real numbers."""

    low: Real
    high: Real
    log: Flag = False
    """search the logarithm"""
    step: Annotated[Real | None, Field(gt=0)] = None
    """only low, low + step, ... up to high"""

    @property
    def size(self) -> int | None:
        """How many values it has; None for a continuum."""
        if self.step is None:
            return None
        low, high, step = (Fraction(repr(number)) for number in (self.low, self.high, self.step))
        return (high - low) // step + 1

    def contains(self, value: Value) -> bool:
        """Whether `value` lies in the domain (and on its steps)."""
        if not isinstance(value, float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9 * max(1.0, steps)


class IntDomain(_Section):
    """A range of whole numbers."""

    low: Annotated[int, Field(strict=True)]
    high: Annotated[int, Field(strict=True)]
    log: Flag = False
    """search the logarithm"""
    step: Count = 1
    """only low, low + step, ... up to high"""

    @property
    def size(self) -> int | None:
        """How many values it has."""
        return (self.high - self.low) // self.step + 1

    def contains(self, value: Value) -> bool:
        """Whether `value` lies in the domain (and on its steps)."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and value in range(self.low, self.high + 1, self.step)


class ChoiceDomain(_Section):
    """Values without an order."""

    choices: tuple[Loose, ...]

    @property
    def size(self) -> int | None:
        """How many values it has."""
        return len(self.choices)

    def contains(self, value: Value) -> bool:
        """Whether `value` is one of the choices."""
        return canonical_json(value) in map(canonical_json, self.choices)


Domain = FloatDomain | IntDomain | ChoiceDomain
"""The values among which the sampler chooses one for every trial."""


class DataSection(_Section):
    """Which images, as what kind of numbers, and how they are divided."""

    name: Text | None = None
    """a bundled data set, such as `digits`"""
    path: Text | None = None
    """the user's own .npz or .npy instead; seen from the study file's folder"""
    form: Literal["counts", "binarised", "grey"] = "counts"
    """counts 0..levels, black and white, or real numbers"""
    levels: Count | None = None
    """highest count of a pixel; None: the data set's own"""
    split: tuple[Part, Part, Part] = (0.7, 0.15, 0.15)
    """train, validation, test: fractions that sum to 1, or numbers of images"""
    split_seed: Seed | None = None
    """None: the study's seed"""


class ModelSection(_Section):
    """What is trained; values given here are fixed."""

    network: Annotated[Text, _named("network"), Structural()] = "mlp"
    hidden: Annotated[tuple[Count, ...], Structural()] = (128,)
    """widths of the encoder's layers, input to latent; the decoder mirrors them"""
    activation: Annotated[Text, _named("activation"), Structural()] = "relu"
    latent_dim: Annotated[Count, Structural()] = 8
    scale: Annotated[Text, _named("scale"), Numeric()] = "log_variance"
    """how the encoder's raw output becomes the posterior's σ"""
    initial_sigma: Annotated[Real | None, Field(gt=0), Numeric()] = None
    """the posterior's σ that the scale's bias starts from; None: torch's own bias, as most code ships"""
    likelihood: Annotated[Text | None, _named("likelihood"), Structural()] = None
    """None: the natural one for the data's kind"""
    observation_std: Annotated[Real, Field(gt=0), Numeric()] = 1.0
    """σ of p(x|z), in the data's units; read by the gaussian likelihood only"""


class TrainSection(_Section):
    """How it is trained; values given here are fixed."""

    objective: Annotated[Text, _named("objective"), Numeric()] = "elbo"
    beta: Annotated[Real, Field(ge=0), Numeric()] = 1.0
    """weight of the rate; read by the beta objective only"""
    beta_warmup_epochs: Annotated[Whole, Numeric()] = 0
    """epochs over which the rate's weight rises from zero"""
    epochs: Annotated[Count, Numeric()] = 50
    batch_size: Annotated[Count, Structural()] = 64
    optimizer: Annotated[Text, _named("optimizer"), Structural()] = "adam"
    learning_rate: Annotated[Real, Field(gt=0), Numeric()] = 1e-3
    weight_decay: Annotated[Real, Field(ge=0), Numeric()] = 0.0
    momentum: Annotated[Real, Field(ge=0, lt=1), Numeric()] = 0.0
    """read by sgd only"""
    adam_beta1: Annotated[Real, Field(ge=0, lt=1), Numeric()] = 0.9
    adam_beta2: Annotated[Real, Field(ge=0, lt=1), Numeric()] = 0.999
    adam_epsilon: Annotated[Real, Field(gt=0), Numeric()] = 1e-8
    seed: Seed | None = None
    """seed of a single training; a sweep derives one for every trial from the study's seed"""
    dtype: Annotated[Literal["float32", "float64"], Structural()] = "float32"


class SearchSection(_Section):
    """How every arm is tuned."""

    sampler: Annotated[Text, _named("sampler")] = "tpe"
    trials: Count | None = None
    """per search; None: 16, a grid's size, or 1 where there is nothing to tune"""
    startup: Count = 6
    """random trials before the model proposes"""
    lag: Count = 4
    """trial n of a model-based sampler is asked with exactly trials 0..n-lag told"""
    replicates: Count = 3
    """independent searches of every arm: the unit that statements about arms rest on"""
    streams: Literal["common", "independent"] = "common"
    """common: all arms draw the same random numbers; independent: each its own, as tests of the comparison need"""
    pruner: Annotated[Text, _named("pruner")] = "none"
    pruner_startup: Whole = 4
    """complete trials before the stopping rule may stop one"""
    pruner_warmup_epochs: Whole = 5
    """epochs that every trial gets"""
    metric: Literal["val/elbo"] = "val/elbo"
    """taken at the last epoch, nats per image, maximised"""
    start: tuple[dict[str, Loose], ...] = ()
    """nuisance values of the first trials; what is left out is drawn"""


class ConfirmSection(_Section):
    """How a search's configuration is chosen and measured."""

    candidates: Count = 3
    """best trials that are trained again on fresh seeds"""
    candidate_seeds: Count = 2
    """fresh seeds for each of them"""
    repeats: Count = 3
    """trainings of the chosen configuration that are measured on test data"""


class CompareSection(_Section):
    """How arms are compared."""

    metric: Literal["test/elbo"] = "test/elbo"
    """nats per image, maximised"""
    baseline: dict[str, Loose] = {}
    """scientific values that others are compared with; empty: the first value of the first factor"""
    equivalence_margin_nats: Annotated[Real, Field(ge=0)] = 0.5
    """arms closer than this are equivalent"""
    alpha: Annotated[Real, Field(gt=0, lt=1)] = 0.05
    """error rate over all comparisons"""


class Study(_Section):
    """One study file. From `load_study`, everything that depends on something else is explicit."""

    version: Annotated[int, Field(strict=True), AfterValidator(_version)]
    name: Annotated[Text, AfterValidator(_safe_name)]
    question: Text = ""
    seed: Seed = 0
    data: DataSection
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    scientific: dict[str, tuple[Loose, ...]] = {}
    """factor -> values; every combination is an arm"""
    nuisance: dict[str, Domain] = {}
    """tuned inside every search; sorted by name, for the sampler's draws depend on the order"""
    search: SearchSection = SearchSection()
    confirm: ConfirmSection = ConfirmSection()
    compare: CompareSection = CompareSection()

    @property
    def is_single(self) -> bool:
        """Whether nothing varies: one configuration, for `train` only."""
        return not self.scientific and not self.nuisance


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One row of HYPERPARAMETERS."""

    section: Literal["model", "train"]
    type: Any
    """int and float can be searched over a range, all others by choice"""
    structural: bool


def _hyperparameters(section: Literal["model", "train"]) -> dict[str, Hyperparameter]:
    fields = Study.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
    return {
        name: Hyperparameter(section, info.annotation, Structural() in info.metadata)
        for name, info in fields.items()
        if Structural() in info.metadata or Numeric() in info.metadata
    }


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {**_hyperparameters("model"), **_hyperparameters("train")}
"""Everything that may carry a role, read off the marks in the two sections."""


def load_study(path: Path, sets: Sequence[str] = ()) -> Study:
    """The study of the file `path` with each `section.field=value` of `sets` put over it.

    Raises StudyFileError with all mistakes at once.
    """
    from .study_file import load  # it reads the models above

    return load(path, sets)


def study_mapping(study: Study) -> dict[str, Any]:
    """The study in plain values, complete and in field order.

    A hyperparameter with a role is left out of `model` and `train`: its value there is not used.
    """
    plain: dict[str, Any] = study.model_dump(mode="json")
    for name in (*study.scientific, *study.nuisance):
        del plain[HYPERPARAMETERS[name].section][name]
    return plain


def dump_study(study: Study) -> str:
    """YAML that `load_study` reads back to an equal study."""
    plain = study_mapping(study)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def resolved(study: Study, *, data_sha256: str, data_id: str, **facts: Any) -> dict[str, Any]:
    """All that decides a sweep's numbers: the complete study and what its data are; ready for JSON.

    `facts`: what readers want to know of the data without loading them, such as the number of pixels.
    """
    plain = study_mapping(study)
    plain["data"] |= {"sha256": data_sha256, "id": data_id, **facts}
    return plain


def study_of(resolved: Mapping[str, Any]) -> Study:
    """The study of a `resolved` one, without looking names up again."""
    plain = dict(resolved)
    plain["data"] = {key: value for key, value in resolved["data"].items() if key in DataSection.model_fields}
    plain["nuisance"] = {name: _domain(name, domain) for name, domain in resolved["nuisance"].items()}
    return Study.model_validate(plain, context=TRUSTED)


def _domain(name: str, plain: Mapping[str, Any]) -> Domain:
    if "choices" in plain:
        return ChoiceDomain(**plain)
    return IntDomain(**plain) if HYPERPARAMETERS[name].type is int else FloatDomain(**plain)


def _question(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, whatever it is called. The data are their digest, not where they came from."""
    asked = {key: value for key, value in resolved.items() if key not in ("name", "question")}
    unasked = ("name", "path", "id", "kind", "pixels", "images")
    asked["data"] = {k: v for k, v in resolved["data"].items() if k not in unasked}
    # Studies from before there was a choice had common streams: the same question.
    asked["search"] = {k: v for k, v in resolved["search"].items() if (k, v) != ("streams", "common")}
    return asked


def study_hash(resolved: Mapping[str, Any]) -> str:
    """Digest of a `resolved` study, the same for equal questions.

    Left out: the name, the question's wording, where the data came from, the order of factors.
    """
    return digest(_question(resolved))


def study_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One `path: old -> new` line per value that makes the hashes of two `resolved` studies differ."""
    before, after = _flat(_question(old)), _flat(_question(new))
    return [
        f"{path}: {before.get(path, '(absent)')} -> {after.get(path, '(absent)')}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, inner in value.items():
        path = f"{prefix}{key}"
        flat |= _flat(inner, f"{path}.") if isinstance(inner, Mapping) and inner else {path: repr(inner)}
    return flat
