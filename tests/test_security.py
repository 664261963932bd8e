"""What others can see and reach of a sweep, and what they can make it do: ports, secrets, names, files, contents."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from pipeline.config import load_study
from pipeline.errors import LedgerError, StudyFileError, UserError
from pipeline.execution.environment import SOCKET_BYTES, ray_folder
from pipeline.launch.where import Where, open_ledger
from pipeline.ledger.schema import sweep_record, trial_record, trial_row
from pipeline.paths import WorkPaths, write_atomically
from pipeline.records import ENDED
from pipeline.remote import jobs_at
from pipeline.serving.model import CARD, WEIGHTS, ModelCard, ServedModel, load_model
from pipeline.tracking.mlflow_tracker import _masked, page_of_run, without_login
from pipeline.tracking.mlflow_views import as_text, experiment_note

from .docs import ROOT
from .postgres import LOCKED, SECRET, Server
from .processes import command_of, descendants, is_loopback, listening
from .servers import behind_login, mlflow_server
from .sweeps import records, run_here, study_file, vae_sweep_here

LOGIN = ("sweeper", "mlfl0w-s3cret")
TOKEN = "5ec7e7" * 8
SECRETS = {"database": SECRET, "MLflow": LOGIN[1], "Ray": TOKEN}
PRODUCT = ROOT / "pipeline"


# ------------------------------------------------------------------------- a real run, seen from outside


@dataclass
class Seen:
    """What a run showed while it ran and left behind."""

    commands: set[str] = field(default_factory=set)
    sockets: set[tuple[str, int]] = field(default_factory=set)
    strangers: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    """attempts to read from its Ray cluster: without its token, with another one, with its own"""
    texts: dict[str, str] = field(default_factory=dict)
    """what commands printed, by name"""
    folders: list[Path] = field(default_factory=list)
    rows: str = ""
    """all of the ledger"""
    ray: Path = Path()


JOIN = "import sys; from ray._raylet import GcsClient as G; print(len(G(address=sys.argv[1]).internal_kv_keys(b'')))"


def tries_to_join(commands: set[str], environment: dict[str, str]) -> list[subprocess.CompletedProcess[str]]:
    """At the cluster that these processes belong to: one without a token, one with another, and its own user."""
    address = next(word.partition("=")[2] for c in commands for word in c.split() if word.startswith("--gcs-address="))
    plain = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    attempts = [plain, {**plain, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 48}, environment]
    command = [sys.executable, "-c", JOIN, address]
    return [subprocess.run(command, env=env, capture_output=True, text=True, timeout=120) for env in attempts]


@pytest.fixture(scope="module")
def seen(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A sweep with a password for the database, a login for MLflow and a token for Ray; stopped after a while."""
    folder, found = tmp_path_factory.mktemp("seen"), Seen()
    file = study_file(folder, train={"epochs": 2000}, search={"trials": 20, "startup": 10})
    with ExitStack() as stack:
        server = stack.enter_context(mlflow_server(folder))
        door = stack.enter_context(behind_login(server, *LOGIN))
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vs")))
        environment = {
            "VAE_SWEEP_DATABASE_URL": postgresql.new_database(LOCKED),
            "MLFLOW_TRACKING_URI": door.replace("//", f"//{LOGIN[0]}:{LOGIN[1]}@"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "TMPDIR": str(temporary),
        }
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        tempfile.tempdir, before = None, tempfile.tempdir
        stack.callback(setattr, tempfile, "tempdir", before)
        words = ("run", str(file), "--workdir", str(folder / "work"), "--workers", "1", "--slots", "4")
        watch(found, words, folder / "output", {**os.environ, **environment})
        found.ray, found.folders = ray_folder(), [folder, temporary]
        found.texts["run"] = (folder / "output").read_text()
        for verb in ("status", "compare", "ui", "list", "sync", "doctor"):
            which = [] if verb in ("ui", "list", "doctor") else ["small"]
            code, out, err = vae_sweep_here(verb, *which, "--workdir", folder / "work")
            assert code == 0, (verb, err)
            found.texts[verb] = out + err
        found.texts["page"] = vae_sweep_here("compare", "small", "--html", "-", "--workdir", folder / "work")[1]
        found.rows = every_row(environment["VAE_SWEEP_DATABASE_URL"])
        yield found


def watch(found: Seen, words: tuple[str, ...], output: Path, environment: dict[str, str]) -> None:
    """Runs it until trials have ended, looks at its processes all the while, and stops it."""
    with output.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "pipeline", *words], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 150
        while not re.search(r" · \d+ running · \d+ epochs", output.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            pids = descendants(process.pid)
            found.commands |= {command_of(pid) for pid in pids}
            found.sockets |= listening(pids)
            time.sleep(0.2)
        found.strangers = tries_to_join(found.commands, environment)
        pids = descendants(process.pid)
        found.commands |= {command_of(pid) for pid in pids}
        found.sockets |= listening(pids)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 3, output.read_text()
    finally:
        for pid in reversed(descendants(process.pid)) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)


