"""The ledger: what has happened in every sweep of a database. The truth that all else is fed from.

The only file importing SQLAlchemy (Core, no ORM). Tables: `sweeps`, `trials`, `deliveries`, `lease`, and one row in
`ledger_version`. SQLite runs in WAL mode. Knows no study, no Optuna and no tracker; a row's content is schema.py's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from ..errors import LeaseHeldError, LedgerError
from ..records import ENDED, Phase, State, TrialRecord
from .schema import (
    SCHEMA_VERSION,
    DeliveryRecord,
    Holder,
    LeaseRecord,
    Role,
    Row,
    SweepRecord,
    SweepStatus,
    check_move,
    lease_held,
    lease_record,
    prepare_folder,
    sweep_record,
    trial_record,
    trial_row,
)

__all__ = ["DeliveryRecord", "Holder", "LeaseRecord", "Ledger", "SweepRecord"]

_BUSY_SECONDS = 60
_CHUNK = 500

_META = sa.MetaData()
_T, _I, _B, _D = sa.Text, sa.Integer, sa.BigInteger, sa.Double


def _table(name: str, keys: str, required: Mapping[str, Any], optional: Mapping[str, Any], *more: Any) -> sa.Table:
    columns = [sa.Column(key, _T, primary_key=True) for key in keys.split()]
    columns += [sa.Column(column, kind, nullable=False) for column, kind in required.items()]
    columns += [sa.Column(column, kind) for column, kind in optional.items()]
    return sa.Table(name, _META, *columns, *more)


# fmt: off
_VERSION = _table("ledger_version", "", {"version": _I}, {})
_SWEEPS = _table(
    "sweeps", "name",
    {"study": _T, "study_hash": _T, "status": _T, "reproducible": sa.Boolean, "stop_requested": sa.Boolean,
     "created_at": _D},
    {"fingerprint": _T, "finished_at": _D},
)
_TRIALS = _table(
    "trials", "sweep key",
    {"arm": _T, "replicate": _I, "phase": _T, "number": _I, "state": _T, "seed": _B, "attempts": _I,
     "params": _T, "proposal": _T, "thresholds": _T, "files": _T},
    {"cause": _T, "epochs": _I, "started_at": _D, "ended_at": _D, "worker_seconds": _D, "worker": _T,
     "host": _T, "largest_pack": _I, "curves": sa.LargeBinary},
    sa.Index("trials_by_end", "sweep", "ended_at"),
    sa.Index("trials_by_state", "sweep", "arm", "phase", "state"),
)
_DELIVERIES = _table("deliveries", "sweep target item", {"state": _T, "at": _D}, {"run_id": _T})
_LEASE = _table(
    "lease", "sweep role",
    {"host": _T, "pid": _B, "started": _T, "scope": _T, "since": _D, "heartbeat": _D}, {},
)
# fmt: on

_REMEDIES = {
    "not a database": "Move that file away, or name another --workdir or database URL.",
    "unable to open": "Check that its folder exists and may be written, or name another --workdir.",
    "readonly": "Check that the file and its folder may be written, or name another --workdir.",
    "locked": "Another process is writing for longer than a minute; wait for it or end it, then run again.",
    "full": "Free some space, then run the same command again.",
    "disk i/o": "Check the disk; a ledger belongs on a local one, not on a network share.",
}


class Ledger:
    """An open ledger. Every method raises LedgerError when the database refuses; times are Unix seconds."""

    def __init__(self, engine: sa.Engine, where: str) -> None:
        self._engine = engine
        self._where = where

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Ledger:
        """Opens the ledger at `url` (`sqlite:///...` or `postgresql://...`).

        With `create`, a missing one is made, its folder too; without, it is a LedgerError.
        """
        try:
            parsed = sa.make_url(url)
            where = parsed.render_as_string(hide_password=True)
        except sa.exc.ArgumentError as error:
            raise LedgerError(
                "A ledger's address is a database URL such as sqlite:////folder/ledger.db, but what came "
                f"begins with {url.split(':')[0][:12]!r}. Correct --workdir or VAE_SWEEP_DATABASE_URL."
            ) from error
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            prepare_folder(Path(str(parsed.database)), create)
        with _mapped(where):
            ledger = cls(_engine(parsed), where)
            try:
                ledger._prepare()
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

    def create_sweep(self, *, name: str, study: str, study_hash: str, created_at: float) -> SweepRecord:
        """Adds a running sweep. Raises LedgerError when there is one of this name."""
        row = {
            "name": name, "study": study, "study_hash": study_hash, "status": "running", "fingerprint": None,
            "reproducible": True, "stop_requested": False, "created_at": created_at, "finished_at": None,
        }  # fmt: skip
        with self._write() as connection:
            if connection.execute(sa.select(_SWEEPS.c.name).where(_SWEEPS.c.name == name)).first():
                raise LedgerError(
                    f"A sweep's name is used once, but {name!r} is in {self._where} already. "
                    "Resume it with the same study, or choose another name."
                )
            connection.execute(sa.insert(_SWEEPS), row)
        return sweep_record(row)

    def sweep(self, name: str) -> SweepRecord | None:
        """The sweep of this name, or None."""
        rows = self._fetch(sa.select(_SWEEPS).where(_SWEEPS.c.name == name))
        return sweep_record(rows[0]) if rows else None

    def sweeps(self) -> list[SweepRecord]:
        """All sweeps, oldest first."""
        rows = self._fetch(sa.select(_SWEEPS).order_by(_SWEEPS.c.created_at, _SWEEPS.c.name))
        return [sweep_record(row) for row in rows]

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
        if not changes:
            return
        with self._write() as connection:
            done = connection.execute(sa.update(_SWEEPS).where(_SWEEPS.c.name == name).values(changes))
            if done.rowcount == 0:
                raise LedgerError(
                    f"Only a sweep that exists can change, but {name!r} is not in {self._where}. "
                    "`vae-sweep list` prints the names."
                )

    def delete_sweep(self, name: str) -> None:
        """Removes every row of this sweep; one that does not exist is no error."""
        with self._write() as connection:
            for table in (_TRIALS, _DELIVERIES, _LEASE):
                connection.execute(sa.delete(table).where(table.c.sweep == name))
            connection.execute(sa.delete(_SWEEPS).where(_SWEEPS.c.name == name))

    # -- trials

    def save_trials(self, sweep: str, records: Sequence[TrialRecord]) -> None:
        """Writes all `records` in one transaction, or none of them.

        Raises LedgerError on a move that records.MOVES does not allow; an ended trial stays as it is.
        """
        rows = [trial_row(sweep, record) for record in records]
        with self._write() as connection:
            stored = _stored(connection, sweep, [row["key"] for row in rows])
            due: dict[str, Row] = {}
            for row in rows:
                key = row["key"]
                if key not in stored or check_move(key, stored[key], row):
                    stored[key] = due[key] = row
            self._upsert(connection, _TRIALS, list(due.values()))

    def trials(
        self, sweep: str, *, phase: Phase | None = None, states: Iterable[State] | None = None
    ) -> list[TrialRecord]:
        """The sweep's trials, ordered by arm, replicate, phase and number."""
        query = sa.select(_TRIALS).where(_TRIALS.c.sweep == sweep)
        if phase is not None:
            query = query.where(_TRIALS.c.phase == str(phase))
        if states is not None:
            query = query.where(_TRIALS.c.state.in_([str(state) for state in states]))
        # Databases disagree on the order of text.
        return sorted((trial_record(row) for row in self._fetch(query)), key=lambda record: record.key)

    def counts(self, sweep: str) -> dict[tuple[str, Phase, State], int]:
        """(arm, phase, state) -> number of trials; reads no curve."""
        columns = (_TRIALS.c.arm, _TRIALS.c.phase, _TRIALS.c.state)
        query = sa.select(*columns, sa.func.count()).where(_TRIALS.c.sweep == sweep).group_by(*columns)
        rows = (tuple(row.values()) for row in self._fetch(query))
        return {(arm, Phase(phase), State(state)): count for arm, phase, state, count in rows}

    # -- lease

    def acquire_lease(self, sweep: str, role: Role, *, holder: Holder, now: float) -> None:
        """Takes `role` of `sweep`: when it is free, stale, our own, or its holder is seen to be gone.

        Raises LeaseHeldError otherwise. At most one of several that try at once gets it.
        """
        row: Row = {"sweep": sweep, "role": role, **asdict(holder), "since": now, "heartbeat": now}
        with self._write() as connection:
            query = sa.select(_LEASE).where(_LEASE.c.sweep == sweep, _LEASE.c.role == role).with_for_update()
            for held in _rows(connection, query):
                lease = lease_record(held)
                if lease.holder == holder:
                    row["since"] = lease.since
                elif lease.is_live(now):
                    raise lease_held(sweep, role, lease, now)
            self._upsert(connection, _LEASE, [row])

    def heartbeat(self, sweep: str, role: Role, holder: Holder, now: float) -> None:
        """A sign of life. Raises LeaseHeldError when the role was taken by another or the sweep deleted."""
        with self._write() as connection:
            mine = sa.update(_LEASE).where(*_is_held_by(sweep, role, holder)).values(heartbeat=now)
            if connection.execute(mine).rowcount:
                return
        taken = self.lease(sweep, role)
        if taken is not None:
            raise lease_held(sweep, role, taken, now)
        raise LeaseHeldError(
            f"The {role} of a sweep holds its lease, but that of {sweep!r} is gone: the sweep was deleted, "
            "or its lease released. Run the same command again."
        )

    def release_lease(self, sweep: str, role: Role, holder: Holder) -> None:
        """Frees the role; nothing happens when `holder` does not hold it."""
        with self._write() as connection:
            connection.execute(sa.delete(_LEASE).where(*_is_held_by(sweep, role, holder)))

    def lease(self, sweep: str, role: Role) -> LeaseRecord | None:
        """Who holds the role, alive or not (`LeaseRecord.is_live`)."""
        rows = self._fetch(sa.select(_LEASE).where(_LEASE.c.sweep == sweep, _LEASE.c.role == role))
        return lease_record(rows[0]) if rows else None

    # -- deliveries

    def mark_begun(self, sweep: str, target: str, items: Iterable[str]) -> None:
        """Notes that a run of each item may exist at `target` from now on."""
        self._mark(sweep, target, dict.fromkeys(items), "begun")

    def mark_done(self, sweep: str, target: str, run_ids: Mapping[str, str]) -> None:
        """Notes item -> run id as complete at `target`."""
        self._mark(sweep, target, run_ids, "done")

    def deliveries(self, sweep: str, target: str, *, state: str | None = None) -> dict[str, DeliveryRecord]:
        """Item (`str(TrialKey)` or "parent") -> how far it is; only those in `state` when given."""
        query = sa.select(_DELIVERIES).where(_DELIVERIES.c.sweep == sweep, _DELIVERIES.c.target == target)
        if state is not None:
            query = query.where(_DELIVERIES.c.state == state)
        rows = self._fetch(query)
        return {row["item"]: DeliveryRecord(row["state"], row["run_id"], row["at"]) for row in rows}

    def undelivered(self, sweep: str, target: str, limit: int) -> list[TrialRecord]:
        """Ended trials that are not done at `target`, oldest end first."""
        due = sa.select(_TRIALS).where(*_is_undelivered(sweep, target))
        rows = self._fetch(due.order_by(_TRIALS.c.ended_at, _TRIALS.c.key).limit(limit))
        return [trial_record(row) for row in rows]

    def count_undelivered(self, sweep: str, target: str) -> int:
        """How many ended trials are not done at `target`."""
        (row,) = self._fetch(sa.select(sa.func.count().label("due")).where(*_is_undelivered(sweep, target)))
        return int(row["due"])

    # -- inside

    def _prepare(self) -> None:
        """Creates the tables where there are none; a ledger that is there is only read."""
        if self._engine.dialect.name == "sqlite":
            _switch_to_wal(self._engine)
        with self._engine.connect() as connection:
            if self._is_ours(connection):
                return
        with self._write() as connection:
            if connection.dialect.name == "postgresql":  # CREATE TABLE by two at once fails there
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(7_226_341)))
            if not self._is_ours(connection):
                _META.create_all(connection)
                connection.execute(sa.insert(_VERSION), {"version": SCHEMA_VERSION})

    def _is_ours(self, connection: sa.Connection) -> bool:
        """Whether there is a ledger; LedgerError when it is another version's or the tables another's."""
        tables = set(sa.inspect(connection).get_table_names())
        if _VERSION.name in tables:
            version = connection.execute(sa.select(sa.func.max(_VERSION.c.version))).scalar()
            if version == SCHEMA_VERSION:
                return True
            raise LedgerError(
                f"This program reads ledgers of version {SCHEMA_VERSION}, but {self._where} has version "
                f"{version}. Install the vae-sweep that wrote it, or name another --workdir."
            )
        strangers = tables if connection.dialect.name == "sqlite" else tables & set(_META.tables)
        if strangers:
            raise LedgerError(
                f"A ledger's database holds nothing else, but {self._where} has the tables "
                f"{', '.join(sorted(strangers)[:5])} of another program. Name another --workdir or URL."
            )
        return False

    def _fetch(self, query: sa.Select[Any]) -> list[Row]:
        with _mapped(self._where), self._engine.connect() as connection:
            return _rows(connection, query)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _mapped(self._where), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def _upsert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
        if rows:
            connection.execute(_upsertion(connection.dialect.name, table), rows)

    def _mark(self, sweep: str, target: str, run_ids: Mapping[str, str | None], state: str) -> None:
        now = time.time()
        shared: Row = {"sweep": sweep, "target": target, "state": state, "at": now}
        rows: list[Row] = [{**shared, "item": item, "run_id": run_id} for item, run_id in run_ids.items()]
        with self._write() as connection:
            self._upsert(connection, _DELIVERIES, rows)


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[Row]:
    return [row._asdict() for row in connection.execute(query)]


