"""When a pipeline that stands still is taken to wait for a node that is gone."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from support.images import draw, numbered

from bottleneck.cluster import nodes as cluster_nodes
from bottleneck.cluster.sizing import ActorSizing
from bottleneck.console import progress
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental import capacity
from bottleneck.incremental.capacity import Capacity, StallWatch


class Clock:
    """Time and nodes as a test wants them; runs on real ones are in whole/test_crash.py."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.lost = 0
        monkeypatch.setattr(capacity.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(cluster_nodes, "node_ids", lambda: frozenset({"a", "b"}))
        monkeypatch.setattr(cluster_nodes, "lost_nodes", lambda before: self.lost)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_slow_start_does_not_make_a_later_stall_look_normal(clock: Clock) -> None:
    watch = StallWatch()
    assert watch.nodes_lost() == 0
    clock.now += 300
    watch.saw_block()
    clock.lost = 1
    clock.now += 29
    assert watch.nodes_lost() == 0
    clock.now += 2
    assert watch.nodes_lost() == 1


def test_what_is_slow_between_blocks_may_be_as_slow_again(clock: Clock) -> None:
    watch = StallWatch()
    clock.lost = 1
    for _ in range(3):
        watch.saw_block()
        clock.now += 20
    clock.now += 39
    assert watch.nodes_lost() == 0
    clock.now += 2
    assert watch.nodes_lost() == 1


def test_waiting_is_no_stall_while_all_nodes_are_there(clock: Clock) -> None:
    watch = StallWatch()
    clock.now += 10_000
    assert watch.nodes_lost() == 0


def test_nodes_that_come_later_are_room_then(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, float]] = [{"CPU": 4, "memory": 2**34}]
    monkeypatch.setattr(cluster_nodes, "nodes", lambda: list(nodes))
    found = Capacity(SimpleNamespace())  # type: ignore[arg-type]  # bounds of rows need one
    actor = ActorSizing(low=1, high=2, gpus=1, cpus=0, threads=0, memory_bytes=2**30)
    assert not found.has_room_for(actor)
    assert found.writes == 2
    nodes.append({"CPU": 8, "GPU": 1, "memory": 2**34})
    clock.now += 4
    assert not found.has_room_for(actor)
    clock.now += 2
    assert found.has_room_for(actor)
    assert (found.writes, found.most_nodes) == (3, 2)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_a_run_without_room_says_that_it_waits_and_does_not_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster whose GPU node never comes, where Ray Data would give up after a second."""
    draw(tmp_path / "photos", numbered(20))
    config = ExtractConfig(
        images=str(tmp_path / "photos"),
        features=str(tmp_path / "table"),
        backbone="channel-means",
        weights="none",
        precision="float32",
        gpus_per_actor=1.0,
    )
    there = cluster_nodes.nodes()
    to_come = {**there[0], "GPU": 1.0}
    monkeypatch.setattr(cluster_nodes, "possible_nodes", lambda: [*there, to_come])
    monkeypatch.setattr(progress, "_LOG_INTERVAL_S", 1.0)
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "execution_no_progress_timeout_s", 1)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    ended = threading.Event()

    def stop() -> None:
        while not ended.wait(0.1):
            if said.getvalue().count("waiting for nodes\n") >= 4:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        summary = extract(config)
    finally:
        ended.set()
        stopper.join()
    assert (summary.outcome, summary.signal, summary.computed) == (
        "interrupted", signal.SIGTERM, 0,
    ), said.getvalue()  # fmt: skip
    assert context.execution_no_progress_timeout_s == 1
