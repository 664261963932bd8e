"""A sweep's results as pandas data frames, for notebooks: `from pipeline import load_sweep`.

Reads the ledger once and trials' files when asked; writes nothing, and computes nothing that the comparison and the
analyses have not. Every frame has the columns of its table below, in that order and of those types, also where it has
no row. A number that is not there is NaN, a text <NA>. Nats are nats per image; metrics keep their names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from .analysis import Analysis, analyse
from .comparison import Estimate, metric_value
from .config import Study
from .launch.where import Where, open_ledger
from .paths import WorkPaths
from .picking import Pick, where_text
from .records import ENDED, Params, Phase, TrialRecord, Value
from .report.gallery import Gallery
from .results import Results, load_results

Columns = Mapping[str, str]
"""column -> dtype"""

ARM: Columns = {"arm": "string", "label": "string"}
"""id and label, in all frames"""
KEY: Columns = {"trial": "string", **ARM, "replicate": "int64", "phase": "string", "number": "int64"}
INTERVAL: Columns = {"low": "float64", "high": "float64"}

ARMS: Columns = {
    **ARM,
    "baseline": "string",  # label of the matched baseline arm; its own if it is one
    "mean": "float64",  # of compare.metric; the interval's basis is in `basis`
    **INTERVAL,
    "sd": "float64",
    "count": "int64",  # values behind the mean
    "basis": "string",
    "bits_per_dim": "float64",
    "repeats_lost": "int64",
    "search_epochs": "int64",
    "shortlist_epochs": "int64",
    "repeat_epochs": "int64",
}
"""One row an arm; then a column for each scientific factor."""
PAIRS: Columns = {
    **ARM,
    "baseline": "string",
    "difference": "float64",  # arm minus baseline
    **INTERVAL,
    "p_holm": "float64",
    "equivalence_p_holm": "float64",
    "verdict": "string",
    "basis": "string",
    "inside_margin": "bool",
    "more_replicates": "Int64",
}
"""One row for each arm with a baseline; then a column for each scientific factor."""
TRIALS: Columns = {
    **KEY,
    "state": "string",
    "value": "float64",  # search.metric after the last epoch; none where it diverged, failed or has not ended
    "epochs_done": "int64",
    "seed": "int64",
    "cause": "string",  # why it diverged, stopped or failed
    "worker_seconds": "float64",
}
"""One row a trial, ended or not; then a column for each scientific factor and each nuisance parameter."""
CURVES: Columns = {**KEY, "epoch": "int64", "metric": "string", "value": "float64"}
"""One row for each metric of each finished epoch of each ended trial."""
REPEATS: Columns = {**KEY, "state": "string"}
"""One row for each ended repeat; then a column for each final metric, `test/elbo` and the others."""
TUNING: Columns = {**ARM, "trials": "int64", "epochs": "float64", "mean": "float64", **INTERVAL}
"""Best validation value so far: one row for each arm and number of trials."""
BANDS: Columns = {
    **ARM,
    "trials": "int64",
    "low": "float64",
    "median": "float64",
    "high": "float64",
    "confidence": "float64",
    "draws": "int64",
}
"""What so many random trials would reach, by OPDA; bounds are infinite where the draws bound nothing."""
SENSITIVITY: Columns = {
    **ARM, "within_nats": "float64", "share": "float64", **INTERVAL, "draws": "int64", "best": "float64"
}  # fmt: skip
"""Share of the nuisance space within so many nats of an arm's best."""
IMPORTANCES: Columns = {**ARM, "parameter": "string", "importance": "float64"}
VARIANCE: Columns = {**ARM, "search": "float64", "training_seed": "float64", "images": "float64"}
"""Standard deviations."""
OPTIMISM: Columns = {**ARM, "search_best": "float64", "repeated": "float64", "gap": "float64", **INTERVAL}
RATE_DISTORTION: Columns = {
    **ARM, "replicate": "int64", "number": "int64", "rate": "float64", "distortion": "float64"
}  # fmt: skip
SIGMAS: Columns = {**KEY, "log10_low": "float64", "log10_high": "float64", "count": "int64"}
"""Histogram of the posterior's σ over test images and latents, for each repeat that kept one."""
FILES: Columns = {**KEY, "file": "string", "path": "string"}
"""One row for each file of a trial: pictures, weights."""


def load_sweep(name: str, workdir: Path) -> LoadedSweep:
    """Reads one sweep from the ledger of `workdir`, or of VAE_SWEEP_DATABASE_URL where that is set.

    Raises UserError when there is no such sweep, LedgerError when the ledger cannot be read.
    """
    where = Where(WorkPaths.at(workdir))
    with open_ledger(where) as ledger:
        return LoadedSweep(load_results(ledger, name), where.paths)


