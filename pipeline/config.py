"""The study file's sections as typed, frozen models; how they are written.

Every hyperparameter is declared once, in `ModelSection` or `TrainSection`, marked `Structural` or
`Numeric` there; roles, domains and packing read their tables from these fields. Says *what* is asked,
never where it runs; knows no arm (space.py), and not how mistakes in a file are found or what its
hash is (study_file/).
What a name stands for is looked up in its kit's own table, when a study is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from .errors import UserError
from .own_code import admit, digests, is_own
from .study_file.values import (
    TRUSTED,
    ChoiceDomain,
    Count,
    Domain,
    FloatDomain,
    IntDomain,
    Loose,
    Part,
    Real,
    Section,
    Seed,
    Text,
    Whole,
    known_version,
    safe_name,
)


@dataclass(frozen=True, slots=True)
class Structural:
    """Marks a hyperparameter that decides shapes or kernels: trials share a pack only if it agrees."""


@dataclass(frozen=True, slots=True)
class Numeric:
    """Marks a hyperparameter of which every slot of a pack has its own value."""


OWN = ("network", "posterior", "scale", "likelihood", "objective")
"""Hyperparameters whose value may be code of the user's own, `package.module:name`; so may `data.name`."""


def _tables() -> Mapping[str, Mapping[str, Any]]:
    """Where a name is looked up: study-file field -> table of a kit."""
    from .packed.optimizers import OPTIMIZERS
    from .search.pruners import PRUNERS
    from .search.samplers import SAMPLERS
    from .vae.likelihoods import LIKELIHOODS
    from .vae.networks import ACTIVATIONS, NETWORKS
    from .vae.objectives import OBJECTIVES
    from .vae.posterior import POSTERIORS
    from .vae.scales import SCALES

    return {
        "posterior": POSTERIORS,
        "scale": SCALES,
        "network": NETWORKS,
        "activation": ACTIVATIONS,
        "likelihood": LIKELIHOODS,
        "objective": OBJECTIVES,
        "optimizer": OPTIMIZERS,
        "sampler": SAMPLERS,
        "pruner": PRUNERS,
    }


def valid_names() -> Mapping[str, tuple[str, ...]]:
    """What may be named in a study file, beside the user's own code: field -> names."""
    return {field: tuple(table) for field, table in _tables().items()}


def _named(field: str) -> AfterValidator:
    def check(name: str | None, info: ValidationInfo) -> str | None:
        if info.context == TRUSTED or name is None:
            return name
        if field in OWN and is_own(name):
            return _own(field, name, info.context)
        if name not in (valid := valid_names()[field]):
            raise PydanticCustomError("unknown_name", "be a known name", {"what": field, "valid": valid})
        return name

    return AfterValidator(check)


def _own(field: str, name: str, folder: Any) -> str:
    """`name` when it is code that can be imported and keeps to its contract; else raises ValueError.

    `folder`: of the study file: nothing else lets code be imported.
    """
    from .vae.contracts import broken_contract

    _admit(name, folder)
    try:
        entry = _tables()[field][name]
    except UserError as error:
        raise ValueError(str(error)) from error
    if broken := broken_contract(field, entry):
        raise ValueError(f"own code must keep to its contract: {broken}")
    return name


def _own_data(name: str | None, info: ValidationInfo) -> str | None:
    if info.context != TRUSTED and is_own(name):
        _admit(str(name), info.context)
    return name


def _admit(name: str, folder: Any) -> None:
    """Lets own code be imported that lies in `folder`, the current one, or on Python's path. Raises ValueError."""
    from .execution.environment import prepare_process

    if not isinstance(folder, Path):
        raise ValueError("code of one's own may only be named by a study file")
    prepare_process()  # own code may compute as soon as it is imported, and MKL reads its settings once
    try:
        admit(name, (folder, Path.cwd()))
    except UserError as error:
        raise ValueError(str(error)) from error


class DataSection(Section):
    """Which images, as what kind of numbers, and how they are divided."""

    name: Annotated[Text | None, AfterValidator(_own_data)] = None
    """a data set of the catalogue, such as `digits`; `openml/ID`; or `package.module:name`, the user's own function"""
    path: Text | None = None
    """the user's own .npz, .npy or folder of images instead; seen from the study file's folder"""
    form: Literal["counts", "binarised", "binary_sampled", "grey", "dequantised"] = "counts"
    """counts 0..levels; black and white, by a threshold or drawn; real numbers, or counts made real by noise"""
    levels: Count | None = None
    """highest count of a pixel; None: the data set's own"""
    side: Count | None = None
    """pixels a side of a patch, where images are patches; None: the data set's own"""
    take: Count | None = None
    """only so many images, drawn by `split_seed`; None: all"""
    split: tuple[Part, Part, Part] = (0.7, 0.15, 0.15)
    """train, validation, test: fractions that sum to 1, or numbers of images"""
    split_seed: Seed | None = None
    """None: the study's seed"""


