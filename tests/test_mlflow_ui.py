"""What people see in MLflow's own pages, in Chromium: views by arm, curves, pictures that step, the report."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.browse import connect, subject_of
from pipeline.delivery import run_record, sweep_run
from pipeline.launch.where import Where, open_ledger
from pipeline.paths import WorkPaths
from pipeline.results import load_results
from pipeline.tracking.base import MetricPoint, RunRecord, SweepRun
from pipeline.tracking.mlflow_tracker import MlflowTracker
from pipeline.tracking.mlflow_views import VIEWS

from .browser import Visit, chromium
from .kit import free_ports
from .sweeps import study_file, vae_sweep, vae_sweep_started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_MS = 60_000
MANY = 1000


@dataclass(frozen=True)
class Store:
    """A working directory whose runs are shown by a server."""

    where: Where
    base: str
    links: dict[str, dict[str, str]]
    """sweep -> title -> URL, as `ui` prints them"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("shown")
    workdir = folder / "w"
    file = study_file(
        folder,
        model={"hidden": [21], "initial_sigma": 1.0},
        train={"epochs": 9, "batch_size": 37},
        scientific={"scale": ["log_variance", "log_std"], "latent_dim": [2, 3]},
        nuisance={"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
        search={"trials": 3, "startup": 3, "lag": 1, "replicates": 2},
    )
    done = vae_sweep("run", file, "--workdir", workdir, "--executor", "inline", "--quiet")
    assert done.returncode == 0, done.stderr
    fill(workdir)
    (port,) = free_ports(1)
    log = folder / "ui.log"
    server = vae_sweep_started("ui", "--workdir", workdir, "--port", port, log=log)
    try:
        base = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{base}/health"), server)
        yield Store(Where(WorkPaths.at(workdir)), base, links(log.read_text()))
    finally:
        server.terminate()
        server.wait(30)


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def links(log: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in log.splitlines():
        if heading := re.fullmatch(r"  (\S+)", line):
            found[heading[1]] = pages = {}
        elif link := re.fullmatch(r"    (.+?): +(http\S+)", line):
            pages[link[1]] = link[2]
    return found


def fill(workdir: Path) -> None:
    """A second sweep of MANY runs beside the real one: one of its runs, over and over."""
    where = Where(WorkPaths.at(workdir))
    tracker = connect(where)
    assert isinstance(tracker, MlflowTracker)
    with open_ledger(where) as ledger:
        results = load_results(ledger, "small")
        subject = subject_of(results, where)
        parent = sweep_run(results.sweep, subject)
        repeat = next(record for record in results.records if record.key.phase == "repeat")
        run = run_record(repeat, subject, parent=parent, reproducible=True)
        ledger.create_sweep(name="crowd", study=results.sweep.study, study_hash="x", created_at=1.0)
        ledger.mark_done("crowd", tracker.target, {"parent": "x"})
    crowd = SweepRun(
        "crowd", "crowd", "", "How many?", parent.started_ms, factors=parent.factors, metrics=parent.metrics, epochs=9
    )
    for number in range(MANY):
        tracker.deliver(crowd, one_of_many(run, number), in_doubt=False)


def one_of_many(run: RunRecord, number: int) -> RunRecord:
    points = [MetricPoint("val/elbo", -99.0 - number % 7, 9, 1), MetricPoint("test/elbo", -100.0 - number % 7, 0, 1)]
    params = {"scale": run.params["scale"], "latent_dim": str(1 + number % 10)}
    return RunRecord(f"crowd/{number}", f"run {number}", params, tuple(points), run.tags, {}, 1, 2, "FINISHED")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def look(browser: Browser, tmp_path: Path) -> Iterator[Callable[[str, str], Page]]:
    """Opens a URL; a picture of what is seen at the end is kept under the name given."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page, names = context.new_page(), list[str]()

    def go(url: str, name: str) -> Page:
        names.append(name)
        page.goto(url)
        close_assistant(page)
        return page

    yield go
    Visit(page).keep(tmp_path, f"mlflow-{names[-1]}")
    context.close()


def close_assistant(page: Page) -> None:
    """A panel that MLflow opens once in every new browser."""
    expect(page.get_by_text("Model registry").first).to_be_visible()
    with suppress(Exception):
        page.get_by_role("button", name="Close", exact=True).first.click(timeout=3000)


def test_every_sweep_has_links_to_its_views(store: Store) -> None:
    titles = [title for title, _, _ in VIEWS.values()]
    assert list(store.links) == ["crowd", "small"]
    assert list(store.links["crowd"]) == [*titles, "all runs"]
    assert list(store.links["small"]) == ["report", *titles, "all runs"]


def test_runs_group_by_scale_and_latent_size(store: Store, look: Callable[[str, str], Page]) -> None:
    page = look(store.links["small"]["repeats by arm"], "repeats-by-arm")
    for scale in ("log_variance", "log_std"):
        for size in (2, 3):
            group = re.compile(rf"latent_dim: {size}, scale: {scale}|scale: {scale}, latent_dim: {size}")
            expect(page.get_by_text(group).first).to_be_visible()
    expect(page.get_by_text("16 matching runs")).to_be_visible()
    assert page.get_by_text("Error loading shared view").count() == 0
    expect(page.get_by_text("Does it matter?").first).to_be_visible()


def test_curves_by_arm(store: Store, look: Callable[[str, str], Page]) -> None:
    page = look(store.links["small"]["curves by arm"], "curves-by-arm")
    for metric in ("val/elbo", "test/elbo", "train/elbo"):
        page.mouse.move(1000, 600)
        for _ in range(10):  # what is out of sight is not there
            if page.get_by_text(metric, exact=True).count():
                break
            page.mouse.wheel(0, 300)
            page.wait_for_timeout(300)
        expect(page.get_by_text(metric, exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert page.locator("text=val/rate").count() == 0, "the view shows ELBOs only"


def test_image_grids_step(store: Store, look: Callable[[str, str], Page]) -> None:
    page = look(store.links["small"]["samples of every arm"], "pictures")
    pictures = page.locator("img[src*='samples']")
    expect(pictures).to_have_count(4)
    before = pictures.first.get_attribute("src") or ""
    assert "+step+9+" in unquote(before), before
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowLeft")
    expect(pictures.first).to_have_attribute("src", re.compile(r"step(\+|%2B)8(\+|%2B)"))
    slider.press("ArrowLeft")
    expect(pictures.first).to_have_attribute("src", re.compile(r"step(\+|%2B)4(\+|%2B)"))


def test_the_parent_links_to_the_report(store: Store, look: Callable[[str, str], Page]) -> None:
    experiment, parent = runs_of(store, "attributes.run_name = 'small'")
    page = look(f"{store.base}/#/experiments/{experiment}/runs/{parent[0]}?workflowType=machine_learning", "parent")
    expect(page.get_by_text("nats per image").first).to_be_visible()
    with page.context.expect_page() as opened:  # such links open a window of their own
        page.get_by_role("link", name="report.html").first.click()
    expect_report(opened.value)


def test_the_report_has_a_link(store: Store, look: Callable[[str, str], Page]) -> None:
    expect_report(look(store.links["small"]["report"], "report"))


def expect_report(page: Page) -> None:
    """The page inside MLflow's viewer of artifacts, its figures drawn."""
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_role("heading", level=1)).to_contain_text("Does it matter?")
    expect(frame.locator(".js-plotly-plot").first).to_be_visible()


def test_two_runs_compare_readably(store: Store, look: Callable[[str, str], Page]) -> None:
    experiment, runs = runs_of(store, "tags.phase = 'repeat' and tags.replicate = '0' and tags.number = '0'")
    query = {"runs": json.dumps(runs[:2]), "experiments": json.dumps([experiment])}
    page = look(f"{store.base}/#/compare-runs?{urlencode(query)}&workflowType=machine_learning", "two-runs")
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    expect(page.get_by_text("repeat 0.0").first).to_be_visible()


def test_a_thousand_runs(store: Store, look: Callable[[str, str], Page]) -> None:
    page = look(store.links["crowd"]["repeats by arm"], "a-thousand-runs")
    expect(page.get_by_text(re.compile(r"latent_dim: \d+")).first).to_be_visible()


def test_all_of_a_thousand_runs(store: Store, look: Callable[[str, str], Page]) -> None:
    page = look(store.links["crowd"]["all runs"], "all-of-a-thousand")
    expect(page.get_by_text(re.compile(r"\d+ matching runs"))).to_be_visible()


def runs_of(store: Store, condition: str) -> tuple[str, list[str]]:
    """Experiment id of the small sweep, and run ids that meet a condition."""
    named = ask(store, "experiments/get-by-name?experiment_name=small", None)
    experiment = str(named["experiment"]["experiment_id"])
    found = ask(store, "runs/search", {"experiment_ids": [experiment], "filter": condition})
    return experiment, [run["info"]["run_id"] for run in found["runs"]]


def ask(store: Store, path: str, body: dict[str, object] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{store.base}/api/2.0/mlflow/{path}", data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
