"""Progress: one contract for all three ways to show it, and what each draws."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.report.progress import (
    MAX_ROWS,
    ArmProgress,
    LiveProgress,
    PlainProgress,
    Progress,
    ProgressSnapshot,
    SilentProgress,
    duration,
    live_view,
    make_progress,
    plain_line,
    time_left,
    trials_per_minute,
)


def snapshot(done: int = 5, arms: int = 2, *, label: str = "scale=log_std latent_dim={}") -> ProgressSnapshot:
    rows = tuple(ArmProgress(label.format(i), done, 3, 0, int(i == 1), 0, 20, -110.0 - i) for i in range(arms))
    return ProgressSnapshot(
        sweep="which-sigma",
        elapsed_seconds=83.0,
        rows=rows,
        done=done * arms,
        total=20 * arms,
        trials_per_minute=41.25,
        seconds_left=200.0,
        workers=4,
        slots_busy=6,
        phases={"search": (done * arms, 16 * arms), "repeat": (0, 4 * arms)},
        delivered=3,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 100, height: int = 30) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(view: ProgressSnapshot, width: int, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(live_view(view, width, height))
    return written(console).splitlines()


MAKERS: list[Callable[[Console, Clock], Progress]] = [
    LiveProgress,
    PlainProgress,
    lambda console, clock: SilentProgress(),
]


@pytest.mark.parametrize("make", MAKERS, ids=["live", "plain", "silent"])
class TestContract:
    def test_a_whole_run(self, make: Callable[[Console, Clock], Progress]) -> None:
        console, clock = terminal(), Clock()
        shown = make(console, clock)
        shown.start(snapshot(0))
        for done in range(1, 21):
            clock.now += 1
            shown.update(snapshot(done))
        shown.message("worker w1 lost, its trials start again [0/3]")
        shown.close()
        text = written(console)
        silent = isinstance(shown, SilentProgress)
        assert (text == "") == silent
        assert silent or ("its trials start again [0/3]" in text and "40/40 trials" in text.splitlines()[-1])

    def test_closing_twice_or_early_is_harmless(self, make: Callable[[Console, Clock], Progress]) -> None:
        console = terminal()
        shown = make(console, Clock())
        shown.close()
        assert written(console) == ""
        shown.start(snapshot())
        shown.close()
        once = written(console)
        shown.close()
        assert written(console) == once

    def test_an_empty_sweep(self, make: Callable[[Console, Clock], Progress]) -> None:
        shown = make(terminal(), Clock())
        shown.start(ProgressSnapshot("empty", 0.0, (), 0, 0, 0.0, None, 0, 0))
        shown.close()


class TestLive:
    def test_at_most_four_drawings_a_second(self) -> None:
        console, clock = terminal(), Clock()
        shown = LiveProgress(console, clock)
        shown.start(snapshot(0))
        for i in range(1000):
            clock.now = 1000 + i / 1000
            shown.update(snapshot(i % 20))
        assert written(console).count("which-sigma") <= 4
        shown.close()

    def test_one_line_stays(self) -> None:
        console = terminal()
        shown = LiveProgress(console)
        shown.start(snapshot())
        shown.close()
        assert written(console).rstrip().splitlines()[-1].endswith(plain_line(snapshot()))

    @pytest.mark.parametrize("width", [60, 80, 120])
    @pytest.mark.parametrize("arms", [1, 12, 40])
    @pytest.mark.parametrize("height", [12, 24, 60])
    def test_fits_the_terminal(self, width: int, arms: int, height: int) -> None:
        view = replace(snapshot(arms=arms, label="scale=softplus_std network=conv hidden=128-64 n={}"), note="away")
        lines = drawn(view, width, height)
        assert len(lines) < height and max(map(len, lines)) <= width
        row = next(line for line in lines if "scale=" in line)
        assert "5/20" in row and "-110.00" in row, "only the label may be cut"

    def test_many_arms_are_summed_up_working_ones_shown(self) -> None:
        view = snapshot(arms=60)
        rows = [replace(row, running=0, done=20 if i < 30 else 0) for i, row in enumerate(view.rows)]
        rows[50] = replace(rows[50], running=2)
        text = "\n".join(drawn(replace(view, rows=tuple(rows)), 100, 100))
        assert "latent_dim=50 " in text and text.count("latent_dim=") == MAX_ROWS - 1
        assert "… and 30 done, 7 waiting" in text

    def test_shows_what_matters(self) -> None:
        text = "\n".join(drawn(replace(snapshot(), slots=8, note="tracker away"), 100))
        for words in ("1 min 23 s", "3 min 20 s left", "10/40", "4 workers · 6/8 slots busy", "41.2 trials/min"):
            assert words in text
        assert "3/10 delivered" in text and "tracker away" in text and "diverged" in text
        assert "failed" not in text and "stopped" not in text


class TestPlain:
    def test_every_five_seconds_and_at_each_phase(self) -> None:
        console, clock = terminal(200), Clock()
        shown = PlainProgress(console, clock)
        shown.start(snapshot(0))
        for _ in range(10):
            clock.now += 1
            shown.update(snapshot(5))
        assert len(written(console).splitlines()) == 3, "start, the search's beginning, five seconds later"
        shown.update(replace(snapshot(16), phases={"search": (32, 32), "repeat": (0, 8)}))
        assert len(written(console).splitlines()) == 4
        shown.close()
        assert len(written(console).splitlines()) == 4, "nothing new, nothing printed"

    def test_line(self) -> None:
        assert plain_line(replace(snapshot(), epochs=7)) == (
            "which-sigma  10/40 trials · search 10/32 · 6 running · 7 epochs · 1 diverged · 41.2 trials/min · "
            "3 min 20 s left"
        )
        assert plain_line(replace(snapshot(20), note="x")).endswith("1 diverged · took 1 min 23 s · x")


def test_make_progress() -> None:
    assert isinstance(make_progress(terminal()), LiveProgress)
    assert isinstance(make_progress(Console(file=io.StringIO())), PlainProgress)
    assert isinstance(make_progress(terminal(), quiet=True), SilentProgress)


def test_time_left() -> None:
    ends = [float(i) for i in range(10, 310, 10)]  # one in ten seconds, from 0 to 300
    assert trials_per_minute(ends, started_at=0.0, now=300.0) == pytest.approx(6.0)
    assert time_left(ends, remaining=12, started_at=0.0, now=300.0) == pytest.approx(120.0)
    slow_then_fast = [100.0, 200.0, *(300.0 + i for i in range(1, 61))]
    assert trials_per_minute(slow_then_fast, started_at=0.0, now=360.0, window_seconds=60) == pytest.approx(60.0)
    assert trials_per_minute([30.0], started_at=0.0, now=600.0) == pytest.approx(0.1), "an empty window: the whole run"
    assert trials_per_minute([30.0], started_at=50.0, now=600.0) == 0.0, "before this run began"
    assert time_left([], remaining=5, started_at=0.0, now=10.0) is None
    assert time_left(ends, remaining=0, started_at=0.0, now=300.0) == 0.0


def test_duration() -> None:
    seconds = [0, 59.4, 60, 200, 3599.6, 7500, 273600]
    expected = ["0 s", "59 s", "1 min 00 s", "3 min 20 s", "1 h 00 min", "2 h 05 min", "3 d 4 h"]
    assert [duration(value) for value in seconds] == expected
