"""Words on the command line that nobody should type: names, keys, rules, filters, numbers, addresses of databases."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import strategies as st

from pipeline.launch.where import LEDGER_VARIABLE

from ..sweeps import read, run_here, study_file
from .cases import fuzz, sizes, told
from .values import texts

whole = texts.map(lambda text: text.replace("\0", "").encode("utf-8", "ignore").decode())
typed = whole | st.sampled_from(["\udcff", "~no-such-user"])
"""the operating system lets no NUL through; a byte that is no text comes as half a character"""
numbers = st.sampled_from(
    ["0", "1", "-1", "1e3", "nan", "inf", "-inf", "1_0", "²", "٣", "9" * 30, "1.5", "", " 1", "auto"]
)
rules = st.sampled_from(["max", "one_se", "pareto", "robust"]) | typed
filters = st.sampled_from(
    ["latent_dim=2", "latent_dim=3,scale=log_std", "scale=[", "scale=", "=", "scale=a scale=b", "latent_dim=1e0",
     "latent_dim=.nan", "latent_dim=2 x", "scale=\ud800", 'scale="\\ud800"', "learning_rate=1", "scale={a: [b]}"]
) | st.tuples(st.sampled_from(["scale", "latent_dim", "beta", ""]), typed).map("=".join)  # fmt: skip
objectives = st.sampled_from(["elbo,size", "rate", "elbo,elbo", ",", "elbo,,size", "units,epochs"]) | typed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished sweep."""
    folder = tmp_path_factory.mktemp("finished")
    run_here(study_file(folder), folder / "work", executor="simulated", slots=8)
    return folder / "work"


@pytest.fixture
def workdir(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; what a command writes by mistake goes into a folder of the test."""
    shutil.copytree(finished, tmp_path / "work")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "work"


def commands(keys: list[str]) -> st.SearchStrategy[list[str]]:
    """A verb with drawn words, without --workdir."""
    names = st.sampled_from(["small", "small", "small", ".", "..", "../work", "small/", "SMALL", ""]) | typed
    trials = st.sampled_from([*keys[:3], keys[0][:6], "/", "//", "///", keys[0].rpartition("/")[0]]) | typed
    named = st.tuples(names, trials).map("/".join) | typed
    flags = st.lists(
        st.sampled_from(["--json", "--all-pairs", "--quiet", "--keep-mlflow", "--check", "-x", "--"]), max_size=1
    )

    def words(*parts: st.SearchStrategy[str] | str) -> st.SearchStrategy[list[str]]:
        return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map(list)

    missing = typed.map(lambda text: f"no-such-{text}")
    some = st.one_of(
        words("status", names),
        words("show", names, trials),
        words("stop", names),
        words("compare", names),
        words("compare", names, "--against", names),
        words("compare", names, "--html", st.sampled_from(["", ".", "/", "/dev/null/x", "a" * 300])),
        words("best", names, "--rule", rules),
        words("best", names, "--where", filters),
        words("best", names, "--rule", "pareto", "--objectives", objectives),
        words("best", names, "--rule", rules, "--where", filters, "--where", filters),
        words("best", names, "--export", st.sampled_from(["", ".", "/", "/dev/null/x", "a" * 300])),
        words("delete", names, "--mlflow", "none"),
        words("sync", names, "--check", "--mlflow", "none"),
        words("train", "--trial", named.filter(lambda text: text.rpartition("small/")[2] not in keys)),
        words("train", missing),
        words("train", missing, "--trial", named),
        words("plan", missing, "--workers", numbers),
        words("run", missing, "--workers", numbers),
        words("run", missing, "--slots", numbers | typed),
        words("run", missing, "--hours", numbers),
        words("run", missing, "--checkpoint-seconds", numbers),
        words("run", missing, "--device", typed),
        words("run", missing, "--executor", typed),
        words("sample", missing, "-n", numbers),
        words("sample", missing, "--seed", numbers),
        words("sample", missing, "--out", typed),
        words(typed),
        words("list"),
    )
    return st.tuples(some, flags).map(lambda pair: pair[0] + pair[1])


@sizes(few=15, many=100)
def test_commands_end_in_a_message(count: int, workdir: Path) -> None:
    keys = [str(record.key) for record in read(workdir).records]

    def check(words: list[str]) -> None:
        told(words[0], "--workdir", workdir, *words[1:]) if words[0] not in ("plan", "") else told(*words)

    fuzz(count, check, words=commands(keys))


hosts = st.sampled_from(
    ["127.0.0.1:9", "127.0.0.1:0", "127.0.0.1:99999", "[::1", "localhost:x", "@", "", "u:p@127.0.0.1:9", "a b"]
)
schemes = st.sampled_from(
    ["postgresql", "postgres", "postgresql+psycopg", "sqlite", "mysql", "http", "https", "ftp", "file", ""]
)
addresses = (
    st.tuples(
        schemes,
        st.sampled_from(["://", ":", ":///", ":////", ""]),
        hosts,
        st.sampled_from(["", "/", "/x", "/x?", "/x?a=b&a=c", "?timeout=x", "#", "%", "/\x01"]),
    ).map("".join)
    | typed
)


@sizes(few=8, many=50)
def test_addresses_of_ledgers_end_in_a_message(count: int, workdir: Path) -> None:
    def check(url: str, verb: str) -> None:
        with patch.dict(os.environ, {LEDGER_VARIABLE: url.encode("utf-8", "replace").decode()}):
            told(verb, *([] if verb == "list" else ["small"]), "--workdir", workdir)

    fuzz(count, check, url=addresses, verb=st.sampled_from(["list", "status", "compare"]))


@sizes(few=8, many=50)
def test_addresses_of_folders_end_in_a_message(count: int, workdir: Path) -> None:
    def check(folder: str, verb: str) -> None:
        told(verb, *([] if verb == "list" else ["small"]), "--workdir", folder)

    fuzz(count, check, folder=typed, verb=st.sampled_from(["list", "status", "delete"]))
