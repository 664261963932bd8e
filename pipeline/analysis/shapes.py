"""The results of the analyses: frozen records that tables, figures and data frames are made from. All in nats."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Params


@dataclass(frozen=True, slots=True)
class Band:
    """A simultaneous confidence band of a tuning curve, by OPDA: for independent draws at random only.

    It is about the best of so many random trials; an infinite value is one that nobody converged to.
    """

    trials: tuple[int, ...]
    """1, 2, ... up to the random trials of one search"""
    low: tuple[float, ...]
    """-inf where the data bound nothing"""
    median: tuple[float, ...]
    """point estimate of the median of the best of so many random trials"""
    high: tuple[float, ...]
    """inf where the data bound nothing: soon, if there are few"""
    confidence: float
    draws: int
    """random trials that it rests on, over all replicates"""


@dataclass(frozen=True, slots=True)
class TuningCurve:
    """Best validation value so far of an arm's searches, by trials and by epochs spent."""

    arm: str
    trials: tuple[int, ...]
    """1, 2, ... up to the trials of one search; in an unfinished sweep as far as all its searches are"""
    epochs: tuple[float, ...]
    """mean epochs spent after so many trials of one search"""
    mean: tuple[float | None, ...]
    """over replicates; None before every replicate has a value"""
    low: tuple[float | None, ...]
    """t interval over replicates; None with one"""
    high: tuple[float | None, ...]
    band: Band | None
    """None where no trials were drawn at random"""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the nuisance space is nearly as good as the best."""

    within: float
    """nats below the arm's best validation value; the same steps in all arms"""
    share: float
    low: float
    """Clopper-Pearson interval"""
    high: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How easy an arm is to tune: shares of the nuisance space, by independent draws from it."""

    arm: str
    draws: int
    """random trials of all replicates that the shares rest on; diverged ones count as not within"""
    best: float | None
    """highest validation value of all the arm's search trials"""
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class SearchPoint:
    """One ended search trial, for scatter plots over a nuisance parameter."""

    arm: str
    replicate: int
    number: int
    params: Params
    value: float | None
    """last validation value; None where it diverged or failed"""
    at_random: bool
    """drawn independently of all others: not given, nor of a grid or sequence, nor proposed by a model"""


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of the spread of validation values a nuisance parameter explains; an arm's sum to 1."""

    arm: str
    parameter: str
    importance: float


@dataclass(frozen=True, slots=True)
class VarianceSplit:
    """Where the spread of an arm's test values comes from: standard deviations, nats."""

    arm: str
    search: float | None
    """between independent searches; None with one, or with one repeat each"""
    training_seed: float | None
    """between repeats of one configuration; None with one repeat each"""
    images: float | None
    """standard error of a mean over these test images, common to all arms; None where it was not recorded"""


@dataclass(frozen=True, slots=True)
class Optimism:
    """How much the search's best promised that fresh trainings of it did not keep; mean over replicates."""

    arm: str
    search_best: float
    """highest validation value of a search"""
    repeated: float
    """mean validation value of the chosen configuration's repeats"""
    gap: float
    low: float | None
    """t interval over replicates; None with one"""
    high: float | None


@dataclass(frozen=True, slots=True)
class RateDistortion:
    """One converged repeat in the rate-distortion plane (Alemi et al. 2018, arXiv 1711.00464), on test images."""

    arm: str
    replicate: int
    number: int
    rate: float
    distortion: float


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything of one sweep; each field in the order of the study's arms, without those that have nothing yet."""

    tuning: tuple[TuningCurve, ...]
    sensitivity: tuple[Sensitivity, ...]
    points: tuple[SearchPoint, ...]
    importances: tuple[Importance, ...]
    variance: tuple[VarianceSplit, ...]
    optimism: tuple[Optimism, ...]
    rate_distortion: tuple[RateDistortion, ...]
