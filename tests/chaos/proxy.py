"""An HTTP proxy that misbehaves when it is told to, and counts what it did.

Stands before a tracking server. Knows no MLflow: requests and answers are bytes to it.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from ..kit import free_ports

Mode = Literal["pass", "error", "slow", "cut", "refuse"]
SLOW_SECONDS = 10.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Proxy:
    """Listens on a port of its own; `mode` says what happens to the next request.

    pass: is forwarded. error: HTTP 500 at once. slow: the answer comes 10 s late. cut: the server does what it is
    asked, and the connection ends before the answer. refuse: nobody listens.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        (self.port,) = free_ports(1)
        self.mode: Mode = "pass"
        self.done: Counter[str] = Counter()
        """mode -> requests that met it; `lost`: the server itself was away"""
        self._listener: ThreadingHTTPServer | None = None
        self.listen()

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Accepts connections (again)."""
        self.mode = "pass"
        if self._listener is None:
            self._listener = _Listener(self.port, self._handle)
            threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()

    def refuse(self) -> None:
        """Nobody listens any more: connections are refused, and those that were open end at their next request."""
        self.mode = "refuse"
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        mode = self.mode
        if mode in ("error", "refuse"):
            self.done[mode] += 1
            if mode == "error":
                _answer(request, 500, {}, b"made up by the chaos suite")
            request.close_connection = mode == "refuse" or request.close_connection
            return
        try:
            status, headers, content = self._forward(request, body)
        except (OSError, http.client.HTTPException):
            self.done["lost"] += 1
            request.close_connection = True
            return
        if mode == "slow":
            time.sleep(SLOW_SECONDS)
        self.done[mode] += 1
        if mode == "cut":
            request.close_connection = True
            return
        _answer(request, status, headers, content)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            connection.request(request.command, request.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP}
            return response.status, kept, content
        finally:
            connection.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, handle: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                return

            def __getattr__(self, name: str) -> object:
                if name.startswith("do_"):
                    return lambda: handle(self)
                raise AttributeError(name)

        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        return  # a client that went away


def _answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
    try:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
    except OSError:
        request.close_connection = True
