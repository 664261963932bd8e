"""docs/study-file.md and docs/cli.md are those of the program, and say something about everything in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.markdown import BLOCK
from pipeline import errors
from pipeline.config import Study, load_study
from pipeline.study_file.values import ChoiceDomain, FloatDomain, IntDomain

from . import reference
from .docs import ROOT, blocks

MODELS = [Study, *reference.sections().values(), FloatDomain, IntDomain, ChoiceDomain]
VARIABLE = re.compile(
    r"\b(?:VAE_SWEEP|MLFLOW|RAY|MKL|OMP|XDG)_[A-Z_]+[A-Z]\b|\bRAY_grpc_\w+|\bPG[A-Z]{4,}\b|\bCOLUMNS\b"
)
CONSTANTS = {"MLFLOW_LOGIN", "M_MMAP_THRESHOLD"}
"""names in the code that look like variables and are none"""


@pytest.mark.parametrize("page", reference.pages(), ids=lambda page: page.stem)
def test_the_page_is_what_is_generated(page: Path) -> None:
    assert page.read_text() == reference.pages()[page], "run `make docs`"


def test_every_block_is_on_its_page() -> None:
    parts = {reference.STUDY_FILE: reference.study_file_blocks(), reference.CLI: reference.cli_blocks()}
    for page, texts in parts.items():
        found = [block["name"] for block in BLOCK.finditer(page.read_text())]
        assert sorted(found) == sorted(texts), page.name


def test_every_table_of_the_catalogue_is_found_again() -> None:
    text = reference.CATALOGUE.read_text()
    damaged = text.replace("| `log_std` |", "| `log_stt` |").replace("| O8 |", "| O80 |")
    assert damaged != text
    assert reference.with_tables(damaged) == text


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model: Any) -> None:
    mute = {name for name, info in model.model_fields.items() if not info.description}
    assert mute <= (reference.sections().keys() if model is Study else set())


def test_every_option_is_described() -> None:
    for name, verb in reference.verbs().items():
        assert verb.help, name
        assert [one.name for one in verb.params if not one.help] == [], name


def test_no_default_is_that_of_this_machine() -> None:
    cores = f"`{os.cpu_count()}`"
    workers = [row for verb in reference.verbs().values() for row in map(reference.parameter_row, verb.params)]
    assert not [row for row in workers if "worker" in row[0] and "gpu" not in row[0] and row[1] == cores]


def test_the_examples_of_the_page_load(tmp_path: Path) -> None:
    whole, *parts = [yaml.safe_load(text) for text in blocks(reference.STUDY_FILE, "yaml")]
    assert parts
    for number, part in enumerate([{}, *parts]):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({**whole, **part}))
        load_study(file)


def test_every_environment_variable_is_explained() -> None:
    """Those that the code names, and no others."""
    files = [*(ROOT / "pipeline").rglob("*.py")]
    named = {name for file in files for name in VARIABLE.findall(file.read_text())} - CONSTANTS
    section = reference.CLI.read_text().split("## Environment variables", 1)[1].split("<!-- generated", 1)[0]
    assert set(VARIABLE.findall(section)) == named


def test_every_exit_code_is_explained() -> None:
    codes = {str(one.exit_code) for one in reference.tree(errors.VaeSweepError)}
    assert codes <= set(re.findall(r"^\| (\d+) \|", reference.exits_table(), flags=re.MULTILINE))
