"""How many actors of what size fit which nodes."""

from __future__ import annotations

from typing import Any

import pytest

from bottleneck.cluster.sizing import ActorMemory, ActorSizing, size_actors, size_batch
from bottleneck.errors import ConfigError
from bottleneck.extraction.config import ExtractConfig


def sized(*nodes: tuple[float, float], **options: Any) -> ActorSizing:
    """Nodes are (CPUs, GPUs); a zero is left out, as Ray does."""
    resources = [
        {name: n for name, n in (("CPU", cpus), ("GPU", gpus)) if n} | {"memory": 1e9}
        for cpus, gpus in nodes
    ]
    return size_actors(ExtractConfig(images="i", features="f", **options), resources)


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        # One CPU of each node decodes; the backbone's threads may use it while it idles.
        ([(1, 0)], ActorSizing(1, 1, 0.0, 1.0, 1)),
        ([(2, 0)], ActorSizing(1, 1, 0.0, 1.0, 2)),
        ([(4, 0)], ActorSizing(1, 1, 0.0, 3.0, 4)),
        ([(8, 0)], ActorSizing(1, 1, 0.0, 7.0, 8)),
        ([(9, 0)], ActorSizing(1, 1, 0.0, 8.0, 9)),
        ([(64, 0)], ActorSizing(1, 7, 0.0, 8.0, 9)),
        ([(16, 0)] * 3, ActorSizing(1, 3, 0.0, 8.0, 9)),
        # Nodes of several sizes: an actor must fit the smallest.
        ([(4, 0), (16, 0)], ActorSizing(1, 6, 0.0, 3.0, 4)),
        # A head node that runs nothing.
        ([(0, 0), (16, 0), (16, 0)], ActorSizing(1, 2, 0.0, 8.0, 9)),
        # GPUs: one each; their number bounds the actors.
        ([(16, 1)], ActorSizing(1, 1, 1.0, 0.0, 0)),
        ([(32, 4), (32, 4)], ActorSizing(1, 8, 1.0, 0.0, 0)),
        ([(16, 0), (32, 4)], ActorSizing(1, 4, 1.0, 0.0, 0)),
        ([(0, 0), (32, 4)], ActorSizing(1, 4, 1.0, 0.0, 0)),
    ],
)
def test_sizes_without_wishes(nodes: list[tuple[float, float]], wanted: ActorSizing) -> None:
    assert sized(*nodes) == wanted


@pytest.mark.parametrize(
    ("nodes", "options", "wanted"),
    [
        ([(16, 2)], {"gpus_per_actor": 0.0}, ActorSizing(1, 1, 0.0, 8.0, 9)),
        ([(16, 2)], {"gpus_per_actor": 0.5}, ActorSizing(1, 4, 0.5, 0.0, 0)),
        ([(32, 4)], {"gpus_per_actor": 2.0}, ActorSizing(1, 2, 2.0, 0.0, 0)),
        ([(16, 1)], {"cpus_per_actor": 4.0}, ActorSizing(1, 1, 1.0, 4.0, 0)),
        ([(16, 0)], {"cpus_per_actor": 5.0}, ActorSizing(1, 3, 0.0, 5.0, 6)),
        ([(16, 0)], {"cpus_per_actor": 16.0}, ActorSizing(1, 1, 0.0, 16.0, 16)),
        ([(4, 0)], {"cpus_per_actor": 0.5}, ActorSizing(1, 6, 0.0, 0.5, 1)),
        ([(64, 0)], {"actors": "2:3"}, ActorSizing(2, 3, 0.0, 8.0, 9)),
        ([(64, 0)], {"actors": "5"}, ActorSizing(5, 5, 0.0, 8.0, 9)),
        # More than there is room for now: those that fit, and the others as nodes come.
        ([(4, 0)], {"actors": "10:20"}, ActorSizing(1, 20, 0.0, 3.0, 4)),
        ([(4, 0), (4, 0)], {"actors": "3"}, ActorSizing(2, 3, 0.0, 3.0, 4)),
    ],
)
def test_sizes_as_wished(
    nodes: list[tuple[float, float]], options: dict[str, Any], wanted: ActorSizing
) -> None:
    assert sized(*nodes, **options) == wanted


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.25, 0.3, 0.34, 0.5])
def test_fractions_of_a_gpu_fill_it(share: float) -> None:
    """1 // 0.1 is 9 in floating point, but ten tenths fit."""
    wanted = {0.05: 20, 0.1: 10, 0.2: 5, 0.25: 4, 0.3: 3, 0.34: 2, 0.5: 2}[share]
    assert sized((64, 1), gpus_per_actor=share).high == wanted


