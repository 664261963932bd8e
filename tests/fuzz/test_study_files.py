"""Study files and `--set` as nobody should write them: each ends in one clear message, or is a sound study."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from pipeline.config import dump_study, load_study, resolved, study_of
from pipeline.errors import StudyFileError, UserError
from pipeline.launch.where import load_study_data
from pipeline.records import canonical_json
from pipeline.space import trial_counts
from pipeline.study_file.identity import study_hash

from ..sweeps import MEDIAN, STUDY
from .cases import fuzz, sizes, told
from .values import as_yaml, damaged_trees, texts, values

CONFIGS = [yaml.safe_load(file.read_text()) for file in sorted(Path("configs").glob("*.yaml")) if file.stem != "mnist"]
EVERYTHING: dict[str, Any] = {
    **STUDY,
    "seed": 3,
    "data": {
        "name": "digits",
        "form": "counts",
        "levels": 16,
        "take": 900,
        "split": [0.7, 0.15, 0.15],
        "split_seed": 1,
    },
    "model": {"network": "mlp", "hidden": [21], "activation": "relu", "initial_sigma": 1.0, "observation_std": 1.0},
    "train": {"objective": "beta", "beta": 0.5, "batch_size": 37, "optimizer": "adamw", "weight_decay": 0.01},
    "nuisance": {
        "learning_rate": {"low": 1.0e-4, "high": 1.0e-1, "log": True},
        "epochs": {"low": 2, "high": 6, "step": 2},
        "activation": ["relu", "tanh"],
        "adam_beta1": {"low": 0.0, "high": 0.9, "step": 0.3},
    },
    "search": {"trials": 6, "startup": 3, "lag": 2, "replicates": 2, "start": [{"learning_rate": 0.01, "epochs": 4}]},
    "confirm": {"candidates": 2, "candidate_seeds": 1, "repeats": 2},
    "compare": {"baseline": {"scale": "log_std"}, "equivalence_margin_nats": 0.1, "alpha": 0.1},
}
SINGLE = {key: STUDY[key] for key in ("version", "name", "data", "model", "train")}
studies = st.sampled_from([STUDY, EVERYTHING, {**STUDY, "search": {**STUDY["search"], **MEDIAN}}, SINGLE, *CONFIGS])

SOUP = (
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    "- ",
    "\n- ",
    ",",
    "&a ",
    "*a",
    "!!python/object:os.system ",
    "!x ",
    "? ",
    "|",
    "|2-\n",
    ">",
    "\t",
    "\n",
    "\n  ",
    "---\n",
    "...\n",
    "#",
    "'",
    '"',
    "%YAML 1.1\n",
    "%TAG ! tag:x,2000:\n",
    "<<: ",
    "!!binary ",
    "1e999",
    "0x",
    "1_0",
    "12:30:45",
    ".inf",
    "~",
    "version: 1\n",
    "name: x\n",
    "data: {name: digits}\n",
    "scientific:",
    "nuisance:",
    " scale",
    "\ufeff",
    "\u2028",
    "\x85",
    "\0",
    "@",
    "`",
    "\\ud800",
    '"\\ud800"',
    "[[[[[[[[[[[[[[[[[[[[[[[[",
    "!!set {a}",
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """What a study file may hold."""
    kind = draw(st.sampled_from(["tree", "tree", "tree", "tree", "twice", "soup", "text", "bytes", "spliced"]))
    if kind == "soup":
        return "".join(draw(st.lists(st.sampled_from(SOUP), max_size=30))).encode("utf-8", "surrogatepass")
    if kind == "text":
        return draw(st.text()).encode("utf-8", "surrogatepass")
    if kind == "bytes":
        return draw(st.binary())
    tree = draw(damaged_trees(studies))
    text = as_yaml(tree)
    if kind == "twice" and isinstance(tree, dict):
        key = draw(st.sampled_from([*tree] or ["name"]))
        text = f"{text[:-1]}, {as_yaml(key)}: {as_yaml(draw(values))}}}"
    content = text.encode()
    if kind == "spliced":
        at = draw(st.integers(0, len(content)))
        piece = draw(st.binary(max_size=6) | st.sampled_from([one.encode("utf-8", "surrogatepass") for one in SOUP]))
        content = content[:at] + piece + content[at + draw(st.integers(0, 12)) :]
    return content


@st.composite
def assignments(draw: st.DrawFn) -> str:
    """What may follow `--set`; the operating system lets no NUL through."""
    sections = st.sampled_from(
        [*EVERYTHING, "model", "train", "data.path", "nuisance.learning_rate", "compare.baseline"]
    )
    fields = st.sampled_from(
        ["hidden", "low", "high", "scale", "epochs", "trials", "name", "seed", "split", "start", "0", "", "lag"]
    )
    parts = draw(st.lists(sections | fields | texts, min_size=1, max_size=3))
    spelled = draw(values.map(as_yaml) | st.sampled_from(SOUP) | texts)
    return (".".join(parts) + draw(st.sampled_from(["=", "=", "=", "", "==", " = "])) + spelled).replace("\0", "")


@sizes(few=20, many=200)
def test_study_files_end_in_a_message_or_are_sound(count: int, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"

    def check(content: bytes, verb: str) -> None:
        file.write_bytes(content)
        _is_clear(file, [], verb)

    fuzz(count, check, content=files(), verb=st.sampled_from(["plan", "run", "train"]))


@sizes(few=10, many=100)
def test_so_do_assignments(count: int, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"

    def check(study: Any, sets: list[str], verb: str) -> None:
        file.write_text(as_yaml(study))
        _is_clear(file, sets, verb)

    fuzz(
        count,
        check,
        study=studies,
        sets=st.lists(assignments(), min_size=1, max_size=3),
        verb=st.sampled_from(["plan", "run", "train"]),
    )


def _is_clear(file: Path, sets: list[str], verb: str) -> None:
    """A wrong file gets exit code 2 and its name; a right one means the same after it was written and stored."""
    words = [word for one in sets for word in ("--set", one)]
    try:
        study = load_study(file, sets)
    except StudyFileError as error:
        assert error.problems
        code, _, err = told(verb, file, *words)
        assert code == 2 and str(file) in err
        return
    # Of what is right, only verbs that refuse it for another reason: nothing is to be trained or measured here.
    code, _, err = told("run" if study.is_single else "train", file, *words)
    assert code == 2 and ("nothing varies" in err or "one configuration" in err)
    again = file.with_name("again.yaml")
    again.write_text(dump_study(study))
    assert load_study(again) == study
    plain = resolved(study, data_sha256="0" * 64, data_id="x", kind="counts", pixels=64, images=[1, 1, 1])
    stored = json.loads(canonical_json(plain))
    assert study_of(stored) == study and study_hash(stored) == study_hash(plain)
    assert trial_counts(study).total > 0
    with suppress(UserError):
        load_study_data(study)
