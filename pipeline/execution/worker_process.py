"""What runs in a worker process of the process pool: one trainer, which trains on by itself and says how far it is.

The driver's messages are pairs of a word and what belongs to it: `load` first, then `tasks`, `withdraw`, `leave`. So
are those to the driver: `here`, then `joined` or `refused`, then `news`, `alive` and, as an answer to `leave`, `left`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..data.dataset import DataSet
from ..errors import UserError
from ..own_code import Parcel, receive
from ..packed.trainer import Trainer
from ..records import TrialsReturned
from .environment import fingerprint
from .health import PULSE_SECONDS, ROUND_SECONDS

Say = Callable[[str, Any], None]


def work(connection: Connection) -> None:
    """All that the process does, until it is killed or the driver is no more."""
    lock = threading.Lock()

    def say(word: str, content: Any) -> None:
        with lock:
            connection.send((word, content))

    with suppress(EOFError, ConnectionError):  # there is no driver any more
        say("here", os.getpid())
        _, load = connection.recv()
        try:
            trainer = _trainer(*load)
        except UserError as error:
            say("refused", str(error))
            return
        say("joined", (socket.gethostname(), fingerprint("cpu"), trainer.slots))
        threading.Thread(target=_pulse, args=(say,), daemon=True).start()
        while True:
            _turn(trainer, connection, say)


def _trainer(
    log: Path, dataset: DataSet, slots: int | None, bank_seed: int, checkpoint_seconds: float, code: Sequence[Parcel]
) -> Trainer:
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    receive(code)
    return Trainer(dataset, slots=slots, bank_seed=bank_seed, checkpoint_seconds=checkpoint_seconds)


def _pulse(say: Say) -> None:
    with suppress(ConnectionError):
        while True:
            time.sleep(PULSE_SECONDS)
            say("alive", None)
    os._exit(1)  # perhaps in the middle of an epoch, which nobody waits for


def _turn(trainer: Trainer, connection: Connection, say: Say) -> None:
    """Hears all that was said, or waits for it where there is nothing to do; then trains for a while."""
    while not trainer.busy or connection.poll():
        word, content = connection.recv()
        if word == "tasks":
            trainer.submit(content)
        elif word == "withdraw":
            say("news", [TrialsReturned(trainer.withdraw(content))])
        else:
            say("left", list(trainer.checkpoints()))
    say("news", list(trainer.advance(ROUND_SECONDS)))
