"""Checks of what a sweep would talk to: ledger, MLflow, Ray, an Optuna storage. Each is waited for a few seconds.

Loads neither MLflow nor Ray: a few requests tell whether somebody is away, refuses the login, or is too old.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import LedgerError
from ..ledger.probe import Answer, ask
from ..ledger.schema import Role
from ..ledger.store import Ledger
from ..tracking.mlflow_tracker import target_of, without_login
from .base import ANSWER_SECONDS, Finding, Scope, clock_finding

_ROLES: tuple[Role, ...] = ("driver", "delivery", "export")
_AGAIN = "Do what the message says, then look again."


# ------------------------------------------------------------------------------------------- databases


def ledger(scope: Scope) -> Finding:
    """The ledger's database, and its clock."""
    if _is_missing_file(scope.ledger_url):
        return Finding("ok", "none yet; `run` makes one")
    answer = ask(scope.ledger_url, "--workdir or VAE_SWEEP_DATABASE_URL", ANSWER_SECONDS)
    if answer.cause:
        return _refused("ledger", answer, "VAE_SWEEP_DATABASE_URL")
    if answer.clock is not None and (off := clock_finding(answer.clock, scope.clock(), answer.shown)):
        return off
    if not answer.has_ledger:
        return Finding("ok", f"{answer.shown} answers; `run` makes the tables")
    try:
        with Ledger.open(scope.ledger_url, create=False, away_seconds=0.0) as found:
            count = len(found.sweeps())
    except LedgerError as error:
        return Finding("failed", str(error), _AGAIN)
    return Finding("ok", f"{answer.shown} holds {count} sweep{'' if count == 1 else 's'}")


def sweeps(scope: Scope) -> Finding:
    """Sweeps that say they run though their driver is dead, and leases of the dead."""
    if _is_missing_file(scope.ledger_url):
        return Finding("ok", "none yet")
    answer, parts, now = ask(scope.ledger_url, "the ledger", ANSWER_SECONDS), list[Finding](), scope.clock()
    if answer.cause or not answer.has_ledger:
        return Finding("ok", "not looked at: no ledger")
    try:
        with Ledger.open(scope.ledger_url, create=False, away_seconds=0.0) as found:
            known = found.sweeps()
            for sweep in known:
                leases = {role: lease for role in _ROLES if (lease := found.lease(sweep.name, role))}
                driver = leases.get("driver")
                if sweep.status == "running" and not (driver and driver.is_live(now)):
                    remedy = f"Go on with the same `vae-sweep run`, or remove it: vae-sweep delete {sweep.name}"
                    parts.append(Finding("warning", f"{sweep.name} was interrupted", remedy))
                stale = [role for role, lease in leases.items() if not lease.is_live(now) and role != "driver"]
                if stale:
                    text = f"{sweep.name} has the lease of a dead {' and '.join(stale)}"
                    parts.append(Finding("warning", text, f"The next one takes it: vae-sweep sync {sweep.name}"))
    except LedgerError as error:
        return Finding("failed", str(error), _AGAIN)
    return Finding.worst(parts) if parts else Finding("ok", f"{len(known)}, none of them interrupted")


def optuna(scope: Scope) -> Finding:
    """The Optuna storage that `run` exports to."""
    if scope.optuna_url is None:
        return Finding("ok", "no export asked for (VAE_SWEEP_OPTUNA_URL)")
    if _is_missing_file(scope.optuna_url):
        return Finding("ok", "none yet; the first export makes it")
    answer = ask(scope.optuna_url, "VAE_SWEEP_OPTUNA_URL", ANSWER_SECONDS)
    if answer.cause:
        return _refused("Optuna storage", answer, "VAE_SWEEP_OPTUNA_URL")
    return Finding("ok", f"{answer.shown} answers")


def _is_missing_file(url: str) -> bool:
    return url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()


def _refused(what: str, answer: Answer, variable: str) -> Finding:
    said = answer.cause.lower()
    if "password" in said or "authentication" in said or "no pg_hba" in said:
        remedy = f"Correct user or password in {variable}, or in the file that PGPASSFILE names."
        return Finding("failed", f"{answer.shown} refuses the login: {answer.cause}", remedy)
    remedy = f"Start it, or correct {variable}; where it is on another machine, see that its port is open."
    return Finding("failed", f"the {what} {answer.shown} cannot be used: {answer.cause}", remedy)


# ---------------------------------------------------------------------------------------------- HTTP


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request."""

    status: int
    """0: nobody answered"""
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A login goes to the server that was named, and to no other."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def request(url: str, login: Mapping[str, str], body: object = None) -> Reply:
    """One request; a body makes it a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if data else {}), **login}
    try:
        asked = urllib.request.Request(url, data, headers)
        with urllib.request.build_opener(_NoRedirect).open(asked, timeout=ANSWER_SECONDS) as answer:
            return Reply(answer.status, answer.read(100_000).decode(errors="replace"), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.read(1000).decode(errors="replace"), dict(error.headers))
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        return Reply(0, str(reason) or type(error).__name__)


