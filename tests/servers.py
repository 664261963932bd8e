"""A real MLflow server for tests, and a door in front of any server that wants a login."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .kit import free_ports
from .sweeps import wait_for

_HOP = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}
"""headers that each connection has of its own"""


class MlflowServer:
    """A tracking server on the loopback address; its store, artifacts and log lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Without a login."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process whose group are all that belongs to it."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", (self._folder / "artifacts").as_uri()]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, env={**os.environ, **quiet}, start_new_session=True
            )
        wait_for(lambda: _answers(f"{self.url}/health"), self._process)

    def kill(self) -> None:
        """SIGKILL of all that belongs to it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The URL of one."""
    server = MlflowServer(folder)
    try:
        yield server.url
    finally:
        server.kill()


@contextmanager
def behind_login(url: str, user: str, password: str) -> Iterator[str]:
    """The server at `url` at an address of its own, where only this login is let through (HTTP Basic)."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != wanted:
                self._answer(401, {"WWW-Authenticate": 'Basic realm="mlflow"'}, b"You are not authenticated.")
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            asked = urllib.request.Request(url + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    self._answer(answer.status, dict(answer.headers), answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, dict(error.headers), error.read())

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    door = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=door.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{door.server_address[1]}"
    finally:
        door.shutdown()
        door.server_close()
        thread.join(10)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False
