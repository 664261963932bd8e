"""What a row of the ledger must hold before anything is made of it: a damaged one is named, not stumbled over.

Types and forms only, column by column; whether the trials of a sweep fit its study is for those who know studies. Pure:
knows no database and no SQL.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import LedgerError
from ..records import ENDED, Phase, State, TrialKey

REMEDY = "Restore the ledger from a copy, or name another --workdir or database URL and run the study there."

Check = Callable[[Any], bool]
Rules = Mapping[str, tuple[str, Check]]
"""column -> (what it must be, whether a value is)"""

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def damaged(whose: str, what: str) -> LedgerError:
    """The error for a row. `whose`: the row; `what`: what came."""
    return LedgerError(f"A ledger's rows must be as this program wrote them, but {whose} {what}. {REMEDY}")


def trial_name(row: Mapping[str, Any]) -> str:
    """How a message names a row of the trials table."""
    return f"trial {_shown(row['key'])} of sweep {_shown(row['sweep'])}"


def check(row: Mapping[str, Any], rules: Rules, whose: str) -> None:
    """Raises LedgerError for the first column that breaks its rule."""
    for column, (rule, holds) in rules.items():
        if not holds(row[column]):
            raise damaged(whose, f"has {_shown(row[column])} as its {column}, which must be {rule}")


def sound_trial(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of the trials table with its JSON read. Raises LedgerError when it is no trial's."""
    whose = trial_name(row)
    plain = {**row, **{column: _parsed(row[column]) for column in ("params", "proposal", "thresholds", "files")}}
    check(plain, _TRIAL, whose)
    key = TrialKey(row["arm"], row["replicate"], Phase(row["phase"]), row["number"])
    if str(key) != row["key"]:
        raise damaged(whose, f"is {_shown(str(key))} by its other columns")
    ended = State(row["state"]) in ENDED
    if ended != (row["curves"] is not None):
        raise damaged(whose, f"is {row['state']} and has {'no curves' if ended else 'curves'}")
    if ended:
        check(plain, _OUTCOME, whose)
    return plain


def sound_sweep(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of the sweeps table with its fingerprint read. Raises LedgerError when it is no sweep's."""
    plain = {**row, "fingerprint": row["fingerprint"] if row["fingerprint"] is None else _parsed(row["fingerprint"])}
    check({**plain, "study": _parsed(row["study"])}, _SWEEP, f"sweep {_shown(row['name'])}")
    return plain


def check_groups(whose: str, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises LedgerError when a trial's numbers are not in the groups of all trials."""
    if set(groups) != {"curves", "metrics", "times"} or set(groups["times"]) != {"epoch"}:
        raise damaged(whose, f"has numbers in the groups {_shown(sorted(groups))}")
    odd = [name for name, series in groups["metrics"].items() if len(series) != 1]
    if odd:
        raise damaged(whose, f"has not one value of {_shown(odd)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_folder(value: Any) -> bool:
    """A ledger may be several people's: no row leads out of the working directory."""
    return _is_name(value) and value not in (".", "..") and not {"/", "\0"} & set(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LAST_SECOND


_LAST_SECOND = 253_402_300_800.0
"""the year 10000: no calendar goes further"""


def _or_null(holds: Check) -> Check:
    return lambda value: value is None or holds(value)


def _parsed(text: Any) -> Any:
    """What JSON says; _UNREADABLE for what is none."""
    try:
        return json.loads(text) if isinstance(text, str) else _UNREADABLE
    except (ValueError, RecursionError):
        return _UNREADABLE


class _Unreadable:
    def __repr__(self) -> str:
        return "what is no JSON"


_UNREADABLE = _Unreadable()


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


_LARGEST = sys.float_info.max


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(type(item) is int for item in value)
    return value is None or isinstance(value, bool | str) or _is_finite(value)


def _are_params(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_value, value.values()))


def _are_thresholds(value: Any) -> bool:
    return isinstance(value, list) and all(entry is None or isinstance(entry, float | int) for entry in value)


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _FILE.fullmatch(name) and isinstance(digest, str) for name, digest in value.items()
    )


def _are_words(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_one_of(valid: type[Phase] | type[State]) -> tuple[str, Check]:
    names = tuple(str(one) for one in valid)
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names


_COUNT = ("a whole number from 0", _is_count)
_TEXT = ("text", _is_text)
_SECONDS = ("a time or a length in seconds", _is_time)

_TRIAL: Rules = {
    "arm": ("the name of one folder", _is_folder),
    "replicate": _COUNT,
    "phase": _is_one_of(Phase),
    "number": _COUNT,
    "state": _is_one_of(State),
    "seed": _COUNT,
    "attempts": _COUNT,
    "params": ("a JSON object of plain values", _are_params),
    "proposal": ("a JSON object", _is_object),
    "thresholds": ("a JSON list of numbers and nulls", _are_thresholds),
    "files": ("a JSON object of file names and their SHA-256", _are_files),
    "curves": ("bytes or NULL", lambda value: value is None or isinstance(value, bytes)),
}

_OUTCOME: Rules = {
    "cause": ("text or NULL", _or_null(_is_text)),
    "epochs": _COUNT,
    "started_at": _SECONDS,
    "ended_at": _SECONDS,
    "worker_seconds": _SECONDS,
    "worker": _TEXT,
    "host": _TEXT,
    "largest_pack": _COUNT,
}

_SWEEP: Rules = {
    "name": ("the name of one folder", _is_folder),
    "study": ("a JSON object", _is_object),
    "study_hash": _TEXT,
    "status": ("running, stopped or finished", lambda value: value in ("running", "stopped", "finished")),
    "reproducible": ("true or false", _is_flag),
    "stop_requested": ("true or false", _is_flag),
    "created_at": _SECONDS,
    "fingerprint": ("a JSON object of texts or NULL", _or_null(_are_words)),
    "finished_at": ("a time in seconds or NULL", _or_null(_is_time)),
}

LEASE: Rules = {
    "host": _TEXT,
    "pid": _COUNT,
    "started": _TEXT,
    "scope": _TEXT,
    "since": _SECONDS,
    "heartbeat": _SECONDS,
}

DELIVERY: Rules = {
    "target": ("a name", _is_name),
    "item": ("a name", _is_name),
    "state": ("begun, done or stale", lambda value: value in ("begun", "done", "stale")),
    "run_id": ("text or NULL", _or_null(_is_text)),
    "at": _SECONDS,
}
