"""Pages in the system's Chromium, for tests: what they load, what they complain of, pictures of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KEPT_IN = os.environ.get("SCREENSHOTS")
"""a folder that keeps the pictures; None: they go with the test's own folder"""


@dataclass(slots=True)
class Visit:
    """An open page and what it has done since it was opened."""

    page: Page
    requests: list[str] = field(default_factory=list)
    """all but the page itself and its own data: URLs"""
    complaints: list[str] = field(default_factory=list)
    """errors and warnings of the console, uncaught errors"""

    def violations(self) -> list[str]:
        """Rules of accessibility that the page breaks, by axe."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}" for one in found]

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def keep(self, folder: Path, name: str) -> Path:
        """A picture of the whole page, in the folder that $SCREENSHOTS names, else in `folder`."""
        target = Path(KEPT_IN or folder) / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=target, full_page=True)
        return target


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window. Skips the test, with the reason, where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium on the PATH (looked for {', '.join(NAMES)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, file: Path, width: int, **options: Any) -> Iterator[Visit]:
    """Opens a local page in a window of that width. `options`: of playwright's `new_context`."""
    own, context = file.as_uri(), browser.new_context(viewport={"width": width, "height": 900}, **options)
    try:
        seen = Visit(context.new_page())

        def asked(url: str) -> None:
            if url != own and not url.startswith("data:"):
                seen.requests.append(url)

        def said(kind: str, text: str) -> None:
            if kind in ("error", "warning"):
                seen.complaints.append(text)

        seen.page.on("request", lambda request: asked(request.url))
        seen.page.on("console", lambda message: said(message.type, message.text))
        seen.page.on("pageerror", lambda error: said("error", str(error)))
        seen.page.goto(own)
        yield seen
    finally:
        context.close()