class ModelSection(Section):
    """What is trained; values given here are fixed."""

    network: Annotated[Text, _named("network"), Structural()] = "mlp"
    """what the encoder and the decoder are made of"""
    hidden: Annotated[tuple[Count, ...], Structural()] = (128,)
    """mlp: widths of the encoder's layers, input to latent; conv: channels of its levels. The decoder mirrors them"""
    activation: Annotated[Text, _named("activation"), Structural()] = "relu"
    """between layers"""
    latent_dim: Annotated[Count, Structural()] = 8
    """size of z"""
    posterior: Annotated[Text, _named("posterior"), Structural()] = "diagonal"
    """which Gaussian q(z|x) is"""
    scale: Annotated[Text, _named("scale"), Numeric()] = "log_variance"
    """how the encoder's raw output becomes the posterior's σ"""
    initial_sigma: Annotated[Real | None, Field(gt=0), Numeric()] = None
    """the posterior's σ that the scale's bias starts from; None: torch's own bias, as most code ships"""
    likelihood: Annotated[Text | None, _named("likelihood"), Structural()] = None
    """None: the natural one for the data's kind"""
    observation_std: Annotated[Real, Field(gt=0), Numeric()] = 1.0
    """σ of p(x|z), in the data's units; read by the gaussian likelihood only"""


class TrainSection(Section):
    """How it is trained; values given here are fixed."""

    objective: Annotated[Text, _named("objective"), Structural()] = "elbo"
    """what a training step minimises"""
    samples: Annotated[Count, Structural()] = 1
    """samples of z per image in a step: K of the importance-weighted objectives"""
    beta: Annotated[Real, Field(ge=0), Numeric()] = 1.0
    """weight of the rate (of the total correlation); read by the objectives beta and tcvae"""
    beta_warmup_epochs: Annotated[Whole, Numeric()] = 0
    """epochs over which the rate's weight rises from zero"""
    beta_cycles: Annotated[Whole, Numeric()] = 0
    """that often the rate's weight rises from zero over the training, each time over half of a cycle"""
    free_bits: Annotated[Real, Field(ge=0), Numeric()] = 0.1
    """nats a latent may carry for nothing; read by the free_bits objective"""
    capacity: Annotated[Real, Field(ge=0), Numeric()] = 10.0
    """nats the rate is drawn to; read by the capacity objective"""
    capacity_epochs: Annotated[Whole, Numeric()] = 0
    """epochs over which the capacity rises from zero"""
    capacity_weight: Annotated[Real, Field(ge=0), Numeric()] = 10.0
    """how strongly the rate is drawn to the capacity"""
    protocol: Annotated[Literal["as_shipped", "sigma0_matched", "jacobian_matched"], Numeric()] = "as_shipped"
    """what is equal between scales: what is written here; also how log σ starts; also how far a step moves it"""
    epochs: Annotated[Count, Numeric()] = 50
    """passes over the training images"""
    batch_size: Annotated[Count, Structural()] = 64
    """images in a step; the last batch of an epoch may be smaller"""
    optimizer: Annotated[Text, _named("optimizer"), Structural()] = "adam"
    """as torch.optim has it, with the numbers below"""
    learning_rate: Annotated[Real, Field(gt=0), Numeric()] = 1e-3
    """the same in all epochs"""
    weight_decay: Annotated[Real, Field(ge=0), Numeric()] = 0.0
    """of all parameters; adamw decouples it from the gradient"""
    momentum: Annotated[Real, Field(ge=0, lt=1), Numeric()] = 0.0
    """read by sgd only"""
    adam_beta1: Annotated[Real, Field(ge=0, lt=1), Numeric()] = 0.9
    """decay of the mean gradient; read by adam and adamw"""
    adam_beta2: Annotated[Real, Field(ge=0, lt=1), Numeric()] = 0.999
    """decay of the mean squared gradient; read by adam and adamw"""
    adam_epsilon: Annotated[Real, Field(gt=0), Numeric()] = 1e-8
    """added to the root of the squared gradient; read by adam and adamw"""
    seed: Seed | None = None
    """seed of a single training; a sweep derives one for every trial from the study's seed"""
    dtype: Annotated[Literal["float32", "float64"], Structural()] = "float32"
    """of all arithmetic in a step; sums over images are always float64"""


