"""The ledger: what has happened in every sweep of a database. The truth that all else is fed from.

Tables: `sweeps`, `trials`, `deliveries`, `lease`, and one row in `ledger_version` (database.py). Knows no study, no
Optuna and no tracker; a row's content is schema.py's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from ..errors import LeaseHeldError, LedgerError
from ..records import Phase, State, TrialKey, TrialRecord
from .database import (
    DELIVERIES,
    LEASE,
    NOT_STALE,
    SWEEPS,
    TRIALS,
    Address,
    is_undelivered,
    lock,
    make_engine,
    mapped,
    prepare,
    rows_of,
    upsertion,
)
from .patience import Patience
from .schema import (
    DeliveryRecord,
    Holder,
    LeaseRecord,
    Role,
    Row,
    SweepRecord,
    SweepStatus,
    check_move,
    counted,
    delivery_record,
    is_same,
    lease_held,
    lease_record,
    prepare_folder,
    sweep_record,
    trial_record,
    trial_row,
)

__all__ = ["DeliveryRecord", "Holder", "LeaseRecord", "Ledger", "SweepRecord"]

AWAY_SECONDS = 120.0
"""How long a database server may be away before a sweep ends for it; the workers train what they have meanwhile."""
_CHUNK = 500

P = ParamSpec("P")
T = TypeVar("T")


def _patiently(method: Callable[Concatenate[Ledger, P], T]) -> Callable[Concatenate[Ledger, P], T]:
    """`method`, repeated as a whole while the database is away.

    Whether the transaction was committed when the connection broke is not known, so each must come to the same end
    when it is repeated after itself.
    """

    @wraps(method)
    def patient(self: Ledger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._patience.see_through(lambda: method(self, *args, **kwargs), lambda line: self.on_away(line))

    return patient


class Ledger:
    """An open ledger. Every method raises LedgerError when the database refuses; times are Unix seconds."""

    def __init__(self, engine: sa.Engine, address: Address, away_seconds: float) -> None:
        self._engine = engine
        self._address = address
        self._patience = Patience(0.0 if address.is_file else away_seconds)
        self.on_away: Callable[[str], None] = lambda _: None
        """is told when the database goes away, and when it answers again"""

    @classmethod
    def open(cls, url: str, *, create: bool = True, away_seconds: float = AWAY_SECONDS) -> Ledger:
        """Opens the ledger at `url` (`sqlite:///...` or `postgresql://...`).

        With `create`, a missing one is made, its folder too; without, it is a LedgerError. The database must answer
        now; later every method waits `away_seconds` for a server that is away, then raises LedgerAway.
        """
        address = Address.of(url)
        if address.is_file and address.url.database not in (None, "", ":memory:"):
            prepare_folder(Path(str(address.url.database)), create)
        with mapped(address):
            ledger = cls(make_engine(address), address, away_seconds)
            try:
                prepare(ledger._engine, address)
            except BaseException:
                ledger.close()
                raise
        return ledger

    def close(self) -> None:
        """Closes all connections. May be called twice."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- sweeps

    @_patiently
    def create_sweep(self, *, name: str, study: str, study_hash: str, created_at: float) -> SweepRecord:
        """Adds a running sweep. Raises LedgerError when there is one of this name."""
        row = {
            "name": name, "study": study, "study_hash": study_hash, "status": "running", "fingerprint": None,
            "reproducible": True, "stop_requested": False, "created_at": created_at, "finished_at": None,
        }  # fmt: skip
        with self._write() as connection:
            lock(connection, f"sweep {name}")
            found = rows_of(connection, sa.select(SWEEPS).where(SWEEPS.c.name == name))
            # A repetition may find the row that it wrote itself before the answer was lost.
            if found and not (self._patience.waited_seconds and found[0] == row):
                raise LedgerError(
                    f"A sweep's name is used once, but {name!r} is in {self._address.shown} already. "
                    "Resume it with the same study, or choose another name."
                )
            if not found:
                connection.execute(sa.insert(SWEEPS), row)
        return sweep_record(row)

    @_patiently
    def sweep(self, name: str) -> SweepRecord | None:
        """The sweep of this name, or None."""
        rows = self._fetch(sa.select(SWEEPS).where(SWEEPS.c.name == name))
        return sweep_record(rows[0]) if rows else None

    @_patiently
    def sweeps(self) -> list[SweepRecord]:
        """All sweeps, oldest first."""
        rows = self._fetch(sa.select(SWEEPS).order_by(SWEEPS.c.created_at, SWEEPS.c.name))
        return [sweep_record(row) for row in rows]

    @_patiently
    def update_sweep(
        self,
        name: str,
        *,
        status: SweepStatus | None = None,
        fingerprint: Mapping[str, str] | None = None,
        reproducible: bool | None = None,
        stop_requested: bool | None = None,
        finished_at: float | None = None,
    ) -> None:
        """Changes what is given; None leaves a field as it is."""
        given = {
            "status": status,
            "fingerprint": json.dumps(dict(fingerprint)) if fingerprint is not None else None,
            "reproducible": reproducible,
            "stop_requested": stop_requested,
            "finished_at": finished_at,
        }
        changes = {field: value for field, value in given.items() if value is not None}
        if changes:
            self._change(name, changes)

    @_patiently
    def extend_sweep(self, name: str, *, study: str, study_hash: str) -> None:
        """The sweep asks for more and runs again: all of it at once."""
        again = {"status": "running", "stop_requested": False, "finished_at": None}
        self._change(name, {"study": study, "study_hash": study_hash, **again})

    @_patiently
    def delete_sweep(self, name: str) -> None:
        """Removes every row of this sweep; one that does not exist is no error."""
        with self._write() as connection:
            for table in (TRIALS, DELIVERIES, LEASE):
                connection.execute(sa.delete(table).where(table.c.sweep == name))
            connection.execute(sa.delete(SWEEPS).where(SWEEPS.c.name == name))

    # -- trials

    @_patiently
    def save_trials(self, sweep: str, records: Sequence[TrialRecord], driver: Holder | None = None) -> None:
        """Writes all `records` in one transaction, or none of them; only while `driver`, if given, has its lease.

        Raises LedgerError on a move that records.MOVES does not allow; an ended trial stays as it is. LeaseHeldError
        where another took over from a driver that was stopped for long and came back.
        """
        rows = [trial_row(sweep, record) for record in records]
        last = {row["key"]: row for row in rows}
        with self._write() as connection:
            self._fence(connection, sweep, driver)
            stored = _stored(connection, sweep, list(last))
            # What is there already was written before the answer was lost: no move at all.
            same = {key for key, row in stored.items() if is_same(row, last[key])}
            due: dict[str, Row] = {}
            for row in rows:
                key = row["key"]
                if key not in same and (key not in stored or check_move(key, stored[key], row)):
                    stored[key] = due[key] = row
            self._upsert(connection, TRIALS, list(due.values()))

    @_patiently
    def supersede(self, sweep: str, keys: Iterable[TrialKey], driver: Holder | None = None) -> None:
        """Removes trials, ended ones too, whose keys others will have; what any tracker has of them is stale then.

        The one exception to records.MOVES: for trials that a larger study would not have asked for.
        """
        items, now = sorted(str(key) for key in keys), time.time()
        with self._write() as connection:
            self._fence(connection, sweep, driver)
            query = sa.select(DELIVERIES.c.target).where(DELIVERIES.c.sweep == sweep).distinct()
            targets = connection.execute(query).scalars().all()
            for at in range(0, len(items), _CHUNK):
                these = TRIALS.c.key.in_(items[at : at + _CHUNK])
                connection.execute(sa.delete(TRIALS).where(TRIALS.c.sweep == sweep, these))
            rows = [_delivery(sweep, target, item, None, "stale", now) for target in targets for item in items]
            self._upsert(connection, DELIVERIES, rows)

    @_patiently
    def trials(
        self, sweep: str, *, phase: Phase | None = None, states: Iterable[State] | None = None
    ) -> list[TrialRecord]:
        """The sweep's trials, ordered by arm, replicate, phase and number."""
        query = sa.select(TRIALS).where(TRIALS.c.sweep == sweep)
        if phase is not None:
            query = query.where(TRIALS.c.phase == str(phase))
        if states is not None:
            query = query.where(TRIALS.c.state.in_([str(state) for state in states]))
        # Databases disagree on the order of text.
        return sorted((trial_record(row) for row in self._fetch(query)), key=lambda record: record.key)

    @_patiently
    def counts(self, sweep: str) -> dict[tuple[str, Phase, State], int]:
        """(arm, phase, state) -> number of trials; reads no curve."""
        columns = (TRIALS.c.arm, TRIALS.c.phase, TRIALS.c.state)
        query = sa.select(*columns, sa.func.count()).where(TRIALS.c.sweep == sweep).group_by(*columns)
        rows = (tuple(row.values()) for row in self._fetch(query))
        return dict(counted(sweep, *row) for row in rows)

    # -- lease

    @_patiently
    def acquire_lease(self, sweep: str, role: Role, *, holder: Holder, now: float) -> None:
        """Takes `role` of `sweep`: when it is free, stale, our own, or its holder is seen to be gone.

        Raises LeaseHeldError otherwise. At most one of several that try at once gets it.
        """
        now += self._patience.waited_seconds
        row: Row = {"sweep": sweep, "role": role, **asdict(holder), "since": now, "heartbeat": now}
        with self._write() as connection:
            lock(connection, f"lease {role} {sweep}")  # a row that is not there yet cannot be locked
            query = sa.select(LEASE).where(LEASE.c.sweep == sweep, LEASE.c.role == role).with_for_update()
            for held in rows_of(connection, query):
                lease = lease_record(held)
                if lease.holder == holder:
                    row["since"] = lease.since
                elif lease.is_live(now):
                    raise lease_held(sweep, role, lease, now)
            self._upsert(connection, LEASE, [row])

    @_patiently
    def heartbeat(self, sweep: str, role: Role, holder: Holder, now: float) -> None:
        """A sign of life. Raises LeaseHeldError when the role was taken by another or the sweep deleted."""
        now += self._patience.waited_seconds
        with self._write() as connection:
            mine = sa.update(LEASE).where(*_is_held_by(sweep, role, holder)).values(heartbeat=now)
            if not connection.execute(mine).rowcount:
                raise _lease_lost(connection, sweep, role, now)

    @_patiently
    def release_lease(self, sweep: str, role: Role, holder: Holder) -> None:
        """Frees the role; nothing happens when `holder` does not hold it."""
        with self._write() as connection:
            connection.execute(sa.delete(LEASE).where(*_is_held_by(sweep, role, holder)))

    @_patiently
    def lease(self, sweep: str, role: Role) -> LeaseRecord | None:
        """Who holds the role, alive or not (`LeaseRecord.is_live`)."""
        rows = self._fetch(sa.select(LEASE).where(LEASE.c.sweep == sweep, LEASE.c.role == role))
        return lease_record(rows[0]) if rows else None

    # -- deliveries

    @_patiently
    def mark_begun(self, sweep: str, target: str, items: Iterable[str]) -> set[str]:
        """Notes that a run of each item may exist at `target` from now on; the items, without those that are stale."""
        return self._mark(sweep, target, dict.fromkeys(items), "begun")

    @_patiently
    def mark_done(self, sweep: str, target: str, run_ids: Mapping[str, str]) -> None:
        """Notes item -> run id as complete at `target`; one that has become stale stays so."""
        self._mark(sweep, target, run_ids, "done")

    @_patiently
    def mark_discarded(self, sweep: str, target: str, items: Iterable[str]) -> None:
        """Notes that `target` no longer has what was stale. (A late request may bring it back: begun, not gone.)"""
        self._mark(sweep, target, dict.fromkeys(items), "begun", even_stale=True)

    @_patiently
    def mark_stale(self, sweep: str) -> None:
        """Notes all that any tracker was given of this sweep as stale."""
        with self._write() as connection:
            connection.execute(sa.update(DELIVERIES).where(DELIVERIES.c.sweep == sweep).values(state="stale"))

    @_patiently
    def targets(self, sweep: str) -> dict[str, int]:
        """Target -> how many items it was given, or may have been."""
        columns = (DELIVERIES.c.target, sa.func.count().label("items"))
        query = sa.select(*columns).where(DELIVERIES.c.sweep == sweep).group_by(DELIVERIES.c.target)
        return {row["target"]: row["items"] for row in sorted(self._fetch(query), key=lambda row: str(row["target"]))}

    @_patiently
    def deliveries(self, sweep: str, target: str, *, state: str | None = None) -> dict[str, DeliveryRecord]:
        """Item (`str(TrialKey)` or "parent") -> how far it is; only those in `state` when given."""
        query = sa.select(DELIVERIES).where(DELIVERIES.c.sweep == sweep, DELIVERIES.c.target == target)
        if state is not None:
            query = query.where(DELIVERIES.c.state == state)
        rows = self._fetch(query)
        return {row["item"]: delivery_record(row) for row in rows}

    @_patiently
    def undelivered(self, sweep: str, target: str, limit: int) -> list[TrialRecord]:
        """Ended trials that are not done at `target`, oldest end first."""
        due = sa.select(TRIALS).where(*is_undelivered(sweep, target))
        rows = self._fetch(due.order_by(TRIALS.c.ended_at, TRIALS.c.key).limit(limit))
        return [trial_record(row) for row in rows]

    @_patiently
    def count_undelivered(self, sweep: str, target: str) -> int:
        """How many ended trials are not done at `target`."""
        (row,) = self._fetch(sa.select(sa.func.count().label("due")).where(*is_undelivered(sweep, target)))
        return int(row["due"])

    # -- inside

    def _fence(self, connection: sa.Connection, sweep: str, driver: Holder | None) -> None:
        """Raises LeaseHeldError where `driver` is given and no longer the sweep's."""
        if driver is None:
            return
        mine = sa.select(LEASE.c.role).where(*_is_held_by(sweep, "driver", driver)).with_for_update(read=True)
        if connection.execute(mine).first() is None:
            raise _lease_lost(connection, sweep, "driver", time.time())

    def _fetch(self, query: sa.Select[Any]) -> list[Row]:
        with mapped(self._address), self._engine.connect() as connection:
            return rows_of(connection, query)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with mapped(self._address), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def _change(self, name: str, changes: Row) -> None:
        with self._write() as connection:
            done = connection.execute(sa.update(SWEEPS).where(SWEEPS.c.name == name).values(changes))
            if done.rowcount == 0:
                raise LedgerError(
                    f"Only a sweep that exists can change, but {name!r} is not in {self._address.shown}. "
                    "`vae-sweep list` prints the names."
                )

    def _upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        rows: Sequence[Row],
        over: sa.ColumnElement[bool] | None = None,
    ) -> None:
        if rows:
            connection.execute(upsertion(connection.dialect.name, table, over), rows)

    def _mark(
        self, sweep: str, target: str, run_ids: Mapping[str, str | None], state: str, *, even_stale: bool = False
    ) -> set[str]:
        """The items that are in `state` then."""
        now = time.time()
        rows = [_delivery(sweep, target, item, run_id, state, now) for item, run_id in sorted(run_ids.items())]
        query = sa.select(DELIVERIES.c.item).where(
            DELIVERIES.c.sweep == sweep, DELIVERIES.c.target == target, DELIVERIES.c.state == state
        )
        with self._write() as connection:
            self._upsert(connection, DELIVERIES, rows, None if even_stale else NOT_STALE)
            found = set(connection.execute(query).scalars()) if state == "begun" else set(run_ids)
        return found & run_ids.keys()


