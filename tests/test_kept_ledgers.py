"""A ledger that a released version wrote is read for ever: every later version must pass this, with every kept file.

At a release: `python -m tests.ledgers.make`, and commit the folder that it names. Folders of former versions are never
made again: what one of them no longer gives is a migration that is missing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pipeline
from pipeline.config import dump_study
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, State
from pipeline.report.progress import SilentProgress

from .ledgers.make import FOLDER, SWEEPS
from .sweeps import check_budgets, read, vae_sweep_here

KEPT = sorted(folder for folder in FOLDER.glob("version-*"))


@pytest.fixture(params=KEPT, ids=lambda folder: folder.name)
def kept(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture
def workdir(kept: Path, tmp_path: Path) -> Path:
    """A working directory with a copy of the ledger; of the sweeps' files there is nothing."""
    shutil.copyfile(kept / "ledger.db", tmp_path / "ledger.db")
    return tmp_path


def test_this_version_has_one_and_all_are_small() -> None:
    assert f"version-{pipeline.__version__}" in [folder.name for folder in KEPT]
    assert sum(file.stat().st_size for folder in KEPT for file in folder.iterdir()) < 300_000 * len(KEPT)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_comparison_is_what_it_was(kept: Path, workdir: Path, sweep: str) -> None:
    code, out, err = vae_sweep_here("compare", sweep, "--workdir", workdir, "--json")
    assert code == 0, err
    assert out == (kept / f"{sweep}.json").read_text()


def test_the_verbs_read_it(workdir: Path) -> None:
    def told(*words: object) -> str:
        code, out, err = vae_sweep_here(*words, "--workdir", workdir)
        assert code == 0, err
        return out

    standings = {line["name"]: line["status"] for line in json.loads(told("list", "--json"))}
    assert standings == {"finished": "finished", "interrupted": "interrupted"}
    finished = read(workdir, "finished")
    best = json.loads(told("best", "finished", "--json"))
    assert best["trial"] in {str(record.key) for record in finished.records}
    for record in finished.records:
        shown = json.loads(told("show", "finished", record.key, "--json"))
        assert record.outcome is not None and shown["metrics"] == dict(record.outcome.metrics)
    trials = json.loads(told("status", "interrupted", "--json"))["trials"]
    assert trials["running"] and trials["complete"]
    assert "finished" in told("delete", "finished", "--mlflow", "none")


@pytest.mark.slow
def test_the_interrupted_one_goes_on_to_its_end(workdir: Path, tmp_path: Path) -> None:
    before = {record.key: record for record in read(workdir, "interrupted").records}
    assert any(record.state is State.RUNNING for record in before.values())
    file = tmp_path / "interrupted.yaml"
    file.write_text(dump_study(read(workdir, "interrupted").study))
    # Another machine or version has another numerics fingerprint.
    where = Where(WorkPaths.at(workdir), executor="inline", slots=8, tracking="none", allow_mixed=True)
    report = run(file, [], where, SilentProgress())
    assert report.finished
    check_budgets(report.results.study, report.results.comparison)
    after = {record.key: record for record in report.results.records}
    assert before.keys() < after.keys()
    for key, record in before.items():
        assert record.state not in ENDED or after[key] == record
