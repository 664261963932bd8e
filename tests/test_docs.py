"""What the documentation says can be done: commands, options, scripts, manifests and links."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from pipeline.cli import app

from .docs import PAGES, ROOT, blocks, commands

VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    def test_its_verbs_and_options_exist(self, page: Path) -> None:
        for text in [*blocks(page, "bash"), *blocks(page, "sh"), *blocks(page, "yaml")]:
            for verb, *words in commands(text):
                assert verb in VERBS, f"{page.name}: vae-sweep {verb}"
                parameters = VERBS[verb].params
                options = {option for one in parameters for option in (*one.opts, *one.secondary_opts)}
                used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
                assert used <= options | {"--help"}, f"{page.name}: vae-sweep {verb} {used - options}"

    def test_its_scripts_and_manifests_can_be_read(self, page: Path) -> None:
        for script in blocks(page, "bash"):
            done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}: {done.stderr}"
        for manifest in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(manifest), dict), page.name

    def test_its_targets_of_make_exist(self, page: Path) -> None:
        known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        code = [*blocks(page, "sh"), *blocks(page, "bash"), *re.findall(r"`(make [^`]*)`", page.read_text())]
        used = {target for text in code for target in re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE)}
        assert used <= known, f"{page.name}: make {used - known}"

    def test_its_links_lead_somewhere(self, page: Path) -> None:
        text = page.read_text()
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            if target.startswith(("http://", "https://")):
                continue
            linked = (page.parent / file) if file else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page.name}: {target}"


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
