"""Ray jobs: commands that run on a cluster, started and watched over HTTP from anywhere.

Knows commands, folders and job states; no study and no sweep. Ray reads its settings when it is imported: call
`environment.prepare_ray` before importing this module.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from ..errors import ExecutionError

LOOK_SECONDS = 1.0
AWAY_SECONDS = 300.0
"""how long a cluster that was reached once may be away while a job is followed"""


@dataclass(frozen=True, slots=True)
class Job:
    """A command that was given to a cluster."""

    id: str
    state: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED"""
    message: str
    exit_code: int | None
    metadata: Mapping[str, str]
    started_ms: int

    @property
    def over(self) -> bool:
        """Whether it has ended, however."""
        return self.state not in ("PENDING", "RUNNING")

    @property
    def code(self) -> int:
        """Exit code of a job that is over; 1 where its process left none."""
        return (0 if self.state == "SUCCEEDED" else 1) if self.exit_code is None else self.exit_code


class Jobs:
    """The jobs of one cluster. Every method raises ExecutionError when the cluster does not answer or refuses."""

    def __init__(self, address: str) -> None:
        """`address`: of the head's dashboard, such as http://head:8265."""
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray believes the environment more than the argument
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):  # the second has a level of its own
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._answers():
            self._client = JobSubmissionClient(address)

    def start(
        self,
        command: str,
        *,
        job: str | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
        runtime_env: Mapping[str, Any] | None = None,
    ) -> str:
        """Gives a shell command to the cluster and returns the job's id. `folder` travels along and is where it runs.

        `runtime_env`: Ray's own description of an environment, which the rest is put over.
        """
        complete = dict(runtime_env or {})
        complete["env_vars"] = {**complete.get("env_vars", {}), **environment}
        if folder is not None:
            complete["working_dir"] = str(folder)
        with self._answers():
            return self._client.submit_job(
                entrypoint=command, submission_id=job, runtime_env=complete, metadata=dict(metadata)
            )

    def all(self) -> list[Job]:
        """Every job that was submitted, oldest first."""
        with self._answers():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started_ms)

    def get(self, job: str) -> Job:
        """One job."""
        with self._answers():
            return _job(self._client.get_job_info(job))

    def output(self, job: str) -> str:
        """All that it has printed."""
        with self._answers():
            return self._client.get_job_logs(job)

    def forget(self, job: str) -> None:
        """Removes a job that is over from the cluster's list."""
        with self._answers():
            self._client.delete_job(job)

    def follow(self, job: str, write: Callable[[str], None], look_seconds: float = LOOK_SECONDS) -> Job:
        """Writes what the job prints until it is over. Rides out a cluster that is away for minutes."""
        written, seen_at = 0, time.monotonic()
        while True:
            try:
                now = self.get(job)  # before its output: what it prints at the very end is not missed
                text = self.output(job)
                seen_at = time.monotonic()
            except ExecutionError:
                if time.monotonic() - seen_at > AWAY_SECONDS:
                    raise
                time.sleep(look_seconds)
                continue
            write(text[written:])
            written = len(text)
            if now.over:
                return now
            time.sleep(look_seconds)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise ExecutionError(_refused(self.address, error)) from error
        except (RuntimeError, ConnectionError, ValueError, OSError) as error:
            text = str(error).strip()
            if "Unauthorized" in text or "Forbidden" in text or "status code 40" in text:
                raise ExecutionError(_refused(self.address, error)) from error
            raise ExecutionError(
                f"The Ray cluster at {self.address} must answer, but: {text.splitlines()[0] if text else error!r}. "
                "`--address` is the head's dashboard, such as http://HEAD:8265; check that it runs and can be reached."
            ) from error


def quoted(*words: object) -> str:
    """The words as a shell command."""
    return shlex.join(str(word) for word in words)


def _job(details: Any) -> Job:
    return Job(
        id=str(details.submission_id),
        state=str(details.status),
        message=str(details.message or ""),
        exit_code=details.driver_exit_code,
        metadata=dict(details.metadata or {}),
        started_ms=int(details.start_time or 0),
    )


def _refused(address: str, error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"The Ray cluster at {address} wants its token, but: {first} Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH "
        "to a file with the cluster's token."
    )
