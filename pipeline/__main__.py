"""`python -m pipeline` is `vae-sweep`."""

from __future__ import annotations

import os
import sys

from .cli import main


def leave() -> None:
    """Runs a command and leaves at once: Python would take up to a second to unload torch and Ray."""
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # the reader has left
        code = 141
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    leave()
