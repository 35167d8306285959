"""How many backbones of what size fit a cluster: told by its nodes, not by this machine."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from bottleneck import cluster
from bottleneck.cluster import ActorSizing, size_actors
from bottleneck.config import ExtractConfig
from bottleneck.errors import ConfigError, RunFailedError


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
        ([(16, 1)], ActorSizing(1, 1, 1.0, 1.0, 0)),
        ([(32, 4), (32, 4)], ActorSizing(1, 8, 1.0, 1.0, 0)),
        ([(16, 0), (32, 4)], ActorSizing(1, 4, 1.0, 1.0, 0)),
        ([(0, 0), (32, 4)], ActorSizing(1, 4, 1.0, 1.0, 0)),
    ],
)
def test_sizes_without_wishes(nodes: list[tuple[float, float]], wanted: ActorSizing) -> None:
    assert sized(*nodes) == wanted


@pytest.mark.parametrize(
    ("nodes", "options", "wanted"),
    [
        ([(16, 2)], {"gpus_per_actor": 0.0}, ActorSizing(1, 1, 0.0, 8.0, 9)),
        ([(16, 2)], {"gpus_per_actor": 0.5}, ActorSizing(1, 4, 0.5, 1.0, 0)),
        ([(32, 4)], {"gpus_per_actor": 2.0}, ActorSizing(1, 2, 2.0, 1.0, 0)),
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


def test_actors_on_gpus_need_their_cpus_too() -> None:
    assert sized((2, 8)).high <= 2
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
            "no node has the 1 CPUs and 1 GPUs that each actor should have; nodes have 4 CPUs and "
            "0 GPUs; lower --cpus-per-actor or --gpus-per-actor",
        ),
        (
            [(16, 1), (16, 1)],
            {"gpus_per_actor": 2.0},
            "no node has the 1 CPUs and 2 GPUs that each actor should have; nodes have 16 CPUs and "
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


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise ConnectionError("Could not reach it\nand a stack of other lines")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(RunFailedError) as caught:
        cluster.connect("ray://nowhere:10001")
    assert str(caught.value) == (
        "cannot reach Ray at ray://nowhere:10001: Could not reach it; "
        "check --address and that the cluster is up"
    )


@pytest.mark.parametrize(
    ("address", "environment", "wanted"),
    [
        (None, None, "local"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "auto"),
    ],
)
def test_where_ray_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    environment: str | None,
    wanted: str,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if environment is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    cluster.connect(address)
    assert asked[0]["address"] == wanted
    # Sizes are only told to a Ray of our own; credentials to none.
    assert ("num_cpus" in asked[0]) == (wanted == "local")
    assert asked[0]["runtime_env"]["env_vars"]["KERAS_BACKEND"] == "jax"
    assert "secret" not in str(asked)


def test_an_embedded_ray_that_starts_slowly_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[str] = []

    def init(**options: Any) -> None:
        tries.append(options["address"])
        if len(tries) < 3:
            raise TimeoutError("node timed out during startup")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    cluster.connect("local")
    assert tries == ["local"] * 3
