"""Delivering: once, behind the training, whatever happens to this process or to the tracker.

An item is marked begun before the tracker hears of it and done when it is complete there; what is begun and not done is
delivered "in doubt". What an extension has superseded is stale: the tracker loses it before it gets the item anew.
First of all, what was done and is not there as it was (check.py) is begun again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..errors import LeaseHeldError, TrackerAway, TrackerError
from ..ledger.schema import Holder, Role, SweepRecord
from ..tracking.base import RunRecord, SweepEnd, SweepRun, Tracker
from .check import undone
from .records import PARENT, STATUS, Subject, parent_status, run_record, spelled, sweep_of, sweep_run, to_ms

if TYPE_CHECKING:
    from ..ledger.store import Ledger

Clock = Callable[[], float]

_BATCH = 20
_HEARTBEAT_SECONDS = 5.0
_BACK_OFF_SECONDS = (1.0, 30.0)
_SIGN_OF_LIFE_SECONDS = 30.0
"""how often the tracker is told that the driver lives"""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """How a round of delivery went."""

    delivered: int
    remaining: int
    """ended trials that the tracker has not got, refused ones included"""
    away: str | None = None
    """why the tracker could not be reached"""
    refused: Mapping[str, str] = field(default_factory=dict)
    """item -> why the tracker would not have it"""
    extended: bool = False
    """the sweep asks for more than `Subject` knows: whoever extended it delivers the rest"""
    mended: int = 0
    """trials that had been delivered and were not there as they were: delivered again"""


@dataclass(slots=True)
class _Course:
    """What a delivery knows from round to round."""

    files: bool
    """whether artifacts are looked for when it begins"""
    refused: dict[str, str] = field(default_factory=dict)
    """item -> why it is not tried again"""
    mended: int | None = None
    """None: not looked yet"""
    alive_at: float = 0.0
    """the sign of life that the tracker was told last, Unix seconds"""


def deliver_pending(ledger: Ledger, tracker: Tracker, subject: Subject, *, clock: Clock = time.time) -> DeliveryReport:
    """Delivers every ended trial that the tracker has not got, oldest first.

    Stops early, without an error, when the tracker is away. A trial that the tracker refuses is reported and
    the others go on. Raises TrackerError when the tracker refuses the sweep itself, LeaseHeldError when another
    process delivers it.
    """
    with hold_lease(ledger, subject.sweep, "delivery", clock) as beat:
        _announce(ledger, tracker, subject)
        return _deliver(ledger, tracker, subject, beat, _Course(files=True))


def follow(
    ledger: Ledger,
    tracker: Tracker,
    subject: Subject,
    *,
    final_files: Callable[[], Mapping[str, str]] | None = None,
    patience_seconds: float = 600.0,
    idle_seconds: float = 0.25,
    clock: Clock = time.time,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] | None = None,
) -> DeliveryReport:
    """Delivers beside a running sweep until it is over and everything is delivered, then finishes the parent.

    Over means finished, stopped, or its driver gone. `final_files` makes the parent's last artifacts. When the
    tracker is still away `patience_seconds` after the end, or refuses something, or the sweep is extended, it returns
    with the rest remaining. Stands by while another process delivers the sweep. Every problem is one line to `say`
    (default: stderr). Raises as `deliver_pending` does.
    """
    say = say or _to_stderr
    pause, since_over, total = 0.0, None, 0
    course = _Course(files=False)
    with hold_lease(ledger, subject.sweep, "delivery", clock, lambda: sleep(idle_seconds)) as beat:
        _announce(ledger, tracker, subject)
        while True:
            over = _is_over(ledger, subject.sweep, clock())  # before looking: what ends after is seen next time
            report = _deliver(ledger, tracker, subject, beat, course)
            total += report.delivered
            for item, why in report.refused.items():
                say(f"{item}: {why}")
            if report.extended:
                return DeliveryReport(total, report.remaining, None, course.refused, True)
            away = report.away
            complete = over and away is None and report.remaining <= len(course.refused)
            if complete:
                files = final_files() if final_files else {}
                away = _why_away(partial(finish, ledger, tracker, subject, files=files, metrics={}))
            if away and not pause:
                say(f"The tracker is away, trying again: {away}")
            if pause and not away:
                say("The tracker answers again.")
            if complete and away is None:
                return DeliveryReport(total, report.remaining, None, course.refused)
            pause = min(max(2 * pause, _BACK_OFF_SECONDS[0]), _BACK_OFF_SECONDS[1]) if away else 0.0
            since_over = (since_over or clock()) if over and away else None
            if since_over is not None and clock() - since_over >= patience_seconds:
                return DeliveryReport(total, report.remaining, away, course.refused)
            _wait(pause or idle_seconds, beat, sleep)


def finish(
    ledger: Ledger, tracker: Tracker, subject: Subject, *, files: Mapping[str, str], metrics: Mapping[str, float]
) -> None:
    """Ends the parent run with its last artifacts: FINISHED when the sweep is, else KILLED. May be repeated.

    Raises TrackerAway or TrackerError.
    """
    record = sweep_of(ledger, subject.sweep)
    run = sweep_run(record, subject)
    counts = Counter[str]()
    for (_, _, state), count in ledger.counts(subject.sweep).items():
        counts[str(state)] += count
    tags = {f"trials_{state}": str(count) for state, count in sorted(counts.items())}
    ledger.mark_begun(subject.sweep, tracker.target, [PARENT])
    end = SweepEnd(
        status=parent_status(record),
        ended_ms=to_ms(_ended_at(ledger, record)),
        files=files,
        metrics=metrics,
        tags=tags | {"status": record.status, "reproducible": spelled(record.reproducible)},
    )
    run_id = tracker.record_sweep(run, end)
    ledger.mark_done(subject.sweep, tracker.target, {PARENT: run_id})


# -- inside


def _announce(ledger: Ledger, tracker: Tracker, subject: Subject) -> None:
    """Notes that the target may have something of the sweep: what is superseded from now on is stale there.

    The run of a sweep that goes on, after a stop or an extension, is no longer done.
    """
    if tracker.target not in ledger.targets(subject.sweep) or sweep_of(ledger, subject.sweep).status == "running":
        ledger.mark_begun(subject.sweep, tracker.target, [PARENT])


def _deliver(
    ledger: Ledger, tracker: Tracker, subject: Subject, beat: Callable[[], None], course: _Course
) -> DeliveryReport:
    """What was refused is not tried again; what the tracker refuses now is noted in `course`."""
    refused = course.refused
    sweep, target = subject.sweep, tracker.target
    record = sweep_of(ledger, sweep)
    parent = sweep_run(record, subject)
    delivered, before = 0, set(refused)
    doubtful: set[str] | None = None
    discarded: set[str] = set()
    away, extended = None, _is_extended(record, subject)
    if not extended:  # people see the sweep before its first end
        away = _why_away(partial(_greet, ledger, tracker, subject, parent, course))
    while away is None and not extended:
        beat()
        # In this order: a trial that is superseded after the look for what is stale cannot be marked begun.
        away = _why_away(partial(_discard_stale, ledger, tracker, parent, refused, discarded))
        trials = ledger.undelivered(sweep, target, _BATCH + len(refused)) if away is None else []
        batch = {str(trial.key): trial for trial in trials if str(trial.key) not in refused}
        extended = _is_extended(sweep_of(ledger, sweep), subject)
        if not batch or extended:
            break
        doubtful = doubtful if doubtful is not None else set(ledger.deliveries(sweep, target, state="begun"))
        doubtful |= discarded
        begun = ledger.mark_begun(sweep, target, batch)
        runs = {
            item: run_record(trial, subject, parent=parent, reproducible=record.reproducible)
            for item, trial in batch.items()
            if item in begun
        }
        done: dict[str, str] = {}
        try:
            away = _why_away(partial(_send, tracker, parent, runs, doubtful, beat, done, refused))
        finally:
            if done:
                ledger.mark_done(sweep, target, done)
        doubtful |= batch.keys() - done.keys()
        delivered += len(done)
    new = {item: why for item, why in refused.items() if item not in before}
    return DeliveryReport(delivered, ledger.count_undelivered(sweep, target), away, new, extended, course.mended or 0)


def _greet(ledger: Ledger, tracker: Tracker, subject: Subject, parent: SweepRun, course: _Course) -> None:
    """The sweep's own run and its sign of life; once, what has to be delivered again. Raises TrackerAway."""
    if course.mended is None:  # before there is a parent again, which the runs of a lost one do not know
        again = undone(ledger, tracker, subject, files=course.files)
        ledger.mark_begun(subject.sweep, tracker.target, again)
        course.mended = len(again - {PARENT})
    lease = ledger.lease(subject.sweep, "driver")
    due = lease is not None and abs(lease.heartbeat - course.alive_at) >= _SIGN_OF_LIFE_SECONDS
    tracker.record_sweep(parent, alive_ms=to_ms(lease.heartbeat) if lease and due else None)
    course.alive_at = lease.heartbeat if lease and due else course.alive_at


