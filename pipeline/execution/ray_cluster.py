"""What the pool must know of a Ray cluster: joining it, and how many workers it has room for.

Knows no trial and no actor. Ray reads its settings when it is imported: call `environment.prepare_ray` before
importing this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from ..errors import ExecutionError
from .environment import ray_folder

_JOINING = (
    "`--address` is HOST:PORT of its head (or auto, on one of its nodes); Python, Ray and the token (RAY_AUTH_MODE, "
    "RAY_AUTH_TOKEN_PATH) must be the cluster's."
)
_STARTING = (
    "Ray has half a minute to start, which a busy machine may exceed: try again; `vae-sweep doctor` looks at memory, "
    "disk and ports."
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker takes of a node: one CPU core, and on a GPU node a GPU or a part of one."""

    gpus: float = 0.0

    @property
    def device(self) -> str:
        """Where its arithmetic is done."""
        return "cuda" if self.gpus else "cpu"

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them."""
        return {"CPU": 1.0, **({"GPU": self.gpus} if self.gpus else {})}

    def times(self, resources: Mapping[str, float]) -> int:
        """How many workers a node with `resources` has room for."""
        return min(int(resources.get(name, 0.0) / wanted + 1e-6) for name, wanted in self.resources.items())


def join(address: str | None, workers: int | None) -> bool:
    """Connects to the cluster at `address`, or starts one that listens on this machine only; False if it was joined.

    Raises ExecutionError.
    """
    if ray.is_initialized():
        return False
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, _temp_dir=str(ray_folder()), **common)
    except Exception as error:  # a bare one where its own processes do not start in time
        where, remedy = f"at {address}", _JOINING
        if not address:
            where, remedy = "on this machine", _STARTING
        why = str(error).rstrip(".")
        raise ExecutionError(f"No Ray cluster could be used {where}: {why}. {remedy}") from error
    return True


def share(device: str, workers_per_gpu: int) -> Share:
    """A worker's share on this cluster. `device`: `cpu`, `cuda`, or `auto`: GPUs where any node has one."""
    if device == "auto":
        device = "cuda" if any(node.get("GPU") for node in _nodes()) else "cpu"
    return Share(1.0 / workers_per_gpu if device == "cuda" else 0.0)


def capacity(wanted: Share) -> int:
    """How many workers of `wanted` the live nodes have room for, whoever uses it now."""
    return sum(wanted.times(node) for node in _nodes())


def _nodes() -> list[dict[str, float]]:
    """Resources of every live node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
