"""Files of checkpoints: the newest two of every trial in training, each under the hash of its content.

    WORKDIR/NAME/trials/ARM/REPLICATE/PHASE/NUMBER/checkpoint-000120-SHA256.safetensors

A file is written whole under another name and renamed; one whose content is not what its name says (a disk that lied,
a machine that lost its power) is not used, and the one before it is. Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .paths import WorkPaths, write_atomically
from .records import TrialKey

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{6,})-([0-9a-f]{64})\.safetensors")


class Checkpoints:
    """The checkpoints of one sweep's trials. A file that cannot be read, written or removed ends nothing."""

    def __init__(self, paths: WorkPaths, sweep: str, say: Callable[[str], None]) -> None:
        """`say` gets a line when a checkpoint cannot be kept or used."""
        self._paths, self._sweep, self._say = paths, sweep, say

    def keep(self, key: TrialKey, epoch: int, content: bytes) -> None:
        """Writes the state after `epoch`, then drops all but the newest two."""
        name = f"checkpoint-{epoch:06d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            write_atomically(self._folder(key) / name, content)
        except OSError as error:
            self._say(f"a checkpoint of {key} could not be written ({error.strerror}); training goes on")
            return
        self._drop(key, KEPT)

    def latest(self, key: TrialKey) -> bytes | None:
        """The newest one that is whole; None where there is none."""
        for file in self._files(key):
            found = _NAME.fullmatch(file.name)
            with suppress(OSError):
                content = file.read_bytes()
                if found and hashlib.sha256(content).hexdigest() == found[2]:
                    return content
            self._say(f"the checkpoint of {key} after epoch {found and int(found[1])} is damaged and is not used")
        return None

    def clear(self, key: TrialKey) -> None:
        """Removes those of a trial that has ended."""
        self._drop(key, 0)

    def _drop(self, key: TrialKey, kept: int) -> None:
        for file in self._files(key)[kept:]:
            with suppress(OSError):
                file.unlink()

    def _files(self, key: TrialKey) -> list[Path]:
        """Newest first."""
        try:
            names = [file.name for file in self._folder(key).iterdir()]
        except OSError:
            return []
        return [self._folder(key) / name for name in sorted(filter(_NAME.fullmatch, names), key=_epoch, reverse=True)]

    def _folder(self, key: TrialKey) -> Path:
        return self._paths.trial(self._sweep, key)


def _epoch(name: str) -> int:
    return int(name.split("-")[1])
