"""The report page: its answers, its evidence, that it harms nobody and needs nothing, and how it looks in a browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.analysis import analyse
from pipeline.analysis.shapes import SearchPoint
from pipeline.comparison import Comparison
from pipeline.launch.sweeping import run
from pipeline.launch.where import Where, open_ledger
from pipeline.paths import WorkPaths
from pipeline.records import Phase
from pipeline.report import drawing, figures, page_answer
from pipeline.report.final import final_files
from pipeline.report.page import report_page
from pipeline.report.page_parts import Answer, number, typeset
from pipeline.report.panels import panels, spelled, styles, visible
from pipeline.report.progress import SilentProgress
from pipeline.results import Results, load_results

from .browser import chromium, visit
from .sweeps import having, read, run_here, study_file, vae_sweep_here
from .test_report import MIXED, Table, compared, row

QUESTION = 'Is <script>hacked=1</script> & σ² "better" than <img src=x onerror=hacked=1>?'
WHICH_SIGMA = Path(__file__).parent.parent / "configs" / "which_sigma.yaml"
SHORT = (
    "train.epochs=3", "search.trials=4", "search.startup=2", "search.lag=2", "search.replicates=2",
    "confirm.candidates=1", "confirm.repeats=2",
)  # fmt: skip
MOST_BYTES = 5_000_000


class Outline(HTMLParser):
    """What a page consists of, as a program without eyes finds it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[str, str]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._inside: list[str] = []
        self._script = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags[tag] += 1
        self.attributes.append((tag, found))
        self._inside.append(tag)
        if tag == "script":
            self._script = found.get("id") or "main"
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
            return
        if inside in ("h1", "h2", "h3"):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if inside != "style":
            self.text += " " + " ".join(data.split())


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, WorkPaths]:
    """A real sweep whose question is an attack."""
    folder = tmp_path_factory.mktemp("page")
    nuisance = {"beta_warmup_epochs": {"low": 0, "high": 2}}
    file = study_file(folder, nuisance=nuisance, question=QUESTION)
    return run_here(file, folder / "work", slots=16), WorkPaths.at(folder / "work")


@pytest.fixture(scope="module")
def page(swept: tuple[Results, WorkPaths]) -> str:
    return report_page(*swept)


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


def relabelled(comparison: Comparison, label: str) -> Comparison:
    """The comparison with one compared level called otherwise."""
    old = comparison.arms[-1].values["scale"]

    def renamed(values: Any) -> dict[str, Any]:
        return {name: label if value == old else value for name, value in values.items()}

    return replace(
        comparison,
        arms=tuple(replace(arm, values=renamed(arm.values)) for arm in comparison.arms),
        pairs=tuple(replace(pair, level=renamed(pair.level)) for pair in comparison.pairs),
    )


