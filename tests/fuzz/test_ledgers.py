"""Damaged ledgers: every verb says which row is damaged and what to do, or works with what is sound."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st

from pipeline.errors import VaeSweepError
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where
from pipeline.ledger.schema import pack_floats, unpack_floats
from pipeline.paths import WorkPaths
from pipeline.records import ENDED
from pipeline.report.progress import SilentProgress

from ..sweeps import read, records, run_here, study_file
from .cases import fuzz, sizes, told
from .values import NUMBERS, damaged_trees, texts

JSON_COLUMNS = {"sweeps": ("study", "fingerprint"), "trials": ("params", "proposal", "thresholds", "files")}
TABLES: Mapping[str, tuple[str, ...]] = {
    "ledger_version": ("version",),
    "sweeps": (
        "name", "study", "study_hash", "status", "reproducible", "stop_requested", "created_at", "fingerprint",
        "finished_at",
    ),
    "trials": (
        "sweep", "key", "arm", "replicate", "phase", "number", "state", "seed", "attempts", "params", "proposal",
        "thresholds", "files", "cause", "epochs", "started_at", "ended_at", "worker_seconds", "worker", "host",
        "largest_pack", "curves",
    ),
    "deliveries": ("sweep", "target", "item", "state", "at", "run_id"),
    "lease": ("sweep", "role", "host", "pid", "started", "scope", "since", "heartbeat"),
}  # fmt: skip
VERBS = (
    ["list"], ["list", "--json"], ["status", "small"], ["status", "small", "--json"], ["show", "small", "KEY"],
    ["show", "small", "KEY", "--json"], ["compare", "small"], ["compare", "small", "--json"], ["best", "small"],
    ["compare", "small", "--all-pairs"], ["best", "small", "--rule", "one_se"], ["best", "small", "--rule", "robust"],
    ["best", "small", "--rule", "pareto", "--json"], ["delete", "small", "--mlflow", "none"], ["stop", "small"],
    ["best", "small", "--export", "-"], ["compare", "small", "--against", "small"], ["compare", "small", "--html", "-"],
)  # fmt: skip

SWAPS = (
    "search",
    "repeat",
    "complete",
    "running",
    "waiting",
    "failed",
    "stopped",
    "diverged",
    "finished",
    "begun",
    "done",
)
stored = (
    st.none()
    | st.sampled_from([number for number in NUMBERS if isinstance(number, float) or abs(number) < 2**63])
    | st.sampled_from(SWAPS)
    | texts.map(lambda text: text.encode("utf-8", "replace").decode())
    | st.binary(max_size=8)
)
"""what SQLite can keep in any column"""


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished sweep's ledger, and one left in the middle with trials in training; both without constraints."""
    folder = tmp_path_factory.mktemp("ledgers")
    run_here(study_file(folder), folder / "finished", executor="simulated", slots=4)
    shutil.copytree(folder / "finished", folder / "open")
    with closing(sqlite3.connect(folder / "open" / "ledger.db")) as database, database:
        database.execute("UPDATE sweeps SET status = 'running', finished_at = NULL")
        late = "SELECT key FROM trials ORDER BY ended_at DESC LIMIT 50"
        columns = [*TABLES["trials"][13:21], "curves"]
        cleared = ", ".join(f"{column} = NULL" for column in columns)
        database.execute(f"UPDATE trials SET state = 'running', files = '{{}}', {cleared} WHERE key IN ({late})")
        database.execute("DELETE FROM trials WHERE phase != 'search' AND state = 'running'")
        database.execute("INSERT INTO lease VALUES ('small', 'driver', 'elsewhere', 1, '', '', 1.7e9, 1.7e9)")
        database.execute("INSERT INTO deliveries VALUES ('small', 'mlflow:x', 'parent', 'done', 1.7e9, 'abc')")
    for name in ("finished", "open"):
        _without_constraints(folder / name / "ledger.db")
    return {name: folder / name for name in ("finished", "open")}


def _without_constraints(file: Path) -> None:
    """So that any column can hold anything, as after damage."""
    with closing(sqlite3.connect(file)) as database:
        for table in TABLES:
            database.execute(f"CREATE TABLE copied AS SELECT * FROM {table}")
            database.execute(f"DROP TABLE {table}")
            database.execute(f"ALTER TABLE copied RENAME TO {table}")
        database.execute("CREATE UNIQUE INDEX trial_keys ON trials (sweep, key)")
        database.execute("CREATE UNIQUE INDEX leases ON lease (sweep, role)")
        database.commit()
        database.execute("PRAGMA journal_mode=DELETE")


CURVE_DAMAGES = ("nan", "short", "empty", "group", "metric", "lengths", "header", "flip", "long", "number")


def _damaged_curves(blob: bytes, how: str) -> bytes:
    """Numbers that are packed as they should be, and are not what a trial reports; or a blob that is none."""
    groups: dict[str, dict[str, Any]] = {group: dict(series) for group, series in unpack_floats(blob).items()}
    curve = groups["curves"].get("val/elbo", ())
    match how:
        case "nan":
            groups["curves"]["val/elbo"] = tuple(float("nan") for _ in curve)
            groups["metrics"] = {name: (float("nan"),) for name in groups["metrics"]}
        case "short":
            groups["curves"]["val/elbo"] = curve[:-1]
        case "empty":
            groups["curves"] = {}
        case "group":
            del groups["times"]
        case "metric":
            groups["metrics"] = {"test/elbo": (1.0, 2.0)}
        case "long":
            groups["times"]["epoch"] = (*groups["times"]["epoch"], 1e300)
        case "number":
            groups["metrics"] = {}
        case "lengths":
            return pack_floats(groups)[:-9]
        case "header":
            return pack_floats({})
        case _:
            return blob[:20] + bytes([blob[20] ^ 64]) + blob[21:]
    return pack_floats(groups)


