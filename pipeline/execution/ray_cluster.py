"""What the pool must know of a Ray cluster: joining it, and how many workers it has room for.

Knows no trial and no actor. Ray reads its settings when it is imported: call `environment.prepare_ray` before
importing this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from ..errors import ExecutionError


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
            ray.init(num_cpus=workers, include_dashboard=False, **common)
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ExecutionError(
            f"No Ray cluster could be used {where}: {error}. `--address` is HOST:PORT of its head (or auto, on one of "
            "its nodes); Python, Ray and the token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH) must be the cluster's."
        ) from error
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
