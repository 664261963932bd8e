"""How many slots a pack of a structure should have on this machine: measured once, kept in the user's cache.

More slots share the cost of each call, until the pack no longer fits the processor's caches; large networks gain
nothing. The answer changes speed only, never a number. A cache that cannot be read or written is done without.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch

from ..paths import write_atomically
from ..records import Params, Phase, TrialKey, TrialTask, digest
from .device_data import DeviceData
from .pack import Pack
from .structure import Structure

WIDTHS = (1, 2, 4, 8, 16, 32)
"""slots tried on a CPU, few first"""
GPU_WIDTHS = (1, 8, 32, 128, 512)
STEPS = 3
BUDGET_SECONDS = 2.0
"""no wider pack is tried when the next one would take longer than this"""
WORTH = 0.97
"""a wider pack must take less than this share of a narrower one's time for a slot-step"""


def most_slots(device: torch.device) -> int:
    """The widest pack that is ever tried."""
    return (GPU_WIDTHS if device.type == "cuda" else WIDTHS)[-1]


def best_width(structure: Structure, data: DeviceData, sample: Params) -> int:
    """The number of slots with the cheapest slot-step; from the cache where it was measured before."""
    known = _read_cache()
    key = _key(structure, data)
    if key not in known:
        known[key] = _measure(structure, data, sample)
        _write_cache(known)
    return known[key]


def _measure(structure: Structure, data: DeviceData, sample: Params) -> int:
    best, best_seconds = 1, float("inf")
    for width in GPU_WIDTHS if data.device.type == "cuda" else WIDTHS:
        try:
            seconds = _slot_step_seconds(structure, data, sample, width)
        except (MemoryError, RuntimeError):  # too little memory: torch has no exception of its own for the CPU
            break
        if seconds < best_seconds * WORTH:
            best, best_seconds = width, seconds
        if seconds * 2 * width * 2 * STEPS > BUDGET_SECONDS:
            break
    return best


def _slot_step_seconds(structure: Structure, data: DeviceData, sample: Params, width: int) -> float:
    pack = Pack(structure, data)
    pack.resettle(
        [
            TrialTask(TrialKey("tuning", 0, Phase.SEARCH, i), {**sample, "scale": "log_variance"}, seed=i)
            for i in range(width)
        ]
    )
    pack.train_steps(limit=1)
    runs = []
    for _ in range(2):
        began = time.process_time() if data.device.type == "cpu" else time.perf_counter()
        pack.train_steps(limit=STEPS)
        ended = time.process_time() if data.device.type == "cpu" else time.perf_counter()
        runs.append(ended - began)
    return min(runs) / (width * STEPS)


def _key(structure: Structure, data: DeviceData) -> str:
    device = torch.cuda.get_device_name() if data.device.type == "cuda" else f"{platform.node()} {_processor()}"
    return digest([asdict(structure), data.pixels, device, torch.__version__])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "vae-sweep" / "slots.json"


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
