"""A real PostgreSQL server for tests: started once a session, with a new database for whoever asks.

The server refuses to run as root, so root runs it as the user `postgres`. Nothing needs to survive: no fsync.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from .kit import free_ports

SECRET = "s3cret-word"
"""in every URL, though only LOCKED is asked for it: it must not be seen anywhere"""
USER = "vae_sweep"
LOCKED = "locked"
"""a role that needs the password"""


def binaries() -> Path | None:
    """The folder of initdb and postgres; None where there is no server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if pg_config := shutil.which("pg_config"):
        found.append(Path(subprocess.run([pg_config, "--bindir"], capture_output=True, text=True).stdout.strip()))
    return next((folder for folder in reversed(found) if (folder / "initdb").exists()), None)


class Server:
    """A server in a folder of its own, on a free port of the loopback address."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="vae-sweep-postgres-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._count = 0
        (self.port,) = free_ports(1)
        data = self._folder / "data"
        self._command("initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-locale")
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n")
            settings.write(f"unix_socket_directories = '{self._folder}'\nfsync = off\nmax_connections = 50\n")
        rules = data / "pg_hba.conf"  # the first that fits counts
        rules.write_text(f"host all {LOCKED} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.start()
        with self._connect() as connection:
            connection.execute(f"CREATE ROLE {LOCKED} LOGIN PASSWORD '{SECRET}'".encode())

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(f"postgresql://{USER}@127.0.0.1:{self.port}/postgres", autocommit=True)

    def _command(self, program: str, *words: object) -> None:
        become = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"] if self._user else []
        log = self._folder / f"{program}.log"
        with log.open("ab") as file:  # a pipe would be held open by the server
            command = [*become, str(self._binaries / program), *map(str, words)]
            done = subprocess.run(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=self._folder)
        assert done.returncode == 0, log.read_text()

    def start(self) -> None:
        """Returns when it answers."""
        self._command("pg_ctl", "start", "-w", "-D", self._folder / "data", "-l", self._folder / "server.log")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: every connection breaks, what was not committed is lost."""
        self._command("pg_ctl", "stop", "-D", self._folder / "data", "-m", mode)

    def new_database(self, owner: str = USER) -> str:
        """URL of an empty database."""
        self._count += 1
        name = f"test_{self._count}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {owner}".encode())
        return f"postgresql://{owner}:{SECRET}@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Removes a database, whoever is connected to it."""
        with self._connect() as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)".encode())

    def close(self) -> None:
        """Ends the server and removes all it had."""
        self.stop()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """The session's server."""
    folder = binaries()
    if folder is None:
        pytest.skip("NO POSTGRESQL SERVER HERE: install it (apt-get install postgresql), or this is not tested")
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()
