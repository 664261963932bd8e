"""What the ledger's rows hold, and how a trial becomes a row and back.

Pure values: it knows no database and no SQL (ledger.py does), so that other processes may use its
records without loading either.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import LeaseHeldError, LedgerError
from ..records import ENDED, MOVES, Phase, State, TrialKey, TrialOutcome, TrialRecord, Value
from .soundness import DELIVERY, LEASE, check, check_groups, damaged, sound_sweep, sound_trial, trial_name

SCHEMA_VERSION = 1
LEASE_SECONDS = 30.0
"""A lease whose last heartbeat is older than this is free."""

SweepStatus = Literal["running", "stopped", "finished"]
Role = Literal["driver", "delivery", "export"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """One row of the ledger's sweeps table."""

    name: str
    study: str
    """the resolved study as canonical JSON"""
    study_hash: str
    status: SweepStatus
    fingerprint: Mapping[str, str] | None
    """what the numbers depend on, fixed by the first trial"""
    reproducible: bool
    stop_requested: bool
    created_at: float
    """Unix seconds"""
    finished_at: float | None
    """Unix seconds"""


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """How far one item has come on its way to one tracker."""

    state: Literal["begun", "done", "stale"]
    """begun: a run may or may not exist there. done: it is complete there. stale: what is there is a superseded
    trial's, and must go before this one's is delivered"""
    run_id: str | None
    at: float
    """Unix seconds"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, told apart from a later one that got the same process id."""

    host: str
    pid: int
    started: str
    """kernel start time of the process; empty where it cannot be read"""
    scope: str
    """boot and process-id namespace: process ids mean something only within one; empty where unknown"""

    @classmethod
    def current(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, (_process_stat(pid) or ("", ""))[1], _scope())

    @property
    def is_seen(self) -> bool:
        """Whether it can be seen from here if this process runs."""
        return (self.host, self.scope) == (socket.gethostname(), _scope())

    def is_gone(self) -> bool:
        """True when this process surely no longer runs; False when it does, or when that cannot be seen."""
        if not self.is_seen:
            return False
        stat = _process_stat(self.pid)
        if stat is not None:
            state, started = stat
            return state in "ZX" or started != self.started
        return not _answers_signals(self.pid)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """Who holds a role of a sweep."""

    holder: Holder
    since: float
    """Unix seconds"""
    heartbeat: float
    """Unix seconds of the last sign of life"""

    def is_live(self, now: float) -> bool:
        """Whether the role is taken at `now` (Unix seconds)."""
        return now - self.heartbeat < LEASE_SECONDS and not self.holder.is_gone()