def _lease_lost(connection: sa.Connection, sweep: str, role: Role, now: float) -> LeaseHeldError:
    """The error for a former holder."""
    query = sa.select(LEASE).where(LEASE.c.sweep == sweep, LEASE.c.role == role)
    for row in rows_of(connection, query):
        return lease_held(sweep, role, lease_record(row), now)
    return LeaseHeldError(
        f"The {role} of a sweep holds its lease, but that of {sweep!r} is gone: the sweep was deleted, "
        "or its lease released. Run the same command again."
    )


def _delivery(sweep: str, target: str, item: str, run_id: str | None, state: str, at: float) -> Row:
    return {"sweep": sweep, "target": target, "item": item, "run_id": run_id, "state": state, "at": at}


def _stored(connection: sa.Connection, sweep: str, keys: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for at in range(0, len(keys), _CHUNK):
        query = sa.select(TRIALS).where(TRIALS.c.sweep == sweep, TRIALS.c.key.in_(keys[at : at + _CHUNK]))
        found.update((row["key"], row) for row in rows_of(connection, query))
    return found


def _is_held_by(sweep: str, role: Role, holder: Holder) -> list[sa.ColumnElement[bool]]:
    held = {"sweep": sweep, "role": role, **asdict(holder)}
    return [LEASE.c[name] == value for name, value in held.items()]
