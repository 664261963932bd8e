"""The ledger's tables, and how its databases are reached: SQLite in WAL mode, PostgreSQL by psycopg 3.

With store.py the only place of SQLAlchemy (Core, no ORM). Knows what differs between the two databases and what
their errors mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import BLOB
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from ..errors import LedgerAway, LedgerError
from ..records import ENDED
from .schema import SCHEMA_VERSION, Row
from .soundness import damaged

DatabaseError = sa.exc.SQLAlchemyError
"""what every failing database raises, for those who reach one through another library"""
DRIVER_ERRORS = (ImportError, sa.exc.NoSuchModuleError)
"""the driver that a URL names is not installed"""
_BUSY_SECONDS = 60
_POSTGRESQL_OPTIONS = {
    # A server that vanished with its machine is noticed within half a minute, not after the kernel's many.
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_AWAY_STATES = ("08", "57P01", "57P02", "57P03", "53300")
"""SQLSTATEs, or their beginnings: connection exceptions, shutdown, crash, cannot connect now, too many connections"""
_AWAY_WORDS = (
    "connection refused", "server closed the connection", "connection reset", "terminating connection",
    "starting up", "shutting down", "in recovery mode", "not yet accepting connections", "too many clients",
    "remaining connection slots", "no such file or directory", "timeout expired", "connection timeout",
    "no route to host", "network is unreachable", "connection timed out", "could not receive data from server",
    "ssl connection has been closed",
)  # fmt: skip
"""as the client library words what has no SQLSTATE; "no such file" is a Unix socket without a server"""
_HERE_WORDS = ("authentication", "does not exist", "pg_hba.conf")
"""in the answer of a server that is there"""

META = sa.MetaData()
_T, _I, _B, _D = sa.Text, sa.Integer, sa.BigInteger, sa.Double


class _Blob(BLOB):
    """As SQLite has it: where SQLAlchemy would make bytes of a number, one cannot see that the row is damaged."""

    def result_processor(self, dialect: Any, coltype: Any) -> None:
        return None


def _table(name: str, keys: str, required: Mapping[str, Any], optional: Mapping[str, Any], *more: Any) -> sa.Table:
    columns = [sa.Column(key, _T, primary_key=True) for key in keys.split()]
    columns += [sa.Column(column, kind, nullable=False) for column, kind in required.items()]
    columns += [sa.Column(column, kind) for column, kind in optional.items()]
    return sa.Table(name, META, *columns, *more)


# fmt: off
VERSION = _table("ledger_version", "", {"version": _I}, {})
SWEEPS = _table(
    "sweeps", "name",
    {"study": _T, "study_hash": _T, "status": _T, "reproducible": sa.Boolean, "stop_requested": sa.Boolean,
     "created_at": _D},
    {"fingerprint": _T, "finished_at": _D},
)
TRIALS = _table(
    "trials", "sweep key",
    {"arm": _T, "replicate": _I, "phase": _T, "number": _I, "state": _T, "seed": _B, "attempts": _I,
     "params": _T, "proposal": _T, "thresholds": _T, "files": _T},
    {"cause": _T, "epochs": _I, "started_at": _D, "ended_at": _D, "worker_seconds": _D, "worker": _T,
     "host": _T, "largest_pack": _I, "curves": sa.LargeBinary().with_variant(_Blob(), "sqlite")},
    sa.Index("trials_by_end", "sweep", "ended_at"),
    sa.Index("trials_by_state", "sweep", "arm", "phase", "state"),
)
DELIVERIES = _table("deliveries", "sweep target item", {"state": _T, "at": _D}, {"run_id": _T})
LEASE = _table(
    "lease", "sweep role",
    {"host": _T, "pid": _B, "started": _T, "scope": _T, "since": _D, "heartbeat": _D}, {},
)
# fmt: on

_REMEDIES = {
    "malformed": "Restore the file from a copy, or name another --workdir and run the study there.",
    "no such": "Restore the ledger from a copy, or name another --workdir or database URL and run the study there.",
    "not a database": "Move that file away, or name another --workdir or database URL.",
    "unable to open": "Check that its folder exists and may be written, or name another --workdir.",
    "readonly": "Check that the file and its folder may be written, or name another --workdir.",
    "locked": "Another process is writing for longer than a minute; wait for it or end it, then run again.",
    "full": "Free some space, then run the same command again.",
    "password authentication": "Check the user and the password in the database URL.",
    '" does not exist': "Check the database and its URL: what is named here must be there.",
    "disk i/o": "Check the disk; a ledger belongs on a local one, not on a network share.",
}


def is_undelivered(sweep: str, target: str) -> list[sa.ColumnElement[bool]]:
    """The condition on trials: ended, and not done at `target`."""
    done = sa.exists().where(
        DELIVERIES.c.sweep == sweep,
        DELIVERIES.c.target == target,
        DELIVERIES.c.item == TRIALS.c.key,
        DELIVERIES.c.state == "done",
    )
    return [TRIALS.c.sweep == sweep, TRIALS.c.state.in_([str(state) for state in sorted(ENDED)]), ~done]


def rows_of(connection: sa.Connection, query: sa.Select[Any]) -> list[Row]:
    """What `query` finds."""
    try:
        return [row._asdict() for row in connection.execute(query)]
    except (TypeError, ValueError) as error:  # a value that its column's type cannot read, such as text for a flag
        names = ", ".join(sorted(table.name for table in query.get_final_froms() if isinstance(table, sa.Table)))
        raise damaged(f"a row of {names}", f"holds what no column of it may hold ({error})") from error


NOT_STALE = DELIVERIES.c.state != "stale"


@cache
def upsertion(dialect: str, table: sa.Table, over: sa.ColumnElement[bool] | None = None) -> sa.Insert:
    """The statement that writes rows over those of the same key; to build it takes longer than to run it.

    `over`: which rows may be written over; None: all.
    """
    statement = (postgresql_insert if dialect == "postgresql" else sqlite_insert)(table)
    others = {c.name: statement.excluded[c.name] for c in table.c if not c.primary_key}
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(index_elements=keys, set_=others, where=over)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ledger is."""

    url: sa.URL
    shown: str
    """for people: without the password and without options, which may hold one"""

    @classmethod
    def of(cls, text: str, given_by: str = "--workdir or VAE_SWEEP_DATABASE_URL") -> Address:
        """A database URL; `postgresql://` means psycopg 3. Raises LedgerError, which names what it was `given_by`."""
        try:
            url = sa.make_url(text)
        except (sa.exc.ArgumentError, ValueError) as error:  # a port that is no number
            raise LedgerError(
                "A database's address is a URL such as sqlite:////folder/ledger.db, but what came "
                f"begins with {text.split(':')[0][:12]!r}. Correct {given_by}."
            ) from error
        if "@" in (url.host or ""):
            raise LedgerError(
                f"A database URL has one @, before the host, but {url.drivername}://... has several. "
                "Write one that belongs to the password as %40."
            )
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        return cls(url, url.set(query={}).render_as_string(hide_password=True))

    @property
    def is_file(self) -> bool:
        """SQLite: nothing is waited for but other writers."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def client_options(self) -> dict[str, Any]:
        """What PostgreSQL's client library is told beside the URL."""
        known = _POSTGRESQL_OPTIONS if self.url.get_driver_name() in ("psycopg", "psycopg2") else {}
        return {name: value for name, value in known.items() if name not in self.url.query}

    @property
    def complete(self) -> str:
        """The URL with all it has; not for people."""
        return self.url.render_as_string(hide_password=False)

    def cause(self, error: BaseException) -> str:
        """The first line of what the database said, with every password of the URL blotted out."""
        text = self.without_secrets(str(getattr(error, "orig", None) or error).strip())
        return text.splitlines()[0].rstrip(".") if text else type(error).__name__

    def without_secrets(self, text: str) -> str:
        """`text` with every password of the URL blotted out."""
        options = [value for name, value in self.url.query.items() if "pass" in name and isinstance(value, str)]
        for secret in filter(None, [self.url.password, *options]):
            text = text.replace(str(secret), "***")
        return text