def _process_stat(pid: int) -> tuple[str, str] | None:
    """(state letter, start time in clock ticks since boot) from /proc; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the program's name before it may hold blanks and brackets
    return fields[0], fields[19]


def _scope() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _answers_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def pack_floats(groups: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """Named float sequences in named groups as one compact blob; equal content gives equal bytes inside.

    zlib of: header length (uint32), header JSON (group -> [[name, length], ...]), little-endian float64s.
    """
    header = {group: [[name, len(series[name])] for name in sorted(series)] for group, series in sorted(groups.items())}
    head = json.dumps(header, separators=(",", ":")).encode()
    values = [value for _, series in sorted(groups.items()) for name in sorted(series) for value in series[name]]
    return zlib.compress(struct.pack(f"<I{len(head)}s{len(values)}d", len(head), head, *values), 1)


def unpack_floats(blob: bytes) -> dict[str, dict[str, tuple[float, ...]]]:
    """The inverse of `pack_floats`, NaN and infinities included. Raises ValueError on a damaged blob."""
    try:
        data = zlib.decompress(blob)
        (length,) = struct.unpack_from("<I", data)
        header: dict[str, list[tuple[str, int]]] = json.loads(data[4 : 4 + length])
        values = struct.unpack(f"<{(len(data) - 4 - length) // 8}d", data[4 + length :])
        groups: dict[str, dict[str, tuple[float, ...]]] = {}
        at = 0
        for group, names in header.items():
            series = groups.setdefault(group, {})
            for name, count in names:
                series[str(name)] = values[at : at + count]
                at += count
        if at != len(values):
            raise ValueError(f"{len(values)} numbers where {at} are named")
    except (zlib.error, struct.error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return groups


def trial_row(sweep: str, record: TrialRecord) -> Row:
    """`record` as a row of the trials table. Raises LedgerError when state and outcome disagree."""
    outcome = record.outcome
    if (outcome.state if outcome else None) != (record.state if record.state in ENDED else None):
        raise LedgerError(
            f"An ended trial has an outcome of its own state and no other trial has one, but {record.key} is "
            f"{record.state} with {outcome.state if outcome else 'none'}. This is a bug; please report it."
        )
    row: Row = {
        "sweep": sweep,
        "key": str(record.key),
        "arm": record.key.arm,
        "replicate": record.key.replicate,
        "phase": str(record.key.phase),
        "number": record.key.number,
        "state": str(record.state),
        "seed": record.seed,
        "attempts": record.attempts,
        "params": json.dumps(dict(record.params)),
        "proposal": json.dumps(dict(record.proposal)),
        "thresholds": json.dumps(record.thresholds),
        "files": json.dumps(dict(sorted(record.files.items()))),
        "curves": _pack_outcome(outcome) if outcome else None,
    }
    for name in _OUTCOME_COLUMNS:
        row[name] = getattr(outcome, name) if outcome else None
    if row["cause"]:  # PostgreSQL has no NUL in a text, and no database half a character
        row["cause"] = row["cause"].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return row


_OUTCOME_COLUMNS = (
    "cause", "epochs", "started_at", "ended_at", "worker_seconds", "worker", "host", "largest_pack",
)  # fmt: skip


def trial_record(row: Mapping[str, Any]) -> TrialRecord:
    """The inverse of `trial_row`. Raises LedgerError, which names the trial, on a damaged row."""
    sound = sound_trial(row)
    state = State(sound["state"])
    return TrialRecord(
        key=TrialKey(sound["arm"], sound["replicate"], Phase(sound["phase"]), sound["number"]),
        params={name: _value(value) for name, value in sound["params"].items()},
        seed=sound["seed"],
        state=state,
        attempts=sound["attempts"],
        proposal=sound["proposal"],
        thresholds=tuple(sound["thresholds"]),
        outcome=_unpack_outcome(state, row) if row["curves"] is not None else None,
        files=sound["files"],
    )


def counted(sweep: str, arm: str, phase: str, state: str, trials: int) -> tuple[tuple[str, Phase, State], int]:
    """How many trials of an arm stand where. Raises LedgerError where they stand nowhere."""
    try:
        return (arm, Phase(phase), State(state)), trials
    except ValueError as error:
        raise damaged(f"trials of arm {arm!r} of sweep {sweep!r}", f"have an impossible standing: {error}") from error


def _value(value: Any) -> Value:
    return tuple(value) if isinstance(value, list) else value


def _pack_outcome(outcome: TrialOutcome) -> bytes:
    metrics = {name: (value,) for name, value in outcome.metrics.items()}
    return pack_floats({"curves": outcome.curves, "metrics": metrics, "times": {"epoch": outcome.epoch_times}})


def _unpack_outcome(state: State, row: Mapping[str, Any]) -> TrialOutcome:
    try:
        groups = unpack_floats(row["curves"])
    except ValueError as error:
        raise damaged(trial_name(row), f"has damaged curves ({error})") from error
    check_groups(trial_name(row), groups)
    return TrialOutcome(
        state=state,
        curves=groups["curves"],
        metrics={name: series[0] for name, series in groups["metrics"].items()},
        epoch_times=groups["times"]["epoch"],
        **{name: row[name] for name in _OUTCOME_COLUMNS},
    )


def check_move(key: str, stored: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` has to be written over `stored`. Raises LedgerError on an illegal move."""
    before, after = State(sound_trial(stored)["state"]), State(new["state"])
    if before not in ENDED and (after == before or after in MOVES[before]):
        return True
    if after == before and is_same(stored, new):
        return False
    what = "another result" if after == before else f"state {after}"
    legal = ", ".join(sorted(MOVES[before])) or "none, it has ended"
    raise LedgerError(
        f"A trial moves only along its legal states, but {key} is {before} and {what} came (legal: {legal}). "
        "Another driver may have run this sweep; run the same command again."
    )


def is_same(stored: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two rows of the trials table say the same."""
    if any(stored[name] != value for name, value in new.items() if name != "curves"):
        return False
    if stored["curves"] is None or new["curves"] is None:
        return stored["curves"] is new["curves"]
    # The compressed bytes may differ between zlib versions; what they hold may not.
    try:
        return zlib.decompress(stored["curves"]) == zlib.decompress(new["curves"])
    except zlib.error as error:
        raise damaged(trial_name(stored), f"has damaged curves ({error})") from error


def sweep_record(row: Mapping[str, Any]) -> SweepRecord:
    """A row of the sweeps table as a record. Raises LedgerError, which names the sweep, on a damaged row."""
    return SweepRecord(**sound_sweep(row))


def lease_record(row: Mapping[str, Any]) -> LeaseRecord:
    """A row of the lease table as a record. Raises LedgerError on a damaged row."""
    check(row, LEASE, f"the {row['role']} of sweep {row['sweep']!r}")
    holder = Holder(row["host"], row["pid"], row["started"], row["scope"])
    return LeaseRecord(holder, row["since"], row["heartbeat"])


def delivery_record(row: Mapping[str, Any]) -> DeliveryRecord:
    """A row of the deliveries table as a record. Raises LedgerError on a damaged row."""
    check(row, DELIVERY, f"the delivery of {row['item']!r} of sweep {row['sweep']!r}")
    return DeliveryRecord(row["state"], row["run_id"], row["at"])


def lease_held(sweep: str, role: Role, lease: LeaseRecord, now: float) -> LeaseHeldError:
    """The error for a role that `lease` holds at `now` (Unix seconds)."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(lease.since))
    return LeaseHeldError(
        f"A sweep has one {role} at a time, but that of {sweep!r} is process {lease.holder.pid} on "
        f"{lease.holder.host} since {since} (last sign of life {max(0.0, now - lease.heartbeat):.0f} s ago). "
        f"Wait for it or end it; a dead one on another host is replaced after {LEASE_SECONDS:.0f} s."
    )


def prepare_folder(file: Path, create: bool) -> None:
    """Makes the folder of a ledger file; without `create` the file must exist. Raises LedgerError."""
    if not create and not file.is_file():
        raise LedgerError(
            f"A ledger must be there to be read, but {file} does not exist. "
            "Name the --workdir in which the sweep was run."
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(
            f"A ledger needs a folder that may be written, but {file.parent} cannot be made "
            f"({error.strerror}). Name another --workdir."
        ) from error
