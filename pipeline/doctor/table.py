"""All checks by name, in the order in which they are shown. A new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from . import folder, machine, servers
from .base import Check, Finding, Scope

CHECKS: Mapping[str, Check] = {
    "versions": machine.versions,
    "numerics": machine.numerics,
    "memory": machine.memory,
    "disk": machine.disk,
    "permissions": folder.permissions,
    "leftovers": folder.leftovers,
    "clock": folder.clock,
    "ports": machine.ports,
    "ledger": servers.ledger,
    "sweeps": servers.sweeps,
    "mlflow": servers.mlflow,
    "ray": servers.ray,
    "optuna": servers.optuna,
}
"""Name -> check."""


def diagnose(scope: Scope, checks: Mapping[str, Check] = CHECKS) -> dict[str, Finding]:
    """Every check's finding, in the table's order. They run side by side, so that slow servers are waited for once."""
    with ThreadPoolExecutor(max_workers=len(checks)) as threads:
        answers = {name: threads.submit(_careful, check, scope) for name, check in checks.items()}
        return {name: answer.result() for name, answer in answers.items()}


def _careful(check: Check, scope: Scope) -> Finding:
    """A doctor must not die of what it looks for."""
    try:
        return check(scope)
    except Exception as error:
        text = f"could not be checked: {type(error).__name__}"
        return Finding("failed", text, "This is a bug or a very odd machine; please report it.")