def test_fractions_of_a_cpu_fill_it() -> None:
    assert sized((2, 0), cpus_per_actor=0.1).high == 10


def test_actors_on_gpus_need_the_cpus_they_ask_for() -> None:
    assert sized((2, 8)).high == 8
    assert sized((2, 8), cpus_per_actor=1.0).high == 1
    assert sized((16, 4), cpus_per_actor=8.0).high <= 2


def test_threads_are_those_of_the_nodes_that_actors_fit_on() -> None:
    """An actor of 16 CPUs never runs on the node of four."""
    assert sized((4, 0), (64, 0), cpus_per_actor=16.0).threads == 17


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        (
            [(4, 0), (8, 0), (8, 0)],
            {"cpus_per_actor": 9.0},
            "no node has the 9 CPUs and 0 GPUs that each actor should have; nodes have 4 CPUs and "
            "0 GPUs, 8 CPUs and 0 GPUs; lower --cpus-per-actor or --gpus-per-actor",
        ),
        (
            [(4, 0)],
            {"gpus_per_actor": 1.0},
            "each actor should have 1 GPUs, but no node of this cluster has one and none that its "
            "autoscaler may start does; give --gpus-per-actor 0 to compute on CPUs",
        ),
        (
            [(16, 1), (16, 1)],
            {"gpus_per_actor": 2.0},
            "no node has the 0 CPUs and 2 GPUs that each actor should have; nodes have 16 CPUs and "
            "1 GPUs; lower --cpus-per-actor or --gpus-per-actor",
        ),
        (
            # Room for each alone, but on different nodes.
            [(32, 0), (2, 1)],
            {"cpus_per_actor": 4.0},
            "no node has the 4 CPUs and 1 GPUs that each actor should have; nodes have 2 CPUs and "
            "1 GPUs, 32 CPUs and 0 GPUs; lower --cpus-per-actor or --gpus-per-actor",
        ),
    ],
)
def test_actors_that_fit_nowhere(
    nodes: list[tuple[float, float]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sized(*nodes, **options)
    assert str(caught.value) == message


_GB = 1e9


def test_actors_ask_for_the_memory_that_their_batches_need() -> None:
    memory = ActorMemory(32, (224, 224), 58_900_000)
    node = {"CPU": 4.0, "memory": 16 * _GB}
    config = ExtractConfig(images="i", features="f")
    sizing = size_actors(config, [node], memory)
    # 0.9 GB of runtime, the weights twice, two activations of 64 channels of 32 images.
    assert sizing.memory_bytes == 900_000_000 + 117_800_000 + 822_083_584
    assert sizing.fits(node)
    assert not sizing.fits(node | {"memory": 1.8 * _GB})
    on_gpu = size_actors(config, [node | {"GPU": 1.0}], memory)
    assert on_gpu.memory_bytes == 3_117_800_000


def test_no_node_gets_more_actors_than_its_memory_holds() -> None:
    memory = ActorMemory(32, (224, 224), 58_900_000)
    config = ExtractConfig(images="i", features="f", cpus_per_actor=1.0)
    nodes = [{"CPU": 64.0, "memory": 8 * _GB}]
    assert size_actors(config, nodes, memory).high == 4
    small = {"CPU": 64.0, "memory": 1 * _GB}
    assert size_actors(config, [*nodes, small], memory).high == 4


def test_batches_that_no_node_has_the_memory_for() -> None:
    memory = ActorMemory(4096, (224, 224), 58_900_000)
    nodes = [{"CPU": 4.0, "memory": 16 * _GB}, {"CPU": 0.0, "memory": 900 * _GB}]
    with pytest.raises(ConfigError) as caught:
        size_actors(ExtractConfig(images="i", features="f"), nodes, memory)
    assert str(caught.value) == (
        "each actor needs about 106.2 GB of memory for batches of 4096, and the largest node has "
        "16.0 GB for them; lower --batch-size, or take larger nodes"
    )


@pytest.mark.parametrize(
    ("wish", "gpus", "image_size", "wanted"),
    [
        (None, 0.0, (224, 224), 32),
        (None, 1.0, (224, 224), 128),
        (None, 1.0, (600, 600), 16),
        (None, 0.25, (224, 224), 32),
        (None, 1.0, (8000, 8000), 1),
        (7, 1.0, (224, 224), 7),
        (7, 0.0, (224, 224), 7),
    ],
)
def test_batches_follow_the_device(
    wish: int | None, gpus: float, image_size: tuple[int, int], wanted: int
) -> None:
    assert size_batch(wish, gpus, image_size) == wanted
