"""Which worker a trial goes to: workers first, slots second, trials of one structure side by side.

Placement can change no number, only speed. Knows no executor; it works on loads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .packed.structure import Structure, structure_of
from .records import Params, TrialKey

BACKLOG_SHARE = 2
"""a worker is given 1/2 more trials than it has slots, so that a freed slot is refilled at once"""


def place(
    waiting: Sequence[tuple[TrialKey, Params]],
    loads: Mapping[str, Sequence[Params]],
    slots: int,
) -> dict[str, list[TrialKey]]:
    """Worker -> trials to hand it now.

    waiting: trials with their complete hyperparameters, first come first; loads: for each live worker the
    hyperparameters of what it already has; slots: slots a worker. Trials beyond all capacity stay waiting.
    """
    capacity = slots + slots // BACKLOG_SHARE
    held = {worker: Counter(structure_of(params) for params in trials) for worker, trials in loads.items()}
    handed: dict[str, list[TrialKey]] = {}
    for key, structure in _together(waiting):
        free = [worker for worker, load in held.items() if load.total() < capacity]
        if not free:
            break
        worker = min(free, key=lambda name: (held[name].total(), -held[name][structure]))
        held[worker][structure] += 1
        handed.setdefault(worker, []).append(key)
    return handed


def _together(waiting: Sequence[tuple[TrialKey, Params]]) -> list[tuple[TrialKey, Structure]]:
    """The waiting trials, those of one structure behind the first of them."""
    groups: dict[Structure, list[TrialKey]] = {}
    for key, params in waiting:
        groups.setdefault(structure_of(params), []).append(key)
    return [(key, structure) for structure, keys in groups.items() for key in keys]
