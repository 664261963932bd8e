"""Small real sweeps for tests: a study file, a run in this process, a run in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from pipeline.cli import main
from pipeline.comparison import Comparison, to_json
from pipeline.config import Study
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where, open_ledger
from pipeline.ledger.store import Ledger
from pipeline.paths import WorkPaths
from pipeline.records import Phase, State, TrialRecord
from pipeline.report.progress import SilentProgress
from pipeline.results import Results, compare_records, load_results
from pipeline.space import has_shortlist, search_trials

STUDY: dict[str, Any] = {
    "version": 1,
    "name": "small",
    "question": "Does it matter?",
    "data": {"name": "digits", "split": [150, 70, 50]},
    "model": {"hidden": [21]},
    "train": {"epochs": 4, "batch_size": 37},
    "scientific": {"scale": ["log_variance", "log_std", "raw_variance"], "latent_dim": [2, 3]},
    "nuisance": {"learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True}},
    "search": {"trials": 6, "startup": 3, "lag": 2, "replicates": 2},
    "confirm": {"candidates": 2, "candidate_seeds": 1, "repeats": 2},
}
"""raw_variance without an initial σ diverges in its first step, so every sweep has diverged trials."""
MEDIAN = {"pruner": "median", "pruner_startup": 1, "pruner_warmup_epochs": 1}


def study_file(folder: Path, **changes: Any) -> Path:
    """Writes STUDY with sections put over it."""
    study = {key: dict(value) if isinstance(value, dict) else value for key, value in STUDY.items()}
    for section, values in changes.items():
        study[section] = {**study.get(section, {}), **values} if isinstance(values, dict) else values
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def run_here(file: Path, workdir: Path, **options: Any) -> Results:
    """Runs a study to its end with the inline executor and no tracker, unless told otherwise."""
    where = Where(WorkPaths.at(workdir), **{"executor": "inline", "tracking": "none", **options})
    report = run(file, [], where, SilentProgress())
    assert report.finished
    check_budgets(report.results.study, report.results.comparison)
    return report.results


def check_budgets(study: Study, comparison: Comparison) -> None:
    """Equal budgets, to the trial, in every arm of a sweep that has ended.

    A search with fewer converged trials than candidates has a smaller shortlist: there is nothing else to train again.
    """
    confirm, searches = study.confirm, study.search.replicates
    for arm in comparison.arms:
        ended = {phase: sum(arm.ended[phase].values()) for phase in Phase}
        assert len(arm.replicates) == searches, arm.label
        assert ended[Phase.SEARCH] == searches * search_trials(study), arm.label
        assert ended[Phase.REPEAT] == searches * confirm.repeats, arm.label
        full = searches * confirm.candidates * confirm.candidate_seeds if has_shortlist(study) else 0
        lost = sum(arm.ended[Phase.SEARCH].values()) - arm.ended[Phase.SEARCH][State.COMPLETE]
        assert ended[Phase.SHORTLIST] <= full, arm.label
        assert ended[Phase.SHORTLIST] == full or lost, arm.label


def json_of(results: Results) -> str:
    """What `compare --json` prints."""
    return to_json(results.comparison)


def read(workdir: Path, name: str = "small") -> Results:
    """A sweep as its ledger has it."""
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        results = load_results(ledger, name)
    if results.sweep.status == "finished":
        check_budgets(results.study, results.comparison)
    return results


def having(results: Results, records: Sequence[TrialRecord]) -> Results:
    """The same sweep with other records of its trials."""
    data = json.loads(results.sweep.study)["data"]
    compared = compare_records(results.study, data, tuple(records))
    return replace(results, records=tuple(records), comparison=compared)


def records(workdir: Path, name: str = "small") -> list[TrialRecord]:
    """The trials in the ledger so far; none while there is no ledger."""
    url = WorkPaths.at(workdir).ledger_url
    if not (workdir / "ledger.db").exists():
        return []
    with Ledger.open(url, create=False) as ledger:
        return ledger.trials(name) if ledger.sweep(name) else []


def vae_sweep_here(*words: object) -> tuple[int, str, str]:
    """The command line in this process: exit code, standard output, standard error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["vae-sweep", *map(str, words)]):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    return code, out.getvalue(), err.getvalue()


def vae_sweep(
    *words: object, check: bool = True, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "100", **environment},
        stdin=subprocess.DEVNULL,
    )
    assert not check or done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def vae_sweep_started(*words: object, log: Path) -> subprocess.Popen[bytes]:
    """Starts the command line in a process of its own."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *(str(word) for word in words)],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 120
) -> None:
    """Waits while `process` lives, `seconds` at the most."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"ended early with exit code {process and process.returncode}"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
