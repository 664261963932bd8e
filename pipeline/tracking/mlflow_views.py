"""Views of a sweep's experiment in MLflow's own UI, as the tags in which it keeps shared views; and links to them.

The UI reads an experiment tag `mlflow.sharedViewState.KEY` when its address says `viewStateShareKey=KEY`: what is
shown, sorted and grouped. Seen in the bundle of MLflow 3.13 to 3.17; a UI that does not know the key says so and
shows all runs. Knows no run and imports no MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

SHARED_VIEW = "mlflow.sharedViewState."
LONGEST_TAG = 5000
"""characters of an experiment tag"""
PICTURES = "pictures"
"""what the names of image grids begin with"""

View = Callable[[Sequence[str], Sequence[str]], dict[str, Any]]
"""(names of the factors, metrics of a result) -> the UI's state; what it leaves out is the UI's default."""

_REPEATS = "tags.phase = 'repeat'"


def _columns(factors: Sequence[str], metrics: Sequence[str]) -> list[str]:
    shown = [("params", name) for name in factors] + [("metrics", name) for name in metrics]
    tags = [("tags", name) for name in ("phase", "replicate", "number")]
    return [f"{kind}.`{name}`" for kind, name in [*shown, *tags]]


def _grouped(factors: Sequence[str]) -> dict[str, Any] | None:
    keys = [{"mode": "param", "groupByData": name} for name in factors]
    return {"aggregateFunction": "average", "groupByKeys": keys} if keys else None


def _results(factors: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "searchFilter": _REPEATS,
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "selectedColumns": _columns(factors, metrics),
    }


def _arms(factors: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return {**_results(factors, metrics), "groupBy": _grouped(factors)}


def _curves(factors: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return {**_arms(factors, metrics), "chartsSearchFilter": "elbo", "runsHiddenMode": "SHOWALL"}


def _pictures(factors: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    first = f"{_REPEATS} and tags.replicate = '0' and tags.number = '0'"
    return {**_results(factors, metrics), "searchFilter": first, "chartsSearchFilter": PICTURES}


VIEWS: Mapping[str, tuple[str, str, View]] = {
    "runs-by-arm": ("repeats by arm", "TABLE", _arms),
    "curves-by-arm": ("curves by arm", "CHART", _curves),
    "pictures": ("samples of every arm", "CHART", _pictures),
    "repeats": ("every repeat", "TABLE", _results),
}
"""Key -> (title, mode of the runs page, its state)."""


def view_tags(factors: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    """Experiment tag -> value for every view; a view that would be too long for a tag is left out."""
    states = {f"{SHARED_VIEW}{key}": json.dumps(view(factors, metrics)) for key, (_, _, view) in VIEWS.items()}
    return {tag: state for tag, state in states.items() if len(state) <= LONGEST_TAG}


def page_of_view(experiment_id: str, key: str) -> str:
    """Path at which a browser shows a view."""
    query = {"viewStateShareKey": key, "compareRunsMode": VIEWS[key][1]}
    return f"{page_of_experiment(experiment_id)}&{urlencode(query)}"


def page_of_experiment(experiment_id: str) -> str:
    """Path at which a browser shows all runs; without the last part the UI takes them for those of an agent."""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def page_of_artifact(experiment_id: str, run_id: str, artifact: str) -> str:
    """Path at which a browser shows a run's file."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(artifact)}?workflowType=machine_learning"


def page_of_comparison(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Path at which a browser shows runs side by side."""
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
    return f"/#/compare-runs?{urlencode(query)}&workflowType=machine_learning"
