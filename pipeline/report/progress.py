"""What a person sees while a sweep runs: a live view in a terminal, plain lines elsewhere, or nothing.

Draws the snapshots it is given and estimates the time left. Knows no ledger, no executor and no study;
starts no thread: it draws when it is told something, at most four times a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..records import State, WorkerUse

STATE_STYLES: Mapping[str, str] = {
    State.WAITING: "dim",
    State.RUNNING: "bold",
    State.COMPLETE: "green",
    State.STOPPED: "cyan",
    State.DIVERGED: "yellow",
    State.FAILED: "red",
}
"""One colour for one meaning, here and in every table."""

REFRESH_SECONDS = 0.25
PLAIN_SECONDS = 5.0
WINDOW_SECONDS = 120.0
MAX_ROWS = 24


@dataclass(frozen=True, slots=True)
class ArmProgress:
    """One arm's trials of all phases."""

    label: str
    done: int
    """ended, however"""
    running: int
    stopped: int
    diverged: int
    failed: int
    total: int
    best: float | None
    """best validation value so far, nats per image"""


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """How a sweep stands."""

    sweep: str
    elapsed_seconds: float
    """since this command began"""
    rows: tuple[ArmProgress, ...]
    """in the study's order"""
    done: int
    total: int
    trials_per_minute: float
    seconds_left: float | None
    """None: nothing to judge by yet"""
    workers: int
    slots_busy: int
    slots: int | None = None
    """None: not known"""
    phases: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """phase -> trials ended, trials in all"""
    epochs: int = 0
    """epochs reported since this command began"""
    epochs_per_second: float = 0.0
    """of all trials together, since the first worker was there"""
    use: WorkerUse = field(default_factory=WorkerUse)
    """of all workers' time since the first was there"""
    steady_use: WorkerUse = field(default_factory=WorkerUse)
    """the part of it with all workers there and trials enough for all slots"""
    delivered: int | None = None
    """trials the tracker has got; None: there is no tracker"""
    note: str = ""
    """what holds things up, such as "tracker away"; empty when all is well"""


class Progress(Protocol):
    """Where a running sweep shows itself. `close` may be called twice; nothing is drawn after it."""

    def start(self, snapshot: ProgressSnapshot) -> None:
        """Shows the first snapshot."""

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Takes a newer snapshot; cheap enough for every event."""

    def message(self, text: str) -> None:
        """Prints a line that stays."""

    def close(self) -> None:
        """Shows the last snapshot for good and gives the terminal back."""


def make_progress(console: Console, quiet: bool = False) -> Progress:
    """Live in a terminal, plain lines into a file or pipe, nothing when `quiet`."""
    if quiet:
        return SilentProgress()
    return LiveProgress(console) if console.is_terminal and not console.is_dumb_terminal else PlainProgress(console)


class SilentProgress:
    """The null twin."""

    def start(self, snapshot: ProgressSnapshot) -> None:
        """Nothing."""

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainProgress:
    """One line every five seconds, at each change of phase and at the end."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._last: ProgressSnapshot | None = None
        self._printed: ProgressSnapshot | None = None
        self._printed_at = -math.inf

    def start(self, snapshot: ProgressSnapshot) -> None:
        """Prints the first line."""
        self._last = snapshot
        self._print()

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Prints a line when one is due."""
        changed = self._last is None or _stages(snapshot) != _stages(self._last)
        self._last = snapshot
        if changed or self._clock() - self._printed_at >= PLAIN_SECONDS:
            self._print()

    def message(self, text: str) -> None:
        """Prints a line of its own."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Prints what has not been printed."""
        if self._last is not self._printed:
            self._print()

    def _print(self) -> None:
        if self._last is not None:
            self.message(plain_line(self._last))
        self._printed = self._last
        self._printed_at = self._clock()


