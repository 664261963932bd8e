"""The README's commands as a reader types them, one after the other, on its own study file made short."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .docs import ROOT, blocks, shell
from .kit import free_ports

PAGE = ROOT / "README.md"
SHORT = {
    "search": {"trials": 2, "startup": 1, "lag": 1, "replicates": 1},
    "confirm": {"candidates": 1, "candidate_seeds": 1, "repeats": 2},
}


def command_lines() -> Iterator[str]:
    """Every `vae-sweep` line of the page, but those of a cluster (tests/test_remote.py types them)."""
    for script in blocks(PAGE, "sh"):
        if "VAE_SWEEP_ADDRESS" not in script:
            yield from (line.split("#")[0].strip() for line in script.splitlines() if line.startswith("vae-sweep "))


def test_its_two_commands_are_the_first() -> None:
    first = blocks(PAGE, "sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make sweep", "make test"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_does_something(tmp_path: Path) -> None:
    environment, folder = shell(tmp_path), tmp_path / "here"
    folder.mkdir()
    study = yaml.safe_load(blocks(PAGE, "yaml")[0])
    study["train"]["epochs"] = 2
    (folder / "study.yaml").write_text(yaml.safe_dump({**study, **SHORT}, sort_keys=False))

    def typed(line: str) -> str:
        done = subprocess.run(line.split(), cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    typed("vae-sweep run study.yaml --set name=another --executor inline --mlflow none")
    lines, said = list(command_lines()), ""
    assert len(lines) > 15
    for line in lines:
        said += looked_at(line, folder, environment) if line == "vae-sweep ui" else typed(line)
    for file in ("report.html", "best.yaml", "grid.png", "optuna.db"):
        assert (folder / file).stat().st_size, file
    assert (folder / "sweeps" / "my-question").exists(), "delete without --yes only says what would go"
    assert "agree" in said and "would" in said


def looked_at(line: str, folder: Path, environment: dict[str, str]) -> str:
    """A server: what it says until it listens."""
    words = [*line.split(), "--port", str(free_ports(1)[0])]
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            said = ""
            for shown in server.stdout:
                said += shown
                if "my-question" in shown:
                    return said
            raise AssertionError(said)
        finally:
            server.terminate()
