"""Runs in MLflow: an embedded SQLite store or a tracking server. The only file importing mlflow.

Importing this module is cheap; `MlflowTracker.connect` loads the library. Only `MlflowClient` is used, never
the fluent API: no global state, no thread, nothing in the current directory. Knows no ledger and no study.

Exactly once: creating a run cannot be repeated, so it is never retried below us, and after any doubt the run
is looked up by its tag `vae_sweep.ledger_id`. All else may be repeated: equal params, equal metric points and
artifacts of the same name count once. The end of a run is written last.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrackerAway, TrackerError
from ..records import digest
from . import embedded
from .base import (
    HEARTBEAT,
    REPORT_FILE,
    STUDY_FILE,
    SUMMARY_FILE,
    DatasetInfo,
    Picture,
    RecordedRun,
    RunRecord,
    SweepEnd,
    SweepRun,
    Tracker,
    spelled_time,
)
from .mlflow_views import (
    SHARED_VIEW,
    VIEWS,
    experiment_note,
    lay_out,
    page_of_artifact,
    page_of_experiment,
    page_of_view,
    run_note,
    view_tags,
)

LEDGER_ID = "vae_sweep.ledger_id"
"""Tag of experiments and runs: whose they are."""
_OPENED = "vae_sweep.opened"
"""Tag of a parent run: which study it shows, once it shows it completely."""
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_HAS_PICTURES = "mlflow.loggedImages"

_ENVIRONMENT = {
    # Retrying is ours: the library's own would block 4 minutes a call, and doubles runs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@dataclass(slots=True)
class _Opened:
    sweep: SweepRun
    experiment_id: str
    parent_run_id: str
    known: dict[str, str]
    """ledger id -> run id of the runs that were there when this process came"""


class MlflowTracker:
    """One experiment a sweep, one parent run in it, one child run a trial."""

    def __init__(self, client: Any, uri: str, artifact_root: Path | None) -> None:
        self._client = client
        self._served = uri.startswith(("http://", "https://"))
        self._artifact_root = artifact_root
        self._target = target_of(uri)
        self._opened: dict[str, _Opened] = {}

    @staticmethod
    def load(uri: str) -> None:
        """Loads what `connect` needs, and touches nothing; a second of computing, or two."""
        _set_environment()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own, at import and when it maps its tables
            import mlflow  # noqa: F401

            if uri.startswith("sqlite:///"):
                from mlflow.store.tracking import sqlalchemy_store  # noqa: F401

    @classmethod
    def connect(cls, uri: str, artifact_root: Path | None = None) -> MlflowTracker:
        """Loads MLflow (2 s) and opens `uri`; a missing `sqlite:///` store is created (3 s more).

        `artifact_root` is where an embedded store keeps files; a server has its own place. Sets, where the
        user has not, the environment variables MLFLOW_HTTP_REQUEST_MAX_RETRIES=0 and
        MLFLOW_HTTP_REQUEST_TIMEOUT=15 (seconds), and those that keep MLflow quiet. Raises TrackerError.
        """
        _set_environment()
        if uri.startswith("sqlite:///"):
            embedded.prepare(uri, _lay_tables)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow import MlflowClient

            tracker = cls(None, uri, artifact_root.resolve() if artifact_root else None)
            with tracker._answers("connecting"):
                tracker._client = MlflowClient(tracking_uri=uri)
        return tracker

    @property
    def target(self) -> str:
        """`mlflow:` and the tracking URI without credentials."""
        return self._target

    def record_sweep(self, sweep: SweepRun, end: SweepEnd | None = None, *, alive_ms: int | None = None) -> str:
        """See `Tracker`. Raises TrackerError when the experiment of this name is somebody else's."""
        opened = self._open(sweep)
        if alive_ms is not None:
            with self._answers("giving a sign of life"):
                self._client.set_tag(opened.parent_run_id, HEARTBEAT, spelled_time(alive_ms))
        if end is not None:
            self._finish(opened, end)
        return opened.parent_run_id

    def deliver(self, sweep: SweepRun, run: RunRecord, *, in_doubt: bool) -> str:
        """See `Tracker`. Four calls and one a file: 0.04 s on an embedded store."""
        from mlflow.entities import Metric, Param, RunTag

        opened = self._open(sweep)
        with self._answers(f"delivering {run.name!r}"):
            run_id = opened.known.get(run.ledger_id)
            if run_id is None and in_doubt:
                run_id = self._found(opened.experiment_id, run.ledger_id)
            tags = _tags(run.tags, {LEDGER_ID: run.ledger_id, _PARENT: opened.parent_run_id})
            tags |= {_HAS_PICTURES: "True"} if run.pictures else {}
            if run_id is None:
                info = self._create_run(opened.experiment_id, run.started_ms, tags, run.name)
                tags = {}
            else:
                info = self._client.get_run(run_id).info
            self._client.log_batch(
                info.run_id,
                metrics=[Metric(p.key, p.value, p.timestamp_ms, p.step) for p in run.metrics],
                params=[Param(key, value) for key, value in run.params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
                synchronous=True,
            )
            self._log_files(info.artifact_uri, list(run.files.values()), run.pictures)
            self._client.set_terminated(info.run_id, run.status, end_time=run.ended_ms)
        return str(info.run_id)

    def discard(self, sweep: SweepRun, ledger_ids: Collection[str] | None = None) -> None:
        """See `Tracker`. They go to MLflow's bin (`mlflow gc` empties it); registered models stay."""
        with self._answers(f"removing runs of {sweep.name!r}"):
            if ledger_ids is None:
                self._discard_all(sweep)
                return
            found = self._client.get_experiment_by_name(sweep.name)
            if found is None or found.tags.get(LEDGER_ID) != sweep.ledger_id or found.lifecycle_stage == "deleted":
                return
            opened = self._opened.get(sweep.ledger_id)
            for ledger_id in ledger_ids:
                for run in list(self._search(found.experiment_id, f"tags.`{LEDGER_ID}` = '{ledger_id}'")):
                    self._client.delete_run(run.info.run_id)
                if opened is not None:
                    opened.known.pop(ledger_id, None)

    def recorded(self, sweep: SweepRun, *, files: bool = True) -> tuple[RecordedRun, ...]:
        """See `Tracker`. One call for 1000 runs and one more for each run's artifacts."""
        with self._answers("reading the runs"):
            experiment = self._client.get_experiment_by_name(sweep.name)
            if experiment is None or experiment.tags.get(LEDGER_ID) != sweep.ledger_id:
                return ()
            return tuple(self._recorded(run, files) for run in self._search(experiment.experiment_id))

    # -- inside

    def pages_of(self, sweep: str) -> dict[str, str]:
        """Title -> path of each page on which a browser shows a sweep's runs; none where it is not there."""
        with self._answers(f"looking for the experiment {sweep!r}"):
            found = self._client.get_experiment_by_name(sweep)
            if found is None:
                return {}
            ended = f"tags.`{LEDGER_ID}` = '{found.tags.get(LEDGER_ID)}' and tags.`{_NOTE}` LIKE '%{REPORT_FILE}%'"
            parents = [run.info.run_id for run in self._search(found.experiment_id, ended)]
        views = [key for key in VIEWS if SHARED_VIEW + key in found.tags]
        pages = {"report": page_of_artifact(found.experiment_id, parents[0], REPORT_FILE)} if parents else {}
        pages |= {VIEWS[key][0]: page_of_view(found.experiment_id, key) for key in views}
        return pages | {"all runs": page_of_experiment(found.experiment_id)}

    def _open(self, sweep: SweepRun) -> _Opened:
        opened = self._opened.get(sweep.ledger_id)
        if opened is None or opened.sweep != sweep:
            with self._answers(f"opening the experiment {sweep.name!r}"):
                experiment_id, is_new = self._experiment(sweep)
                known = opened.known if opened else {} if is_new else self._known(experiment_id)
                parent = self._parent(sweep, experiment_id, known)
            opened = self._opened[sweep.ledger_id] = _Opened(sweep, experiment_id, parent, known)
        return opened

    def _finish(self, opened: _Opened, end: SweepEnd) -> None:
        from mlflow.entities import Metric, RunTag

        parent, tags = opened.parent_run_id, dict(end.tags)
        if SUMMARY_FILE in end.files:
            files = [name for name in end.files if name != SUMMARY_FILE]
            tags[_NOTE] = run_note(end.files[SUMMARY_FILE], opened.experiment_id, parent, files)
        with self._answers("finishing the sweep"):
            self._client.log_batch(
                parent,
                metrics=[Metric(key, value, end.ended_ms, 0) for key, value in end.metrics.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
                synchronous=True,
            )
            for name, text in end.files.items():
                self._client.log_text(parent, text, name)
            self._client.set_terminated(parent, end.status, end_time=end.ended_ms)

    def _discard_all(self, sweep: SweepRun) -> None:
        """A deleted experiment keeps its name from others, and only a living one can be renamed."""
        from mlflow.entities import ViewType

        self._opened.pop(sweep.ledger_id, None)
        mine = f"tags.`{LEDGER_ID}` = '{sweep.ledger_id}'"
        for found in self._client.search_experiments(ViewType.ALL, filter_string=mine):
            living, own_id = found.lifecycle_stage != "deleted", found.experiment_id
            if found.name == sweep.name:
                if not living:
                    self._client.restore_experiment(own_id)
                self._client.rename_experiment(own_id, f"{sweep.name} (deleted {own_id})")
                living = True
            if living:
                self._client.delete_experiment(own_id)

    def _experiment(self, sweep: SweepRun) -> tuple[str, bool]:
        """Id of the sweep's experiment and whether it was made just now."""
        found = self._client.get_experiment_by_name(sweep.name)
        if found is None:
            tags = {LEDGER_ID: sweep.ledger_id, "mlflow.experimentKind": "custom_model_development"}
            location = self._artifact_location(sweep.name)
            return self._client.create_experiment(sweep.name, location, _tags(tags)), True
        if found.tags.get(LEDGER_ID) != sweep.ledger_id:
            deleted = found.lifecycle_stage == "deleted"
            raise TrackerError(
                f"An MLflow experiment belongs to one sweep, but {sweep.name!r} at {self._target} "
                f"{'was deleted and ' if deleted else ''}belongs to another ledger or to none of ours. "
                f"Give the study another name, or {'purge it with `mlflow gc`' if deleted else 'rename it'}."
            )
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id, False

    def _artifact_location(self, name: str) -> str | None:
        # Left to itself an embedded store would keep files below the current directory.
        root = None if self._served else self._artifact_root
        return (root / name).as_uri() if root else None

    def _parent(self, sweep: SweepRun, experiment_id: str, known: Mapping[str, str]) -> str:
        from mlflow.entities import RunTag

        run_id = known.get(sweep.ledger_id) or self._found(experiment_id, sweep.ledger_id)
        shown, tags = digest([sweep.study_yaml, sweep.question]), _tags(sweep.tags, {LEDGER_ID: sweep.ledger_id})
        if run_id is None:
            run_id = str(self._create_run(experiment_id, sweep.started_ms, tags, sweep.name).run_id)
        else:
            found = self._client.get_run(run_id).data.tags.get(_OPENED)
            if found == shown:
                return run_id
            if found is not None:  # the sweep was extended
                self._client.log_batch(
                    run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True
                )
                self._client.update_run(run_id, status="RUNNING")
        self._describe(sweep, experiment_id)
        self._client.log_text(run_id, sweep.study_yaml, STUDY_FILE)
        if sweep.dataset is not None:
            self._client.log_inputs(run_id, datasets=[_dataset_input(sweep.dataset)])
        self._client.set_tag(run_id, _OPENED, shown)
        return run_id

    def _describe(self, sweep: SweepRun, experiment_id: str) -> None:
        """The question and the views of its runs."""
        tags = view_tags(sweep.factors, sweep.metrics, sweep.epochs) if sweep.metrics else {}
        views = [tag.removeprefix(SHARED_VIEW) for tag in tags]
        tags[_NOTE] = experiment_note(sweep.question, experiment_id, views)
        for tag, value in tags.items():
            self._client.set_experiment_tag(experiment_id, tag, value)

    def _create_run(self, experiment_id: str, started_ms: int, tags: Mapping[str, str], name: str) -> Any:
        run = self._client.create_run(experiment_id, start_time=started_ms, tags=tags, run_name=name)
        return run.info

    def _log_files(self, artifact_uri: str, files: Sequence[Path], pictures: Sequence[Picture]) -> None:
        if not files and not pictures:
            return
        # What client.log_artifact does, without asking for the run again.
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository: Any = get_artifact_repository(artifact_uri, tracking_uri=self._client.tracking_uri)
        for file in files:
            repository.log_artifact(str(file))
        if pictures:
            with tempfile.TemporaryDirectory() as folder:
                lay_out(pictures, Path(folder))
                repository.log_artifacts(folder, "images")

    def _search(self, experiment_id: str, condition: str = "") -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([experiment_id], condition, max_results=1000, page_token=token)
            yield from (run for run in page if LEDGER_ID in run.data.tags)
            token = page.token
            if not token:
                return

    def _known(self, experiment_id: str) -> dict[str, str]:
        runs: dict[str, list[Any]] = {}
        for run in self._search(experiment_id):
            runs.setdefault(run.data.tags[LEDGER_ID], []).append(run)
        return {ledger_id: self._keep_one(same) for ledger_id, same in runs.items()}

    def _found(self, experiment_id: str, ledger_id: str) -> str | None:
        runs = list(self._search(experiment_id, f"tags.`{LEDGER_ID}` = '{ledger_id}'"))
        return self._keep_one(runs) if runs else None

    def _keep_one(self, runs: Sequence[Any]) -> str:
        """A request that arrived after we had given it up has made a second run: one is kept."""
        first, *others = sorted(runs, key=lambda run: (run.info.status == "RUNNING", run.info.run_id))
        for run in others:
            self._client.delete_run(run.info.run_id)
        return str(first.info.run_id)

    def _recorded(self, run: Any, files: bool) -> RecordedRun:
        own_id, data = run.info.run_id, run.data
        artifacts = frozenset(file.path for file in (self._client.list_artifacts(own_id) if files else ()))
        return RecordedRun(data.tags[LEDGER_ID], own_id, run.info.status, data.metrics, data.params, artifacts)

    @contextmanager
    def _answers(self, doing: str) -> Iterator[None]:
        """Maps MLflow's, the network's and the disk's errors; see `Tracker`."""
        from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException
        from requests import HTTPError, RequestException

        try:
            yield
        except (MlflowException, OSError) as error:
            status = 400
            if isinstance(error, MlflowException):
                status = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500)
            elif isinstance(error, HTTPError) and error.response is not None:
                status = error.response.status_code
            elif isinstance(error, RequestException):
                status = 503
            # An embedded store says 500 for its own faults and 503 for a busy or missing database.
            away = status == 429 or status >= (500 if self._served else 503)
            cause = _masked(next(iter(str(error).strip().splitlines()), "no reason given"))[:400]
            where = f"{self._target} while {doing}: {cause}"
            if away:
                raise TrackerAway(f"MLflow must answer, but did not: {where}") from error
            raise TrackerError(
                f"MLflow must accept what it is sent, but refused at {where}. "
                "Check MLFLOW_TRACKING_URI, its login and the server's --allowed-hosts."
            ) from error


def _lay_tables(uri: str) -> None:
    """A new SQLite store, of which no connection is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        make_store: Any = SqlAlchemyStore  # without annotations
        try:
            make_store(uri, "./mlruns").engine.dispose()
        except Exception as error:  # here it lets through whatever its database layer raises
            raise OSError(next(iter(str(error).splitlines()), "no reason given")) from error


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _tags(*parts: Mapping[str, str]) -> dict[str, str]:
    tags = {key: value for part in parts for key, value in part.items()}
    if "git_commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git_commit"]  # the column "Version" of its UI
    return tags


def _dataset_input(dataset: DatasetInfo) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(dataset.name, dataset.digest, "local", dataset.source, None, dataset.profile)
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def target_of(uri: str) -> str:
    """The `target` of a tracker at `uri`, without loading MLflow."""
    return f"mlflow:{_masked(uri)}"


def page_of_run(uri: str, run_id: str) -> str | None:
    """Where a browser shows a run, without loading MLflow; None where no server is known."""
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{without_login(uri)}/#/runs/{run_id}?workflowType=machine_learning"


def without_login(uri: str) -> str:
    """The address of a server as a browser takes it."""
    return _LOGIN.sub("//", uri).rstrip("/")


_LOGIN = re.compile(r"//[^/\s]+@")
"""up to the last @ before the path: a password may hold some itself"""
_SECRET_OPTION = re.compile(r"(?i)([?&][^=&\s]*(?:pass|token|secret|key)[^=&\s]*=)[^&\s'\"]+")


def _masked(text: str) -> str:
    return _SECRET_OPTION.sub(r"\1***", _LOGIN.sub("//***@", text))


def _static_check(tracker: MlflowTracker) -> Tracker:
    return tracker
