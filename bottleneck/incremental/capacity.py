"""Bounds of a run that follow the cluster: nodes come and go while it computes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from bottleneck.cluster import nodes
from bottleneck.cluster.sizing import ActorSizing
from bottleneck.pipeline.stages import Stages

#: Maximum share of the cluster's object store that blocks waiting to be written may fill.
_HELD_SHARE = 0.25

#: Object store assumed while the cluster has no node that computes.
_SMALLEST_STORE_BYTES = 2**30

#: Seconds between two looks at the nodes.
_LOOK_S = 5.0

#: Seconds without a block after which a pipeline that lost a node is started again.
_STALL_S = 30.0


class Capacity:
    """Bounds of a run that follow the number of nodes.

    Args:
        stages: The run's pipeline.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._looked = -math.inf
        self._nodes: list[Mapping[str, float]] = []
        self.most_nodes = 0
        self._look()

    def _look(self) -> None:
        if time.monotonic() - self._looked >= _LOOK_S:
            self._nodes = nodes.nodes()
            self._looked = time.monotonic()
            self.most_nodes = max(self.most_nodes, len(self._nodes))

    @property
    def held_rows(self) -> int:
        """Maximum number of rows in finished blocks that wait for a shard."""
        self._look()
        store = sum(node.get("object_store_memory", 0) for node in self._nodes)
        share = int(_HELD_SHARE * (store or _SMALLEST_STORE_BYTES))
        return max(self._stages.block_rows, share // (4 * self._stages.network.row_length))

    @property
    def writes(self) -> int:
        """Maximum number of shards written at a time: one per node, and one on its way."""
        self._look()
        return 1 + len(self._nodes)

    def has_room_for(self, actor: ActorSizing) -> bool:
        """Returns whether some node is large enough for an actor, even if it is busy now."""
        self._look()
        return any(actor.fits(node) for node in self._nodes)


class StallWatch:
    """Detects a pipeline that cannot continue because a node is gone.

    Ray restarts the node's actors on CPUs that were left for decoding, and lost blocks then have
    nowhere to be decoded again: each waits for the other. Waiting for new nodes is not a stall.
    """

    def __init__(self) -> None:
        self._nodes = nodes.node_ids()
        self._began = time.monotonic()
        self._last: float | None = None
        self._longest_gap = 0.0

    def saw_block(self) -> None:
        """Records that the pipeline made progress."""
        now = time.monotonic()
        if self._last is not None:
            self._longest_gap = max(self._longest_gap, now - self._last)
        self._last = now

    def nodes_lost(self) -> int:
        """Returns the number of lost nodes once the pipeline has stalled; 0 while it has not."""
        now = time.monotonic()
        # The time until the first block, in which backbones load, says nothing about later ones.
        since = self._began if self._last is None else self._last
        if now - since < max(_STALL_S, 3 * self._longest_gap):
            return 0
        return nodes.lost_nodes(self._nodes)
