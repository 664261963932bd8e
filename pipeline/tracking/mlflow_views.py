"""Views of a sweep's experiment in MLflow's own UI, as the tags in which it keeps shared views; and links to them.

The UI reads an experiment tag `mlflow.sharedViewState.KEY` when its address says `viewStateShareKey=KEY`: what is
shown, sorted and grouped. Seen in the bundle of MLflow 3.13 to 3.17; a UI that does not know the key says so and
shows all runs. Also how pictures are named for its image grids. Imports no MLflow.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from .base import Picture

SHARED_VIEW = "mlflow.sharedViewState."
LONGEST_TAG = 5000
"""characters of an experiment tag"""
THUMBNAIL = 256
"""pixels"""
PICTURES = "pictures"
"""what the names of image grids begin with"""

_REPEATS = "tags.phase = 'repeat'"
_RUN_NAME = "attributes.`Run Name`"


def _sections(columns: int, height: int, *names: str) -> list[dict[str, Any]]:
    """Sections of charts; the UI puts the charts of metrics `val/...` into the section `val`."""
    plain = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return [{"uuid": name, "name": name, "columns": columns, "cardHeight": height, **plain} for name in names]


def _image_grid(key: str, step: int) -> dict[str, Any]:
    plain = {"deleted": False, "isGenerated": False, "metricSectionId": PICTURES, "showRunParams": False}
    return {"type": "IMAGE", "uuid": key, "displayName": key, "imageKeys": [f"{PICTURES}/{key}"], "step": step, **plain}


def _repeats(factors: Sequence[str], metrics: Sequence[str], step: int) -> dict[str, Any]:
    columns = [f"params.`{name}`" for name in factors] + [f"metrics.`{name}`" for name in metrics]
    return {
        "searchFilter": _REPEATS,
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
        "selectedColumns": [*columns, *(f"tags.`{name}`" for name in ("replicate", "number", "state"))],
        "columnOrder": [_RUN_NAME],
        "columnWidths": {_RUN_NAME: 380},
    }


def _by_arm(factors: Sequence[str], metrics: Sequence[str], step: int) -> dict[str, Any]:
    keys = [{"mode": "param", "groupByData": name} for name in factors]
    grouped = {"aggregateFunction": "average", "groupByKeys": keys} if keys else None
    return {**_repeats(factors, metrics, step), "groupBy": grouped}


def _curves(factors: Sequence[str], metrics: Sequence[str], step: int) -> dict[str, Any]:
    shown = {"runsHiddenMode": "SHOWALL", "chartsSearchFilter": "elbo$"}
    sections = {"compareRunSections": _sections(1, 420, "val", "test", "train"), "isAccordionReordered": True}
    return {**_by_arm(factors, metrics, step), **shown, "compareRunCharts": [], **sections}


def _pictures(factors: Sequence[str], metrics: Sequence[str], step: int) -> dict[str, Any]:
    return {
        **_repeats(factors, metrics, step),
        "searchFilter": f"{_REPEATS} and tags.replicate = '0' and tags.number = '0'",
        "chartsSearchFilter": PICTURES,
        "compareRunCharts": [_image_grid("samples", step), _image_grid("reconstructions", step)],
        "compareRunSections": _sections(1, 720, PICTURES),
    }


View = Callable[[Sequence[str], Sequence[str], int], dict[str, Any]]
"""(factors, metrics of a result, last epoch) -> the UI's state; what it leaves out is the UI's default."""

VIEWS: Mapping[str, tuple[str, str, View]] = {
    "runs-by-arm": ("repeats by arm", "TABLE", _by_arm),
    "curves-by-arm": ("curves by arm", "CHART", _curves),
    "pictures": ("samples of every arm", "CHART", _pictures),
}
"""Key -> (title, mode of the runs page, its state)."""


def view_tags(factors: Sequence[str], metrics: Sequence[str], epochs: int) -> dict[str, str]:
    """Experiment tag -> value for every view; a view that would be too long for a tag is left out."""
    states = {f"{SHARED_VIEW}{key}": json.dumps(view(factors, metrics, epochs)) for key, (_, _, view) in VIEWS.items()}
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


def experiment_note(question: str, experiment_id: str, keys: Sequence[str]) -> str:
    """Markdown that describes an experiment: the question, and links to its views."""
    links = [f"[{VIEWS[key][0]}]({page_of_view(experiment_id, key)[1:]})" for key in keys]
    return "\n\n".join(part for part in (as_text(question), " · ".join(links)) if part)


def as_text(words: str) -> str:
    """Markdown that shows `words` as they are: neither links, pictures nor HTML of somebody else's making."""
    # A backslash before < or & is no escape in every dialect of Markdown; an entity is.
    return re.sub(r"[\\`*_\[\]#!|~]", r"\\\g<0>", html.escape(words, quote=False))


def run_note(summary: str, experiment_id: str, run_id: str, files: Sequence[str]) -> str:
    """Markdown that describes a parent run: what was found, and links to its files."""
    links = [f"[{file}]({page_of_artifact(experiment_id, run_id, file)[1:]})" for file in files]
    return f"{summary}\n\n{' · '.join(links)}"


def lay_out(pictures: Sequence[Picture], folder: Path) -> None:
    """Writes pictures under the names by which the UI knows key and step, and a thumbnail of each.

    `client.log_image` would name them anew every time: a repeated delivery would show them twice.
    """
    from PIL import Image

    for picture in pictures:
        key = picture.key.replace("/", "~")
        name = f"{key}+step+{picture.step}+timestamp+{picture.timestamp_ms}+{picture.step}"
        shutil.copyfile(picture.file, folder / f"{name}.png")
        with Image.open(picture.file) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(folder / f"{name}+compressed.webp", quality=90, method=0)  # lossless takes six times as long