def make_engine(address: Address) -> sa.Engine:
    """An engine that connects at its first use. Raises LedgerError where the driver is missing."""
    url = address.url
    try:
        if not address.is_file:
            return sa.create_engine(url, pool_pre_ping=True, connect_args=address.client_options)
        engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
    except DRIVER_ERRORS as error:
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


def switch_to_wal(engine: sa.Engine, patience_seconds: float = 10.0) -> None:
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


def prepare(engine: sa.Engine, address: Address) -> None:
    """Creates the tables where there are none; a ledger that is there is only read.

    Raises LedgerError when it is another version's or the tables another's.
    """
    if address.is_file:
        switch_to_wal(engine)
    with engine.connect() as connection:
        if _is_ours(connection, address):
            return
    with engine.connect() as connection:
        connection = connection.execution_options(writes=True)
        with connection.begin():
            lock(connection, "tables")  # CREATE TABLE by two at once fails on PostgreSQL
            if not _is_ours(connection, address):
                META.create_all(connection)
                connection.execute(sa.insert(VERSION), {"version": SCHEMA_VERSION})


def _is_ours(connection: sa.Connection, address: Address) -> bool:
    tables = set(sa.inspect(connection).get_table_names())
    if VERSION.name in tables:
        version = connection.execute(sa.select(sa.func.max(VERSION.c.version))).scalar()
        if version == SCHEMA_VERSION:
            return True
        raise LedgerError(
            f"This program reads ledgers of version {SCHEMA_VERSION}, but {address.shown} has version "
            f"{version}. Install the vae-sweep that wrote it, or name another --workdir."
        )
    strangers = tables if connection.dialect.name == "sqlite" else tables & set(META.tables)
    if strangers:
        raise LedgerError(
            f"A ledger's database holds nothing else, but {address.shown} has the tables "
            f"{', '.join(sorted(strangers)[:5])} of another program. Name another --workdir or URL."
        )
    return False


@contextmanager
def mapped(address: Address) -> Iterator[None]:
    """Turns every SQLAlchemyError into a LedgerError with a remedy; LedgerAway where waiting may help."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, UnicodeDecodeError) as error:  # SQLite quotes a damaged file in its message
        cause = address.cause(error)
        fitting = (remedy for words, remedy in _REMEDIES.items() if words in cause.lower())
        remedy = next(fitting, "Check the database, then run the same command again.")
        kind = LedgerError if address.is_file or not _is_away(error) else LedgerAway
        raise kind(f"The ledger {address.shown} must be readable and writable, but: {cause}. {remedy}") from error


def _is_away(error: Exception) -> bool:
    """Whether it was the connection that failed."""
    if not isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return False
    if error.connection_invalidated or (getattr(error.orig, "sqlstate", None) or "").startswith(_AWAY_STATES):
        return True
    text = str(error.orig).lower()
    return any(words in text for words in _AWAY_WORDS) and not any(words in text for words in _HERE_WORDS)


def lock(connection: sa.Connection, what: str) -> None:
    """One transaction at a time may hold the lock on `what`. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        key = sa.func.hashtextextended(what, 7_226_341)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
