"""docs/getting-started.md as a newcomer types it: every `sh` block, in order, in one empty folder."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.config import load_study

from .docs import ROOT, blocks, shell

PAGE = ROOT / "docs" / "getting-started.md"
HERE = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END$", flags=re.MULTILINE | re.DOTALL)


def test_its_study_files_load(tmp_path: Path) -> None:
    files = HERE.findall("\n".join(blocks(PAGE, "sh")))
    assert len(files) == 2
    for name, text in files:
        (tmp_path / "patches.npz").touch()
        (tmp_path / name).write_text(text)
        assert load_study(tmp_path / name).name == Path(name).stem


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    environment, folder = shell(tmp_path), tmp_path / "my-sweeps"
    folder.mkdir()
    said = []
    for script in blocks(PAGE, "sh"):
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    text = "\n".join(said)
    assert re.search(r"^ 8 .* better ", text, flags=re.MULTILINE), "the first answer is the one it shows"
    for file in ("report.html", "best.yaml", "best/result.json", "best/model.safetensors", "grid.png"):
        assert (folder / file).stat().st_size, file
    assert json.loads((folder / "again" / "result.json").read_text())["state"] == "complete"
    assert "same numbers" in text or "to the last bit" in text
    assert not (folder / "sweeps" / "first-tanh").exists()
