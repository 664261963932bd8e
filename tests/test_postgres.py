"""Sweeps whose ledger is a real PostgreSQL server: many readers, two drivers, and a server that goes away.

The ledger's own tests (test_ledger.py) run on both databases.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import LeaseHeldError, LedgerError
from pipeline.ledger.schema import Holder
from pipeline.ledger.store import Ledger
from pipeline.records import ENDED, State, TrialRecord

from .postgres import SECRET, Server
from .sweeps import json_of, run_here, study_file, vae_sweep, vae_sweep_here, vae_sweep_started, wait_for

ROOT = str(Path(__file__).parents[1])
SCIENTIFIC = {"scientific": {"scale": ["log_variance", "raw_variance"], "latent_dim": [2]}}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `compare --json` prints when the ledger is a file."""
    folder = tmp_path_factory.mktemp("file")
    return json_of(run_here(study(folder), folder / "work", slots=8))


def study(folder: Path) -> Path:
    return study_file(folder, **SCIENTIFIC)


@pytest.fixture
def url(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    url = postgresql.new_database()
    monkeypatch.setenv("VAE_SWEEP_DATABASE_URL", url)
    yield url
    postgresql.drop(url)


def ended(url: str) -> int:
    with Ledger.open(url) as ledger:
        return len(ledger.trials("small", states=ENDED))


def test_the_same_table_as_from_a_file(url: str, expected: str, tmp_path: Path) -> None:
    assert json_of(run_here(study(tmp_path), tmp_path / "work", slots=8)) == expected
    assert vae_sweep_here("compare", "small", "--json", "--workdir", tmp_path) == (0, expected, "")
    assert not (tmp_path / "work" / "ledger.db").exists()


READER = """
import sys, time
from pipeline.ledger.store import Ledger
from pipeline.records import ENDED
from tests.sweeps import vae_sweep_here

with Ledger.open(sys.argv[1]) as ledger:
    known = {record.key: repr(record) for record in ledger.trials("small")}
    print("ready", flush=True)
    rounds, seen = 0, 0
    while seen < len(known):
        for words in (("status", "copy", "--json"), ("compare", "copy", "--json")):
            code, _, error = vae_sweep_here(*words)
            assert code == 0 and not error, error
        found = [record for record in ledger.trials("copy") if record.outcome or record.state in ENDED]
        assert all(repr(record) == known[record.key] for record in found)
        assert len(found) >= seen
        rounds, seen = rounds + 1, len(found)
    print(rounds)
"""


@pytest.mark.slow
def test_readers_never_fail_and_never_see_half_a_row(url: str, tmp_path: Path) -> None:
    records = run_here(study(tmp_path), tmp_path / "work", slots=8).records
    with Ledger.open(url) as ledger:
        sweep = ledger.sweep("small")
        assert sweep is not None
        copied = json.dumps({**json.loads(sweep.study), "name": "copy"})
        ledger.create_sweep(name="copy", study=copied, study_hash=sweep.study_hash, created_at=time.time())
        command = [sys.executable, "-W", "error", "-c", READER, url]
        readers = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for reader in readers:
            assert reader.stdout is not None and reader.stdout.readline() == "ready\n", reader.communicate()
        for record in records:
            _live(ledger, record)
        for reader in readers:
            out, err = reader.communicate(timeout=120)
            assert reader.returncode == 0, err
            assert int(out) > 3, "the readers were to look while it was written"


def _live(ledger: Ledger, record: TrialRecord) -> None:
    """One trial's whole life, as a driver writes it."""
    waiting = replace(record, state=State.WAITING, attempts=0, outcome=None, files={})
    for step in (waiting, replace(waiting, state=State.RUNNING, attempts=1), record):
        ledger.save_trials("copy", [step])
        time.sleep(0.02)


def test_a_second_driver_is_refused(url: str, tmp_path: Path) -> None:
    with Ledger.open(url) as ledger:
        ledger.acquire_lease("small", "driver", holder=Holder("elsewhere", 1, "", ""), now=time.time())
    with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"):
        run_here(study(tmp_path), tmp_path / "work")


def test_a_delivery_that_begins_while_it_is_away_waits_for_it(url: str, postgresql: Server, tmp_path: Path) -> None:
    run_here(study(tmp_path), tmp_path / "work", slots=8)
    log = tmp_path / "log"
    postgresql.stop("immediate")
    try:
        delivery = vae_sweep_started("sync", "small", "--follow", "--workdir", tmp_path / "work", log=log)
        wait_for(lambda: "waiting up to" in log.read_text(), delivery, 60)
    finally:
        postgresql.start()
    assert delivery.wait(120) == 0, log.read_text()
    text = log.read_text()
    assert "the database answers again, after" in text and f"delivered {ended(url)}, 0 left" in text
    assert SECRET not in text and "Traceback" not in text


@pytest.mark.slow
def test_of_two_drivers_at_once_one_runs(url: str, expected: str, tmp_path: Path) -> None:
    words = ("run", study(tmp_path), "--workdir", tmp_path / "work", "--executor", "inline", "--mlflow", "none")
    drivers = [vae_sweep_started(*words, log=tmp_path / str(n)) for n in range(2)]
    codes = sorted(driver.wait(200) for driver in drivers)
    texts = [(tmp_path / str(n)).read_text() for n in range(2)]
    # On a busy machine the second may come when the first has finished.
    refused = ("one driver at a time", "name is used once") if codes == [0, 1] else ("nothing to do",)
    assert codes[0] == 0 and any(words in text for text in texts for words in refused), texts
    assert not any("Traceback" in text or SECRET in text for text in texts)
    assert vae_sweep_here("compare", "small", "--json")[1] == expected


@pytest.mark.slow
@pytest.mark.parametrize("tracked", ["in a file", "there too"])
def test_a_restart_in_the_middle_of_a_sweep(
    url: str, postgresql: Server, expected: str, tmp_path: Path, tracked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tracked == "there too":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", postgresql.new_database())
    log, workdir = tmp_path / "log", tmp_path / "work"
    words = ("run", study(tmp_path), "--workdir", workdir, "--executor", "inline", "--slots", "2")
    driver = vae_sweep_started(*words, log=log)
    wait_for(lambda: ended(url) >= 3)
    commands = list(commands_of_all())
    assert any("--follow" in command and str(workdir) in command for command in commands), commands
    assert not any(SECRET in command and str(postgresql.port) in command for command in commands)
    postgresql.stop("immediate")
    try:
        wait_for(lambda: "waiting up to" in log.read_text(), driver, 20)
        time.sleep(2)
        assert driver.poll() is None
    finally:
        postgresql.start()
    assert driver.wait(200) == 0, log.read_text()
    text = log.read_text()
    assert "the database answers again, after" in text
    assert "Traceback" not in text and SECRET not in text and "not in MLflow" not in text, text
    assert vae_sweep_here("compare", "small", "--json")[1] == expected
    assert "agree" in vae_sweep("sync", "small", "--workdir", workdir, "--check").stdout


def commands_of_all() -> Iterator[str]:
    """What `ps` shows of every process."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield file.read_text(errors="replace").replace("\0", " ")


@pytest.mark.slow
def test_a_server_that_never_comes_back(
    url: str, postgresql: Server, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "open", functools.partial(Ledger.open, away_seconds=2.0))
    words = ("run", study(tmp_path), "--workdir", tmp_path / "work", "--executor", "inline", "--mlflow", "none")

    def pull_the_plug() -> None:
        wait_for(lambda: ended(url) >= 3)
        postgresql.stop("immediate")

    saboteur = threading.Thread(target=pull_the_plug)
    began = time.monotonic()
    try:
        with Ledger.open(url):
            saboteur.start()
            code, out, err = vae_sweep_here(*words, "--slots", "1")
    finally:
        saboteur.join()
        postgresql.start()
    assert code == 1 and "waiting up to 2 s" in out, (code, out, err)
    message = " ".join(err.split())
    assert f"error: The ledger postgresql+psycopg://vae_sweep:***@127.0.0.1:{postgresql.port}/" in message
    assert "It has been away for" in message and "run the same command again" in message
    assert "Traceback" not in err and SECRET not in out + err
    assert time.monotonic() - began < 60
    assert vae_sweep_here(*words)[0] == 0  # the same command again
    assert vae_sweep_here("compare", "small", "--json")[1] == expected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("postgresql://me:{secret}@127.0.0.1:1/none", "refused"),
        ("postgresql://me:{secret}@nowhere.invalid/none", "nowhere.invalid"),
        (
            "postgresql://vae_sweep:{secret}@127.0.0.1:{port}/none",
            '"none" does not exist.*Check the database and its URL',
        ),
        ("postgresql://nobody:{secret}@127.0.0.1:{port}/postgres", '"nobody" does not exist'),
        ("postgresql://me:{secret}@half@127.0.0.1/none", "has several.*%40"),
        ("postgresql://127.0.0.1:1/none?user=me&password={secret}", "refused"),
        ("postgresql://127.0.0.1:{port}/postgres?user=vae_sweep&passwort={secret}", "passwort"),
        ("postgres://me:{secret}@127.0.0.1:1/none", "refused"),
        ("postgres://me:{secret}@127.0.0.1:port/none", "begins with 'postgres'.*Correct --workdir"),
    ],
)
def test_wrong_addresses_say_what_is_wrong_and_no_password(postgresql: Server, wrong: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(LedgerError, match=f"(?s){words}") as caught:
        Ledger.open(wrong.format(secret=SECRET, port=postgresql.port))
    assert SECRET not in str(caught.value) and "half" not in str(caught.value)
    assert time.monotonic() - began < 10