def every_row(url: str) -> str:
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) >= 5
        return "\n".join(
            repr(connection.execute(f"SELECT t::text FROM {name} t".encode()).fetchall()) for (name,) in tables
        )


@pytest.mark.slow
class TestARun:
    def test_listens_on_this_machine_only(self, seen: Seen) -> None:
        assert len(seen.sockets) >= 6, "Ray's servers were to be seen"
        assert [(address, port) for address, port in seen.sockets if not is_loopback(address)] == []

    def test_strangers_cannot_join_its_ray_cluster(self, seen: Seen) -> None:
        *strangers, own = seen.strangers
        assert own.returncode == 0 and int(own.stdout) > 0, own.stderr
        assert [done.returncode for done in strangers] == [1, 1]
        assert all("AuthenticationError" in done.stderr for done in strangers)

    def test_others_cannot_enter_the_folder_of_its_sockets(self, seen: Seen) -> None:
        assert (seen.ray / "session_latest").exists()
        assert stat.S_IMODE(seen.ray.parent.stat().st_mode) == 0o700

    def test_no_secret_in_any_command_line(self, seen: Seen) -> None:
        for part in ("pipeline run", "pipeline sync", "raylet", "gcs_server", "ray::TrainerActor"):
            assert any(part in command for command in seen.commands), part
        assert {kind for kind, secret in SECRETS.items() for c in seen.commands if secret in c} == set()

    def test_no_secret_in_what_is_printed(self, seen: Seen) -> None:
        assert "worker ray-0" in seen.texts["run"] and "MLflow runs at http://127.0.0.1:" in seen.texts["ui"]
        assert "<html" in seen.texts["page"]
        leaks = {(name, kind) for name, text in seen.texts.items() for kind, s in SECRETS.items() if s in text}
        assert leaks == set()

    def test_no_secret_in_the_ledger(self, seen: Seen) -> None:
        assert "mlflow:http://***@127.0.0.1" in seen.rows
        assert [kind for kind, secret in SECRETS.items() if secret in seen.rows] == []

    def test_no_secret_in_any_file(self, seen: Seen) -> None:
        """The working directory, all that MLflow keeps and logs, Ray's logs."""
        files = [file for folder in seen.folders for file in folder.rglob("*") if file.is_file()]
        names = {file.name for file in files}
        assert {"study.yaml", "delivery.log", "server.db", "server.log", "report.html"} <= names, names
        assert any("raylet" in name for name in names)
        leaks = {(str(f), kind) for f in files for kind, secret in SECRETS.items() if secret.encode() in f.read_bytes()}
        assert leaks == set()


# ------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "text",
    [
        "http://me:{0}@host:5000/x",
        "postgresql://me:a@{0}@host/x",
        "could not reach https://{0}@host",
        "postgresql://host/db?password={0}&x=1",
        "http://host/?access_token={0}",
    ],
)
def test_logins_are_masked_to_their_end(text: str) -> None:
    masked = _masked(text.format(SECRET))
    assert SECRET not in masked and "***" in masked and "host" in masked


