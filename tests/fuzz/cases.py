"""How many cases a fuzzer tries, and what every command owes its user. Hypothesis's profiles are registered here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from ..sweeps import vae_sweep_here

LONGER = 10
"""times the cases of the slow suite, which are 1,000 in all, in `make fuzz`: 10,000, others every time"""


def register_profiles() -> None:
    """`ci`, in force unless `--hypothesis-profile` names another, tries the same cases every time; `long` others."""
    common: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("ci", derandomize=True, **common)
    settings.register_profile("long", print_blob=True, **common)
    settings.load_profile("ci")


def sizes(few: int, many: int) -> pytest.MarkDecorator:
    """Runs a test with `few` cases in the default suite, with `many` in the slow one; as `count`."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def fuzz(count: int, check: Callable[..., None], **drawn: SearchStrategy[Any]) -> None:
    """Calls `check` with `count` draws, LONGER times as many in the profile `long`."""
    count *= LONGER if settings.get_current_profile_name() == "long" else 1
    settings(max_examples=count)(given(**drawn)(check))()


def told(*words: object, codes: tuple[int, ...] = (0, 1, 2)) -> tuple[int, str, str]:
    """Exit code, output and message of a command that may fail in no other way than by one clear message.

    An exception that leaves `main` would be a traceback in front of the user: here it ends the test.
    """
    code, out, err = vae_sweep_here(*words)
    out.encode()  # a terminal could not print half a character; Python escapes it in messages only
    assert "Traceback" not in out + err
    assert code in codes, (code, err)
    if code == 2:
        assert not out and ("error: " in err or "Usage: " in err), err
        assert len(err) < 20_000, "a message that nobody reads"
    if code == 1 and not out:
        assert "error: " in err, err
    return code, out, err