class TestContent:
    def test_question_then_answers_then_evidence(self, outline: Outline) -> None:
        levels = [text for level, text in outline.headings if level != "h3"]
        assert levels == [
            QUESTION,
            "Which is best?",
            "Does it matter?",
            "What do I run now?",
            "Differences from log_variance",
            "All arms",
            "Divergence",
            "Tuning curves",
            "Sensitivity to what was tuned",
            "Learning curves",
            "Rate and distortion",
            "What the models learned",
            "Posterior σ",
            "Spread and optimism",
            "Samples side by side",
            "Budget",
            "How to reproduce",
        ]
        links = {found["href"] for tag, found in outline.attributes if tag == "a"}
        assert links == {f"#{found['id']}" for tag, found in outline.attributes if tag == "section"}

    def test_the_answer_names_the_pick_and_its_command(
        self, swept: tuple[Results, WorkPaths], outline: Outline
    ) -> None:
        pick = swept[0].pick()
        head = outline.text.split("Every arm minus")[0]
        assert all(f"{name}={value}" in head for name, value in pick.values.items())
        assert "vae-sweep best small --export best.yaml" in head and "vae-sweep train best.yaml" in head
        assert str(pick.seed) in head  # best.yaml itself

    def test_every_chart_has_words_and_a_table(self, page: str, outline: Outline) -> None:
        charts = [found for _, found in outline.attributes if "data-chart" in found]
        assert len(charts) >= 20
        for chart in charts:
            assert chart["role"] == "img" and len(chart["aria-label"] or "") > 20
            figure = json.loads(outline.scripts[f"{chart['id']}-data"])
            assert figure["data"] or chart["id"], chart["id"]
        assert any(json.loads(outline.scripts[f"{chart['id']}-data"])["data"] for chart in charts)
        for section in re.findall(r"<section.*?</section>", page, re.DOTALL):
            assert "data-chart" not in section or "<table>" in section
            assert re.search(r'class="reading">[^<]{20}', section)
        assert "<noscript>" in page

    def test_pictures_are_inside_and_described(self, outline: Outline) -> None:
        images = [found for tag, found in outline.attributes if tag == "img"]
        assert len(images) == 3 * 4  # raw_variance has no converged repeat
        assert all((one["src"] or "").startswith("data:image/png;base64,") and one["alt"] for one in images)
        assert outline.text.count("no converged repeat") == 3 * 2

    def test_what_the_models_learned(self, swept: tuple[Results, WorkPaths]) -> None:
        results, paths = swept
        section = re.split(r"<section|</section>", report_page(*swept).split('id="learned"')[1])[0]
        assert "importance-weighted bound lies" in section and "mutual information" in section
        assert "Mutual information gap" not in section and ">MIG<" not in section
        codes = {2: 0.25, 3: 0.5}

        def with_a_gap(record: Any) -> Any:
            if record.outcome is None or "test/elbo" not in record.outcome.metrics:
                return record
            size = results.arm(record.key.arm).values["latent_dim"]
            assert isinstance(size, int)
            gap = codes[size] + 0.01 * record.key.replicate
            return replace(record, outcome=replace(record.outcome, metrics={**record.outcome.metrics, "test/mig": gap}))

        page = report_page(having(results, [with_a_gap(record) for record in results.records]), paths)
        figure = json.loads(Outline(page).scripts["learned-latent_dim-0-data"])
        assert figure["layout"]["yaxis"]["title"]["text"] == "test/mig"
        lines = [trace for trace in figure["data"] if trace["mode"] == "lines+markers"]
        points = [trace for trace in figure["data"] if trace["mode"] == "markers"]
        assert {line["name"] for line in lines} == {"scale=log_variance", "scale=log_std"}
        assert [round(y, 9) for y in lines[0]["y"]] == [0.255, 0.505] and lines[0]["error_y"]["array"][0] > 0
        assert [round(y, 9) for y in points[0]["y"]] == [0.25, 0.26, 0.5, 0.51]
        assert "mutual information gap goes from 0.26 (" in page

    def test_the_terminal_prints_them_when_asked(self, swept: tuple[Results, WorkPaths]) -> None:
        words = ("compare", "small", "--workdir", swept[1].workdir)
        plain, asked = vae_sweep_here(*words), vae_sweep_here(*words, "--metrics")
        assert plain[0] == asked[0] == 0 and asked[1].startswith(plain[1])
        assert "total" in asked[1][len(plain[1]) :] and "Fréchet (PCA)" in asked[1] and "Fréchet (PCA)" not in plain[1]
        assert vae_sweep_here(*words, "--metrics", "--against", "small")[0] == 2

    def test_how_to_reproduce(self, swept: tuple[Results, WorkPaths], outline: Outline) -> None:
        results = swept[0]
        data = json.loads(results.sweep.study)["data"]
        tail = outline.text.split("How to reproduce")[-1]
        assert results.sweep.study_hash in tail and data["sha256"] in tail
        assert all(value in tail for value in (results.sweep.fingerprint or {}).values())
        assert "equivalence_margin_nats: 0.5" in tail

    def test_a_sweep_that_has_barely_begun(self, swept: tuple[Results, WorkPaths]) -> None:
        results, paths = swept
        for some in ((), [r for r in results.records if r.key.phase is Phase.SEARCH][:7]):
            text = Outline(report_page(having(results, some), paths)).text
            assert "Provisional: 24 repeats still to come" in text and "Not known yet" in text

    def test_a_sweep_without_files_that_is_not_reproducible_says_so(
        self, swept: tuple[Results, WorkPaths], tmp_path: Path
    ) -> None:
        results = replace(swept[0], sweep=replace(swept[0].sweep, reproducible=False))
        text = Outline(report_page(results, WorkPaths.at(tmp_path), analyse(swept[0]))).text
        assert text.index("Not reproducible") < text.index("Which is best?") and "byte for byte" not in text
        assert text.count("the file is missing") == 3 * 4 and "no histogram of σ" in text


