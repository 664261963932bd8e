"""The user's own code by name: docs/extending.md as it is written, what it hashes to, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import own_code
from pipeline.config import dump_study, load_study
from pipeline.errors import ExecutionError, StudyFileError, UserError
from pipeline.execution.environment import prepare_ray
from pipeline.extension import extension_of
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where, load_study_data
from pipeline.own_code import Parcel, admit, digests, is_own, load, parcels, receive
from pipeline.paths import WorkPaths
from pipeline.records import State
from pipeline.remote import pack
from pipeline.report.progress import SilentProgress
from pipeline.results import describe
from pipeline.serving.model import CARD, ModelCard, load_model
from pipeline.study_file.identity import study_hash
from pipeline.vae.contracts import broken_contract
from pipeline.vae.likelihoods import LIKELIHOODS, Binomial
from pipeline.vae.objectives import OBJECTIVES, Draws, Numbers
from pipeline.vae.posterior import POSTERIORS, Diagonal, ScaleFunction
from pipeline.vae.scales import SCALES

from .docs import ROOT, blocks
from .kit import numbers, task, tiny_dataset, train_all
from .sweeps import json_of, read, study_file, vae_sweep, vae_sweep_here
from .test_remote import Head, head

__all__ = ["head"]

PAGE = ROOT / "docs" / "extending.md"
HERE = "import sys; from tests.sweeps import vae_sweep_here as go\n"
"""a process that runs several commands, one after the other: imports take longer than the commands"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test admits and imports, no other sees."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(own_code, "_ADMITTED", {})
    monkeypatch.setattr(own_code, "_IMPORTED", {})
    yield
    for name in set(sys.modules) - modules:
        if name.partition(".")[0].startswith(("mine", "mymodels", "beside")):
            del sys.modules[name]


def write_package(folder: Path) -> Path:
    """The page's package and study, as they are on the page; the study's path."""
    for text in (*blocks(PAGE, "python"), *blocks(PAGE, "yaml")):
        name = text.splitlines()[0].removeprefix("# ")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "study.yaml"


