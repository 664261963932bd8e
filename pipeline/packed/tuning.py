"""How many slots a pack of a structure should have on this machine: measured once, kept in the user's cache.

More slots share the cost of each call, until the pack no longer fits the processor's caches; large networks gain
nothing. The answer changes speed only, never a number. A cache that cannot be read or written is done without.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from ..paths import user_cache, write_atomically
from ..records import Params, Phase, TrialKey, TrialTask, digest
from .device_data import DeviceData
from .pack import Pack
from .structure import Structure

WIDTHS = (1, 2, 4, 8, 16, 32)
"""slots tried on a CPU, few first"""
GPU_WIDTHS = (1, 8, 32, 128, 512)
STEPS = 3
ROUNDS = 5
"""how often each width is measured, in turn with the others: the best counts, as the machine may be busy"""
BUDGET_SECONDS = 2.0
"""no wider pack is tried when the next one would take longer than this, and no round begun when all have"""
NEARLY = 1.05
"""a slot-step may cost so many times the cheapest"""
PAYS = 1.03
"""a slot-step alone must cost more than so many times the cheapest, or there is no pack"""


def most_slots(device: torch.device) -> int:
    """The widest pack that is ever tried."""
    return (GPU_WIDTHS if device.type == "cuda" else WIDTHS)[-1]


ACROSS_SLOTS = 8
"""with so many, going across slots must pay"""


def best_width(structure: Structure, data: DeviceData, sample: Params, *, across: bool = False) -> int:
    """The number of slots with the cheapest slot-step; from the cache where it was measured before.

    `across`: what runs slot by slot goes by vmap.
    """
    known = _read_cache()
    key = _key(structure, data, across)
    if key not in known:
        known[key] = _measure(structure, data, sample, across)
        _write_cache(known)
    return known[key]


def across_pays(structure: Structure, data: DeviceData, sample: Params) -> bool:
    """Whether going across slots by vmap is quicker here than slot by slot; changes no number (exactness.py)."""
    packs = [_sample_pack(structure, data, sample, ACROSS_SLOTS, across) for across in (True, False)]
    seconds = [min(_slot_step_seconds(pack) for _ in range(2)) for pack in packs]
    return seconds[0] < seconds[1]


def _measure(structure: Structure, data: DeviceData, sample: Params, across: bool) -> int:
    packs: dict[int, Pack] = {}
    seconds: dict[int, float] = {}
    began = time.perf_counter()
    for width in GPU_WIDTHS if data.device.type == "cuda" else WIDTHS:
        try:
            packs[width] = _sample_pack(structure, data, sample, width, across)
            seconds[width] = _slot_step_seconds(packs[width])
        except (MemoryError, RuntimeError):  # too little memory: torch has no exception of its own for the CPU
            packs.pop(width, None)
            break
        if seconds[width] * 2 * width * STEPS > BUDGET_SECONDS:
            break
    for _ in range(ROUNDS - 1):
        if time.perf_counter() - began > BUDGET_SECONDS:
            break
        for width, pack in packs.items():
            seconds[width] = min(seconds[width], _slot_step_seconds(pack))
    return _cheapest(seconds)


def _cheapest(seconds: Mapping[int, float]) -> int:
    """The widest pack whose slot-step costs next to nothing more than the cheapest: no trial waits without need.

    One slot where packs do not pay: measured for longer, many slots of a large network are slower than one, as they
    share the cache with whatever else the machine does.
    """
    cheapest = min(seconds.values(), default=0.0)
    if seconds.get(1, math.inf) <= cheapest * PAYS:
        return 1
    enough = cheapest * NEARLY
    return max((width for width, cost in seconds.items() if cost <= enough), default=1)


def _sample_pack(structure: Structure, data: DeviceData, sample: Params, width: int, across: bool) -> Pack:
    pack = Pack(structure, data)
    pack.stack.run_across(across)
    pack.resettle(
        [
            TrialTask(TrialKey("tuning", 0, Phase.SEARCH, i), {**sample, "scale": "log_variance"}, seed=i)
            for i in range(width)
        ]
    )
    pack.train_steps(limit=1)  # the first step is not like the others
    return pack


def _slot_step_seconds(pack: Pack) -> float:
    clock = time.process_time if pack.data.device.type == "cpu" else time.perf_counter
    began = clock()
    pack.train_steps(limit=STEPS)
    return (clock() - began) / (len(pack.slots) * STEPS)


def _key(structure: Structure, data: DeviceData, across: bool) -> str:
    device = torch.cuda.get_device_name() if data.device.type == "cuda" else f"{platform.node()} {_processor()}"
    return digest([asdict(structure), data.image_shape, across, device, torch.__version__])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _cache_file() -> Path:
    return user_cache() / "slots.json"


def _read_cache() -> dict[str, int]:
    try:
        found = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: width for key, width in found.items() if isinstance(width, int) and width >= 1}


def _write_cache(known: dict[str, int]) -> None:
    try:
        write_atomically(_cache_file(), json.dumps({**_read_cache(), **known}).encode())
    except OSError:
        return