def _send(
    tracker: Tracker,
    parent: SweepRun,
    runs: Mapping[str, RunRecord],
    doubtful: Collection[str],
    beat: Callable[[], None],
    done: dict[str, str],
    refused: dict[str, str],
) -> None:
    """Fills `done` with run ids and `refused` with reasons. Raises TrackerAway."""
    for item, run in runs.items():
        beat()
        try:
            done[item] = tracker.deliver(parent, run, in_doubt=item in doubtful)
        except TrackerAway:
            raise
        except TrackerError as error:
            refused[item] = str(error)


def _discard_stale(
    ledger: Ledger, tracker: Tracker, parent: SweepRun, refused: dict[str, str], discarded: set[str]
) -> None:
    """Takes from the tracker what an extension has superseded; what was refused of it may be tried anew."""
    stale = ledger.deliveries(parent.name, tracker.target, state="stale")
    if stale:
        tracker.discard(parent, [f"{parent.ledger_id}/{item}" for item in stale if item != PARENT])
        ledger.mark_discarded(parent.name, tracker.target, stale)
        discarded.update(stale)
    for item in stale:
        refused.pop(item, None)


def _is_extended(record: SweepRecord, subject: Subject) -> bool:
    return bool(subject.study) and record.study != subject.study


def _why_away(call: Callable[[], object]) -> str | None:
    """Calls the tracker; why not, when it is away."""
    try:
        call()
    except TrackerAway as error:
        return str(error)
    return None


