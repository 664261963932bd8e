"""Sweeps sent to a cluster through Ray Jobs: a real head with its dashboard, on this machine, with a token."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import __version__
from pipeline.config import load_study
from pipeline.errors import UserError
from pipeline.remote import pack

from .docs import ROOT, blocks
from .kit import free_ports
from .sweeps import json_of, run_here, study_file, vae_sweep, vae_sweep_here, vae_sweep_started, wait_for

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}


@dataclass(frozen=True)
class Head:
    address: str
    workdir: Path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    (dashboard, client, agent), log = free_ports(3), folder / "log"
    temporary = tempfile.mkdtemp(prefix="vs")  # the paths of Ray's sockets must be short
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--port=0", "--num-cpus=2", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={temporary}"]
    command += ["--object-store-memory=100000000", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}"]  # by default one port for all clusters of a machine
    environment = {**os.environ, **TOKEN, "VAE_SWEEP_WORKDIR": str(folder / "sweeps"), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "2"
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)), stdout=file, stderr=file, env=environment, start_new_session=True, cwd=folder
        )
    try:
        wait_for(lambda: "Ray runtime started" in log.read_text(), process)
        address = f"http://127.0.0.1:{dashboard}"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in TOKEN.items():
                patch.setenv(name, value)
            patch.delenv("RAY_ADDRESS", raising=False)
            deadline = time.monotonic() + 90
            while "ledger" not in (said := vae_sweep("list", "--address", address, check=False).stderr):
                assert time.monotonic() < deadline, said  # it answers some seconds after its start
            yield Head(address, folder / "sweeps")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # lets Ray end its own
        process.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "mine.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 17, size=(270, 6, 6)))
    return path


def long_study(folder: Path, images: Path, **changes: object) -> Path:
    changes = {"train": {"epochs": 200}, "search": {"trials": 10, "startup": 4}, **changes}
    return study_file(folder, data={"name": None, "path": str(images), "levels": 16}, **changes)


SLOWLY = ("--slots", "1")
"""a sweep of most of a minute: verbs that look at it are jobs, which take seconds to start"""


@pytest.mark.slow
class TestCluster:
    def test_survives_its_client_and_gives_the_same_table(self, head: Head, tmp_path: Path, images: Path) -> None:
        file = long_study(tmp_path, images)
        words = ("submit", file, "--address", head.address, "--mlflow", "none", *SLOWLY)
        client = vae_sweep_started(*words, "--follow", log=tmp_path / "client")
        wait_for(lambda: "search" in (tmp_path / "client").read_text(), client)
        client.kill()
        client.wait()
        status = vae_sweep("status", "small", "--address", head.address)
        assert "small: running" in status.stdout
        again = vae_sweep(*words)
        assert "runs already as job vae-sweep-small-1" in again.stdout and "Does it matter?" in again.stdout
        assert f"best small --address {head.address}" in again.stdout
        there = vae_sweep("compare", "small", "--json", "--address", head.address).stdout
        assert there == json_of(run_here(file, tmp_path / "here", slots=16))
        exported = vae_sweep("best", "small", "--address", head.address, "--export", "-").stdout
        (tmp_path / "best.yaml").write_text(exported)
        assert load_study(tmp_path / "best.yaml").is_single
        finished = vae_sweep(*words, "--follow")
        assert "finished; nothing to do" in finished.stdout and "vae-sweep-small-2" in finished.stdout

    def test_stops_there_and_goes_on(self, head: Head, tmp_path: Path, images: Path) -> None:
        file = long_study(tmp_path, images, name="stopped")
        words = ("submit", file, "--address", head.address, "--mlflow", "none", *SLOWLY)
        client = vae_sweep_started(*words, "--follow", log=tmp_path / "client")
        wait_for(lambda: "search" in (tmp_path / "client").read_text(), client)
        other = long_study(tmp_path, images, name="stopped", seed=9)
        conflict = vae_sweep(*words, check=False)
        assert conflict.returncode == 2 and "asks something else" in conflict.stderr, other
        vae_sweep("stop", "stopped", "--address", head.address)
        assert client.wait(60) == 3, (tmp_path / "client").read_text()
        assert "submit it again" in (tmp_path / "client").read_text()
        long_study(tmp_path, images, name="stopped")
        assert "Does it matter?" in vae_sweep(*words, "--follow").stdout

    def test_does_what_the_page_says(self, head: Head, tmp_path: Path) -> None:
        (script,) = blocks(ROOT / "docs" / "clusters.md", "bash", "From your machine")
        small = " --set search.trials=4 --set train.epochs=2 --set search.replicates=1"
        script = script.replace("http://HEAD:8265", head.address).replace("quickstart.yaml", "quickstart.yaml" + small)
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert load_study(tmp_path / "best.yaml").is_single and "finished" in done.stdout

    def test_refuses_who_has_no_token(self, head: Head, tmp_path: Path) -> None:
        for change in ({"RAY_AUTH_TOKEN": "6" * 64}, {"RAY_AUTH_MODE": "disabled"}):
            for words in (("submit", study_file(tmp_path)), ("list",)):
                refused = vae_sweep(*words, "--address", head.address, check=False, **change)  # type: ignore[arg-type]
                assert refused.returncode == 1
                assert "wants its token" in refused.stderr and "Traceback" not in refused.stderr

    def test_says_what_went_wrong_there(self, head: Head) -> None:
        wrong = vae_sweep("compare", "nothing", "--address", head.address, check=False)
        assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.startswith("error: No sweep named")


def test_nobody_answers(tmp_path: Path) -> None:
    code, _, error = vae_sweep_here("submit", study_file(tmp_path), "--address", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert code == 1 and "must answer" in error and "check that it runs" in error


def test_the_address_is_a_dashboard(tmp_path: Path) -> None:
    for words in (("submit", study_file(tmp_path)), ("list",)):
        code, _, error = vae_sweep_here(*words, "--address", "head:6379")
        assert code == 2 and "http://HEAD:8265" in error


def test_versions_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_SWEEP_CLIENT_VERSION", "0.0.1")
    code, _, error = vae_sweep_here("list")
    assert code == 2 and f"the client has 0.0.1 and the cluster {__version__}" in error


def test_what_travels(tmp_path: Path, images: Path) -> None:
    mine, package, folder = tmp_path / "mine.py", tmp_path / "nets", tmp_path / "packed"
    mine.write_text("x = 1\n")
    package.mkdir()
    (package / "net.py").write_text("y = 2\n")
    folder.mkdir()
    study = load_study(study_file(tmp_path, data={"name": None, "path": str(images), "levels": 16}))
    pack(study, [mine, package], folder)
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {"study.yaml", "data/mine.npz", "mine.py", "nets/net.py"}
    there = load_study(folder / "study.yaml")
    assert there.data.path == str(folder / "data" / "mine.npz"), "found wherever it is unpacked"
    assert there.model_copy(update={"data": study.data}) == study
    for wrong in (tmp_path / "none.py", mine):
        again = tmp_path / f"again-{wrong.stem}"
        again.mkdir()
        with pytest.raises(UserError, match="--include"):
            pack(study, [mine, wrong], again)