def test_pages_have_no_login() -> None:
    uri = f"http://me:a@{SECRET}@host:5000/"
    assert without_login(uri) == "http://host:5000"
    assert page_of_run(uri, "r") == "http://host:5000/#/runs/r?workflowType=machine_learning"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("status", "small", "--address", f"http://me:{SECRET}@127.0.0.1:9"), "RAY_AUTH_TOKEN_PATH"),
        (("sync", "small", "--mlflow", f"http://me:{SECRET}@127.0.0.1:9"), "MLFLOW_TRACKING_PASSWORD"),
        (("sync", "small", "--optuna", f"postgresql://me:{SECRET}@127.0.0.1:9/x"), "PGPASSFILE"),
        (("sync", "small", "--optuna", f"postgresql://127.0.0.1:9/x?password={SECRET}"), "PGPASSFILE"),
        (("sync", "small", "--address", "http://127.0.0.1:9", "--mlflow", f"http://a:{SECRET}@h"), "environment"),
    ],
    ids=lambda value: value[2] + value[-2] if isinstance(value, tuple) else value,
)
def test_a_password_on_a_command_line_is_refused(words: tuple[str, ...], remedy: str, tmp_path: Path) -> None:
    code, out, err = vae_sweep_here(*words, "--workdir", tmp_path)
    text = " ".join((out + err).split())
    assert code == 2 and remedy in text and SECRET not in text


def test_a_user_without_a_password_is_no_secret(tmp_path: Path) -> None:
    code, _, err = vae_sweep_here("sync", "small", "--optuna", "postgresql://me@127.0.0.1:9/x", "--workdir", tmp_path)
    assert code == 1 and "must be there to be read" in err


def test_the_address_of_a_cluster_has_no_login() -> None:
    with pytest.raises(UserError, match="without a login") as caught:
        jobs_at(f"https://me:{SECRET}@head/")
    assert SECRET not in str(caught.value)


# ------------------------------------------------------------------------------------ files and folders


class TestRaysFolder:
    def test_is_one_s_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        top = tempfile.mkdtemp(prefix="vs")
        monkeypatch.setenv("RAY_TMPDIR", top)
        try:
            folder = ray_folder()
            assert folder.parent.parent == Path(top) and stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
            assert ray_folder() == folder
            folder.parent.chmod(0o777)  # prepared by somebody else
            other = ray_folder()
            assert other.parent != folder.parent and stat.S_IMODE(other.parent.stat().st_mode) == 0o700
            folder.parent.rmdir()
            folder.parent.symlink_to(tmp_path)
            assert ray_folder().parent.parent == Path(top) and not ray_folder().parent.is_symlink()
        finally:
            shutil.rmtree(top)

    def test_leaves_room_for_the_names_of_sockets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * SOCKET_BYTES)))
        assert ray_folder().is_relative_to("/tmp/")


def test_private_by_umask_stays_private(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    write_atomically(tmp_path / "b", b"x")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o600, 0o666 & ~before]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "/tmp/x",
        "..",
        ".x",
        "",
        "x" * 65,
        "ledger.db",
        "Ledger.db-wal",
        "mlflow.db",
        "mlartifacts",
        "a\n",
    ],
)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="name"):
        load_study(study_file(tmp_path, name=name))
    with pytest.raises(StudyFileError, match="name"):
        load_study(study_file(tmp_path), [f"name={json.dumps(name)}"])