class SearchSection(Section):
    """How every arm is tuned."""

    sampler: Annotated[Text, _named("sampler")] = "tpe"
    """what proposes the nuisance values of a trial"""
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
    """stopping rule: which trials end before their last epoch"""
    pruner_startup: Whole = 4
    """complete trials before the stopping rule may stop one; read by the rules that compare trials"""
    pruner_warmup_epochs: Whole = 5
    """epochs that every trial gets"""
    pruner_percentile: Annotated[Real, Field(ge=0, le=100)] = 25.0
    """per cent of the complete trials that are good enough at an epoch; read by the percentile rule"""
    pruner_threshold_nats: Real | None = None
    """a trial whose metric is below it after an epoch stops; read by the threshold rule, which needs it"""
    pruner_patience_epochs: Whole = 5
    """a trial stops when its best of so many epochs and one more is below its best before; read by the patient rule"""
    pruner_min_delta_nats: Annotated[Real, Field(ge=0)] = 0.0
    """and below it by more than this; read by the patient rule"""
    metric: Literal["val/elbo"] = "val/elbo"
    """taken at the last epoch, nats per image, maximised"""
    start: tuple[dict[str, Loose], ...] = ()
    """nuisance values of the first trials; what is left out is drawn"""


class ConfirmSection(Section):
    """How a search's configuration is chosen and measured."""

    candidates: Count = 3
    """best trials that are trained again on fresh seeds"""
    candidate_seeds: Count = 2
    """fresh seeds for each of them"""
    repeats: Count = 3
    """trainings of the chosen configuration that are measured on test data"""


class CompareSection(Section):
    """How arms are compared."""

    metric: Literal["test/elbo"] = "test/elbo"
    """nats per image, maximised"""
    baseline: dict[str, Loose] = Field(default_factory=dict)
    """scientific values that others are compared with; empty: the first value of the first factor"""
    equivalence_margin_nats: Annotated[Real, Field(ge=0)] = 0.5
    """arms closer than this are equivalent"""
    alpha: Annotated[Real, Field(gt=0, lt=1)] = 0.05
    """error rate over all comparisons"""


class Study(Section):
    """One study file. From `load_study`, everything that depends on something else is explicit."""

    version: Annotated[int, Field(strict=True), AfterValidator(known_version)]
    """of this format: 1"""
    name: Annotated[Text, AfterValidator(safe_name)]
    """of the sweep; with the hash of what is asked it identifies it"""
    question: Text = ""
    """in words, for the reader of the results"""
    seed: Seed = 0
    """every random number of the sweep is derived from it"""
    data: DataSection
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    scientific: dict[str, tuple[Loose, ...]] = Field(default_factory=dict)
    """factor -> values; every combination is an arm"""
    nuisance: dict[str, Domain] = Field(default_factory=dict)
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
    from .study_file.reading import load  # it reads the models above

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


def own_names(study: Study) -> list[str]:
    """The user's own code that the study's trials run, `package.module:name` each."""
    values: list[Any] = []
    for name in OWN:
        if name in study.scientific:
            values += study.scientific[name]
        elif name in study.nuisance:
            values += getattr(study.nuisance[name], "choices", ())
        else:
            values.append(getattr(getattr(study, HYPERPARAMETERS[name].section), name))
    return sorted({value for value in values if is_own(value)})


def resolved(study: Study, *, data_sha256: str, data_id: str, **facts: Any) -> dict[str, Any]:
    """All that decides a sweep's numbers: the complete study, what its data are, and the hash of own code; for JSON.

    `facts`: what readers want to know of the data without loading them, such as the number of pixels.
    """
    plain = study_mapping(study)
    plain["data"] |= {"sha256": data_sha256, "id": data_id, **facts}
    if own := own_names(study):
        plain["code"] = digests(own)
    return plain


def study_of(resolved: Mapping[str, Any]) -> Study:
    """The study of a `resolved` one, without looking names up again."""
    plain = {key: value for key, value in resolved.items() if key != "code"}
    plain["data"] = {key: value for key, value in resolved["data"].items() if key in DataSection.model_fields}
    plain["nuisance"] = {name: _domain(name, domain) for name, domain in resolved["nuisance"].items()}
    return Study.model_validate(plain, context=TRUSTED)


def _domain(name: str, plain: Mapping[str, Any]) -> Domain:
    if "choices" in plain:
        return ChoiceDomain(**plain)
    return IntDomain(**plain) if HYPERPARAMETERS[name].type is int else FloatDomain(**plain)
