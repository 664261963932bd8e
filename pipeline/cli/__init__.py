"""The verbs of `vae-sweep`: each parses, calls, and prints.

Imports nothing heavy at the top: `vae-sweep --help` must answer at once.
"""

from __future__ import annotations

import os
import sys

from rich.console import Console

from ..errors import VaeSweepError
from ..execution.environment import CLIENT_VERSION

from . import launching, reading, choosing, removing, doctoring  # isort: skip  # the order of verbs in --help
from .common import app, escaped

__all__ = ["app", "choosing", "doctoring", "launching", "main", "reading", "removing"]


def main() -> None:
    """Entry point: errors become one message and an exit code, never a traceback."""
    try:
        if CLIENT_VERSION in os.environ:
            from ..remote import check_client

            check_client()
        app()
    except VaeSweepError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
