"""Every exception this project raises on purpose, and the exit code each one means.

A message is the rule, what came, and the remedy. The tree:

    VaeSweepError                   1
    ├── UserError                   2   the user's input is wrong
    │   ├── StudyFileError          2   a study file, with all its problems at once
    │   ├── DataError               2   a data set that is missing or malformed
    │   └── SweepConflictError      2   the working directory holds another study of that name
    ├── LedgerError                 1   the ledger cannot be read or written
    │   ├── LeaseHeldError          1   another driver is running this sweep
    │   └── LedgerAway              1   the ledger's database cannot be reached at the moment
    ├── StorageError                1   a file of a sweep cannot be written, as on a full disk
    ├── ExecutionError              1   workers cannot be started or are all gone
    └── TrackerError                1   the tracker answered, and the answer was no
        └── TrackerAway             1   the tracker cannot be reached; deliver later

A clean stop with work left is no error; `run` then ends with exit code 3.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_LINES = 100
"""of a message about many mistakes"""


class VaeSweepError(Exception):
    """Anything this project reports to its user without a traceback."""

    exit_code = 1


class UserError(VaeSweepError):
    """The user's input is wrong; the message says the rule, what came and the remedy."""

    exit_code = 2


class StudyFileError(UserError):
    """A study file with one or more mistakes.

    `problems` holds one line per mistake, each with its path inside the file.
    """

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        self.file = file
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{file}: {count} problem{'s' if count != 1 else ''}"
        lines = [f"  - {problem}" for problem in self.problems[:MOST_LINES]]
        lines += [f"  ... and {count - MOST_LINES} more"] if count > MOST_LINES else []
        super().__init__("\n".join([head, *lines]))


class DataError(UserError):
    """A data set that is missing, malformed or of the wrong kind."""


class SweepConflictError(UserError):
    """A sweep of this name exists and asks something else."""


class LedgerError(VaeSweepError):
    """The ledger cannot be read or written."""


class LeaseHeldError(LedgerError):
    """Another live driver holds this sweep."""


class LedgerAway(LedgerError):
    """The ledger's database cannot be reached at the moment; the same may succeed later."""


class StorageError(VaeSweepError):
    """A file of a sweep cannot be written."""


class ExecutionError(VaeSweepError):
    """Workers cannot be started, or none is left."""


class TrackerError(VaeSweepError):
    """The tracker answered, and the answer was no."""


class TrackerAway(TrackerError):
    """The tracker cannot be reached at the moment; what is due is delivered later."""
