"""What each training worker gets: CPUs and GPUs, sized to the nodes that are or may come."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bottleneck.cluster.sizing import gpus_each, whole
from bottleneck.errors import ConfigError

#: Maximum CPUs of a worker where the user names no number: more do not make the small steps of a
#: head proportionally faster.
_MAX_CPUS_PER_WORKER = 8


@dataclass(frozen=True)
class WorkerSizing:
    """How many training workers there may be and what each may use.

    Attributes:
        low: Smallest number.
        high: Largest number that Ray may resize to.
        cpus: CPUs of each.
        gpus: GPUs of each, may be a fraction.
    """

    low: int
    high: int
    cpus: float
    gpus: float

    @property
    def number(self) -> int | tuple[int, int]:
        """Number of workers as Ray Train takes it: fixed, or (smallest, largest)."""
        return self.low if self.low == self.high else (self.low, self.high)

    @property
    def resources(self) -> dict[str, float]:
        """Resources of each worker by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def threads(self) -> int:
        """Threads that each worker computes with."""
        return max(1, int(self.cpus))


def size_workers(
    workers: tuple[int, int],
    cpus: float | None,
    gpus: float | None,
    node_resources: Sequence[Mapping[str, float]],
) -> WorkerSizing:
    """Decides what each training worker gets.

    Args:
        workers: Smallest and largest number of workers.
        cpus: CPUs of each; None takes as many, up to 8, as leave room for the smallest number of
            workers, and 1 beside GPUs.
        gpus: GPUs of each; None takes 1 if the cluster has GPUs.
        node_resources: Resources of the cluster's nodes, those that may be added included.

    Raises:
        ConfigError: The cluster has no room for the smallest number.
    """
    low, high = workers
    gpus = gpus_each(gpus, node_resources)
    if cpus is None:
        # As many as leave room for all, each on one node.
        sizes = [1.0] if gpus else [float(size) for size in range(_MAX_CPUS_PER_WORKER, 0, -1)]
        cpus = next((size for size in sizes if _room(node_resources, size, gpus) >= low), 1.0)
    room = _room(node_resources, cpus, gpus)
    if room < low:
        there = {name: sum(node.get(name, 0) for node in node_resources) for name in ("CPU", "GPU")}
        asked = f"{low}" if low == high else f"{low}:{high}"
        raise ConfigError(
            f"--workers {asked}: the cluster has room for {room} workers of {cpus:g} CPUs "
            f"and {gpus:g} GPUs ({there['CPU']:g} CPUs, {there['GPU']:g} GPUs in all); lower "
            "--workers, --cpus-per-worker or --gpus-per-worker"
        )
    return WorkerSizing(low, high, cpus, gpus)


def _room(node_resources: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Returns how many workers fit; no CPU stays free beside them, unlike beside actors."""
    return sum(
        min(
            whole(node.get("CPU", 0) / cpus),
            whole(node.get("GPU", 0) / gpus) if gpus else sys.maxsize,
        )
        for node in node_resources
    )
