"""The study files that come along: each runs to its end in a shortened form."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.data.loaders import DOWNLOADED

from .sweeps import read, vae_sweep_here

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
HERE = [file for file in CONFIGS if yaml.safe_load(file.read_text())["data"]["name"] not in DOWNLOADED]
SHORT = {
    "data.take": 120,
    "data.split": [80, 20, 20],
    "train.epochs": 1,
    "search.trials": 1,
    "search.startup": 1,
    "search.lag": 1,
    "search.replicates": 1,
    "confirm": "{candidates: 1, candidate_seeds: 1, repeats: 1}",
}
SETS = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.slow
@pytest.mark.parametrize("file", HERE, ids=lambda file: file.stem)
def test_it_runs(file: Path, tmp_path: Path) -> None:
    where = ("--executor", "inline", "--mlflow", "none", "--slots", "4", "--workdir", tmp_path, "--quiet")
    code, out, err = vae_sweep_here("run", file, *SETS, *where)
    assert code == 0, err
    results = read(tmp_path, yaml.safe_load(file.read_text())["name"])
    assert results.sweep.status == "finished" and "baseline" in out
    for arm in results.comparison.arms:
        assert arm.estimate is not None and arm.repeats_lost == 0, arm.label


def test_what_each_asks_is_said_at_its_top() -> None:
    for file in CONFIGS:
        first, *rest = file.read_text().splitlines()
        assert first.startswith("# ") and first.endswith("?"), file.name
        assert f"#   vae-sweep run configs/{file.name}" in rest, file.name
