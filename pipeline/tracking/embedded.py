"""The embedded MLflow store's file: laid whole or not at all, and looked at before MLflow is.

MLflow lays its tables in dozens of transactions, and refuses for ever what was interrupted in between (a kill, a full
disk). So they are laid in a folder of their own, and the file gets its name when it is complete. Knows SQLite, not
MLflow.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from ..errors import TrackerError


def prepare(uri: str, lay_tables: Callable[[str], None]) -> None:
    """Makes the SQLite store at `uri` where there is none, and fails at once where MLflow would try for 100 s.

    `lay_tables` makes a store at a URI and lets go of it. Raises TrackerError.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.removeprefix("sqlite:///") or "?" in uri or "%" in uri:
        raise TrackerError(
            f"MLflow's SQLite address is sqlite:/// and a path without '?' and '%', but {uri!r} came. "
            "Name another --workdir or MLFLOW_TRACKING_URI."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path, lay_tables)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except (sqlite3.Error, OSError) as error:
        raise TrackerError(
            f"MLflow's store must be an SQLite file that may be written, but {path} is not ({error}). "
            "Check the path and the disk, or name another --workdir or MLFLOW_TRACKING_URI."
        ) from error


def _create(path: Path, lay_tables: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        with closing(sqlite3.connect(made)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # lasts; saves a third of the time of every write
        lay_tables(f"sqlite:///{made}")
        with closing(sqlite3.connect(made)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(FileExistsError):  # somebody else was quicker
            try:
                os.link(made, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                made.replace(path)
