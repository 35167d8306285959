"""When a pipeline that stands still is taken to wait for a node that is gone."""

from __future__ import annotations

import pytest

from bottleneck import capacity
from bottleneck.capacity import StallWatch


class Clock:
    """Time and nodes as a test wants them; runs on real ones are in test_crash.py."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.lost = 0
        monkeypatch.setattr(capacity.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(capacity.cluster, "node_ids", lambda: frozenset({"a", "b"}))
        monkeypatch.setattr(capacity.cluster, "lost_nodes", lambda before: self.lost)


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