class LoadedSweep:
    """One sweep as its ledger had it when it was loaded. Each frame is made when it is first asked for."""

    def __init__(self, results: Results, paths: WorkPaths) -> None:
        self.results = results
        """the records that all frames are made from"""
        self._paths = paths
        self._label = {arm.id: arm.label for arm in results.arms}

    def __repr__(self) -> str:
        return f"<sweep {self.name!r}: {len(self._label)} arms, {len(self.results.records)} trials>"

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.results.sweep.name

    @property
    def study(self) -> Study:
        """What was asked, every default explicit."""
        return self.results.study

    def best(self, rule: str = "max", where: Params | None = None, objectives: Sequence[str] = ()) -> Pick:
        """The configuration to take and why, as `vae-sweep best`.

        rule: `max`, `one_se`, `pareto` (by `objectives`) or `robust`; where: only arms with these scientific values.
        Raises UserError for another rule or for values that no arm has.
        """
        return self.results.pick(rule, [where_text(where)] if where else [], objectives)

    @cached_property
    def figures(self) -> Gallery:
        """Plotly figures of this sweep by name: `sweep.figures.differences().show()`."""
        return Gallery(self)

    @cached_property
    def analysis(self) -> Analysis:
        """The records that tuning, sensitivity and the like are made from."""
        return analyse(self.results)

    # ------------------------------------------------------------------------------------- results

    @cached_property
    def arms(self) -> pd.DataFrame:
        """Every arm and how it did: ARMS."""
        rows = [
            {
                **self._arm(arm.id),
                "baseline": self._label[arm.baseline],
                **_interval(arm.estimate),
                "mean": arm.estimate.mean if arm.estimate else None,
                "sd": arm.estimate.sd if arm.estimate else None,
                "count": arm.estimate.count if arm.estimate else 0,
                "basis": str(arm.basis),
                "bits_per_dim": arm.bits_per_dim,
                "repeats_lost": arm.repeats_lost,
                **{f"{phase}_epochs": arm.epochs[phase] for phase in Phase},
                **arm.values,
            }
            for arm in self.results.comparison.arms
        ]
        return _frame(ARMS, rows, self.study.scientific)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every arm against its matched baseline: PAIRS."""
        rows = [
            {
                **self._arm(pair.arm),
                "baseline": self._label[pair.baseline],
                "difference": pair.difference.mean if pair.difference else None,
                **_interval(pair.difference),
                "p_holm": pair.p_holm,
                "equivalence_p_holm": pair.equivalence_p_holm,
                "verdict": str(pair.verdict),
                "basis": str(pair.basis),
                "inside_margin": pair.inside_margin,
                "more_replicates": pair.more_replicates,
                **self.results.arm(pair.arm).values,
            }
            for pair in self.results.comparison.pairs
        ]
        return _frame(PAIRS, rows, self.study.scientific)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Every trial of every phase: TRIALS."""
        factors, nuisance = list(self.study.scientific), list(self.study.nuisance)
        rows = [
            {
                **self._key(record),
                "state": str(record.state),
                "value": metric_value(record, self.study.search.metric),
                "epochs_done": record.outcome.epochs if record.outcome else 0,
                "seed": record.seed,
                "cause": record.outcome.cause if record.outcome else None,
                "worker_seconds": record.outcome.worker_seconds if record.outcome else None,
                **self.results.arm(record.key.arm).values,
                **record.params,
            }
            for record in self.results.records
        ]
        return _frame(TRIALS, rows, [*factors, *nuisance])

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Every curve of every ended trial, long: CURVES."""
        rows = (
            {**self._key(record), "epoch": epoch, "metric": metric, "value": value}
            for record in self._ended()
            for metric, values in (record.outcome.curves if record.outcome else {}).items()
            for epoch, value in enumerate(values, 1)
        )
        return _frame(CURVES, rows)

    @cached_property
    def repeats(self) -> pd.DataFrame:
        """Every ended repeat with its final metrics: REPEATS."""
        records = [record for record in self._ended() if record.key.phase is Phase.REPEAT]
        finals = [dict(record.outcome.metrics) if record.outcome else {} for record in records]
        names = sorted({name for final in finals for name in final}, key=lambda name: (name[:5] != "test/", name))
        rows = [
            {**self._key(record), "state": str(record.state), **final}
            for record, final in zip(records, finals, strict=True)
        ]
        return _frame({**REPEATS, **dict.fromkeys(names, "float64")}, rows)

    # ------------------------------------------------------------------------------------ analyses

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """Best validation value so far, against trials and epochs: TUNING."""
        rows = (
            {**self._arm(curve.arm), "trials": n, "epochs": epochs, "mean": mean, "low": low, "high": high}
            for curve in self.analysis.tuning
            for n, epochs, mean, low, high in zip(
                curve.trials, curve.epochs, curve.mean, curve.low, curve.high, strict=True
            )
        )
        return _frame(TUNING, rows)

    @cached_property
    def bands(self) -> pd.DataFrame:
        """What random search would reach: BANDS."""
        rows = (
            {
                **self._arm(curve.arm),
                "trials": n,
                "low": low,
                "median": median,
                "high": high,
                "confidence": band.confidence,
                "draws": band.draws,
            }
            for curve in self.analysis.tuning
            for band in ([curve.band] if curve.band else [])
            for n, low, median, high in zip(band.trials, band.low, band.median, band.high, strict=True)
        )
        return _frame(BANDS, rows)

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """How easy every arm is to tune: SENSITIVITY."""
        rows = (
            {
                **self._arm(found.arm),
                "within_nats": share.within,
                "share": share.share,
                "low": share.low,
                "high": share.high,
                "draws": found.draws,
                "best": found.best,
            }
            for found in self.analysis.sensitivity
            for share in found.shares
        )
        return _frame(SENSITIVITY, rows)

    @cached_property
    def importances(self) -> pd.DataFrame:
        """Which nuisance parameters matter: IMPORTANCES."""
        return self._plain(IMPORTANCES, self.analysis.importances)

    @cached_property
    def variance(self) -> pd.DataFrame:
        """Where the spread of test values comes from: VARIANCE."""
        return self._plain(VARIANCE, self.analysis.variance)

    @cached_property
    def optimism(self) -> pd.DataFrame:
        """What the searches promised and the repeats did not keep: OPTIMISM."""
        return self._plain(OPTIMISM, self.analysis.optimism)

    @cached_property
    def rate_distortion(self) -> pd.DataFrame:
        """Every converged repeat in the rate-distortion plane: RATE_DISTORTION."""
        return self._plain(RATE_DISTORTION, self.analysis.rate_distortion)

    # --------------------------------------------------------------------------------------- files

    @cached_property
    def files(self) -> pd.DataFrame:
        """Where every trial's files are: FILES."""
        rows = (
            {**self._key(record), "file": file, "path": str(self._paths.trial(self.name, record.key) / file)}
            for record in self._ended()
            for file in sorted(record.files)
        )
        return _frame(FILES, rows)

    @cached_property
    def sigmas(self) -> pd.DataFrame:
        """How wide the posteriors of the repeats are: SIGMAS. A file that is missing is left out."""
        return _frame(SIGMAS, (row for record in self._ended() for row in self._sigma_rows(record)))

    def _sigma_rows(self, record: TrialRecord) -> Iterator[Mapping[str, Any]]:
        path = self._paths.trial(self.name, record.key) / "sigma_histogram.json"
        if path.name not in record.files or not path.is_file():
            return
        plain = json.loads(path.read_bytes())
        edges = [-math.inf, *plain["log10_edges"], math.inf]
        counts = [plain["below"], *plain["counts"], plain["above"]]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            yield {**self._key(record), "log10_low": low, "log10_high": high, "count": count}

    # ---------------------------------------------------------------------------------------- rows

    def _arm(self, arm: str) -> dict[str, Any]:
        return {"arm": arm, "label": self._label[arm]}

    def _key(self, record: TrialRecord) -> dict[str, Any]:
        key = record.key
        place = {"replicate": key.replicate, "phase": str(key.phase), "number": key.number}
        return {"trial": str(key), **self._arm(key.arm), **place}

    def _ended(self) -> Iterator[TrialRecord]:
        return (record for record in self.results.records if record.state in ENDED)

    def _plain(self, columns: Columns, found: Iterable[Any]) -> pd.DataFrame:
        """Records whose fields are named as the columns are."""
        own = [name for name in columns if name not in ARM]
        return _frame(columns, ({**self._arm(one.arm), **{name: getattr(one, name) for name in own}} for one in found))


def _interval(found: Estimate | None) -> dict[str, float | None]:
    return {"low": found.low if found else None, "high": found.high if found else None}


def _frame(columns: Columns, rows: Iterable[Mapping[str, Any]], hyperparameters: Iterable[str] = ()) -> pd.DataFrame:
    """Rows under `columns`, then under the hyperparameters, typed by their values."""
    table = list(rows)
    typed = {name: pd.Series([row.get(name) for row in table], dtype=dtype) for name, dtype in columns.items()}
    for name in hyperparameters:
        values = [row[name] for row in table]
        typed[name] = pd.Series(values, dtype=_dtype(values))
    return pd.DataFrame(typed)


def _dtype(values: Sequence[Value]) -> str:
    kinds = {type(value) for value in values}
    for dtype, only in (("bool", {bool}), ("int64", {int}), ("float64", {int, float}), ("string", {str})):
        if kinds and kinds <= only:
            return dtype
    return "object"