@cache
def _upsertion(dialect: str, table: sa.Table) -> sa.Insert:
    """The statement that writes rows over those of the same key; to build it takes longer than to run it."""
    statement = (postgresql_insert if dialect == "postgresql" else sqlite_insert)(table)
    others = {c.name: statement.excluded[c.name] for c in table.c if not c.primary_key}
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(index_elements=keys, set_=others)


def _stored(connection: sa.Connection, sweep: str, keys: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for at in range(0, len(keys), _CHUNK):
        query = sa.select(_TRIALS).where(_TRIALS.c.sweep == sweep, _TRIALS.c.key.in_(keys[at : at + _CHUNK]))
        found.update((row["key"], row) for row in _rows(connection, query))
    return found


def _engine(url: sa.URL) -> sa.Engine:
    try:
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True)
        engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise LedgerError(
            f"A database URL needs its driver, but {url.drivername} has none installed. "
            "For PostgreSQL: pip install 'psycopg[binary]'."
        ) from error

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves
        connection.execute("PRAGMA synchronous=NORMAL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A deferred transaction that reads first cannot wait for a writer: SQLite refuses it at once.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _switch_to_wal(engine: sa.Engine, patience_seconds: float = 10.0) -> None:
    """Sets WAL, which lasts; SQLite does not wait by itself when several open a new file at once."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with closing(engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
                return
        except engine.dialect.loaded_dbapi.Error as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise sa.exc.DatabaseError("PRAGMA journal_mode=WAL", None, error) from error
        time.sleep(0.01)


@contextmanager
def _mapped(where: str) -> Iterator[None]:
    """Turns every SQLAlchemyError into a LedgerError with a remedy."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        fitting = (remedy for words, remedy in _REMEDIES.items() if words in cause.lower())
        remedy = next(fitting, "Check the database, then run the same command again.")
        raise LedgerError(f"The ledger {where} must be readable and writable, but: {cause}. {remedy}") from error


def _is_held_by(sweep: str, role: Role, holder: Holder) -> list[sa.ColumnElement[bool]]:
    held = {"sweep": sweep, "role": role, **asdict(holder)}
    return [_LEASE.c[name] == value for name, value in held.items()]


def _is_undelivered(sweep: str, target: str) -> list[sa.ColumnElement[bool]]:
    done = sa.exists().where(
        _DELIVERIES.c.sweep == sweep,
        _DELIVERIES.c.target == target,
        _DELIVERIES.c.item == _TRIALS.c.key,
        _DELIVERIES.c.state == "done",
    )
    return [_TRIALS.c.sweep == sweep, _TRIALS.c.state.in_([str(state) for state in sorted(ENDED)]), ~done]
