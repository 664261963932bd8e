"""The shared words: what one part of the pipeline hands to another.

Plain frozen records without behaviour beyond their own spelling. They know no library, no file and
no database; every kit may import them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Value = bool | int | float | str | tuple[int, ...] | None
"""A hyperparameter's value."""

Params = Mapping[str, Value]
"""Hyperparameters by their flat study-file name."""


class Phase(StrEnum):
    """What a trial is run for."""

    SEARCH = "search"
    """proposed by the search's sampler, judged on validation data"""
    SHORTLIST = "shortlist"
    """one of the search's best configurations again, on a fresh seed, judged on validation data"""
    REPEAT = "repeat"
    """the chosen configuration on a fresh seed, the only place where test data is touched"""


class State(StrEnum):
    """Where a trial stands. `MOVES` holds the legal moves."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"
    """ended early by its stopping rule"""
    DIVERGED = "diverged"
    """a non-finite loss or gradient: a result, not an error"""
    FAILED = "failed"
    """an exception from the model or the user's code"""


ENDED = frozenset({State.COMPLETE, State.STOPPED, State.DIVERGED, State.FAILED})

MOVES: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.RUNNING}),
    State.RUNNING: ENDED | {State.WAITING},  # back to waiting: its worker or driver was lost
    State.COMPLETE: frozenset(),
    State.STOPPED: frozenset(),
    State.DIVERGED: frozenset(),
    State.FAILED: frozenset(),
}
"""state of a trial -> the states it may go to"""


@dataclass(frozen=True, slots=True, order=True)
class TrialKey:
    """A trial's identity inside its sweep."""

    arm: str
    """hash of the arm's scientific values"""
    replicate: int
    phase: Phase
    number: int
    """search: Optuna's trial number. shortlist: candidate * candidate_seeds + seed. repeat: repeat."""

    def __str__(self) -> str:
        return f"{self.arm}/{self.replicate}/{self.phase}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> TrialKey:
        """The inverse of `str`. Raises ValueError when `text` is not a key."""
        arm, replicate, phase, number = text.split("/")
        return cls(arm, int(replicate), Phase(phase), int(number))


@dataclass(frozen=True, slots=True)
class Stopping:
    """How a trial's curve is judged after every epoch but the last; the same for all trials of a search."""

    by_latest: bool = False
    """whether the latest value is held to the thresholds; else the best so far"""
    patience_epochs: int | None = None
    """a trial stops when its best of the latest `patience_epochs` + 1 is too far below its best before; None: never"""
    min_delta_nats: float = 0.0
    """what is too far: more than this"""


@dataclass(frozen=True, slots=True)
class TrialTask:
    """All that a worker needs to train one trial; nothing else may influence the numbers."""

    key: TrialKey
    hyperparameters: Params
    """every structural and numeric hyperparameter, flat and complete"""
    seed: int
    """seeds initial weights, batch order and noise"""
    thresholds: tuple[float | None, ...] = ()
    """stopping rule: after epoch e the trial stops when its best metric so far is below entry e"""
    evaluate_test: bool = False
    keep_weights: bool = False
    checkpoint: bytes | None = None
    """where to go on from, as a former worker left it; changes no number"""
    stopping: Stopping = Stopping()
    """what else its stopping rule says"""


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How one trial ended, as the worker reports it."""

    state: State
    """one of ENDED"""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """metric name -> one value per finished epoch"""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """metric name -> value at the end (last epoch's values; `test/...` for repeats)"""
    cause: str | None = None
    """why it diverged, stopped or failed; a function of the trial alone"""
    epochs: int = 0
    """finished epochs"""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """file name -> content: `samples.png`, `reconstructions.png`, `model.safetensors`"""
    epoch_times: tuple[float, ...] = ()
    """Unix seconds at the end of each finished epoch"""
    started_at: float = 0.0
    """Unix seconds"""
    ended_at: float = 0.0
    """Unix seconds"""
    worker_seconds: float = 0.0
    """this trial's share of its worker's time"""
    worker: str = ""
    host: str = ""
    largest_pack: int = 1
    """the most slots this trial's pack had while it trained"""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One row of the ledger's trials table."""

    key: TrialKey
    params: Params
    """the nuisance values; the arm holds the scientific ones, the study the fixed ones"""
    seed: int
    state: State = State.WAITING
    attempts: int = 0
    """how often the trial was handed to a worker"""
    proposal: Mapping[str, Any] = field(default_factory=dict)
    """what the sampler stored with the proposal (Optuna's system attributes)"""
    thresholds: tuple[float | None, ...] = ()
    outcome: TrialOutcome | None = None
    """None until the state is one of ENDED; its `files` are empty when read back"""
    files: Mapping[str, str] = field(default_factory=dict)
    """file name -> sha256 of the file kept under the sweep's `trials/` folder"""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """A trial finished an epoch."""

    key: TrialKey
    epoch: int
    """finished epochs"""
    value: float
    """`val/elbo`"""


@dataclass(frozen=True, slots=True)
class TrialCheckpoint:
    """All that another worker needs to go on with a trial where this one is."""

    key: TrialKey
    epoch: int
    """finished epochs"""
    content: bytes


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial ended."""

    key: TrialKey
    outcome: TrialOutcome


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is ready for trials."""

    worker: str
    host: str
    fingerprint: Mapping[str, str]
    """what its numbers depend on: versions, device kind, CPU capability, threads"""
    slots: int
    """trials it trains at once, at the most"""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, and with it the unfinished epochs of its trials."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrialsReturned:
    """Trials that a worker gives back because it had not begun them."""

    keys: tuple[TrialKey, ...]


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What a worker's time went into since its last such report. Sums, so reports can be added up."""

    seconds: float = 0.0
    """wall time, waiting for work included"""
    step_seconds: float = 0.0
    """of it in training steps; the rest is evaluation, pictures, refilling and waiting"""
    slot_seconds: float = 0.0
    """occupied slots times seconds"""
    capacity_seconds: float = 0.0
    """slots that could have been occupied times seconds"""

    def __add__(self, other: WorkerUse) -> WorkerUse:
        return WorkerUse(
            self.seconds + other.seconds,
            self.step_seconds + other.step_seconds,
            self.slot_seconds + other.slot_seconds,
            self.capacity_seconds + other.capacity_seconds,
        )

    @property
    def occupancy(self) -> float:
        """Share of the slots that were occupied."""
        return self.slot_seconds / self.capacity_seconds if self.capacity_seconds else 0.0

    @property
    def step_share(self) -> float:
        """Share of the time spent in training steps."""
        return self.step_seconds / self.seconds if self.seconds else 0.0


Event = EpochReport | TrialCheckpoint | TrialEnded | TrialsReturned | WorkerJoined | WorkerLost | WorkerUse
"""What an executor tells the driver."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare blanks: equal values give equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """First `length` hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from (sweep seed, purpose, replicate, index, ...).

    The arm is left out on purpose: arms are compared on common random numbers.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
