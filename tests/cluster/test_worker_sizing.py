"""How many training workers of what size fit which nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from bottleneck.cluster.worker_sizing import WorkerSizing, size_workers
from bottleneck.errors import ConfigError

SMALL: Mapping[str, float] = {"CPU": 4.0}
LARGE: Mapping[str, float] = {"CPU": 32.0}
GPU: Mapping[str, float] = {"CPU": 8.0, "GPU": 2.0}
HEAD: Mapping[str, float] = {"CPU": 0.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "wanted"),
    [
        # No worker is larger than a node, however many CPUs there are in all.
        ([SMALL] * 4, (1, 1), None, None, WorkerSizing(1, 1, 4.0, 0.0)),
        ([SMALL] * 4, (4, 4), None, None, WorkerSizing(4, 4, 4.0, 0.0)),
        ([SMALL] * 4, (5, 5), None, None, WorkerSizing(5, 5, 2.0, 0.0)),
        ([SMALL] * 4, (16, 16), None, None, WorkerSizing(16, 16, 1.0, 0.0)),
        ([HEAD, LARGE], (2, 2), None, None, WorkerSizing(2, 2, 8.0, 0.0)),
        ([SMALL, LARGE], (2, 6), None, None, WorkerSizing(2, 6, 8.0, 0.0)),
        ([HEAD, GPU, GPU], (4, 4), None, None, WorkerSizing(4, 4, 1.0, 1.0)),
        ([HEAD, GPU], (2, 2), None, 0.0, WorkerSizing(2, 2, 4.0, 0.0)),
        ([SMALL], (2, 2), 1.5, None, WorkerSizing(2, 2, 1.5, 0.0)),
        # Three workers of 0.1 GPUs fit 0.3, whatever binary fractions make of it.
        ([{"CPU": 4.0, "GPU": 0.3}], (3, 3), None, 0.1, WorkerSizing(3, 3, 1.0, 0.1)),
    ],
)
def test_a_worker_fits_a_node(
    nodes: Sequence[Mapping[str, float]],
    workers: tuple[int, int],
    cpus: float | None,
    gpus: float | None,
    wanted: WorkerSizing,
) -> None:
    assert size_workers(workers, cpus, gpus, nodes) == wanted


def test_what_no_node_has_room_for_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        size_workers((3, 3), 4.0, None, [SMALL, {"CPU": 3.0}])
    assert str(caught.value) == (
        "--workers 3: the cluster has room for 1 workers of 4 CPUs and 0 GPUs (7 CPUs, 0 GPUs in "
        "all); lower --workers, --cpus-per-worker or --gpus-per-worker"
    )


def test_a_range_of_workers_is_named_as_it_was_asked_for() -> None:
    with pytest.raises(
        ConfigError, match=r"^--workers 2:6: the cluster has room for 1 workers of 1"
    ):
        size_workers((2, 6), None, None, [{"CPU": 1.0}])


@pytest.mark.parametrize(
    ("sizing", "number", "resources", "threads"),
    [
        (WorkerSizing(2, 2, 1.5, 0.0), 2, {"CPU": 1.5}, 1),
        (WorkerSizing(1, 4, 8.0, 0.5), (1, 4), {"CPU": 8.0, "GPU": 0.5}, 8),
    ],
)
def test_what_ray_train_is_asked_for(
    sizing: WorkerSizing,
    number: int | tuple[int, int],
    resources: dict[str, float],
    threads: int,
) -> None:
    assert (sizing.number, sizing.resources, sizing.threads) == (number, resources, threads)
