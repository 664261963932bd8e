"""A warm process that holds mutants against tests: torch and pytest are loaded once, each turn is a fork of it.

Works in a copy of the repository, so that nothing is ever changed in the working tree. Knows no operator.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import py_compile
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COPIED = ("pipeline", "tests", "configs", "docs", "pyproject.toml", "README.md")
LIBRARIES = (
    "torch", "torch.distributions", "numpy", "scipy.stats", "scipy.linalg", "hypothesis", "PIL.Image",
    "safetensors.torch", "sklearn.metrics", "sklearn.feature_selection", "mpmath", "pydantic", "typer", "rich.table",
)  # fmt: skip
"""what tests of the core import and no mutant is part of"""
MUTATED = ("pipeline.vae", "pipeline.packed")
MEMORY_BYTES = 8 << 30
"""a mutant may ask for as much as it likes; it gets this"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one turn."""

    killed_by: str = ""
    """the first test that failed, `time-out`, or what ended the process; empty where all passed"""
    seconds: float = 0.0
    passed: int = 0


class Server:
    """Made once; `folder` must be empty and is the caller's to remove."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(root / name, folder / name)
        # by hash: two mutants of equal length in one second would pass for one file
        for path in (folder / "pipeline").rglob("*.py"):
            py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        os.chdir(folder)
        sys.path[:] = [str(folder), *(one for one in sys.path if one and Path(one).resolve() != root.resolve())]
        _forget_ours()
        for name in ("tests.conftest", *LIBRARIES):
            importlib.import_module(name)
        _keep_what_no_mutant_reaches()
        gc.freeze()  # collections in a fork need not look at what was loaded here

    def holds(self, tests: Sequence[str], limit_seconds: float) -> Verdict:
        """What tests, in their order, say of the copy as it is."""
        return self._fork(tests, limit_seconds, keep_bytecode=True)

    def hold(self, path: str, code: str, tests: Sequence[str], limit_seconds: float) -> Verdict:
        """What tests say of the copy with other code in one of its files."""
        file = self.folder / path
        original = file.read_text()
        file.write_text(code)
        try:
            return self._fork(tests, limit_seconds, keep_bytecode=False)
        finally:
            file.write_text(original)

    def _fork(self, tests: Sequence[str], limit_seconds: float, *, keep_bytecode: bool) -> Verdict:
        began, answer = time.monotonic(), self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _child(tests, answer, keep_bytecode=keep_bytecode)
        with _ended_with_us(child):
            status = _wait(child, began + limit_seconds)
        seconds = time.monotonic() - began
        if status is None:
            return Verdict("time-out", seconds)
        if not answer.exists():
            return Verdict(f"ended the process, status {status}", seconds)
        return Verdict(seconds=seconds, **json.loads(answer.read_text()))


def _forget_ours() -> list[str]:
    names = [name for name in sys.modules if name.split(".")[0] in ("pipeline", "tests")]
    for name in names:
        del sys.modules[name]
    return names


def _keep_what_no_mutant_reaches() -> None:
    """Loads our modules again, but those that import what is mutated, and pytest's own."""
    names = _forget_ours()
    sys.modules.update(dict.fromkeys(MUTATED))  # type: ignore[arg-type]  # None: may not be imported
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in (*MUTATED, "tests.conftest"):
        sys.modules.pop(name, None)


def _wait(child: int, deadline: float) -> int | None:
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@contextlib.contextmanager
def _ended_with_us(child: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        raise


class _First:
    """A pytest plugin that keeps the first failure."""

    def __init__(self) -> None:
        self.failed, self.passed = "", 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
        self.passed += report.passed and report.when == "call"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (import)"


def _child(tests: Sequence[str], answer: Path, *, keep_bytecode: bool) -> None:
    """Never returns."""
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = not keep_bytecode
    first, said = _First(), io.StringIO()
    base = f"--basetemp={answer.parent / 'pytest'}"
    plain = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler", base]
    loaded = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # that is what a warm process is for
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = pytest.main([*plain, "-W", loaded, *tests], plugins=[first])
    except BaseException as raised:
        code, first.failed = 1, f"{type(raised).__name__}: {raised}"
    if code and not first.failed:
        first.failed = f"pytest: {' '.join(said.getvalue().split())[-200:]}"
    answer.write_text(json.dumps({"killed_by": first.failed, "passed": first.passed}))
    os._exit(0)
