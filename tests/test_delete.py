"""`delete`: a dry run first, then everywhere or nowhere, and the same command again after any crash."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.launch.where import Where, open_ledger
from pipeline.ledger.store import Holder, Ledger
from pipeline.paths import WorkPaths
from pipeline.tracking.mlflow_tracker import MlflowTracker, target_of

from .sweeps import json_of, read, run_here, study_file, vae_sweep_here

TINY: dict[str, Any] = {
    "scientific": {"scale": ["log_variance"], "latent_dim": [2]},
    "search": {"trials": 3, "replicates": 1},
    "confirm": {"candidates": 2, "candidate_seeds": 1, "repeats": 1},
}
TRIALS = 3 + 2 + 1


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Two finished sweeps without a tracker: small and other."""
    for name in ("small", "other"):
        run_here(study_file(tmp_path, **TINY, name=name), tmp_path / "work", executor="simulated")
        (tmp_path / "work" / name / "trials").mkdir()
        (tmp_path / "work" / name / "trials" / "a file").write_bytes(b"x" * 1000)
    return tmp_path / "work"


def delete(workdir: Path, *words: object, name: str = "small") -> tuple[int, str, str]:
    return vae_sweep_here("delete", name, "--workdir", workdir, *words)


def names(workdir: Path) -> list[str]:
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        return [sweep.name for sweep in ledger.sweeps()]


def folders(workdir: Path) -> set[str]:
    return {path.name for path in workdir.iterdir() if path.is_dir() and path.name != "mlartifacts"}


@pytest.mark.slow
def test_everywhere_and_the_name_is_free_again(workdir: Path, tmp_path: Path) -> None:
    other, before = json_of(read(workdir, "other")), json_of(read(workdir))
    for name in ("small", "other"):
        code, out, err = vae_sweep_here("sync", name, "--workdir", workdir)
        assert code == 0 and f"{TRIALS} delivered" in out, err
    code, out, err = delete(workdir)
    assert code == 0 and not err
    for words in (f"{TRIALS} trials", f"{TRIALS + 1} runs at mlflow:sqlite", "Left as they are", "--yes"):
        assert words in out
    assert names(workdir) == ["small", "other"] and folders(workdir) == {"small", "other"}
    code, out, err = delete(workdir, "--yes")
    assert code == 0 and not err and "mlflow gc --backend-store-uri sqlite:///" in out
    assert names(workdir) == ["other"] and folders(workdir) == {"other"}
    tracker = MlflowTracker.connect(WorkPaths.at(workdir).mlflow_url)
    assert not tracker.pages_of("small") and tracker.pages_of("other")
    for more in ((), ("--yes",)):
        code, _, err = delete(workdir, *more)
        assert code == 2 and "No sweep named 'small'" in err and "other" in err
    assert json_of(run_here(study_file(tmp_path, **TINY), workdir, executor="simulated")) == before
    for name in ("small", "other"):
        assert vae_sweep_here("sync", name, "--workdir", workdir)[0] == 0
        assert "agree" in vae_sweep_here("sync", name, "--workdir", workdir, "--check")[1]
    assert json_of(read(workdir, "other")) == other


def test_not_while_it_runs_or_is_delivered(workdir: Path) -> None:
    elsewhere = Holder("elsewhere", 1, "", "")
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        for role, code, words in (("driver", 2, "vae-sweep stop small"), ("delivery", 1, "one delivery at a time")):
            ledger.acquire_lease("small", role, holder=elsewhere, now=time.time())  # type: ignore[arg-type]
            found, _, err = delete(workdir, "--yes")
            assert found == code and words in " ".join(err.split())
            ledger.release_lease("small", role, elsewhere)  # type: ignore[arg-type]
            assert ledger.lease("small", "driver") is None
    assert names(workdir) == ["small", "other"] and folders(workdir) == {"small", "other"}
    assert delete(workdir, "--yes")[0] == 0


@pytest.mark.slow
def test_a_tracker_that_is_away_keeps_everything(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        ledger.mark_begun("small", target_of("http://127.0.0.1:9"), ["parent"])
        ledger.mark_begun("other", target_of("http://me:secret@127.0.0.1:9"), ["parent"])
    code, _, err = delete(workdir, "--yes")
    assert code == 1 and "must answer" in err and "--keep-mlflow" in err
    code, _, err = delete(workdir, "--yes", name="other")
    assert code == 1 and "login" in err and "MLFLOW_TRACKING_URI" in err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    code, _, err = delete(workdir, "--yes", name="other")
    assert code == 1 and "must answer" in err and "secret" not in err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert names(workdir) == ["small", "other"] and folders(workdir) == {"small", "other"}
    assert "(they stay)" in delete(workdir, "--keep-mlflow")[1]
    assert delete(workdir, "--yes", "--keep-mlflow")[0] == 0
    assert names(workdir) == ["other"] and folders(workdir) == {"other"}


class Killed(BaseException):
    """As good as kill -9 at this point."""


STEPS = [
    (Ledger, "mark_stale"), (MlflowTracker, "discard"), (Ledger, "delete_sweep"), (Path, "rename"), (shutil, "rmtree"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_killed_at_any_step_and_repeated(workdir: Path, owner: Any, step: str) -> None:
    for name, after in (("small", False), ("other", True)):
        with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
            ledger.mark_begun(name, target_of(WorkPaths.at(workdir).mlflow_url), ["parent"])
        method = getattr(owner, step)

        def dying(*args: Any, method: Any = method, after: bool = after, **kwargs: Any) -> Any:
            if after:
                method(*args, **kwargs)
            raise Killed

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, step, dying)
            delete(workdir, "--yes", name=name)
        code, _, err = delete(workdir, "--yes", name=name)
        if step == "rmtree" and after:
            assert code == 2 and "No sweep named" in err
        else:
            assert code == 0, err
        assert name not in names(workdir)
        assert not [path for path in workdir.iterdir() if name in path.name]


@pytest.mark.slow
def test_a_removal_that_ended_early_loses_no_run(workdir: Path) -> None:
    """Whoever goes on with the sweep instead gets all its runs once more."""
    vae_sweep_here("sync", "small", "--workdir", workdir)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Ledger, "delete_sweep", lambda *_: (_ for _ in ()).throw(Killed))
        delete(workdir, "--yes")
    assert f"{TRIALS} delivered" in vae_sweep_here("sync", "small", "--workdir", workdir)[1]
    assert "agree" in vae_sweep_here("sync", "small", "--workdir", workdir, "--check")[1]
    assert delete(workdir, "--yes")[0] == 0


@pytest.mark.parametrize("name", ["..", ".", "../x/small", "mlartifacts", "trials", "nothing"])
def test_only_a_sweep_is_deleted(workdir: Path, name: str) -> None:
    (workdir / "mlartifacts").mkdir()
    before = sorted(str(path) for path in workdir.rglob("*") if "ledger.db" not in path.name)
    code, _, err = delete(workdir, "--yes", name=name)
    assert code == 2 and "No sweep named" in err
    assert sorted(str(path) for path in workdir.rglob("*") if "ledger.db" not in path.name) == before


def test_json(workdir: Path) -> None:
    facts = json.loads(delete(workdir, "--json")[1])
    assert (facts["sweep"], facts["trials"], facts["runs"], facts["removed"]) == ("small", TRIALS, {}, False)
    assert facts["files"] == 2 and facts["bytes"] > 1000
    assert json.loads(delete(workdir, "--json", "--yes")[1]) == {**facts, "removed": True}
    assert names(workdir) == ["other"]
