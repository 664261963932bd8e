"""Which oracles failed under which numerics, kept in the user's cache: `selfcheck` notes it, reports warn of it.

Knows no oracle. A cache that cannot be read or written is done without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..paths import user_cache, write_atomically
from ..records import digest


def note_selfcheck(fingerprint: Mapping[str, str], holds: Mapping[str, bool]) -> None:
    """Keeps how these oracles did; what was found of others stays."""
    known = _read()
    failed = (set(known.pop(digest(fingerprint), ())) - holds.keys()) | {
        name for name, held in holds.items() if not held
    }
    if failed:
        known[digest(fingerprint)] = sorted(failed)
    try:
        write_atomically(user_cache() / "selfcheck.json", json.dumps(known, indent=1).encode())
    except OSError:
        return


def failed_oracles(fingerprint: Mapping[str, str] | None) -> tuple[str, ...]:
    """Names of the oracles that failed when `selfcheck` last tried them under these numerics."""
    return tuple(_read().get(digest(fingerprint), ())) if fingerprint else ()


def _read() -> dict[str, list[str]]:
    try:
        found = json.loads((user_cache() / "selfcheck.json").read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, list) and all(isinstance(name, str) and name[:1] == "O" for name in value)
    }
