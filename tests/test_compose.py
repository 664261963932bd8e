"""The cluster of docker-compose.yml, really started: what it shows and refuses, and a sweep that outlives its client.

The stack is one of its own: project, ports, secrets and volumes. Where no container engine can be used, or the base
images cannot be had, every test is skipped and says why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .kit import free_ports
from .sweeps import records, vae_sweep, vae_sweep_started

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent
BASE_IMAGES = {"PYTHON_IMAGE": "python:3.11-slim-bookworm", "POSTGRES_IMAGE": "postgres:17"}
"""variable -> what docker-compose.yml takes without it"""
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
SETS = ("--set", "search.trials=4", "--set", "train.epochs=60")
PICTURES = {"samples.png", "reconstructions.png"}


@dataclass(frozen=True)
class Stack:
    """A started cluster."""

    environment: dict[str, str]
    secrets: Path
    ports: dict[int, int]
    """port in the container -> port here"""

    def cluster(self, *words: str, timeout_seconds: float = 1500) -> str:
        """What docker/cluster.sh prints."""
        done = subprocess.run(
            ["docker/cluster.sh", *words],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_seconds,
        )  # fmt: skip
        assert done.returncode == 0, f"cluster.sh {' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def ids(self, *services: str) -> list[str]:
        """The containers of these services; of all without a name."""
        return self.cluster("compose", "ps", "-q", *services).split()

    def inspected(self) -> list[dict[str, Any]]:
        """All containers, as `docker inspect` shows them."""
        found: list[dict[str, Any]] = json.loads(_docker("inspect", *self.ids()))
        return found

    def secret(self, name: str) -> str:
        """A secret's content."""
        return (self.secrets / name).read_text()

    def url(self, port: int, path: str = "") -> str:
        """A published port, by its number in the container."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"docker {' '.join(words[:3])}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _why_not() -> str | None:
    """Why no stack can be started here, or None."""
    if not shutil.which("docker"):
        return "there is no docker command (docker/ensure-engine.sh installs one as root)"
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
    if engine.returncode:
        return f"Docker's engine cannot be used: {engine.stderr.strip().splitlines()[-1]}"
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60)
    if plugin.returncode and not shutil.which("docker-compose"):
        return "there is neither `docker compose` nor `docker-compose`"
    for variable, default in BASE_IMAGES.items():
        image = os.environ.get(variable, default)
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, timeout=60).returncode:
            pulled = subprocess.run(["docker", "pull", "-q", image], capture_output=True, text=True, timeout=600)
            if pulled.returncode:
                return f"the image {image} is not here and cannot be pulled: {pulled.stderr.strip()[-300:]}"
    return None


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The cluster with two workers; taken down with its volumes."""
    if why := _why_not():
        pytest.skip(f"no cluster in containers: {why}")
    mlflow, ray, optuna = free_ports(3)
    secrets = tmp_path_factory.mktemp("cluster") / "secrets"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VAE_SWEEP_", "COMPOSE_"))}
    environment = {
        **kept,
        "COMPOSE_PROJECT_NAME": f"vae-sweep-test-{os.getpid()}",
        "VAE_SWEEP_IMAGE": "vae-sweep-test",
        "VAE_SWEEP_SECRETS": str(secrets),
        "VAE_SWEEP_BIND": "127.0.0.1",
        "VAE_SWEEP_WORKERS": "2",
        "VAE_SWEEP_MLFLOW_PORT": str(mlflow),
        "VAE_SWEEP_RAY_PORT": str(ray),
        "VAE_SWEEP_OPTUNA_PORT": str(optuna),
    }
    started = Stack(environment, secrets, {5000: mlflow, 8265: ray, 8080: optuna})
    try:
        started.cluster("up")
        yield started
    finally:
        started.cluster("compose", "down", "--volumes", "--timeout", "5")


