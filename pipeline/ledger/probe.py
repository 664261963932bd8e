"""Whether a database answers, looked at without changing it: for `doctor`, which must not create a ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import LedgerError
from .database import VERSION, Address, DatabaseError, make_engine


@dataclass(frozen=True, slots=True)
class Answer:
    """What a database said."""

    shown: str
    """its URL without a password"""
    cause: str = ""
    """why it cannot be used; empty when it can"""
    has_ledger: bool = False
    clock: float | None = None
    """of its server, Unix seconds"""


def ask(url: str, given_by: str, timeout_seconds: float) -> Answer:
    """Connects once and reads. Never raises for a database that is away or refuses."""
    try:
        address = Address.of(url, given_by)
        if not address.is_file:
            waiting = {"connect_timeout": str(max(2, round(timeout_seconds)))}
            address = replace(address, url=address.url.update_query_dict(waiting))
        engine = make_engine(address)
    except LedgerError as error:
        return Answer(f"what {given_by} names", str(error))
    try:
        with engine.connect() as connection:
            dialect = connection.dialect
            has_ledger = dialect.has_table(connection, VERSION.name)
            clock = None
            if dialect.name == "postgresql":
                clock = float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar() or 0)
        return Answer(address.shown, "", has_ledger, clock)
    except DatabaseError as error:
        return Answer(address.shown, address.cause(error))
    finally:
        engine.dispose()