class LiveProgress:
    """A table that is redrawn in place and leaves one line behind."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._last: ProgressSnapshot | None = None
        self._drawn_at = -math.inf

    def start(self, snapshot: ProgressSnapshot) -> None:
        """Takes the lower end of the terminal."""
        self._last = snapshot
        self._live = Live(
            live_view(snapshot, *self._console.size),
            console=self._console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)
        self._drawn_at = self._clock()

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Redraws when the last drawing is a quarter of a second old."""
        self._last = snapshot
        if self._live is not None and self._clock() - self._drawn_at >= REFRESH_SECONDS:
            self._live.update(live_view(snapshot, *self._console.size), refresh=True)
            self._drawn_at = self._clock()

    def message(self, text: str) -> None:
        """Prints a line above the table."""
        self._console.print(Text(text))

    def close(self) -> None:
        """Removes the table and prints the last line."""
        live, self._live = self._live, None
        if live is not None and self._last is not None:
            live.stop()
            self._console.print(Text(plain_line(self._last)), soft_wrap=True)


def _stages(snapshot: ProgressSnapshot) -> list[tuple[str, bool, bool]]:
    """Which phases have begun and which are over."""
    return [(name, done > 0, done >= total) for name, (done, total) in snapshot.phases.items()]


# ------------------------------------------------------------------------------------------ drawing


def plain_line(snapshot: ProgressSnapshot) -> str:
    """`which-sigma  96/288 trials · search 96/180 · 41 trials/min · 4 min 41 s left`."""
    phases = [f"{name} {done}/{total}" for name, (done, total) in snapshot.phases.items() if 0 < done < total]
    running = sum(row.running for row in snapshot.rows)
    working = [f"{running} running", f"{snapshot.epochs} epochs"] if running and snapshot.done < snapshot.total else []
    parts = [f"{snapshot.done}/{snapshot.total} trials", *phases, *working, *_losses(snapshot), *_pace(snapshot)]
    return f"{snapshot.sweep}  {' · '.join(parts)}" + (f" · {snapshot.note}" if snapshot.note else "")


def _losses(snapshot: ProgressSnapshot) -> list[str]:
    counts = {name: sum(getattr(row, name) for row in snapshot.rows) for name in ("diverged", "failed")}
    return [f"{count} {name}" for name, count in counts.items() if count]


def _pace(snapshot: ProgressSnapshot) -> list[str]:
    if snapshot.done >= snapshot.total:
        return [f"took {duration(snapshot.elapsed_seconds)}", *_use(snapshot)]
    left = "" if snapshot.seconds_left is None else f"{duration(snapshot.seconds_left)} left"
    rate = f"{snapshot.trials_per_minute:.3g} trials/min" if snapshot.trials_per_minute > 0 else ""
    return [part for part in (rate, left) if part]


def _use(snapshot: ProgressSnapshot) -> list[str]:
    """How well the workers were used: `238 epochs/s`, `slots 96% occupied`, `91% of the time in training steps`."""
    if not snapshot.use.seconds:
        return []
    return [
        f"{snapshot.epochs_per_second:.3g} epochs/s",
        f"slots {snapshot.use.occupancy:.0%} occupied",
        f"{snapshot.use.step_share:.0%} of the time in training steps",
    ]


def live_view(snapshot: ProgressSnapshot, width: int = 100, height: int = 40) -> RenderableType:
    """The view for a terminal of that many columns and lines: sweep, arms, what works on them."""
    rows, rest = _shown(snapshot.rows, max(1, min(MAX_ROWS, height - 9)))
    arms = _arms_table(rows, bar_width=10 if width < 100 else 20)
    return Group(_head(snapshot), Text(), arms, Text(rest, "dim"), _foot(snapshot))


def _head(snapshot: ProgressSnapshot) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.expand = True
    grid.add_row(
        Text.assemble((snapshot.sweep, "bold"), (f"  {duration(snapshot.elapsed_seconds)}", "dim")),
        Text.assemble(
            _bar(snapshot.done, 0, snapshot.total, 24), f" {snapshot.done}/{snapshot.total}", (_left(snapshot), "bold")
        ),
    )
    return grid


def _left(snapshot: ProgressSnapshot) -> str:
    return "" if snapshot.seconds_left is None else f"  {duration(snapshot.seconds_left)} left"