def _is_over(ledger: Ledger, sweep: str, now: float) -> bool:
    lease = ledger.lease(sweep, "driver")
    if sweep_of(ledger, sweep).status != "running" or lease is None:
        return True
    # A driver gives no sign of life while it starts Ray, on a busy machine for longer than a lease lasts.
    return lease.holder.is_gone() if lease.holder.is_seen else not lease.is_live(now)


@contextmanager
def hold_lease(
    ledger: Ledger, sweep: str, role: Role, clock: Clock = time.time, stand_by: Callable[[], None] | None = None
) -> Iterator[Callable[[], None]]:
    """Holds a role of the sweep; the value, called often, is its heartbeat. Raises LeaseHeldError."""
    sweep_of(ledger, sweep)
    holder = Holder.current()
    while True:
        try:
            last = clock()
            ledger.acquire_lease(sweep, role, holder=holder, now=last)
            break
        except LeaseHeldError:
            if stand_by is None:
                raise
        stand_by()

    def beat() -> None:
        nonlocal last
        now = clock()
        if abs(now - last) >= _HEARTBEAT_SECONDS:  # a clock may be set back
            ledger.heartbeat(sweep, role, holder, now)
            last = now

    try:
        yield beat
    finally:
        ledger.release_lease(sweep, role, holder)


def _wait(seconds: float, beat: Callable[[], None], sleep: Callable[[float], None]) -> None:
    while seconds > 0:
        sleep(min(seconds, _HEARTBEAT_SECONDS))
        seconds -= _HEARTBEAT_SECONDS
        beat()


def _ended_at(ledger: Ledger, record: SweepRecord) -> float:
    if record.finished_at is not None:
        return record.finished_at
    outcomes = (trial.outcome for trial in ledger.trials(record.name, states=STATUS))
    return max((outcome.ended_at for outcome in outcomes if outcome), default=record.created_at)


def _to_stderr(line: str) -> None:
    print(line.replace("\n", " "), file=sys.stderr, flush=True)