def damage(draw: Callable[[st.SearchStrategy[Any]], Any], file: Path) -> str:
    """Does one thing to a ledger; what, in words."""
    what = draw(
        st.sampled_from(["cell"] * 6 + ["json"] * 4 + ["curves"] * 3 + ["table", "rows", "bytes", "bytes", "cut"])
    )
    if what in ("bytes", "cut"):
        content = file.read_bytes()
        at = draw(st.integers(0, len(content)))
        piece = draw(st.binary(min_size=1, max_size=40))
        file.write_bytes(content[:at] if what == "cut" else content[:at] + piece + content[at + len(piece) :])
        return f"{what} at {at}: {piece!r}"
    try:
        with closing(sqlite3.connect(file)) as database, database:
            return _damage_rows(draw, database, what)
    except (sqlite3.DatabaseError, UnicodeDecodeError, ValueError, KeyError, TypeError):
        return f"{what}, in vain: what was done before left nothing to do it to"


def _damage_rows(draw: Callable[[st.SearchStrategy[Any]], Any], database: sqlite3.Connection, what: str) -> str:
    table = draw(st.sampled_from(["trials", "trials", "sweeps", *TABLES]))
    if what == "table":
        return _change(database, draw(st.sampled_from(CHANGES)).format(table, draw(st.sampled_from(TABLES[table]))))
    if what == "rows":
        return _change(database, draw(st.sampled_from(ROWS)).format(table, draw(st.integers(0, 10))))
    if what != "cell":
        table = "trials" if what == "curves" else draw(st.sampled_from(list(JSON_COLUMNS)))
    rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table}")]
    if not rows:
        return "nothing"
    columns = {"cell": TABLES[table], "json": JSON_COLUMNS.get(table, ()), "curves": ("curves",)}[what]
    row, column = draw(st.sampled_from(rows)), draw(st.sampled_from(columns))
    ((value,),) = database.execute(f"SELECT {column} FROM {table} WHERE rowid = {row}")
    if what == "json" and value is not None:
        value = json.dumps(draw(damaged_trees(st.just(json.loads(value)), most=2)))
    elif what == "curves" and value is not None:
        value = _damaged_curves(value, draw(st.sampled_from(CURVE_DAMAGES)))
    else:
        value = draw(stored)
    database.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE rowid = ?", (value, row))
    return f"{table}.{column}, row {row} = {value!r}"[:300]


CHANGES = ("DROP TABLE {0}", "ALTER TABLE {0} RENAME COLUMN {1} TO other", "ALTER TABLE {0} DROP COLUMN {1}")
ROWS = (
    "DELETE FROM {0}",
    "DELETE FROM {0} WHERE rowid % 11 = {1}",
    "INSERT OR IGNORE INTO {0} SELECT * FROM {0} WHERE rowid % 11 = {1}",
)


def _change(database: sqlite3.Connection, statement: str) -> str:
    database.execute(statement)
    return statement


@sizes(few=15, many=150)
def test_damaged_ledgers_end_in_a_message(count: int, ledgers: dict[str, Path], tmp_path: Path) -> None:
    """Verbs that read."""
    keys = [str(record.key) for record in read(ledgers["finished"]).records]
    workdir = tmp_path / "work"
    workdir.mkdir()

    def check(data: st.DataObject, which: str, verb: list[str]) -> None:
        _renew(ledgers[which], workdir)
        note("; ".join(damage(data.draw, workdir / "ledger.db") for _ in range(data.draw(st.integers(1, 2)))))
        words = [data.draw(st.sampled_from(keys)) if word == "KEY" else word for word in verb]
        told(*words, "--workdir", workdir)

    fuzz(count, check, data=st.data(), which=st.sampled_from(list(ledgers)), verb=st.sampled_from(VERBS))


@sizes(few=5, many=70)
def test_a_sweep_goes_on_or_says_why_not(count: int, ledgers: dict[str, Path], tmp_path: Path) -> None:
    """`run`, with workers that train in no time."""
    workdir = tmp_path / "work"
    workdir.mkdir()
    file = study_file(tmp_path)

    def check(data: st.DataObject, which: str) -> None:
        _renew(ledgers[which], workdir)
        note("; ".join(damage(data.draw, workdir / "ledger.db") for _ in range(data.draw(st.integers(1, 2)))))
        where = Where(WorkPaths.at(workdir), executor="simulated", slots=8, tracking="none")
        try:
            report = run(file, [], where, SilentProgress())
        except VaeSweepError as error:
            assert str(error)
            return
        assert not report.finished or all(record.state in ENDED for record in records(workdir))

    fuzz(count, check, data=st.data(), which=st.sampled_from(list(ledgers)))


def _renew(ledger: Path, workdir: Path) -> None:
    """The ledger as it was."""
    for file in workdir.glob("ledger.db*"):
        file.unlink()
    shutil.copyfile(ledger / "ledger.db", workdir / "ledger.db")


def test_the_row_is_named(ledgers: dict[str, Path], tmp_path: Path) -> None:
    """Which trial of which sweep, what it has, and the remedy."""
    _renew(ledgers["finished"], tmp_path)
    record = read(tmp_path).records[3]
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE trials SET attempts = 'often' WHERE key = ?", (str(record.key),))
    code, _, err = told("compare", "small", "--workdir", tmp_path)
    assert code == 1
    for part in (str(record.key), "'small'", "'often' as its attempts", "Restore the ledger from a copy"):
        assert part in err