def run_there(*commands: tuple[object, ...], cwd: Path, **environment: str) -> list[str]:
    """Runs commands in one process, which must succeed."""
    script = HERE + "".join(
        f"code, out, err = go(*{[str(word) for word in words]}); print(out, file=sys.stderr); assert not code, err\n"
        for words in commands
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=240,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((environment.pop("code", str(ROOT)), str(ROOT))),
            **environment,
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr.splitlines()


# ------------------------------------------------------------------------------- the page, as it is written


@dataclass(frozen=True)
class Ran:
    file: Path
    workdir: Path
    """trained four slots at a time"""
    alone: Path
    """one slot at a time"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("outside")
    file, workdir, alone = write_package(folder), folder / "sweeps", folder / "alone"
    (command,) = blocks(PAGE, "bash")
    assert command.split() == ["vae-sweep", "run", "study.yaml"]
    words = [file, "--executor", "inline", "--mlflow", "none", "--quiet"]
    run_there(
        ("run", *words, "--slots", "4", "--workdir", workdir),
        ("run", *words, "--slots", "1", "--workdir", alone),
        cwd=folder.parent,
    )
    return Ran(file, workdir, alone)


def test_own_code_runs_packed_and_to_the_same_bytes(ran: Ran) -> None:
    packed, alone = read(ran.workdir, "own"), read(ran.alone, "own")
    assert {r.state for r in packed.records} == {State.COMPLETE}
    searched = [record.outcome for record in packed.records if record.key.phase == "search"]
    assert {outcome.largest_pack for outcome in searched if outcome} == {4}
    assert {record.outcome.largest_pack for record in alone.records if record.outcome} == {1}
    assert json_of(packed) == json_of(alone)
    for one, other in zip(packed.records, alone.records, strict=True):
        assert one.outcome and other.outcome and one.files == other.files
        assert (one.outcome.curves, one.outcome.metrics) == (other.outcome.curves, other.outcome.metrics)


def test_its_hash_is_part_of_the_question(ran: Ran) -> None:
    asked = json.loads(read(ran.workdir, "own").sweep.study)
    assert set(asked["code"]) == {
        "mymodels.networks:funnel",
        "mymodels.objectives:free_nats",
        "mymodels.scales:squareplus_std",
    }
    assert len(set(asked["code"].values())) == 1, "of the whole package"
    edited = {**asked, "code": dict.fromkeys(asked["code"], "0" * 16)}
    assert study_hash(edited) != study_hash(asked)
    refused = extension_of(asked, edited).refused
    assert len(refused) == 3 and all("ran the former code" in line for line in refused)


def test_edited_code_is_another_question(ran: Ran, tmp_path: Path) -> None:
    shutil.copytree(ran.file.parent, tmp_path / "edited")
    objectives = tmp_path / "edited" / "mymodels" / "objectives.py"
    objectives.write_text(objectives.read_text().replace("torch.maximum(rate,", "torch.maximum(rate * 2,"))
    file, workdir = tmp_path / "edited" / "study.yaml", tmp_path / "edited" / "sweeps"
    code, _, error = vae_sweep_here("run", file, "--executor", "inline", "--mlflow", "none", "--workdir", workdir)
    assert code == 2 and "asks something else" in error and "Traceback" not in error
    assert len(re.findall(r"- code\.mymodels\.\w+:\w+: '[0-9a-f]{16}' -> '[0-9a-f]{16}'", error)) == 3


def test_a_store_that_names_code_is_read_without_it(ran: Ran) -> None:
    for words in (("compare", "own", "--json"), ("status", "own"), ("best", "own"), ("list",)):
        code, out, error = vae_sweep_here(*words, "--workdir", ran.workdir)
        assert code == 0 and ("squareplus_std" in out or words[0] == "list"), error
    record = next(r for r in read(ran.workdir, "own").records if r.key.phase == "repeat")
    trial = f"own/{record.key}"
    for words in (("train", "--trial", trial), ("sample", trial), ("sample", str(ran.workdir / "own" / "trials"))):
        code, _, error = vae_sweep_here(*words, "--workdir", ran.workdir)
        assert code == 2 and "Traceback" not in error
        assert "--code FOLDER" in error or "has no model" in error, error
    code, _, error = vae_sweep_here("best", "own", "--register", "m", "--mlflow", "none", "--workdir", ran.workdir)
    assert code == 2 and "--code FOLDER" in error and "mymodels." in error
    assert not any(name.startswith("mymodels") for name in sys.modules)


@pytest.mark.slow
def test_a_trial_is_trained_again_and_sampled_with_the_code(ran: Ran, tmp_path: Path) -> None:
    own = next(iter(r for r in reversed(read(ran.workdir, "own").records) if r.key.phase == "repeat"))
    place, code = ("--workdir", ran.workdir), ("--code", ran.file.parent)
    said = run_there(
        ("train", "--trial", f"own/{own.key}", *place, *code, "--out", tmp_path / "again"),
        ("sample", f"own/{own.key}", *place, *code, "--out", tmp_path / "trial.png"),
        ("sample", tmp_path / "again", *code, "--out", tmp_path / "folder.png"),
        cwd=tmp_path,
    )
    assert any("same numbers" in line or "bit for bit" in line for line in said), said
    recorded = WorkPaths.at(ran.workdir).trial("own", own.key)
    for name, again in (("samples.png", tmp_path / "trial.png"), ("samples.png", tmp_path / "folder.png")):
        assert (recorded / name).read_bytes() == again.read_bytes()
    assert (recorded / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_ray_workers_get_the_code_from_the_driver(ran: Ran, tmp_path: Path) -> None:
    workdir = tmp_path / "ray"
    words = ("run", ran.file, "--workers", "2", "--slots", "4", "--mlflow", "none", "--quiet", "--workdir", workdir)
    vae_sweep(*words, PYTHONPATH=str(ROOT))
    found = read(workdir, "own")
    assert json_of(found) == json_of(read(ran.workdir, "own"))
    assert max(record.outcome.largest_pack for record in found.records if record.outcome) > 1


@pytest.mark.slow
def test_an_entry_of_the_tables_gives_the_same_numbers(ran: Ran, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    own = {text.splitlines()[0].partition("/")[2]: text for text in blocks(PAGE, "python")}
    names: set[str] = set()
    for diff in blocks(PAGE, "diff"):
        place, context, *added = diff.splitlines()
        file = tmp_path / place.removeprefix("# ")
        source = own["images.py" if file.name == "loaders.py" else file.name]
        source = "\n".join(
            line for line in source.splitlines() if not line.startswith(("#", "from", "import", "    from"))
        )
        text = file.read_text()
        if file.name == "networks.py":
            text = text.replace("from typing import NamedTuple", "from typing import Any, NamedTuple")
        assert text.count(context[1:] + "\n") == 1, f"{place}: {context}"
        table = "\n".join([context[1:], *(line[1:] for line in added)]) + "\n"
        file.write_text(text.replace(context[1:] + "\n", f"{source}\n\n\n{table}"))
        names |= {name for line in added for name in re.findall(r'"(\w+)"', line)}
    study = re.sub(r"\"mymodels\.\w+:(\w+)\"", r"\1", ran.file.read_text())
    (tmp_path / "study.yaml").write_text(study)
    words = ("--executor", "inline", "--mlflow", "none", "--quiet", "--slots", "4", "--workdir", tmp_path / "sweeps")
    run_there(("run", tmp_path / "study.yaml", *words), cwd=tmp_path, code=str(tmp_path))
    assert names == {"squareplus_std", "free_nats", "funnel", "bars"}

    def by_seed(workdir: Path) -> list[Any]:
        found = read(workdir, "own").records
        return sorted([r.key.phase, r.key.number, r.outcome and sorted(r.outcome.metrics.items())] for r in found)

    assert by_seed(tmp_path / "sweeps") == by_seed(ran.workdir)


@pytest.mark.slow
def test_a_ray_worker_with_other_code_is_refused() -> None:
    prepare_ray(None)
    from pipeline.execution.ray_pool import RayPool

    files = {"mine.py": HALF.encode()}
    pool = RayPool(tiny_dataset(), workers=1, slots=1, bank_seed=0, code=[Parcel("mine:half", "0" * 16, files)])
    try:
        with pytest.raises(
            ExecutionError, match="cannot train this study: All workers must have the code of mine:half"
        ):
            while True:
                pool.poll(1.0)
    finally:
        pool.close()


@pytest.mark.slow
def test_a_cluster_gets_the_code_with_the_study(head: Head, ran: Ran) -> None:
    words = ("submit", ran.file, "--address", head.address, "--mlflow", "none", "--slots", "4", "--follow")
    vae_sweep(*words, PYTHONPATH=str(ROOT))
    there = vae_sweep("compare", "own", "--json", "--address", head.address).stdout
    assert there == json_of(read(ran.workdir, "own"))


# ------------------------------------------------------------------------------------- code that is found

SCALE = """
from dataclasses import replace
import torch
from pipeline.vae.scales import SCALES
"""
HALF = SCALE + "half = replace(SCALES['log_std'], source='mine')\n"


def own_study(folder: Path, source: str, module: str = "mine", **sections: Any) -> Path:
    (folder / f"{module}.py").write_text(source)
    return study_file(folder, **sections)


def problems(file: Path) -> list[str]:
    with pytest.raises(StudyFileError) as caught:
        load_study(file)
    return list(caught.value.problems)


def test_a_study_with_own_code_reads_back(tmp_path: Path) -> None:
    file = own_study(tmp_path, HALF, scientific={"scale": ["log_variance", "mine:half"]})
    study = load_study(file)
    (tmp_path / "again.yaml").write_text(dump_study(study))
    assert load_study(tmp_path / "again.yaml") == study
    dataset = load_study_data(study)
    plain = describe(study, dataset)
    assert list(plain["code"]) == ["mine:half"]
    without = study.model_copy(update={"scientific": {**study.scientific, "scale": ("log_variance",)}})
    assert "code" not in describe(without, dataset)
    extension = extension_of(describe(without, dataset), plain)
    assert not extension.refused and "mine:half" in extension.added[0], "an arm of own code may be added"


def test_every_mistake_is_one_clear_line(tmp_path: Path) -> None:
    names = ["mime:half", "mine:hlf", "mine:SCALE", "mine.sub:half", "mine:", "os:path", "pipeline.vae.scales:SCALES"]
    file = own_study(tmp_path, HALF + "SCALE = 3\n", scientific={"scale": ["log_variance", *names]})
    found = problems(file)
    assert [line.partition(":")[0] for line in found] == [f"scientific.scale.{i}" for i in range(1, 8)]
    texts = [
        "there is no module 'mime' in",
        "there is no 'hlf' in mine (did you mean 'half'?)",
        "must name a Scale of pipeline.vae.scales, but mine:SCALE is of type int",
        "there is no module 'mine.sub'",
        "must be named as package.module:name",
        "but os:path is of type module",
        "a module of its own, not in pipeline",
    ]
    for line, text in zip(found, texts, strict=True):
        assert text in line and "Traceback" not in line
    code, _, error = vae_sweep_here("plan", file)
    assert code == 2 and error.count("\n  - ") == 7


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import no_such_library\n", "raised ModuleNotFoundError: No module named 'no_such_library' (line 1 of"),
        ("x = = 1\n", "raised SyntaxError"),
        ("raise SystemExit(3)\n", "raised SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported(source: str, text: str, tmp_path: Path) -> None:
    (line,) = problems(own_study(tmp_path, source, model={"network": "mine:net"}))
    assert text in line


def test_own_code_is_for_fields_with_own_code(tmp_path: Path) -> None:
    (line,) = problems(own_study(tmp_path, HALF, model={"activation": "mine:half"}))
    assert line.startswith("model.activation: unknown activation")


def test_a_module_of_another_place_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    load_study(own_study(tmp_path / "a", HALF, scientific={"scale": ["log_variance", "mine:half"]}))
    other = own_study(tmp_path / "b", HALF, scientific={"scale": ["log_variance", "mine:half"]})
    assert "needs a name of its own" in problems(other)[0]
    (tmp_path / "a" / "mine.py").write_text(HALF + "# edited\n")
    assert "has changed since this process imported it" in problems(tmp_path / "a" / "study.yaml")[0]


def test_what_the_hash_covers(tmp_path: Path) -> None:
    def digest() -> str:
        return admit("mine.scales:half", [tmp_path]).digest

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "scales.py").write_text("import json\nimport torch\n" + HALF)
    (tmp_path / "beside.py").write_text("x = 1\n")
    (tmp_path / "json.py").write_text("x = 1\n")
    first = digest()
    (tmp_path / "beside.py").write_text("x = 2\n")
    (tmp_path / "json.py").write_text("x = 2\n")
    (tmp_path / "mine" / "notes.txt").write_text("x\n")
    assert digest() == first, "what it does not import does not count, nor does what is no code"
    (tmp_path / "mine" / "other.py").write_text("y = 1\n")
    second = digest()
    assert second != first, "the whole package counts"
    (tmp_path / "mine" / "other.py").write_text("def y():\n    from beside import x\n    return x\n")
    third = digest()
    (tmp_path / "beside.py").write_text("x = 3\n")
    assert len({first, second, third, digest()}) == 4, "so does what it imports from beside it"
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "mine", moved / "mine")
    shutil.copy(tmp_path / "beside.py", moved)
    assert admit("mine.scales:half", [moved]).digest == digest(), "wherever it lies"


def test_what_is_installed_is_neither_sent_nor_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "mine.py").write_text("import beside\n" + HALF)
    (place / "beside.py").touch()
    monkeypatch.syspath_prepend(str(place))
    code = admit("mine:half", [])
    assert code.installed and list(code.files) == ["mine.py"]
    (parcel,) = parcels(["mine:half"])
    assert parcel.files is None
    receive([parcel])
    with pytest.raises(UserError, match="Install the same version on every node"):
        receive([replace(parcel, digest="0" * 16)])


def test_a_worker_imports_what_its_driver_sent(tmp_path: Path) -> None:
    files = {"mine/__init__.py": b"", "mine/scales.py": b"from beside import x\nfrom . import more\nhalf = x\n"}
    files |= {
        "mine/more.py": b"",
        "beside.py": b"x = 'sent'\n",
        "mineral/deep/leaf.py": b"def f():\n    raise KeyError\n",
    }
    digest = own_code._digest(files)
    receive([Parcel("mine.scales:half", digest, files), Parcel("mineral.deep.leaf:f", digest, files)])
    assert load("mine.scales:half") == "sent" and callable(load("mineral.deep.leaf:f"))
    with pytest.raises(UserError, match=r"All workers must have the code of mine\.scales:half"):
        receive([Parcel("mine.scales:half", "0" * 16, files)])


def test_what_travels_with_a_job(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("x = 1\n")
    file = own_study(tmp_path, "import beside\n" + HALF, scientific={"scale": ["log_variance", "mine:half"]})
    study, folder = load_study(file), tmp_path / "packed"
    folder.mkdir()
    pack(study, [], folder)
    assert {path.name for path in folder.iterdir()} == {"study.yaml", "mine.py", "beside.py"}
    assert admit("mine:half", [tmp_path]).digest == digests(["mine:half"])["mine:half"]


# ------------------------------------------------------------------------------- code that nobody admitted


def test_nothing_else_admits_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "imported"
    (tmp_path / "mine.py").write_text(f"open({str(marker)!r}, 'w')\n{HALF}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_own("mine:half") and "mine:half" not in SCALES and SCALES.find("mine:half") is None
    with pytest.raises(UserError, match="imported only where its owner says so"):
        SCALES["mine:half"]
    with pytest.raises(KeyError):
        SCALES["half"]
    card = ModelCard(
        network="mlp",
        hidden=(3,),
        activation="relu",
        posterior="diagonal",
        latent_dim=2,
        scale="mine:half",
        likelihood="binomial",
        observation_std=1.0,
        dtype="float32",
        form="counts",
        levels=4,
        image_shape=(2, 2),
        value_range=(0.0, 4.0),
        bank_seed=0,
        test_images=5,
    )
    (tmp_path / CARD).write_text(card.dump())
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="names its author's own code, 'mine:half'"):
        load_model(tmp_path)
    code, _, error = vae_sweep_here("sample", tmp_path)
    assert code == 2 and "--code FOLDER" in error
    assert not marker.exists() and "mine" not in sys.modules


# ------------------------------------------------------------------------------------- code that is wrong


TABLES: dict[str, Mapping[str, Any]] = {
    "scale": SCALES,
    "objective": OBJECTIVES,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
}


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        pytest.param(field, entry, id=f"{field} {name}")
        for field, table in TABLES.items()
        for name, entry in table.items()
    ],
)
def test_every_entry_of_this_repository_keeps_to_its_contract(field: str, entry: Any) -> None:
    assert broken_contract(field, entry) == ""


def _padded(draws: Draws, numbers: Numbers) -> Tensor:
    return draws.distortion() + draws.rate().sum(-1).mean(-1, keepdim=True)


class _NoBase(Binomial):
    def log_base(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, 0])


class _WrongSlope(Binomial):
    def log_kernel_and_slope(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        kernel, slope = super().log_kernel_and_slope(x, output)
        return kernel, slope * 2


class _Doubled(Diagonal):
    def kl(self) -> Tensor:
        return super().kl() * 2


def _twice(scale: ScaleFunction, mean: Tensor, raw: Tensor) -> Diagonal:
    return _Doubled(mean, *scale(raw))


LOG_STD, BETA, FULL = SCALES["log_std"], OBJECTIVES["beta"], POSTERIORS["full"]
WRONG: dict[str, tuple[str, Any, str]] = {
    "J": ("scale", replace(LOG_STD, jacobian=lambda a: torch.ones_like(a) * 0.99), "slope"),
    "J of one side": ("scale", replace(SCALES["elu_std"], jacobian=torch.ones_like), "slope"),
    "inverse": ("scale", replace(LOG_STD, inverse=lambda sigma: sigma), "undo inverse"),
    "log": ("scale", replace(LOG_STD, forward=lambda a: (a.exp(), a * 2)), "logarithm"),
    "domain": ("scale", replace(SCALES["raw_variance"], outside=None), "finite for every a"),
    "bounds": ("scale", replace(SCALES["softplus_std_floor"], lowest=0.0), "raised"),
    "dtype": ("scale", replace(LOG_STD, jacobian=lambda a: torch.ones(a.shape)), "dtype"),
    "reads": ("objective", replace(BETA, reads=frozenset({"beta"})), "leaves out warmup"),
    "reads what": ("objective", replace(BETA, reads=frozenset({"gamma"})), "names gamma"),
    "filling": ("objective", replace(OBJECTIVES["iwae"], loss=_padded), "fills the batch up"),
    "slots": (
        "objective",
        replace(OBJECTIVES["iwae"], loss=lambda d, n: d.distortion() + d.rate().sum(-1).mean(0)),
        "slots beside it",
    ),
    "rate": ("objective", replace(BETA, rate_weight=lambda numbers: numbers["warmup"]), "rate_weight"),
    "shape": ("objective", replace(BETA, loss=lambda draws, numbers: draws.rate()), "one number an image"),
    "constant": ("objective", replace(BETA, loss=lambda d, n: d.distortion().detach()), "depends on nothing"),
    "mass": ("likelihood", _NoBase, "sum to 1"),
    "slope": ("likelihood", _WrongSlope, "its derivative"),
    "kinds": ("likelihood", type("Without", (Binomial,), {"kinds": frozenset({"sound"})}), "kinds"),
    "kl": ("posterior", replace(POSTERIORS["diagonal"], posterior=_twice, by_hand=False), "kl() must be"),
    "by hand": ("posterior", replace(POSTERIORS["natural"], by_hand=True), "by_hand"),
    "heads": ("posterior", replace(FULL, heads=lambda f, n: {"mean": torch.nn.Linear(f, n)}), "raw_scale"),
}


@pytest.mark.parametrize(("field", "entry", "text"), WRONG.values(), ids=WRONG)
def test_what_would_spoil_a_sweep_in_silence_is_found(field: str, entry: Any, text: str) -> None:
    assert text in broken_contract(field, entry)


def test_a_study_with_a_wrong_jacobian_is_refused(tmp_path: Path) -> None:
    source = SCALE + "wrong = replace(SCALES['log_std'], jacobian=lambda a: torch.full_like(a, 0.5))\n"
    file = own_study(tmp_path, source, scientific={"scale": ["log_variance", "mine:wrong"]})
    code, _, error = vae_sweep_here("run", file, "--workdir", tmp_path / "sweeps")
    assert code == 2 and not (tmp_path / "sweeps").exists()
    assert "scientific.scale.1: own code must keep to its contract: jacobian must be d log σ / d a" in error


LEANING = (
    SCALE
    + """
base = SCALES['log_std']
leaning = replace(base, forward=lambda a: base.forward(a + 1e-6 * a.shape[0]), inverse=base.inverse)
"""
)


def test_a_scale_that_packs_inexactly_runs_slot_by_slot(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LEANING + "half = replace(SCALES['log_variance'], source='mine')\n")
    for name in ("mine:leaning", "mine:half"):
        admit(name, [tmp_path])
    scales = ["mine:half", "mine:leaning", "log_variance"] * 2
    tasks = [task(i, scale=scale) for i, scale in enumerate(scales)]
    found = train_all(tasks, 6)
    widest = {scale: found[one.key].largest_pack for scale, one in zip(scales, tasks, strict=True)}
    assert widest == {"mine:half": 4, "mine:leaning": 1, "log_variance": 4}
    for one in tasks:
        assert numbers(found[one.key]) == numbers(train_all([one], 1)[one.key])


def test_code_that_raises_ends_its_trials_only(tmp_path: Path) -> None:
    source = """
from pipeline.vae.objectives import OBJECTIVES, Objective

def loss(draws, numbers):
    if draws.z.shape[-1] == 7:
        raise ValueError('seven is too many')
    return OBJECTIVES['elbo'].loss(draws, numbers)

picky = Objective(formula='', source='', reads=frozenset({'warmup'}), loss=loss)
"""
    file = own_study(
        tmp_path,
        source,
        train={"epochs": 1, "objective": "mine:picky"},
        scientific={"scale": ["log_variance"], "latent_dim": [2, 7]},
        search={"trials": 2, "startup": 2, "replicates": 1},
        confirm={"repeats": 1},
    )
    where = Where(WorkPaths.at(tmp_path / "sweeps"), executor="inline", tracking="none", slots=2)
    report = run(file, [], where, SilentProgress())
    assert report.finished
    for record in report.results.records:
        seven = report.results.hyperparameters(record)["latent_dim"] == 7
        assert record.state is (State.FAILED if seven else State.COMPLETE)
        assert not seven or (record.outcome and record.outcome.cause == "ValueError: seven is too many")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 3", "must return a Raw of NumPy arrays, but returned something of type int"),
        ("raise KeyError('x')", "must return images, but raised KeyError"),
        ("return Raw('x', ())", "must return one array or train, val, test, but returned 0"),
    ],
)
def test_a_loader_that_gives_no_images(body: str, text: str, tmp_path: Path) -> None:
    source = f"from pipeline.data.raw import Raw\ndef images():\n    {body}\n"
    code, _, error = vae_sweep_here("plan", own_study(tmp_path, source, data={"name": "mine:images"}))
    assert code == 2 and text in error and "Traceback" not in error
