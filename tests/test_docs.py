"""What the documentation says can be done: commands, options, scripts, manifests and links."""

from __future__ import annotations

import re
import subprocess
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
