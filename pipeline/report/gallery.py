"""Every figure of one sweep by its name, for notebooks: the functions of figures.py with the sweep's records filled in.

Knows no page. Reads what frames.py has; plotly is loaded with the first figure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ..errors import UserError
from ..records import Params, Phase, State

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from ..frames import LoadedSweep


class Gallery:
    """Makes figures of one sweep. `only`: scientific values that are not compared; one panel instead of all."""

    def __init__(self, sweep: LoadedSweep) -> None:
        self._sweep = sweep
        self._comparison = sweep.results.comparison

    def differences(self, *, only: Params | None = None) -> Figure:
        """Every arm minus its matched baseline, its interval, and the margin of equivalence."""
        from .figures import differences

        return differences(self._comparison, only=only)

    def arm_means(self, *, only: Params | None = None) -> Figure:
        """Mean of every arm with its interval."""
        from .figures import arm_means

        return arm_means(self._comparison, only=only)

    def tuning_curves(self, *, by: Literal["trials", "epochs"] = "trials", only: Params | None = None) -> Figure:
        """Best validation value so far, by trials or by epochs spent."""
        from .figures import tuning_curves

        return tuning_curves(self._comparison, self._sweep.analysis.tuning, by=by, only=only)

    def random_search_bands(self, *, only: Params | None = None) -> Figure:
        """What the best of so many random trials would reach, by OPDA."""
        from .figures import random_search_bands

        return random_search_bands(self._comparison, self._sweep.analysis.tuning, only=only)

    def sensitivity(self, parameter: str, *, only: Params | None = None) -> Figure:
        """Validation value of every search trial over one nuisance parameter. Raises UserError for another name."""
        from .figures import sensitivity

        nuisance = self._sweep.study.nuisance
        if parameter not in nuisance:
            known = ", ".join(nuisance) or "none"
            raise UserError(f"parameter must be one that the searches tuned ({known}), but got {parameter!r}")
        return sensitivity(self._comparison, self._sweep.analysis.points, parameter, only=only)

    def easy_shares(self, *, within: float | None = None, only: Params | None = None) -> Figure:
        """Share of the nuisance space within some nats of an arm's best; `within`: one that `sensitivity` has."""
        from .figures import easy_shares

        return easy_shares(self._comparison, self._sweep.analysis.sensitivity, within=within, only=only)

    def importances(self, *, only: Params | None = None) -> Figure:
        """How much of the spread of validation values each nuisance parameter explains."""
        from .figures import importances

        return importances(self._comparison, self._sweep.analysis.importances, only=only)

    def rate_distortion(self, *, only: Params | None = None) -> Figure:
        """Every converged repeat in the rate-distortion plane."""
        from .figures import rate_distortion

        return rate_distortion(self._comparison, self._sweep.analysis.rate_distortion, only=only)

    def further_metric(self, metric: str, *, over: str) -> Figure:
        """A further test metric over a scientific factor that is a number. Raises UserError for any other."""
        from .further_figures import further_metric, is_number

        factors = [name for name, values in self._sweep.study.scientific.items() if all(map(is_number, values))]
        if over not in factors:
            known = ", ".join(factors) or "none"
            raise UserError(f"over must be a scientific factor of numbers ({known}), but got {over!r}")
        return further_metric(self._comparison, metric, over)

    def sigma_histograms(self, *, only: Params | None = None) -> Figure:
        """The posterior's σ over test images and latents, an arm's repeats together."""
        from .figures import sigma_histograms

        inside = self._sweep.sigmas[self._sweep.sigmas["log10_low"].abs().lt(math.inf)]
        inside = inside[inside["log10_high"].lt(math.inf)]
        histograms = {}
        for arm, rows in inside.groupby("arm", sort=False):
            counts = rows.groupby("log10_low")["count"].sum()
            edges = [*counts.index.tolist(), rows["log10_high"].max()]
            histograms[str(arm)] = (edges, counts.tolist())
        return sigma_histograms(self._comparison, histograms, only=only)

    def learning_curves(self, *, only: Params | None = None) -> Figure:
        """Validation value by epoch, mean over an arm's repeats that completed."""
        from .figures import learning_curves

        completed = {str(r.key) for r in self._sweep.results.records if r.state is State.COMPLETE}
        curves = self._sweep.curves
        mine = curves["phase"].eq(Phase.REPEAT) & curves["metric"].eq(self._sweep.study.search.metric)
        known = curves[mine & curves["trial"].isin(completed)]
        means = known.groupby(["arm", "epoch"])["value"].mean()
        lines = {str(arm): rows.tolist() for arm, rows in means.groupby(level="arm", sort=False)}
        return learning_curves(self._comparison, lines, only=only)
