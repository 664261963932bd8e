"""doctor: every check says what it found and what to do, changes nothing, and shows no password."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import CHECKS, Finding, Scope, diagnose
from pipeline.doctor.machine import in_range
from pipeline.launch.where import Where, open_ledger
from pipeline.ledger.store import Holder
from pipeline.paths import WorkPaths

from .kit import free_ports
from .postgres import LOCKED, SECRET, Server
from .servers import behind_login, mlflow_server
from .sweeps import run_here, study_file, vae_sweep_here

NOBODY = "http://127.0.0.1:9"


def scope_of(workdir: Path, **changes: Any) -> Scope:
    paths = WorkPaths.at(workdir)
    return replace(Scope(paths=paths, ledger_url=paths.ledger_url, tracking=paths.mlflow_url), **changes)


def everything_wrong(folder: Path) -> Scope:
    """No server answers, and the files are not as they should be."""
    (folder / ".old.removed").mkdir()
    left = folder / ".study.yaml.0a1b2c3d"
    left.write_text("x")
    os.utime(left, (1, 1))
    folder.chmod(0o777)
    passwords = folder / "pgpass"
    passwords.write_text(SECRET)
    passwords.chmod(0o644)
    login = f"me:{SECRET}@127.0.0.1:9"
    return scope_of(
        folder,
        ledger_url=f"postgresql://{login}/x",
        tracking=f"http://{login}",
        ray_address=NOBODY,
        optuna_url=f"postgresql://{login}/y",
        environment={"PGPASSFILE": str(passwords), "RAY_AUTH_TOKEN": SECRET},
        clock=lambda: time.time() + 60,
    )


WRONG = {"permissions": "failed", "leftovers": "warning", "clock": "warning", "ledger": "failed", "mlflow": "failed",
         "ray": "failed", "optuna": "failed"}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
class TestEveryCheck:
    """A new entry of the table joins by itself."""

    def test_is_content_with_a_folder_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        found = CHECKS[name](scope_of(tmp_path / "new"))
        assert found.level == "ok" or name in ("memory", "disk", "ports"), found
        assert found.found and (found.level == "ok") == (found.remedy == "")
        assert list(tmp_path.iterdir()) == []

    def test_says_what_is_wrong_and_what_to_do_and_no_password(self, name: str, tmp_path: Path) -> None:
        scope = everything_wrong(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        found = CHECKS[name](scope)
        assert name not in WRONG or found.level == WRONG[name], found
        assert found.found and (found.level == "ok") == (found.remedy == "")
        assert SECRET not in found.found + found.remedy
        assert sorted(tmp_path.rglob("*")) == before


def test_all_are_asked_at_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.doctor.servers.ANSWER_SECONDS", 1.0)
    with closing(socket.socket()) as silent:  # takes connections, and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        port = silent.getsockname()[1]
        url = f"postgresql://me@127.0.0.1:{port}/x"
        scope = scope_of(tmp_path, ledger_url=url, optuna_url=url, tracking=f"http://127.0.0.1:{port}")
        began = time.monotonic()
        found = diagnose(replace(scope, ray_address=f"http://127.0.0.1:{port}"))
        assert time.monotonic() - began < 60, "each is waited for, not for ever"
    assert list(found) == list(CHECKS)
    assert [name for name, one in found.items() if one.level == "failed"] == ["ledger", "mlflow", "ray", "optuna"]


def test_a_check_that_breaks_is_a_finding(tmp_path: Path) -> None:
    def broken(scope: Scope) -> Finding:
        raise KeyError(SECRET)

    found = diagnose(scope_of(tmp_path), {"broken": broken})["broken"]
    assert found.level == "failed" and "KeyError" in found.found and SECRET not in found.found


@pytest.mark.parametrize(
    ("found", "ranges", "fits"),
    [
        ("2.60.0", ">=2.59,<3", True), ("3.0", "<3,>=2.59", False), ("2.58.9", ">=2.59", False),
        ("2.13.0+cpu", "==2.13.0", True), ("2.13", "==2.13.0", True), ("2.13.1", "==2.13.0", False),
        ("5.0.0rc1", ">=5.0", True), ("1.2", "", True), ("1.2", "!=1.2", False), ("odd", ">=1", False),
    ],
)  # fmt: skip
def test_ranges(found: str, ranges: str, fits: bool) -> None:
    assert in_range(found, ranges) is fits


def test_a_version_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def aged(name: str) -> str:
        return "1.0" if name == "optuna" else version(name)

    monkeypatch.setattr("pipeline.doctor.machine.version", aged)
    found = CHECKS["versions"](scope_of(tmp_path))
    assert found.level == "failed" and "optuna 1.0 is not" in found.found and "torch" not in found.found


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = CHECKS["ports"](scope_of(tmp_path, ui_port=port))
        assert found.level == "warning" and f"port {port}" in found.found and "--port" in found.remedy
    assert CHECKS["ports"](scope_of(tmp_path, ui_port=port)).level == "ok"


def test_a_folder_in_which_files_come_and_go(tmp_path: Path) -> None:
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            paths = [tmp_path / f".trial.{n:08d}" for n in range(50)]
            for path in paths:
                path.touch()
            for path in paths:
                path.unlink()

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        scope = scope_of(tmp_path)
        found = [CHECKS[name](scope) for _ in range(100) for name in ("permissions", "leftovers")]
    finally:
        stop.set()
        thread.join()
    assert {one.level for one in found} == {"ok"}


def test_files_with_passwords(tmp_path: Path) -> None:
    file = tmp_path / "token"
    scope = scope_of(tmp_path, environment={"RAY_AUTH_TOKEN_PATH": str(file)})
    assert CHECKS["permissions"](scope).level == "failed"
    file.write_text("x")
    file.chmod(0o644)
    found = CHECKS["permissions"](scope)
    assert found.level == "warning" and "chmod 600" in found.remedy
    file.chmod(0o600)
    assert CHECKS["permissions"](scope).level == "ok"


# -------------------------------------------------------------------------------------------- sweeps


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep that has ended."""
    folder = tmp_path_factory.mktemp("ended")
    run_here(study_file(folder, search={"trials": 2, "startup": 1, "replicates": 2}), folder / "work", slots=8)
    return folder / "work"


