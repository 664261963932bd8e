"""A sweep that is extended: the bytes of a fresh larger one, nothing trained twice without need, through any crash."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.browse import subject_of
from pipeline.config import load_study
from pipeline.delivery import DeliveryReport, check, deliver_pending, finish, sweep_run
from pipeline.errors import LeaseHeldError, SweepConflictError
from pipeline.extension import Extension, extension_of, lasting_hash
from pipeline.launch.sweeping import RunReport, run
from pipeline.launch.where import Where, load_study_data, open_ledger
from pipeline.ledger.store import Holder, Ledger
from pipeline.paths import WorkPaths
from pipeline.records import ENDED, Phase
from pipeline.report.progress import SilentProgress
from pipeline.results import Results, describe
from pipeline.tracking.null_tracker import NullTracker

from .sweeps import MEDIAN, json_of, read, records, run_here, study_file, vae_sweep, vae_sweep_started, wait_for
from .test_tracking import server

__all__ = ["server"]

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
    "gp": {"search": {"sampler": "gp"}},
    "cmaes": {"search": {"sampler": "cmaes", "startup": 1}},
    "cmaes with the patient rule": {"search": {"sampler": "cmaes", "pruner": "patient", "pruner_patience_epochs": 0}},
    "random with the threshold rule": {
        "search": {
            "sampler": "random",
            "pruner": "threshold",
            "pruner_threshold_nats": -117.0,
            "pruner_warmup_epochs": 1,
        }
    },
    "less than the start-up": {"search": {"trials": 2, "startup": 6, "lag": 3}},
    "a start": {"search": {"start": [{"learning_rate": 0.002}]}},
}
USUAL = [
    ("tpe with the median rule", "trials"),
    ("qmc", "trials"),
    ("cmaes", "trials"),
    ("tpe", "arms"),
    ("tpe", "all of it"),
]
CASES = [(base, "trials") for base in BASES] + [("tpe", more) for more in MORE if more != "trials"]


@pytest.mark.parametrize(
    ("base", "more"), [case if case in USUAL else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
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
    assert json_of(after) != json_of(before)
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


# --------------------------------------------------------------------------------------- what is refused


def both(tmp_path: Path, change: dict[str, Any]) -> Extension:
    files = [file_of(tmp_path / "s", {"question": "?"}), file_of(tmp_path / "l", {"question": "?"}, change)]
    old, new = (describe(study, load_study_data(study)) for study in map(load_study, files))
    return extension_of(old, new)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, "seed: 0 -> 1 (all numbers follow from it)"),
    "fewer trials": ({"search": {"trials": 4}}, "search.trials: 5 -> 4 (it may grow, not shrink)"),
    "fewer repeats": ({"confirm": {"repeats": 1}}, "confirm.repeats: 2 -> 1"),
    "fewer arms": ({"scientific": {"scale": ["log_std"]}}, 'scientific.scale: without "log_variance"'),
    "a new factor": ({"scientific": {"adam_beta1": [0.9, 0.5]}}, "scientific.adam_beta1: a new factor (it makes other"),
    "epochs": ({"train": {"epochs": 9}}, "train.epochs: 4 -> 9 (what has been trained had the former value)"),
    "lag": ({"search": {"lag": 3}}, "search.lag: 2 -> 3 (earlier proposals would have been others)"),
    "space": ({"nuisance": {"learning_rate": {"low": 1e-3, "high": 0.1, "log": True}}}, "nuisance.learning_rate.low"),
    "data": ({"data": {"split": [140, 70, 50]}}, "(what has been trained has seen other images)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_extension_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    change, expected = REFUSED[case]
    found = both(tmp_path, change)
    assert [line for line in found.refused if expected in line] and len(found.refused) <= 3, found


def test_sizes_are_all_that_the_lasting_hash_leaves_out(tmp_path: Path) -> None:
    def lasting(*changes: dict[str, Any]) -> str:
        study = load_study(file_of(tmp_path, *changes))
        return lasting_hash(describe(study, load_study_data(study)))

    assert {lasting(), *(lasting(more) for more in MORE.values())} == {lasting()}
    assert lasting({"train": {"epochs": 9}}) != lasting() != lasting({"data": {"split": [140, 70, 50]}})


def test_differences_name_the_remedy(tmp_path: Path) -> None:
    run_here(file_of(tmp_path / "s"), tmp_path / "work", executor="simulated")
    where = Where(WorkPaths.at(tmp_path / "work"), executor="simulated", tracking="none")
    with pytest.raises(SweepConflictError, match=r"(?s)search.trials: 5 -> 7.*run it with --extend"):
        run(file_of(tmp_path / "l", {"search": {"trials": 7}}), [], where, SilentProgress())
    change = {"search": {"trials": 7, "lag": 1}, "confirm": {"repeats": 1}}
    with pytest.raises(SweepConflictError) as caught:
        run(file_of(tmp_path / "l", change), [], where, SilentProgress())
    assert "--extend" not in str(caught.value)
    with pytest.raises(SweepConflictError, match=r"(?s)search.lag: 2 -> 1 \(.*confirm.repeats.*An extension only adds"):
        extend_here(file_of(tmp_path / "l", change), tmp_path / "work")
    grid = {"search": {"sampler": "grid", "trials": 3}, "nuisance": {"learning_rate": [0.1, 0.01, 0.001]}}
    more = {"search": {"sampler": "grid", "trials": 4}, "nuisance": {"learning_rate": [0.1, 0.01, 0.001, 0.0001]}}
    run_here(file_of(tmp_path / "s", grid), tmp_path / "grid", executor="simulated")
    with pytest.raises(
        SweepConflictError, match=r"nuisance.learning_rate.*earlier proposals come from the former space"
    ):
        extend_here(file_of(tmp_path / "l", more), tmp_path / "grid")


def test_not_while_somebody_drives_it(tmp_path: Path) -> None:
    run_here(file_of(tmp_path / "s"), tmp_path / "work", executor="simulated")
    before = read(tmp_path / "work").sweep
    with open_ledger(Where(WorkPaths.at(tmp_path / "work"))) as ledger:
        ledger.acquire_lease("small", "driver", holder=Holder("elsewhere", 1, "", ""), now=time.time())
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        extend_here(file_of(tmp_path / "l", {"search": {"trials": 7}}), tmp_path / "work")
    assert read(tmp_path / "work").sweep == before


def test_a_new_sweep_and_a_stopped_one(tmp_path: Path) -> None:
    """--extend may always be given; what a smaller study had left undone is done as the larger one wants it."""
    large = file_of(tmp_path / "l", MORE["all of it"])
    fresh = extend_here(large, tmp_path / "fresh")[0].results
    for turns in (4, 25):
        workdir = tmp_path / str(turns)
        interrupted(file_of(tmp_path / "s"), workdir, turns)
        assert json_of(extend_here(large, workdir)[0].results) == json_of(fresh)


# ---------------------------------------------------------------------------------------- interruptions


class Killed(BaseException):
    """As good as kill -9 at this point."""


def interrupted(file: Path, workdir: Path, writes: int) -> None:
    """Runs until the ledger has been written to so often, then dies."""
    left = writes

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            done = method(*args, **kwargs)
            left -= 1
            if left == 0:
                raise Killed
            return done

        return call

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        for name in ("save_trials", "supersede", "extend_sweep", "update_sweep", "create_sweep"):
            patch.setattr(Ledger, name, dying(getattr(Ledger, name)))
        extend_here(file, workdir)


@pytest.mark.parametrize("turns", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_write_and_repeated(tmp_path: Path, turns: int) -> None:
    small, large = file_of(tmp_path / "s", BASES["random"]), file_of(tmp_path / "l", BASES["random"], MORE["all of it"])
    run_here(small, tmp_path / "small", executor="simulated")
    fresh = run_here(large, tmp_path / "fresh", executor="simulated")
    rng = random.Random(turns)
    for turn in range(turns):
        workdir = tmp_path / str(turn)
        shutil.copytree(tmp_path / "small", workdir)
        for _ in range(rng.randrange(1, 4)):
            interrupted(large, workdir, rng.randrange(1, 40))
            assert_compare_is_honest(workdir)
        report, _ = extend_here(large, workdir)
        assert numbers(report.results) == numbers(fresh)
        assert json_of(report.results) == json_of(fresh)


def assert_compare_is_honest(workdir: Path) -> None:
    """While something is to be done, the comparison says so, and shows nothing of the smaller study's choices."""
    results = read(workdir)
    for record in results.records:
        if record.key.phase is not Phase.SEARCH:
            mine = [
                r for r in results.records if (r.key.arm, r.key.replicate) == (record.key.arm, record.key.replicate)
            ]
            assert sum(r.key.phase is Phase.SEARCH and r.state in ENDED for r in mine) == results.study.search.trials


