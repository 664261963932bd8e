"""A sweep's row in the ledger: made, found again, or made to ask for more. Starts nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from ..config import Study, dump_study
from ..data.dataset import DataSet
from ..errors import SweepConflictError
from ..extension import extension_of
from ..ledger.store import Holder, Ledger, SweepRecord
from ..paths import WorkPaths, write_atomically
from ..records import canonical_json
from ..results import asked, describe
from ..study_file.identity import study_differences, study_hash
from ..study_file.plain import parse_yaml

EXTENDED = "the result will be that of a fresh sweep of this study"
EXTENDED_MIXED = "it is tagged as not reproducible, so a fresh sweep of this study may end otherwise"


def register(ledger: Ledger, study: Study, dataset: DataSet, paths: WorkPaths) -> SweepRecord:
    """The sweep's row: a new one, or the old one of the same question. Raises SweepConflictError for another."""
    plain = describe(study, dataset)
    found = ledger.sweep(study.name)
    if found is None:
        write_atomically(paths.study(study.name), dump_study(study).encode())
        return ledger.create_sweep(
            name=study.name, study=canonical_json(plain), study_hash=study_hash(plain), created_at=time.time()
        )
    if found.study_hash != study_hash(plain):
        old, _ = asked(found)
        extension = extension_of(old, plain)
        remedy = "Give this one a name of its own (--set name=...) or another --workdir."
        if not extension.refused:
            remedy = f"It only adds to what is there: run it with --extend. Or: {remedy[0].lower()}{remedy[1:]}"
        raise _conflict(study, paths, study_differences(old, plain), remedy)
    _keep_study_file(paths, found, study)
    return found


def extended(ledger: Ledger, study: Study, dataset: DataSet, paths: WorkPaths) -> list[str]:
    """Makes the sweep of this name, if there is one, one of `study`; what that adds, in lines.

    Raises SweepConflictError where that cannot be, LeaseHeldError while somebody drives it.
    """
    plain, name, holder = describe(study, dataset), study.name, Holder.current()
    if ledger.sweep(name) is None:
        return []
    ledger.acquire_lease(name, "driver", holder=holder, now=time.time())
    try:
        found = ledger.sweep(name)
        if found is None:
            return []
        extension = extension_of(asked(found)[0], plain)
        if extension.refused:
            remedy = "An extension only adds. Give this one a name of its own (--set name=...) or another --workdir."
            raise _conflict(study, paths, extension.refused, remedy)
        if not extension.added:
            return []
        ledger.extend_sweep(name, study=canonical_json(plain), study_hash=study_hash(plain))
    finally:
        ledger.release_lease(name, "driver", holder)
    again = [extension.again] if extension.again else []
    end = EXTENDED if found.reproducible else EXTENDED_MIXED
    return [f"sweep {name} is extended: {'; '.join(extension.added)}", *again, end]


def _conflict(study: Study, paths: WorkPaths, differences: Sequence[str], remedy: str) -> SweepConflictError:
    lines = "\n".join(f"  - {line}" for line in differences)
    return SweepConflictError(
        f"A sweep is its name and its question, but '{study.name}' in {paths.workdir} asks something else:\n"
        f"{lines}\n{remedy}"
    )


def _keep_study_file(paths: WorkPaths, record: SweepRecord, study: Study) -> None:
    """The file follows the ledger where it was left behind; `study` has the order in which people wrote it."""
    (_, known), file = asked(record), paths.study(record.name)
    text = dump_study(study if study == known else known)
    with suppress(OSError, ValueError):  # it may have become anything
        if parse_yaml(file.read_text()) == parse_yaml(text):
            return
    write_atomically(file, text.encode())
