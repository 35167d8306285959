"""Ray tasks that write: finished blocks become shards, shards are merged.

Tasks that write ask for no CPU: the number of them in flight is bounded by who calls, and on a
small machine a task that waited for a CPU which a stalled fetching task holds would stall both.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from bottleneck.cluster import nodes
from bottleneck.cluster.calls import get_bounded
from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import RunFailedError
from bottleneck.pipeline.blocks import committable, totals_of
from bottleneck.table.files import TableFiles
from bottleneck.table.merging import ShardMerge, merge_shards, ordered_runs
from bottleneck.table.schemas import RowFormat
from bottleneck.table.shards import Shard, write_shard

T = TypeVar("T")

#: Number of attempts to write; the pauses between them are 1, 2, 4, 8 and 16 seconds.
_WRITE_ATTEMPTS = 6

#: File-system errors that retrying cannot fix.
_FINAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})

#: Maximum number of shards that each node rewrites at a time.
_MERGES_PER_NODE = 2


@dataclass(frozen=True)
class Written:
    """What became of a group of feature blocks.

    Attributes:
        shard: The shard; None when no row could be committed.
        plan_rows: (N,) int64, places in the plan of the rows it holds.
        statuses: Number of images by status, unavailable ones included.
        read_bytes: Bytes of image files read.
        stage_s: Seconds by stage, added up over workers.
    """

    shard: Shard | None
    plan_rows: npt.NDArray[np.int64]
    statuses: Mapping[str, int]
    read_bytes: int
    stage_s: Mapping[str, float]


@ray.remote(num_cpus=0, max_retries=3)
def write_blocks(table_uri: str, row_format: RowFormat, *blocks: pa.Table) -> Written:
    """Writes finished blocks as one shard, in `image` order."""
    began = time.perf_counter()
    kept = [committable(block) for block in blocks]
    schema = row_format.schema
    held = [block.select(schema.names).cast(schema) for block in kept]
    runs = list(ordered_runs([block["image"] for block in held]))
    files = TableFiles.at(table_uri, row_format)
    shard = _persist(
        table_uri,
        lambda: write_shard(
            files, (held[block].slice(first, count) for block, first, count in runs)
        ),
    )
    totals = totals_of(blocks)
    return Written(
        shard=shard,
        plan_rows=np.concatenate([block["row"].to_numpy() for block in kept]),
        statuses=totals.statuses,
        read_bytes=totals.read_bytes,
        stage_s={**totals.stage_s, "write": time.perf_counter() - began},
    )


# Nothing says where the rows of old shards are, so that all would be rewritten on the head.
@ray.remote(num_cpus=0, max_retries=3, scheduling_strategy="SPREAD")
def merge(table_uri: str, row_format: RowFormat, wanted: ShardMerge) -> Shard | None:
    """Runs :func:`bottleneck.table.merging.merge_shards` on a worker."""
    files = TableFiles.at(table_uri, row_format)
    return _persist(table_uri, lambda: merge_shards(files, wanted))


def merge_all(
    table_uri: str, row_format: RowFormat, merges: Iterable[ShardMerge]
) -> list[Shard | None]:
    """Merges shards, a few merges at a time on each node.

    Args:
        table_uri: The table.
        row_format: What its rows look like.
        merges: One for each shard to write.

    Returns:
        The new shards in the order of the merges; None where no row was left.
    """
    start: Any = merge.remote
    calls = (start(table_uri, row_format, wanted) for wanted in merges)
    return get_bounded(calls, _MERGES_PER_NODE * max(1, len(nodes.nodes())))


def _persist(table_uri: str, write: Callable[[], T]) -> T:
    """Writes to storage, with patience for errors that pass."""
    for attempt in range(_WRITE_ATTEMPTS):
        try:
            return write()
        except OSError as e:
            if e.errno in _FINAL_ERRNO or attempt + 1 == _WRITE_ATTEMPTS:
                raise RunFailedError(
                    f"cannot write a shard to {redact_uri(table_uri)}: {one_line(e, 'first')}; "
                    "what was committed before stays, make room or repair the storage and run again"
                ) from e
            time.sleep(2**attempt)
    raise AssertionError("unreachable")