@pytest.mark.parametrize("name", ["..", "../small", "/etc", ".", "small/../../x"])
@pytest.mark.parametrize("verb", ["status", "compare", "best", "delete", "stop"])
def test_verbs_take_names_of_sweeps_only(verb: str, name: str, workdir: Path) -> None:
    code, out, err = vae_sweep_here(verb, name, "--workdir", workdir)
    assert code == 2 and "No sweep named" in err and not out


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep that has ended."""
    folder = tmp_path_factory.mktemp("small")
    run_here(study_file(folder, search={"trials": 2, "startup": 1, "replicates": 2}), folder / "work", slots=8)
    return folder / "work"


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "..", "", "a\0b"])
def test_no_row_of_a_ledger_leads_elsewhere(name: str, workdir: Path) -> None:
    record = next(record for record in records(workdir) if record.state in ENDED and record.files)
    row = trial_row("small", record)
    assert trial_record(row) == record
    for changed in ({"arm": name}, {"files": json.dumps({name: ""})}):
        with pytest.raises(LedgerError, match="must be as this program wrote them"):
            trial_record({**row, **changed})
    with open_ledger(Where(WorkPaths.at(workdir))) as ledger:
        sweep = ledger.sweep("small")
    assert sweep is not None
    plain = {name: getattr(sweep, name) for name in sweep.__slots__} | {"fingerprint": None}
    assert sweep_record(plain).name == "small"
    with pytest.raises(LedgerError, match="must be as this program wrote them"):
        sweep_record({**plain, "name": name})


def test_delete_follows_no_link(workdir: Path, tmp_path: Path) -> None:
    copy, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    shutil.copytree(workdir, copy)
    (copy / "small").rename(elsewhere)
    (copy / "small").symlink_to(elsewhere)
    (elsewhere / "trials" / "out").symlink_to(tmp_path)
    code, _, err = vae_sweep_here("delete", "small", "--yes", "--workdir", copy)
    assert code == 0, err
    assert (elsewhere / "study.yaml").exists() and not list(copy.glob("*small*")) and not list(copy.glob(".*small*"))


def test_delete_leaves_what_a_link_inside_leads_to(workdir: Path, tmp_path: Path) -> None:
    copy, mine = tmp_path / "work", tmp_path / "mine"
    shutil.copytree(workdir, copy)
    mine.mkdir()
    (mine / "precious").write_text("x")
    (copy / "small" / "trials" / "out").symlink_to(mine)
    assert vae_sweep_here("delete", "small", "--yes", "--workdir", copy)[0] == 0
    assert (mine / "precious").exists() and not (copy / "small").exists()


# ---------------------------------------------------------------------------------------- contents


UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


BETWEEN_OUR_OWN = {"process_pool.py", "worker_process.py", "worker_server.py"}


def test_the_product_unpickles_nothing() -> None:
    """No module that unpickles, no torch.load, no eval; numpy is told not to."""
    for file in PRODUCT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names}
            assert not UNSAFE & tops, file
            # Its connections unpickle what the other end sends: between the driver and what it has forked only.
            assert "multiprocessing" not in tops or file.name in BETWEEN_OUR_OWN, file
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "eval", "exec", "yaml.load", "yaml.unsafe_load"), file
                if called in ("np.load", "numpy.load"):
                    told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert told.get("allow_pickle") == "False", file


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_data_with_objects_are_refused(ending: str, tmp_path: Path) -> None:
    trap, images = tmp_path / "sprung", tmp_path / f"images.{ending}"
    array = np.array([Trap(trap)], dtype=object)
    np.save(images, array) if ending == "npy" else np.savez(images, images=array)
    file = study_file(tmp_path, data={"name": None, "path": str(images)})
    code, _, err = vae_sweep_here("plan", file)
    assert code == 2 and "never unpickled" in " ".join(err.split()) and not trap.exists()


def card(**changes: Any) -> str:
    plain = {
        "version": 1, "network": "mlp", "hidden": [5], "activation": "relu", "latent_dim": 2,
        "scale": "log_variance", "likelihood": "binomial", "observation_std": 1.0, "dtype": "float32",
        "form": "counts", "levels": 16, "image_shape": [3, 3], "value_range": [0, 16], "bank_seed": 1, "test_images": 3,
    }  # fmt: skip
    return json.dumps({**plain, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    from pipeline.serving.model import _build

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / CARD).write_text(card())
    built = _build(ModelCard.read(card()))
    save_file({name: tensor.detach() for name, tensor in built.named_parameters()}, folder / WEIGHTS)
    assert isinstance(load_model(folder), ServedModel)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "nope"}, {"network": 3}, {"hidden": 5}, {"hidden": ["a"]}, {"hidden": [10**12]}, {"hidden": [-1]},
        {"activation": "x"}, {"latent_dim": 0}, {"latent_dim": "2"}, {"latent_dim": 10**12}, {"scale": "x"},
        {"likelihood": []}, {"dtype": "int8"}, {"levels": -1}, {"image_shape": [3, -3]}, {"image_shape": "ab"},
        {"image_shape": [10**6, 10**6]}, {"value_range": [1]}, {"bank_seed": "a"}, {"test_images": 0},
        {"observation_std": float("nan")}, {"version": 2}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_model_of_another_is_read_with_care(changes: dict[str, Any], model: Path) -> None:
    (model / CARD).write_text(card(**changes))
    code, out, err = vae_sweep_here("sample", model, "--out", model / "grid.png")
    assert code == 2 and err.startswith("error:") and not out


@pytest.mark.parametrize("content", ["[" * 100_000, "\0", "{", "[]", '{"version": 1}'], ids=lambda text: text[:9])
def test_a_card_that_is_none(content: str, model: Path) -> None:
    (model / CARD).write_text(content)
    assert vae_sweep_here("sample", model, "--out", model / "grid.png")[0] == 2


def test_weights_are_never_unpickled(model: Path, tmp_path: Path) -> None:
    import pickle

    trap = tmp_path / "sprung"
    (model / WEIGHTS).write_bytes(pickle.dumps(Trap(trap)))
    code, _, err = vae_sweep_here("sample", model, "--out", model / "grid.png")
    assert code == 2 and "safetensors" in err and not trap.exists()


# --------------------------------------------------------------------------- study files as an attack


@pytest.mark.parametrize(
    "line",
    [
        "seed: 0x" + "f" * 20_000,
        "seed: 1" + ":59" * 200_000,
        "seed: 0b" + "1" * 100_000,
        "train: {learning_rate: 0x" + "f" * 20_000 + "}",
        "nuisance: {learning_rate: {low: 1, high: 0" + "7" * 9_000 + "}}",
        "compare: {baseline: {scale: 0x" + "f" * 9_000 + "}}",
        'question: "\\0"',
        'question: "\\e[31m"',
        'question: "\\uD800"',
        "search: {start: [" + "{a: 1}, " * 3_000 + "]}",
    ],
    ids=lambda line: line[:30],
)
def test_a_hostile_value_is_one_short_message(line: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"version: 1\nname: a\ndata: {{name: digits}}\nscientific: {{latent_dim: [2, 8]}}\n{line}\n")
    with pytest.raises(StudyFileError) as caught:
        load_study(file)
    assert len(str(caught.value)) < 20_000 and str(caught.value).isprintable() is False  # has line ends only
    assert all(part.isprintable() for part in str(caught.value).splitlines())


@pytest.mark.parametrize(
    "assignment",
    [
        "a." * 60_000 + "b=1",
        "seed=0x" + "f" * 20_000,
        "seed=" + "[" * 50_000,
        "question=&a [*a]",
        "scientific.beta=[0x" + "f" * 9_000 + "]",
        'question="\\0"',
    ],
    ids=lambda text: text[:20],
)
def test_a_hostile_set_is_one_short_message(assignment: str, tmp_path: Path) -> None:
    with pytest.raises(StudyFileError) as caught:
        load_study(study_file(tmp_path), [assignment])
    assert len(str(caught.value)) < 2_000


def test_a_kept_study_file_that_is_no_text_any_more(workdir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "work"
    shutil.copytree(workdir, copy)
    file = study_file(tmp_path, search={"trials": 2, "startup": 1, "replicates": 2})
    wanted = (copy / "small" / "study.yaml").read_bytes()
    for content in (b"\x80\x04\x95", b"a: " + b"[" * 100_000, b"a: &a [*a]"):
        (copy / "small" / "study.yaml").write_bytes(content)
        code, _, err = vae_sweep_here("run", file, "--workdir", copy, "--executor", "inline", "--mlflow", "none")
        assert code == 0, err
        assert (copy / "small" / "study.yaml").read_bytes() == wanted


# ------------------------------------------------------------------------- what users write, in MLflow

HOSTILE = "Is [σ](javascript:alert(1)) <img src=x onerror=alert(1)> ![](http://evil/x.png) *better*?"


def test_a_question_is_text_in_mlflow(tmp_path: Path) -> None:
    note = experiment_note(HOSTILE, "1", ["pictures"])
    assert as_text(HOSTILE) in note and "[samples of every arm](#/experiments/1/" in note
    assert as_text("Does σ² matter? (2024, a-b.)") == "Does σ² matter? (2024, a-b.)"
    assert "&lt;img src=x" in note and "<img" not in note and as_text("a & b") == "a &amp; b"
    for sign in "[]!*":
        assert f"\\{sign}" in as_text(HOSTILE) and sign not in as_text(HOSTILE).replace(f"\\{sign}", "")