class TestSafety:
    def test_what_users_write_stays_text(self, swept: tuple[Results, WorkPaths], page: str, outline: Outline) -> None:
        results, paths = swept
        hostile = relabelled(results.comparison, "</script><script>hacked=1</script>")
        attacked = report_page(replace(results, comparison=hostile), paths, analyse(results))
        for text in (page, attacked):
            found = Outline(text)
            charts = sum("data-chart" in attributes for _, attributes in found.attributes)
            assert found.tags["script"] == charts + 2
            assert not any(name.startswith("on") for _, attributes in found.attributes for name in attributes)
        assert QUESTION in outline.text

    def test_nothing_comes_from_elsewhere(self, page: str, outline: Outline) -> None:
        rest = page.replace(outline.scripts["plotly"], "")
        assert not re.search(r"https?://|@import|url\(", rest.replace("http://www.w3.org/2000/svg", ""))
        assert outline.tags["link"] == outline.tags["iframe"] == 0
        addresses = [found.get("src") or found.get("href") or "" for _, found in outline.attributes]
        assert all(address.startswith(("data:", "#")) for address in addresses if address)

    def test_only_our_two_scripts_may_run(self, outline: Outline) -> None:
        policy = next(found["content"] or "" for _, found in outline.attributes if "http-equiv" in found)
        plotly = gzip.decompress(base64.b64decode(outline.scripts["plotly"])).decode()
        assert plotly == drawing.plotly_source()
        digests = {base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
                   for code in (plotly, outline.scripts["main"])}  # fmt: skip
        assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests
        assert "default-src 'none'" in policy

    def test_the_same_results_give_the_same_bytes_anywhere(
        self, swept: tuple[Results, WorkPaths], page: str, tmp_path: Path
    ) -> None:
        paths = swept[1]
        elsewhere = tmp_path / "other"
        shutil.copytree(paths.workdir, elsewhere)
        assert report_page(read(elsewhere), WorkPaths.at(elsewhere)) == page
        assert len(page.encode()) < MOST_BYTES
        assert str(paths.workdir) not in page