@pytest.fixture
def workdir(ended: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(ended, tmp_path / "work")
    return tmp_path / "work"


def test_an_interrupted_sweep_and_a_dead_delivery(workdir: Path) -> None:
    scope = scope_of(workdir)
    assert "holds 1 sweep" in CHECKS["ledger"](scope).found and CHECKS["sweeps"](scope).level == "ok"
    dead = Holder("elsewhere", 1, "", "")
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        ledger.update_sweep("small", status="running")
        ledger.acquire_lease("small", "driver", holder=dead, now=time.time())
        assert CHECKS["sweeps"](scope).level == "ok", "it lives"
        ledger.heartbeat("small", "driver", dead, time.time() - 100)
        ledger.acquire_lease("small", "delivery", holder=dead, now=time.time() - 100)
    found = CHECKS["sweeps"](scope)
    assert found.level == "warning" and "small was interrupted" in found.found and "dead delivery" in found.found
    assert "vae-sweep run" in found.remedy and "vae-sweep sync small" in found.remedy


def test_a_ledger_that_is_none(workdir: Path) -> None:
    (workdir / "ledger.db").write_bytes(b"x" * 5000)
    for extra in ("ledger.db-wal", "ledger.db-shm"):
        (workdir / extra).unlink(missing_ok=True)
    found = CHECKS["ledger"](scope_of(workdir))
    assert found.level == "failed" and "not a database" in found.found


def test_the_verb(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (port,) = free_ports(1)
    words = ("doctor", "--workdir", workdir, "--port", port)
    code, out, err = vae_sweep_here(*words)
    assert code == 0 and not err and all(name in out for name in CHECKS)
    code, out, _ = vae_sweep_here(*words, "--mlflow", NOBODY, "--json")
    facts = {one["check"]: one for one in json.loads(out)}
    assert code == 1 and list(facts) == list(CHECKS)
    assert facts["mlflow"]["state"] == "failed" and "away" in facts["mlflow"]["found"]
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert vae_sweep_here(*words)[0] == 1


# -------------------------------------------------------------------------------------------- servers


def test_databases(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.new_database(LOCKED)
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    for check, field in (("ledger", "ledger_url"), ("optuna", "optuna_url")):
        found = CHECKS[check](scope_of(tmp_path, **{field: url}))
        assert found.level == "ok" and "answers" in found.found and "***" in found.found, found
        found = CHECKS[check](scope_of(tmp_path, **{field: url.replace(SECRET, "wrong")}))
        assert found.level == "failed" and "refuses the login" in found.found and "PGPASSFILE" in found.remedy
        found = CHECKS[check](scope_of(tmp_path, **{field: url.replace(str(postgresql.port), str(port))}))
        assert found.level == "failed" and "refused" in found.found and "Start it" in found.remedy
    found = CHECKS["ledger"](scope_of(tmp_path, ledger_url=url, clock=lambda: time.time() - 60))
    assert found.level == "warning" and "60 s ahead" in found.found
    assert "makes the tables" in CHECKS["ledger"](scope_of(tmp_path, ledger_url=url)).found, "nothing was created"


class Fake(BaseHTTPRequestHandler):
    """A dashboard as `doctor` sees it: another version of Ray, or something else altogether."""

    answers: dict[str, tuple[int, str]] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, "<html>"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_cluster(fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(**environment: str) -> Finding:
        return CHECKS["ray"](scope_of(tmp_path, ray_address=fake, environment=environment))

    version_of = {"ray_version": version("ray")}
    cases: list[tuple[tuple[int, str], str, str]] = [
        ((200, json.dumps(version_of)), "ok", "takes the token"),
        ((200, json.dumps({"ray_version": "2.1.0"})), "failed", "has Ray 2.1.0"),
        ((401, "no"), "failed", "wants a token, and this one is wrong"),
        ((200, "<html>"), "failed", "does not answer as a Ray dashboard"),
        ((200, "[" * 100_000), "failed", "does not answer as a Ray dashboard"),
    ]
    for answer, level, words in cases:
        monkeypatch.setattr(Fake, "answers", {"/api/version": answer})
        found = look(RAY_AUTH_TOKEN="x")
        assert found.level == level and words in found.found, found
    port = fake.rpartition(":")[2]
    for address, level in {
        f"127.0.0.1:{port}": "ok",
        "127.0.0.1:9": "failed",
        "ray://h:1": "failed",
        "h": "failed",
    }.items():
        assert CHECKS["ray"](scope_of(tmp_path, ray_address=address)).level == level, address


def test_something_else_than_mlflow(fake: str, tmp_path: Path) -> None:
    found = CHECKS["mlflow"](scope_of(tmp_path, tracking=fake))
    assert found.level == "failed" and "does not answer as MLflow does" in found.found


@pytest.mark.slow
def test_mlflow_away_refusing_and_well(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as server, behind_login(server, "me", SECRET) as door:
        well = scope_of(tmp_path, tracking=door.replace("//", f"//me:{SECRET}@"))
        found = CHECKS["mlflow"](well)
        assert found.level == "ok" and f"MLflow {version('mlflow')}" in found.found and SECRET not in found.found
        login = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET}
        assert CHECKS["mlflow"](scope_of(tmp_path, tracking=door, environment=login)).level == "ok"
        login["MLFLOW_TRACKING_PASSWORD"] = "wrong"
        found = CHECKS["mlflow"](scope_of(tmp_path, tracking=door, environment=login))
        assert found.level == "failed" and "refuses the login (401)" in found.found
        assert CHECKS["mlflow"](replace(well, clock=lambda: time.time() + 60)).level == "warning"
    found = CHECKS["mlflow"](well)
    assert found.level == "failed" and "is away" in found.found and "sync" in found.remedy


def test_a_full_disk_and_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = shutil.disk_usage(tmp_path)
    for free, level in ((1 << 20, "failed"), (500 << 20, "warning"), (100 << 30, "ok")):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda place, free=free: used._replace(total=free + 1, used=1, free=free)
        )
        assert CHECKS["disk"](scope_of(tmp_path)).level == level
    for available, level in ((1 << 20, "failed"), (int(1.7 * 2**30), "warning"), (1 << 50, "ok")):
        monkeypatch.setattr("pipeline.doctor.machine._available_bytes", lambda available=available: available)
        monkeypatch.setattr("os.cpu_count", lambda: 4)
        assert CHECKS["memory"](scope_of(tmp_path)).level == level
