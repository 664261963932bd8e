"""What a running sweep's state is to those who watch: turns it into snapshots for a `Progress`, from time to time."""

from __future__ import annotations

import time
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Sequence

from ..config import Study
from ..records import ENDED, Phase, State
from ..space import arms
from ..stages import Stages
from ..sweep import Sweep
from .progress import (
    WINDOW_SECONDS,
    ArmProgress,
    Progress,
    ProgressSnapshot,
    time_left,
    trials_per_minute,
)

SNAPSHOT_SECONDS = 0.5


class Observer:
    """Turns the loop's state into snapshots, at most two a second and in a twentieth of the driver's time."""

    def __init__(self, study: Study, slots: int | None, progress: Progress) -> None:
        """`slots`: of one worker; None: each finds out for itself."""
        self._study, self._slots, self._progress = study, slots, progress
        self._began = self._due = time.time()
        self._arms = arms(study)
        self._said = 0
        """lines of news shown"""
        self._started = False

    def __call__(self, sweep: Sweep) -> None:
        """Shows what is new, when it is time."""
        for line in sweep.watch.news[self._said :]:
            self._progress.message(line)
        self._said = len(sweep.watch.news)
        now = time.time()
        if now >= self._due or sweep.finished:
            snapshot = self._snapshot(sweep, now)
            (self._progress.update if self._started else self._progress.start)(snapshot)
            self._started = True
            took = time.time() - now
            self._due = now + max(SNAPSHOT_SECONDS, 20 * took)

    def _snapshot(self, sweep: Sweep, now: float) -> ProgressSnapshot:
        watch, parts = sweep.watch, defaultdict[str, list[Stages]](list)
        for part in sweep.stages.values():
            parts[part.arm.id].append(part)
        counts, expected = Counter[tuple[Phase, State]](), Counter[Phase]()
        for part in sweep.stages.values():
            counts.update(part.counts)
            expected.update(part.expected())
        done = Counter[Phase]()
        for (phase, state), count in counts.items():
            done[phase] += count if state in ENDED else 0
        # The pace is that of the window; what ended before it counts only where the window is empty.
        times = watch.ended_at[bisect(watch.ended_at, now - WINDOW_SECONDS) :] or watch.ended_at
        left = expected.total() - done.total()
        slots = watch.workers * self._slots if self._slots else None
        return ProgressSnapshot(
            sweep=self._study.name,
            elapsed_seconds=now - self._began,
            rows=tuple(_arm_progress(arm.label, parts[arm.id]) for arm in self._arms),
            done=done.total(),
            total=expected.total(),
            trials_per_minute=trials_per_minute(times, started_at=self._began, now=now),
            seconds_left=time_left(times, remaining=left, started_at=self._began, now=now),
            workers=watch.workers,
            slots_busy=watch.running if slots is None else min(watch.running, slots),
            slots=slots,
            phases={phase: (done[phase], expected[phase]) for phase in Phase if expected[phase]},
            epochs=watch.reports,
            epochs_per_second=watch.workers * watch.reports / watch.use.seconds if watch.use.seconds else 0.0,
            use=watch.use,
            steady_use=watch.steady_use,
            note="" if watch.workers else "waiting for workers",
        )


def _arm_progress(label: str, parts: Sequence[Stages]) -> ArmProgress:
    states = Counter[State]()
    for part in parts:
        for (_, state), count in part.counts.items():
            states[state] += count
    return ArmProgress(
        label=label,
        done=sum(states[state] for state in ENDED),
        running=states[State.RUNNING],
        stopped=states[State.STOPPED],
        diverged=states[State.DIVERGED],
        failed=states[State.FAILED],
        total=sum(sum(part.expected().values()) for part in parts),
        best=max((part.best for part in parts if part.best is not None), default=None),
    )