class TestDelivery:
    def test_the_parent_run_ends_with_the_page(self, swept: tuple[Results, WorkPaths], page: str) -> None:
        _, paths = swept
        with open_ledger(Where(paths)) as ledger:
            files = final_files(load_results(ledger, "small"), paths)
        assert (
            files.keys() == {"compare.json", "compare.txt", "report.html", "summary.md"}
            and files["report.html"] == page
        )

    def test_a_page_that_cannot_be_made_does_not_stop_the_delivery(
        self, swept: tuple[Results, WorkPaths], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(*_: object) -> str:
            raise ValueError("a picture\nis broken")

        monkeypatch.setattr("pipeline.report.page.report_page", broken)
        _, paths = swept
        with open_ledger(Where(paths)) as ledger:
            assert final_files(load_results(ledger, "small"), paths).keys() == {
                "compare.json",
                "compare.txt",
                "summary.md",
            }
        assert capsys.readouterr().err == "report.html is left out: ValueError: a picture is broken\n"

    def test_compare_writes_it(
        self, swept: tuple[Results, WorkPaths], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workdir = ("--workdir", swept[1].workdir)
        code, out, _ = vae_sweep_here("compare", "small", "--html", tmp_path / "new" / "report.html", *workdir)
        assert code == 0 and out.rstrip().endswith(f"report: {tmp_path / 'new' / 'report.html'}")
        assert (tmp_path / "new" / "report.html").read_text() == page
        monkeypatch.setattr("pipeline.report.page.report_page", lambda *_: page)  # one that is made takes seconds
        assert vae_sweep_here("compare", "small", "--html", "-", *workdir)[1] == page
        (tmp_path / "file").touch()
        code, out, err = vae_sweep_here("compare", "small", "--html", tmp_path / "file" / "report.html", *workdir)
        assert code == 2 and not out and "--html must name a file that can be written" in err
        code, out, err = vae_sweep_here("compare", "small", "--html", "", *workdir)
        assert code == 2 and not out and "it is a folder" in err


def matters(table: Table, **options: Any) -> Answer:
    return page_answer._matters(compared(table, **options))


class TestAnswers:
    def test_yes_names_the_levels_and_the_largest_difference(self) -> None:
        answer = matters(MIXED)
        assert answer.headline == "Yes, for log_std and raw_variance; 1 of 6 comparisons are not settled"
        assert answer.lines[0] == (
            "Largest difference shown: raw_variance at latent_dim=8 against log_variance, −10.0 nats [−10.4, −9.6]; "
            "20 times the margin of 0.5 nats."
        )
        assert {item.name: item.text for item in answer.items}["log_std"] == (
            "better at latent_dim=8; not settled at latent_dim=2 (+0.10 to +1.30 nats)"
        )

    def test_no_only_where_every_difference_is_shown_to_be_small(self) -> None:
        small: Table = {("a", 2): row(-110), ("b", 2): row(-110.01, spread=0.12)}
        assert matters(small).headline == "No: every difference is shown to be below 0.5 nats"
        assert matters(small, margin=0.005).headline.startswith("Not settled")

    def test_better_inside_the_margin_does_not_matter(self) -> None:
        answer = matters({("a", 2): row(-110), ("b", 2): row(-109.9, spread=0.11)})
        assert answer.headline.startswith("No") and "but by less than the margin" in answer.items[0].text

    def test_numbers_are_told_what_of(self) -> None:
        assert spelled({"scale": "log_std"}) == "log_std" and spelled({"latent_dim": 8}) == "latent_dim=8"
        assert spelled({"scale": "log_std", "latent_dim": 8}) == "scale=log_std, latent_dim=8"

    def test_one_arm(self) -> None:
        assert matters({("a", 2): row(-110)}).headline == "There is nothing to compare"


class TestFigures:
    def test_levels_look_different_in_colour_and_without(self) -> None:
        looks = list(styles(compared({(name, 2): row(-110) for name in "abcdefg"})).values())
        for part in ("colour", "dash", "symbol"):
            assert len({getattr(look, part) for look in looks}) == len(looks)

    def test_one_panel_a_context(self) -> None:
        comparison = compared(MIXED)
        assert [panel.title for panel in panels(comparison)] == ["latent_dim=2", "latent_dim=8"]
        assert [panel.title for panel in panels(comparison, {"latent_dim": 8})] == ["latent_dim=8"]
        both, one = figures.differences(comparison), figures.differences(comparison, only={"latent_dim": 8})
        assert [note.text for note in both.layout.annotations] == ["latent_dim=2", "latent_dim=8"]
        assert not one.layout.annotations

    def test_differences_have_the_margin_and_keep_far_arms_on_the_edge(self) -> None:
        figure = figures.differences(compared(MIXED), only={"latent_dim": 8})
        assert {(shape.x0, shape.x1) for shape in figure.layout.shapes} >= {(-0.5, 0.5)}
        by_name = {trace.name: trace for trace in figure.data}
        assert by_name["raw_variance"].text == (" −10.0 ",) and by_name["raw_variance"].x[0] > -10
        assert by_name["log_std"].x[0] == pytest.approx(1.3)

    def test_sensitivity_takes_names_numbers_and_decades(self) -> None:
        comparison = compared({("a", 2): row(-110)})
        arm = comparison.arms[0].id
        points = [
            SearchPoint(arm, 0, i, {"optimizer": name, "hidden": (8 * i, 8), "learning_rate": 10.0**-i}, value, True)
            for i, (name, value) in enumerate([("adam", -110.0), ("sgd", -120.0), ("adam", None)], 1)
        ]
        names = figures.sensitivity(comparison, points, "optimizer")
        assert names.layout.xaxis.ticktext == ("adam", "sgd") and list(names.data[0].x) == [0.0, 1.0, 0.0]
        assert names.data[0].marker.symbol[2] == "x-thin" and names.data[0].y[2] < -120
        assert figures.sensitivity(comparison, points, "hidden").layout.xaxis.ticktext == ("8-8", "16-8", "24-8")
        assert figures.sensitivity(comparison, points, "learning_rate").layout.xaxis.type == "log"

    def test_names_in_figures_are_text(self) -> None:
        comparison = relabelled(compared(MIXED), "<a href='x'>b</a>")
        assert "&lt;a href" in str(figures.arm_means(comparison).to_json())

    def test_ranges_leave_out_what_would_flatten_the_rest(self) -> None:
        assert visible([-110, -111, -112, -113, -9000], top=True)[0] > -130
        assert visible([]) == (0.0, 1.0) and visible([5.0, 5.0]) == (4.5, 5.5)

    def test_numbers(self) -> None:
        assert [number(value) for value in (-1.005, None, float("inf"), -0.001)] == ["−1.00", "—", "∞", "0.00"]
        assert typeset("val/elbo (-99.1 nats) a-1 1e-3, -5") == "val/elbo (−99.1 nats) a-1 1e-3, −5"


# ------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def short_which_sigma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of the project's own question, 18 arms, trained briefly."""
    folder = tmp_path_factory.mktemp("which")
    where = Where(WorkPaths.at(folder / "work"), executor="inline", tracking="none", slots=32)
    report = run(WHICH_SIGMA, list(SHORT), where, SilentProgress())
    file = folder / "report.html"
    file.write_text(report_page(report.results, where.paths))
    yield file


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_in_chromium(short_which_sigma: Path, width: int, tmp_path: Path) -> None:
    assert short_which_sigma.stat().st_size < MOST_BYTES
    with chromium() as browser, visit(browser, short_which_sigma, width) as seen:
        seen.page.wait_for_selector("body[data-drawn=yes]", timeout=120_000)
        undrawn = "charts => charts.filter(one => !one.querySelector('svg.main-svg')).map(one => one.id)"
        assert seen.page.eval_on_selector_all("[data-chart]", undrawn) == []
        wide = "charts => charts.filter(one => one.scrollWidth > one.clientWidth).map(one => one.id)"
        assert seen.page.eval_on_selector_all("[data-chart]", wide) == []
        assert seen.overflow() <= 0
        assert seen.violations() == []
        seen.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert seen.overflow() <= 0
        assert seen.violations() == []
        assert seen.keep(tmp_path, f"report-{width}").stat().st_size > 10_000
    assert seen.requests == [] and seen.complaints == []


@pytest.mark.slow
def test_in_chromium_without_scripts(short_which_sigma: Path) -> None:
    with chromium() as browser, visit(browser, short_which_sigma, 390, java_script_enabled=False) as seen:
        words = seen.page.locator("noscript")
        assert "No charts:" in words.inner_text() and words.bounding_box() is not None


@pytest.mark.slow
def test_an_attack_in_chromium(swept: tuple[Results, WorkPaths], tmp_path: Path) -> None:
    results, paths = swept
    hostile = relabelled(results.comparison, "<img src=x onerror=hacked=1></script><script>hacked=1</script>")
    file = tmp_path / "attacked.html"
    file.write_text(report_page(replace(results, comparison=hostile), paths, analyse(results)))
    with chromium() as browser, visit(browser, file, 1440) as seen:
        seen.page.wait_for_selector("body[data-drawn=yes]", timeout=120_000)
        assert seen.page.evaluate("typeof hacked") == "undefined"
        assert "onerror=hacked" in seen.page.inner_text("body")
    assert seen.requests == [] and seen.complaints == []