# --------------------------------------------------------------------------------------------- trackers


@pytest.mark.parametrize("writes", [6, 14, 33])
def test_trackers_have_the_larger_sweep_once(tmp_path: Path, writes: int) -> None:
    """The smaller sweep is delivered, the extension dies after so many writes, what is there is delivered, ..."""
    workdir, large = tmp_path / "work", file_of(tmp_path / "l", MORE["all of it"])
    run_here(file_of(tmp_path / "s"), workdir, executor="simulated")
    where, tracker = Where(WorkPaths.at(workdir)), NullTracker()
    with open_ledger(where) as ledger:

        def deliver(results: Results) -> DeliveryReport:
            report = deliver_pending(ledger, tracker, subject_of(results, where))
            if not report.extended and read(workdir).sweep.status == "finished":
                finish(ledger, tracker, subject_of(results, where), files={}, metrics={})
                assert check(ledger, tracker, subject_of(results, where)) == []
            return report

        small = read(workdir)
        assert deliver(small).delivered == len(small.records)
        parent = sweep_run(small.sweep, subject_of(small, where))
        before = {run.ledger_id: run.run_id for run in tracker.recorded(parent)}
        interrupted(large, workdir, writes)
        assert deliver(small).extended  # as one that has gone on beside it
        deliver(read(workdir))
        after = extend_here(large, workdir)[0].results
        deliver(after)
        now = {run.ledger_id: run.run_id for run in tracker.recorded(parent)}
    assert len(now) == len(after.records) + 1
    same, other = kept(small, after)
    assert other
    assert {key for key in before if before[key] == now[key]} == {
        parent.ledger_id, *(f"{parent.ledger_id}/{key}" for key in same)
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tracked", ["in a file", "by a server"])
def test_kill_9_in_the_middle_of_a_real_one(
    tmp_path: Path, tracked: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real training, real processes, real MLflow."""
    if tracked == "by a server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server")[0])
    sizes = {"search": {"trials": 8}, "train": {"epochs": 20}, "confirm": {"candidates": 3}}
    small = file_of(tmp_path / "s", {"train": {"epochs": 20}})
    large = file_of(tmp_path / "l", sizes, {"scientific": {"scale": ["log_variance", "log_std", "raw_variance"]}})
    fresh = run_here(large, tmp_path / "fresh", slots=8)
    workdir, log, rng = tmp_path / "work", tmp_path / "log", random.Random(0)
    vae_sweep("run", small, "--workdir", workdir, "--executor", "inline", "--slots", "4")
    before = read(workdir)
    words = ("run", large, "--workdir", workdir, "--executor", "inline", "--slots", "4", "--extend")
    for _ in range(3):
        process = vae_sweep_started(*words, log=log)
        wait_for(partial(has_moved_on, process, workdir, ended_in(workdir) + rng.randrange(6)))
        time.sleep(rng.random())
        process.kill()
        assert process.wait() in (-9, 0), log.read_text()
    said = vae_sweep(*words).stdout
    assert "Traceback" not in said + log.read_text()
    after = read(workdir)
    assert numbers(after) == numbers(fresh)
    assert json_of(after) == json_of(fresh)
    assert vae_sweep("compare", "small", "--workdir", workdir, "--json").stdout == json_of(fresh)
    same, _ = kept(before, after)
    assert {str(r.key) for r in before.records if r.key.phase is Phase.SEARCH} <= same
    trees = [files_of(folder / "small" / "trials") for folder in (workdir, tmp_path / "fresh")]
    assert trees[0] == trees[1]
    assert "agree" in vae_sweep("sync", "small", "--workdir", workdir, "--check").stdout


def ended_in(workdir: Path) -> int:
    return sum(record.state in ENDED for record in records(workdir))


def has_moved_on(process: subprocess.Popen[bytes], workdir: Path, ended: int) -> bool:
    return process.poll() is not None or ended_in(workdir) >= ended


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
