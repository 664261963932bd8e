"""Fixtures of all tests. The process is prepared before anything imports torch: MKL reads its settings once."""

from pipeline.execution.environment import prepare_process

prepare_process()

import os  # noqa: E402

import pytest  # noqa: E402

from .fuzz.cases import register_profiles  # noqa: E402
from .postgres import postgresql  # noqa: E402

__all__ = ["postgresql"]

register_profiles()

FOREIGN = ("VAE_SWEEP_", "MLFLOW_", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees where its caller keeps sweeps, runs, clusters or measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
