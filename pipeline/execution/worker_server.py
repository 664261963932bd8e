"""The process that worker processes are copies of: it has loaded torch, and forks one for every connection it is given.

It is one thread and trains nothing, so its copies are sound. Python's own forkserver would import the main module
again in every copy, listen at a path that others can see, and serve the whole process instead of one pool.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ..errors import ExecutionError
from .environment import ARITHMETIC, loading, prepare_process


class WorkerServer:
    """The driver's hold on it. It loads beside whatever the driver does next, and ends with the driver."""

    def __init__(self) -> None:
        """Raises ExecutionError where processes cannot be copied."""
        if not hasattr(os, "fork"):
            raise ExecutionError("Worker processes need a system that can fork; `--executor ray` does without.")
        self._channel, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the server)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the driver; and one signal ends all copies
                env={**ARITHMETIC, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def fork(self) -> Connection:
        """A new copy, at the other end of the connection. Raises ExecutionError when the server is gone."""
        ours, theirs = Pipe()
        with theirs:
            try:
                socket.send_fds(self._channel, [b"."], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise ExecutionError(f"The server of worker processes has ended: {self.last_words}") from error
        return ours

    @property
    def pid(self) -> int:
        """Its process, and the group of all copies."""
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The last line that it printed, if any."""
        self._said.seek(0)
        return next(reversed(self._said.read().decode(errors="replace").strip().splitlines()), "without a word")

    def close(self) -> None:
        """Kills it and all its copies, stopped ones too. May be called twice."""
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        self._said.close()


def serve(channel: socket.socket, work: Callable[[Connection], None]) -> None:
    """In the server: a copy that works for every connection that arrives, until there is no driver any more."""
    gc.freeze()  # so that collecting garbage in a copy does not copy what is shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no copy that has ended stays behind
    while True:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            return
        if os.fork():
            os.close(descriptors[0])
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close()
        code = 1
        try:
            work(Connection(descriptors[0]))
            code = 0
        except BaseException:  # whatever it is, a copy must not go on as the server
            traceback.print_exc()
        finally:
            os._exit(code)


def main() -> None:
    """What the server's process runs: its one argument is the descriptor of the channel."""
    with loading():
        prepare_process()
        from .worker_process import work

    serve(socket.socket(fileno=int(sys.argv[1])), work)


if __name__ == "__main__":
    main()