def mlflow(scope: Scope) -> Finding:
    """The MLflow server with its login, version and clock; or the embedded store."""
    uri = scope.tracking
    if uri is None:
        return Finding("ok", "nothing is tracked (--mlflow none)")
    shown = target_of(uri).removeprefix("mlflow:")
    if not uri.startswith(("http://", "https://")):
        return _embedded(uri, shown)
    base = without_login(uri)
    reply = request(f"{base}/api/2.0/mlflow/experiments/search", _mlflow_login(uri, scope), {"max_results": 1})
    if reply.status == 0:
        remedy = "Start it, or correct MLFLOW_TRACKING_URI. A sweep runs without it; `vae-sweep sync` delivers later."
        return Finding("failed", f"{shown} is away: {reply.text}", remedy)
    if reply.status in (401, 403):
        if "host" in reply.text.lower():
            return Finding(
                "failed", f"{shown} refuses this host name: {reply.text[:100]}", "mlflow server --allowed-hosts"
            )
        remedy = "Correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)."
        return Finding("failed", f"{shown} is there, and refuses the login ({reply.status})", remedy)
    if reply.status != 200 or "html" in reply.headers.get("Content-Type", ""):
        remedy = "Check that MLFLOW_TRACKING_URI is an MLflow server's address, and what stands between."
        return Finding("failed", f"{shown} does not answer as MLflow does ({reply.status})", remedy)
    return _clock_of(reply, shown, scope) or _mlflow_version(base, shown, _mlflow_login(uri, scope))


def _mlflow_version(base: str, shown: str, login: Mapping[str, str]) -> Finding:
    theirs, ours = request(f"{base}/version", login).text.strip()[:40], version("mlflow")
    if theirs.partition(".")[0] != ours.partition(".")[0]:
        return Finding(
            "warning", f"{shown} has MLflow {theirs}, and this machine {ours}", "Use the same major version."
        )
    return Finding("ok", f"{shown} has MLflow {theirs} and takes the login")


def _mlflow_login(uri: str, scope: Scope) -> dict[str, str]:
    parts = urlsplit(uri)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    elif name := scope.environment.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{name}:{scope.environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
    elif token := scope.environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    else:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _embedded(uri: str, shown: str) -> Finding:
    if not uri.startswith("sqlite:///"):
        return Finding("ok", f"{shown} is MLflow's to reach; not looked at")
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.exists():
        return Finding("ok", f"the embedded store {path} is not there yet; `run` makes it")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=ANSWER_SECONDS)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        return Finding("failed", f"the embedded store {path} cannot be read: {error}", "Restore it, or move it away.")
    if not os.access(path, os.W_OK):
        return Finding("failed", f"the embedded store {path} cannot be written", "Run as its owner, or chown it.")
    return Finding("ok", f"the embedded store {path} has {count} runs")


# ----------------------------------------------------------------------------------------------- Ray


def ray(scope: Scope) -> Finding:
    """The cluster that was named: whether it answers, takes the token and has this machine's version of Ray."""
    address = scope.ray_address
    if address is None:
        return Finding("ok", "no cluster named: `run` starts one here, for this machine only, with a token of its own")
    if address == "auto":
        return Finding("ok", "auto: the cluster that this machine belongs to; not looked at")
    if not address.startswith(("http://", "https://")):
        return _port_of_cluster(address)
    base, token = without_login(address), _ray_token(scope)
    login = {"Authorization": f"Bearer {token}"} if token else {}
    reply = request(f"{base}/api/version", login)
    remedy = "Check that the head runs with its dashboard, and that the address can be reached (ssh -L)."
    if reply.status == 0:
        return Finding("failed", f"{base} is away: {reply.text}", remedy)
    if reply.status in (401, 403):
        how = "is wrong" if token else "is missing"
        remedy = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token."
        return Finding("failed", f"{base} wants a token, and this one {how} ({reply.status})", remedy)
    try:
        theirs = str(json.loads(reply.text)["ray_version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Finding("failed", f"{base} does not answer as a Ray dashboard does ({reply.status})", remedy)
    if theirs != version("ray"):
        text = f"{base} has Ray {theirs}, and this machine {version('ray')}"
        return Finding("failed", text, f"Install the cluster's version here: pip install 'ray[default]=={theirs}'")
    return _clock_of(reply, base, scope) or Finding("ok", f"{base} has Ray {theirs} and takes the token")


def _port_of_cluster(address: str) -> Finding:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") or not port.isdecimal() or not host:
        remedy = "Give HOST:PORT of the head, auto on one of its nodes, or the URL of its dashboard."
        return Finding("failed", f"{address} is no address that a driver takes", remedy)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS):
            return Finding("ok", f"{address} is listened on; its version and token show when `run` joins")
    except (OSError, OverflowError) as error:
        remedy = "Check that the head runs (ray status, there), and that this machine is one of its nodes."
        return Finding("failed", f"{address} is away: {getattr(error, 'strerror', None) or error}", remedy)


def _ray_token(scope: Scope) -> str:
    """As Ray looks for it."""
    if token := scope.environment.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(scope.environment.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _clock_of(reply: Reply, shown: str, scope: Scope) -> Finding | None:
    try:
        theirs = parsedate_to_datetime(reply.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None
    return clock_finding(theirs, scope.clock(), shown)
