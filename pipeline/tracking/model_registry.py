"""MLflow's model registry: a folder of files becomes a registered model, and is found again by name.

Uses the client only, as mlflow_tracker.py does: nothing global stays set, no run is opened. Knows no network: what the
files mean is the business of the script that travels with them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TrackerError, UserError
from .mlflow_tracker import LEDGER_ID, MlflowTracker
from .mlflow_views import as_text

CHAMPION = "champion"
"""alias of the version that was registered last"""
CONTENT = "vae_sweep.content"
"""tag of a version: digest of all that it holds"""
FOLDER = "model"
"""name of the artifact that holds the model's own files"""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """What is registered."""

    name: str
    """of the registered model"""
    content: str
    """digest: a version of equal content is not made twice"""
    ledger_id: str
    """of the trial, as its run is tagged"""
    folder: Path
    """the model's own files"""
    script: Path
    """loads and serves them; see `mlflow.models.set_model`"""
    code: Path
    """folder of the package that the script imports"""
    requirements: Sequence[str]
    input_example: NDArray[Any]
    """(N, D)"""
    tags: Mapping[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version in the registry."""

    name: str
    version: str
    run_id: str
    """the run that trained it"""
    is_new: bool
    store: str
    """tracking URI without credentials"""

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}@{CHAMPION}"


class ModelRegistry:
    """The registry beside a tracker's runs."""

    def __init__(self, tracker: MlflowTracker) -> None:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._tracker = tracker
        self._client: Any = tracker._client
        self._answers = tracker._answers

    def register(self, sweep: str, package: ModelPackage) -> RegisteredVersion:
        """Makes a version of `package`, unless there is one, and lets the alias point at it.

        Raises UserError while the trial has no run there, TrackerError when MLflow refuses.
        """
        with self._answers(f"registering {package.name!r}"):
            experiment = self._client.get_experiment_by_name(sweep)
            mine = f"tags.`{LEDGER_ID}` = '{package.ledger_id}'"
            runs = self._client.search_runs([experiment.experiment_id], mine) if experiment else []
            if not runs:
                raise UserError(
                    f"A model is registered beside the run that trained it, but {self._tracker.target} has no run of "
                    f"{package.ledger_id.partition('/')[2]}. Deliver it first: `vae-sweep sync {sweep}`."
                )
            version = self._known(package)
            is_new = version is None
            if version is None:
                version = self._create(experiment.experiment_id, runs[0], package)
            self._client.set_registered_model_alias(package.name, CHAMPION, version)
        store = self._tracker.target.removeprefix("mlflow:")
        return RegisteredVersion(package.name, version, runs[0].info.run_id, is_new, store)

    def _known(self, package: ModelPackage) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(package.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(package.name)
            return None
        found = self._client.search_model_versions(
            f"name = '{package.name}' and tags.`{CONTENT}` = '{package.content}'"
        )
        ready = [version.version for version in found if version.status == "READY"]
        return str(max(ready, key=int)) if ready else None

    def _create(self, experiment_id: str, run: Any, package: ModelPackage) -> str:
        from mlflow.entities import LoggedModelOutput
        from mlflow.tracking._tracking_service.utils import _use_tracking_uri

        tags = {**package.tags, LEDGER_ID: package.ledger_id, CONTENT: package.content}
        run_id = run.info.run_id
        model = self._client.create_logged_model(
            experiment_id,
            name=package.name,
            source_run_id=run_id,
            params=run.data.params,
            tags=tags,
            model_type="vae",
        )
        with TemporaryDirectory() as folder:
            _save(Path(folder) / "saved", model, run_id, package)
            self._client.log_model_artifacts(model.model_id, str(Path(folder) / "saved"))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, step=0)])
        for name in sorted(name for name in run.data.metrics if name.startswith("test/")):
            last = self._client.get_metric_history(run_id, name)[-1]  # the very point: it is not doubled
            self._client.log_metric(run_id, name, last.value, last.timestamp, last.step, model_id=model.model_id)
        with _use_tracking_uri(self._client.tracking_uri):  # an embedded registry looks the model up by the global one
            made = self._client.create_model_version(
                package.name,
                source=model.artifact_location,
                tags=tags,
                description=as_text(package.description),
                model_id=model.model_id,
            )
        return str(made.version)

    def fetch(self, name: str, alias: str | None, version: str | None, folder: Path) -> Path:
        """Copies the files of a registered model (`alias`, else `version`) below `folder`; where they lie there.

        Raises UserError when there is none of that name, alias or version, or it is no model of ours.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._answers(f"looking for the model {name!r}"):
            try:
                if alias is not None:
                    version = str(self._client.get_model_version_by_alias(name, alias).version)
                source = self._client.get_model_version_download_uri(name, version)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                wanted = f"{name}@{alias}" if alias is not None else f"{name}/{version}"
                known = ", ".join(sorted(model.name for model in self._client.search_registered_models())[:10])
                raise UserError(
                    f"There is no registered model {wanted} at {self._tracker.target}; there are: {known or 'none'}. "
                    "`vae-sweep best SWEEP --register NAME` makes one."
                ) from None
            repository: Any = get_artifact_repository(source, tracking_uri=self._client.tracking_uri)
            try:
                repository.download_artifacts(f"artifacts/{FOLDER}", str(folder))
            except (MlflowException, OSError) as error:
                raise TrackerError(
                    f"The files of {name} version {version} must be in MLflow's artifact store, but are not "
                    f"({str(error).splitlines()[0]}). Register it again: `vae-sweep best SWEEP --register {name}`."
                ) from error
        return folder / "artifacts" / FOLDER


def _save(path: Path, model: Any, run_id: str, package: ModelPackage) -> None:
    """The model as MLflow lays it out, in a local folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        from mlflow import pyfunc
        from mlflow.models import Model
        from mlflow.models.signature import ModelSignature
        from mlflow.types.schema import ParamSchema, ParamSpec, Schema, TensorSpec

        shape, kind = (-1, -1), np.dtype(np.float32)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(kind, shape)]),
            outputs=Schema([TensorSpec(kind, shape)]),
            params=ParamSchema(
                [
                    ParamSpec("method", "string", "reconstruct"),
                    ParamSpec("n", "long", 64),
                    ParamSpec("seed", "long", -1),
                ]
            ),
        )
        pyfunc.save_model(
            path=str(path),
            python_model=str(package.script),
            artifacts={FOLDER: str(package.folder)},
            code_paths=[str(package.code)],
            signature=signature,
            input_example=package.input_example,
            pip_requirements=list(package.requirements),
            metadata=dict(package.tags),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=run_id,
                model_id=model.model_id,
                metadata=dict(package.tags),
            ),
        )
