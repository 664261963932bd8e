"""A sweep that is extended: the bytes of a fresh larger one, nothing trained twice without need, through any crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.launch import RunReport, Where, run
from pipeline.paths import WorkPaths
from pipeline.records import Phase
from pipeline.report.progress import SilentProgress
from pipeline.results import Results

from .sweeps import MEDIAN, json_of, read, run_here, study_file

SMALL: dict[str, Any] = {
    "scientific": {"scale": ["log_variance", "log_std"], "latent_dim": [2]},
    "search": {"trials": 5, "startup": 3, "lag": 2, "replicates": 2},
    "confirm": {"candidates": 2, "candidate_seeds": 1, "repeats": 2},
}


class Said(SilentProgress):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def file_of(folder: Path, *changes: dict[str, Any]) -> Path:
    merged = {key: dict(value) for key, value in SMALL.items()}
    for change in changes:
        for section, values in change.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, dict) else values
    folder.mkdir(exist_ok=True)
    return study_file(folder, **merged)


def extend_here(file: Path, workdir: Path, **options: Any) -> tuple[RunReport, list[str]]:
    said = Said()
    where = Where(WorkPaths.at(workdir), **{"executor": "simulated", "tracking": "none", **options})
    return run(file, [], where, said, extend=True), said.lines


def numbers(results: Results) -> list[Any]:
    """All that a fresh sweep has in common with an extended one."""
    return [
        (str(r.key), r.state, r.seed, dict(r.params), r.thresholds, r.proposal, r.files)
        + ((r.outcome.curves, r.outcome.metrics, r.outcome.cause, r.outcome.epochs) if r.outcome else ())
        for r in results.records
    ]


def kept(before: Results, after: Results) -> tuple[set[str], set[str]]:
    """Former trials that are there as they were, and those that are not."""
    now = {record.key: record for record in after.records}
    same = {str(r.key) for r in before.records if now.get(r.key) == r}
    return same, {str(r.key) for r in before.records} - same


MORE: dict[str, dict[str, Any]] = {
    "trials": {"search": {"trials": 11}},
    "arms": {"scientific": {"scale": ["raw_std", "log_std", "log_variance"], "latent_dim": [2, 3]}},
    "replicates": {"search": {"replicates": 3}},
    "repeats": {"confirm": {"repeats": 4}},
    "candidates": {"confirm": {"candidates": 4}},
    "candidate seeds": {"confirm": {"candidate_seeds": 3}},
    "the comparison": {"compare": {"alpha": 0.2, "equivalence_margin_nats": 3, "baseline": {"scale": "log_std"}}},
    "all of it": {
        "search": {"trials": 9, "replicates": 3},
        "confirm": {"candidates": 3, "candidate_seeds": 2, "repeats": 3},
        "scientific": {"scale": ["log_variance", "log_std", "raw_std"]},
        "compare": {"alpha": 0.1},
        "question": "And now?",
    },
}
BASES: dict[str, dict[str, Any]] = {
    "tpe": {},
    "tpe with the median rule": {"search": MEDIAN},
    "random": {"search": {"sampler": "random"}},
    "random with the median rule": {"search": {"sampler": "random", **MEDIAN}},
    "qmc": {"search": {"sampler": "qmc"}},
    "less than the start-up": {"search": {"trials": 2, "startup": 6, "lag": 3}},
    "a start": {"search": {"start": [{"learning_rate": 0.002}]}},
}
CASES = [(base, "trials") for base in BASES] + [("tpe", more) for more in MORE if more != "trials"]


@pytest.mark.parametrize(("base", "more"), CASES)
def test_an_extended_sweep_is_a_fresh_larger_one(tmp_path: Path, base: str, more: str) -> None:
    small, large = file_of(tmp_path / "s", BASES[base]), file_of(tmp_path / "l", BASES[base], MORE[more])
    before = run_here(small, tmp_path / "work", executor="simulated", slots=4)
    fresh = run_here(large, tmp_path / "fresh", executor="simulated", slots=3, workers=2)
    report, said = extend_here(large, tmp_path / "work", slots=5, workers=3)
    assert report.finished and not report.already
    assert said[0].startswith("sweep small is extended: ")
    after = report.results
    assert numbers(after) == numbers(fresh)
    assert json_of(after) == json_of(fresh) == json_of(read(tmp_path / "work"))
    assert (json_of(after) == json_of(before)) == False  # noqa: E712
    same, other = kept(before, after)
    assert {str(r.key) for r in before.records if r.key.phase is Phase.SEARCH} <= same
    if more in ("arms", "replicates", "repeats", "the comparison"):
        assert not other
    wanted = {str(r.key): (r.seed, dict(r.params)) for r in fresh.records}
    assert all(wanted[str(r.key)] != (r.seed, dict(r.params)) for r in before.records if str(r.key) in other)
    assert after.sweep.study_hash == fresh.sweep.study_hash
    assert after.sweep.created_at == before.sweep.created_at
    study = WorkPaths.at(tmp_path / "work").study("small")
    assert study.read_text() == WorkPaths.at(tmp_path / "fresh").study("small").read_text()
    again, said = extend_here(large, tmp_path / "work")
    assert again.already and not any("extended" in line for line in said)