def _answer(url: str, **headers: str) -> int:
    """The status of a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# ------------------------------------------------------------------------------------------ what it shows


def test_no_secret_can_be_seen_from_outside(stack: Stack) -> None:
    names = {path.name for path in stack.secrets.iterdir()}
    assert stack.secrets.stat().st_mode & 0o777 == 0o700
    values = {name: stack.secret(name) for name in names if stack.secret(name)}
    assert names - set(values) == {"aws_credentials"} and len(set(values.values())) == len(values) == 8
    arguments = "".join(_docker("top", container, "-eo", "pid,args") for container in stack.ids())
    shown = {
        "docker inspect": json.dumps(stack.inspected()),
        "docker history": _docker("history", "--no-trunc", "vae-sweep-test"),
        "compose config": stack.cluster("compose", "config"),
        "arguments of processes": arguments,
        "logs": stack.cluster("compose", "logs", "--no-color"),
    }
    seen = [(name, where) for name, value in values.items() for where, text in shown.items() if value in text]
    assert not seen


def test_secrets_never_come_into_git_nor_into_the_image() -> None:
    listed = subprocess.run(["git", "ls-files", "secrets", ".env"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone")
    assert not listed.stdout
    for path in ("secrets/ray_token", ".env"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0
    sent = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert not any("secret" in line.replace("make-secrets", "") or line == "!." for line in sent)


def test_three_web_ports_are_published_to_this_machine_alone(stack: Stack) -> None:
    published = {
        (inside, binding["HostIp"], int(binding["HostPort"]))
        for container in stack.inspected()
        for inside, bindings in container["NetworkSettings"]["Ports"].items()
        for binding in bindings or []
    }
    assert published == {(f"{inside}/tcp", "127.0.0.1", here) for inside, here in stack.ports.items()}


def test_all_are_healthy_and_nothing_runs_as_root(stack: Stack) -> None:
    containers = stack.inspected()
    services = sorted(container["Config"]["Labels"]["com.docker.compose.service"] for container in containers)
    assert services == ["mlflow", "optuna-dashboard", "postgres", "ray-head", "ray-worker", "ray-worker"]
    for container in containers:
        name = container["Name"]
        assert container["State"]["Health"]["Status"] == "healthy", name
        assert container["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped", name
        users = [line.split()[0] for line in _docker("top", container["Id"], "-eo", "uid,pid").splitlines()[1:]]
        assert users and "0" not in users, f"{name}: {users}"


# ------------------------------------------------------------------------------------------ what it refuses


def test_ray_refuses_jobs_without_its_token(stack: Stack) -> None:
    assert _answer(stack.url(8265, "/api/gcs_healthz")) == 200
    jobs = stack.url(8265, "/api/jobs/")
    assert _answer(jobs) == 401
    assert _answer(jobs, Authorization="Bearer " + "0" * 48) in (401, 403)
    assert _answer(jobs, Authorization=f"Bearer {stack.secret('ray_token')}") == 200
    body = json.dumps({"entrypoint": "true"}).encode()
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(urllib.request.Request(jobs, data=body, method="POST"), timeout=30)
    refused.value.close()


def test_mlflow_wants_a_login_and_its_own_name(stack: Stack) -> None:
    assert _answer(stack.url(5000, "/health")) == 200
    search = stack.url(5000, "/api/2.0/mlflow/experiments/search?max_results=1")
    assert _answer(search) == 401
    assert _answer(search, Host="elsewhere.example") == 403


def test_workers_have_the_token_alone_and_databases_are_apart(stack: Stack) -> None:
    worker = stack.ids("ray-worker")[0]
    assert _docker("exec", worker, "ls", "/run/secrets").split() == ["ray_token"]
    (postgres,) = stack.ids("postgres")
    ask = "PGPASSWORD=$(cat /run/secrets/{0}_db_password) psql -h postgres -U {0} -d {1} -tAc 'select 1'"
    for role in ("ledger", "optuna", "mlflow"):
        for database in ("ledger", "optuna", "mlflow"):
            words = ("docker", "exec", postgres, "sh", "-c", ask.format(role, database))
            assert (subprocess.run(words, capture_output=True).returncode == 0) == (role == database), (role, database)


# ------------------------------------------------------------------------------------------ the whole story


def _until(what: str, seconds: float, condition: Callable[[], Any], pause_seconds: float = 1.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause_seconds)
    return value


def test_a_sweep_outlives_its_client_and_a_worker(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(stack.secrets / "ray_token"))
    there = ("--address", stack.url(8265))

    def status() -> dict[str, Any]:
        done = vae_sweep("status", "quickstart", "--json", *there, check=False)
        facts: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"trials": {}, "status": ""}
        return facts

    # Sent, and the client killed as soon as the cluster works on it.
    log = tmp_path / "log"
    client = vae_sweep_started("submit", QUICKSTART, *SETS, *there, "--max-workers", 3, "--follow", log=log)
    _until("the first progress", 180, lambda: "trials" in log.read_text() or client.poll() is not None)
    assert client.poll() is None, log.read_text()
    client.kill()
    client.wait()
    before = _until("trials that ended", 180, lambda: (facts := status())["trials"].get("complete", 0) and facts)
    assert before["status"] == "running"

    # A worker lost in the middle, another one come.
    victim = stack.ids("ray-worker")[0]
    _docker("kill", victim)
    stack.cluster("compose", "up", "-d", "--no-recreate", "--scale", "ray-worker=3", "ray-worker")
    after = _until("its end", 900, lambda: (facts := status())["status"] == "finished" and facts, 5.0)
    assert after["trials"]["complete"] > before["trials"]["complete"] and after["reproducible"]
    assert len(after["hosts"]) >= 2

    # The same bytes as on one machine without any of it.
    local = ("--workdir", tmp_path / "local")
    vae_sweep("run", QUICKSTART, *SETS, "--executor", "inline", "--mlflow", "none", *local, timeout=900)
    expected = vae_sweep("compare", "quickstart", "--json", *local).stdout
    assert vae_sweep("compare", "quickstart", "--json", *there).stdout == expected

    trials = len(records(tmp_path / "local", "quickstart"))
    _mlflow_has_all(stack, monkeypatch, trials, tmp_path)
    _optuna_has_all(stack)


def _optuna_has_all(stack: Stack) -> None:
    """Every search is a study that the dashboard lists: 8 arms, 2 replicates."""

    def searches() -> bool:
        with urllib.request.urlopen(stack.url(8080, "/api/studies"), timeout=60) as answer:
            names = [study["study_name"] for study in json.load(answer)["study_summaries"]]
        return len([name for name in names if name.startswith("quickstart/")]) == 16

    _until("16 studies", 120, searches)


def _mlflow_has_all(stack: Stack, monkeypatch: pytest.MonkeyPatch, trials: int, folder: Path) -> None:
    """Every trial's run and the sweep's own, delivered; two pictures of one."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", stack.secret("mlflow_admin_password"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=stack.url(5000))

    def delivered() -> list[Any]:
        experiment = client.get_experiment_by_name("quickstart")
        runs = list(client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []
        return runs if {run.info.status for run in runs} == {"FINISHED"} and len(runs) == 1 + trials else []

    runs = _until(f"all {trials} trials in MLflow", 900, delivered, 5.0)
    run = next(run for run in runs if run.data.tags.get("phase") == "repeat").info.run_id
    assert {file.path for file in client.list_artifacts(run)} >= PICTURES
    for name in PICTURES:
        assert Path(client.download_artifacts(run, name, str(folder))).read_bytes().startswith(b"\x89PNG")
