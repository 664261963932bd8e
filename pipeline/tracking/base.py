"""What a tracker is given and what it can do.

Plain records and one protocol. They know no ledger, no study and no tracking library; delivery/ makes
the records, an implementation keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

HEARTBEAT = "vae_sweep.heartbeat"
"""Tag of a parent run: when its sweep last gave a sign of life. Old, on a run that is RUNNING: the sweep is dead."""
STUDY_FILE = "study.yaml"
"""Artifact of the parent run."""
REPORT_FILE = "report.html"
"""Artifact of the parent run at its end."""
SUMMARY_FILE = "summary.md"
"""Artifact of the parent run at its end, also its description."""


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of one metric. Equal points count once, so a repeated delivery adds none."""

    key: str
    value: float
    """finite"""
    step: int
    """finished epochs"""
    timestamp_ms: int
    """from the ledger, never the clock of the delivery"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a run, shown beside those of other runs and steps."""

    key: str
    """what it shows: equal for all runs; letters, digits and `/ _ -` only"""
    step: int
    """finished epochs"""
    timestamp_ms: int
    file: Path
    """PNG"""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that is to be shown of one ended trial."""

    ledger_id: str
    """identity of the trial across ledgers; letters, digits and `/ . _ -` only"""
    name: str
    params: Mapping[str, str]
    metrics: tuple[MetricPoint, ...]
    tags: Mapping[str, str]
    files: Mapping[str, Path]
    """artifact name -> file of that name"""
    started_ms: int
    ended_ms: int
    status: RunStatus
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """The data set of a sweep."""

    name: str
    digest: str
    """at most 36 characters"""
    source: str
    """JSON: where it came from"""
    profile: str | None = None
    """JSON: sizes and the like"""


@dataclass(frozen=True, slots=True)
class SweepRun:
    """What the parent of all runs of a sweep shows."""

    name: str
    ledger_id: str
    """identity of the sweep across ledgers; letters, digits and `/ . _ -` only"""
    study_yaml: str
    question: str
    started_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)
    dataset: DatasetInfo | None = None
    factors: tuple[str, ...] = ()
    """params that runs are grouped by"""
    metrics: tuple[str, ...] = ()
    """what a run is judged by, the first one first"""
    epochs: int = 1
    """of a run; 1 where runs differ in it"""


@dataclass(frozen=True, slots=True)
class SweepEnd:
    """What the parent run gets when its sweep is over."""

    status: RunStatus
    ended_ms: int
    files: Mapping[str, str] = field(default_factory=dict)
    """artifact name -> text"""
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run as the tracker has it; the parent too."""

    ledger_id: str
    run_id: str
    status: str
    """a RunStatus, or RUNNING"""
    metrics: Mapping[str, float]
    """metric name -> value at the last step"""
    params: Mapping[str, str]
    artifacts: frozenset[str] = frozenset()
    """none where they were not looked for"""


def spelled_time(at_ms: int) -> str:
    """For people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))


class Tracker(Protocol):
    """Keeps runs for people to browse.

    Every method raises TrackerAway when the tracker cannot be reached (nothing is known about what got
    through) and TrackerError when it refuses. Every method may be repeated.
    """

    @property
    def target(self) -> str:
        """Which tracker this is, without credentials; deliveries are remembered under it."""
        ...

    def record_sweep(self, sweep: SweepRun, end: SweepEnd | None = None, *, alive_ms: int | None = None) -> str:
        """Makes the sweep's parent run where there is none, or says in it what has changed; its run id.

        `end`: adds these files, metrics and tags, and ends it. `alive_ms`: when the sweep last gave a sign of life,
        for people who find the run unfinished.
        """
        ...

    def deliver(self, sweep: SweepRun, run: RunRecord, *, in_doubt: bool) -> str:
        """Records `run` completely; its run id.

        `in_doubt`: an earlier attempt may have left a run behind, which is then found and completed.
        """
        ...

    def discard(self, sweep: SweepRun, ledger_ids: Collection[str] | None = None) -> None:
        """Removes the runs of these trials, or all that it has of the sweep; what is not there is no error.

        Afterwards another sweep may have this one's name. Removed may mean hidden, for its owner to purge.
        """
        ...

    def recorded(self, sweep: SweepRun, *, files: bool = True) -> tuple[RecordedRun, ...]:
        """Every run of this sweep that the tracker has, the parent too; none when it has no such sweep.

        `files`: looks for artifacts as well, which may take a request for each run.
        """
        ...