def _arms_table(rows: Sequence[ArmProgress], bar_width: int) -> Table:
    counted = [name for name in ("stopped", "diverged", "failed") if any(getattr(row, name) for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("arm")  # the only one that may shrink
    table.add_column("", no_wrap=True)
    for title in ("done", "running", *counted, "best"):
        table.add_column(title, justify="right", no_wrap=True)
    best = max((row.best for row in rows if row.best is not None), default=None)
    for row in rows:
        counts = [(str(getattr(row, name) or "·"), name, getattr(row, name)) for name in counted]
        table.add_row(
            Text(row.label, "" if row.running else "dim", no_wrap=True, overflow="ellipsis"),
            _bar(row.done, row.running, row.total, bar_width),
            Text(f"{row.done}/{row.total}"),
            Text(str(row.running or "·"), "" if row.running else "dim"),
            *(Text(text, STATE_STYLES[name] if count else "dim") for text, name, count in counts),
            Text("—" if row.best is None else f"{row.best:.2f}", "bold" if row.best == best is not None else ""),
        )
    return table


def _shown(rows: Sequence[ArmProgress], limit: int) -> tuple[list[ArmProgress], str]:
    """The rows there is room for, in the study's order, and a line on the others.

    Arms at work come first, then waiting ones, then finished ones.
    """
    if len(rows) <= limit:
        return list(rows), ""
    ranks = [0 if row.running else 2 if row.done >= row.total else 1 for row in rows]
    kept = sorted(sorted(range(len(rows)), key=lambda i: (ranks[i], i))[: limit - 1])
    hidden = [ranks[i] for i in range(len(rows)) if i not in set(kept)]
    words = [(hidden.count(2), "done"), (hidden.count(0), "running"), (hidden.count(1), "waiting")]
    return [rows[i] for i in kept], "… and " + ", ".join(f"{count} {word}" for count, word in words if count)


def _bar(done: int, running: int, total: int, width: int) -> Text:
    """Ended trials solid, running ones lighter, the rest a thin line."""
    solid = width * min(done, total) // max(total, 1)
    lighter = min(width - solid, -(-width * running // max(total, 1)))
    return Text.assemble(
        ("━" * solid, "green"), ("━" * lighter, "cyan"), ("─" * (width - solid - lighter), "bright_black")
    )


def _foot(snapshot: ProgressSnapshot) -> Text:
    busy = str(snapshot.slots_busy) if snapshot.slots is None else f"{snapshot.slots_busy}/{snapshot.slots}"
    parts = [f"{name} {done}/{total}" for name, (done, total) in snapshot.phases.items() if total]
    lines = [" · ".join(parts)] if parts else []
    work = [f"{snapshot.workers} worker{'' if snapshot.workers == 1 else 's'}", f"{busy} slots busy"]
    if snapshot.trials_per_minute > 0:
        work.append(f"{snapshot.trials_per_minute:.3g} trials/min")
    if snapshot.delivered is not None:
        work.append(f"{snapshot.delivered}/{snapshot.done} delivered")
    lines += [" · ".join(part) for part in (work, _use(snapshot)) if part]
    text = Text("\n".join(lines), "dim")
    return text.append(f"\n{snapshot.note}", "yellow") if snapshot.note else text


# ------------------------------------------------------------------------------------------ time


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def trials_per_minute(
    ended_at: Sequence[float], *, started_at: float, now: float, window_seconds: float = WINDOW_SECONDS
) -> float:
    """Pace of the last `window_seconds`; of the whole run where the window holds no end.

    `ended_at`: times (seconds, any clock) at which this run's trials ended, of which those since
    `started_at` count; 0 while there is none.
    """
    for begin in (max(started_at, now - window_seconds), started_at):
        count = sum(begin < moment <= now for moment in ended_at)
        if count and now > begin:
            return 60 * count / (now - begin)
    return 0.0


def time_left(
    ended_at: Sequence[float],
    *,
    remaining: int,
    started_at: float,
    now: float,
    window_seconds: float = WINDOW_SECONDS,
) -> float | None:
    """Seconds until `remaining` trials have ended at the present pace; None before the first has."""
    if remaining <= 0:
        return 0.0
    pace = trials_per_minute(ended_at, started_at=started_at, now=now, window_seconds=window_seconds)
    return 60 * remaining / pace if pace else None


if TYPE_CHECKING:
    _live: Progress = LiveProgress(Console())
    _plain: Progress = PlainProgress(Console())
    _silent: Progress = SilentProgress()
