"""What runs on workers beside the pipeline: Ray tasks that describe, hash, write and merge.

Tasks that write ask for no CPU: the number of them in flight is bounded by who calls, and on a
small machine a task that waited for a CPU which a stalled fetching task holds would stall both.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray

from bottleneck import cluster
from bottleneck.backbones import Backbone, BackboneConfig
from bottleneck.errors import BottleneckError, RunFailedError
from bottleneck.fetch_stage import FETCH_BYTES, fetch_in_order
from bottleneck.pipeline import COST_SCHEMA, committable
from bottleneck.schemas import RowFormat
from bottleneck.shards import Shard, merge_shards, ordered_runs, write_shard
from bottleneck.spec import FeatureSpec
from bottleneck.storage import Fetcher, redact_text, redact_uri
from bottleneck.table_location import filesystem_of

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Storage that answers with errors is tried again after 1, 2, 4, 8 and 16 seconds.
_WRITE_ATTEMPTS = 6

#: Errors of a file system that waiting does not cure.
_FINAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})

_HASH_TASK_ROWS = 256
_HASH_TASKS_IN_FLIGHT = 64

#: Shards that each node may rewrite at a time.
_MERGES_A_NODE = 2

#: How long a task may wait before it is said that there is no node for it.
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Written:
    """What became of a group of feature blocks.

    Attributes:
        shard: The shard; None when no row could be committed.
        rows: (N,) int64, places in the plan of the rows it holds.
        statuses: Number of images by status, unavailable ones included.
        read_bytes: Bytes of image files read.
        stage_s: Seconds by stage, added up over workers.
    """

    shard: Shard | None
    rows: npt.NDArray[np.int64]
    statuses: Mapping[str, int]
    read_bytes: int
    stage_s: Mapping[str, float]


@ray.remote(num_cpus=0, max_retries=3)
def write_blocks(table_uri: str, rows: RowFormat, *blocks: pa.Table) -> Written:
    """Writes finished blocks as one shard, in `image` order."""
    began = time.perf_counter()
    kept = [committable(block) for block in blocks]
    held = [block.select(rows.schema.names).cast(rows.schema) for block in kept]
    runs = list(ordered_runs([block["image"] for block in held]))
    filesystem, root = filesystem_of(table_uri)
    shard = _persist(
        table_uri,
        lambda: write_shard(
            filesystem,
            root,
            rows.length,
            (held[block].slice(first, count) for block, first, count in runs),
            rows.schema,
        ),
    )
    statuses: dict[str, int] = {}
    costs = pa.concat_tables([block.select(COST_SCHEMA.names) for block in blocks])
    for block in blocks:
        for entry in pc.value_counts(block["status"]).to_pylist():
            statuses[entry["values"]] = statuses.get(entry["values"], 0) + entry["counts"]
    stage_s = {
        stage: float(pc.sum(costs[f"{stage}_s"]).as_py() or 0)
        for stage in ("fetch", "decode", "inference")
    }
    return Written(
        shard=shard,
        rows=np.concatenate([block["row"].to_numpy() for block in kept]),
        statuses=statuses,
        read_bytes=int(pc.sum(costs["read_bytes"]).as_py() or 0),
        stage_s=stage_s | {"write": time.perf_counter() - began},
    )


# Nothing says where the rows of old shards are, so that all would be rewritten on the head.
@ray.remote(num_cpus=0, max_retries=3, scheduling_strategy="SPREAD")
def merge(
    table_uri: str,
    rows: RowFormat,
    shard_paths: Sequence[str],
    drop: Mapping[str, Sequence[str]],
    replace: Mapping[str, Mapping[str, Mapping[str, str | None]]],
) -> Shard | None:
    """Runs :func:`bottleneck.shards.merge_shards` on a worker."""
    filesystem, root = filesystem_of(table_uri)
    return _persist(
        table_uri,
        lambda: merge_shards(
            filesystem,
            root,
            rows.length,
            shard_paths,
            drop=drop,
            replace=replace,
            schema=rows.schema,
        ),
    )


def merge_all(
    table_uri: str, rows: RowFormat, groups: Iterable[Mapping[str, Any]]
) -> list[Shard | None]:
    """Merges groups of shards, a few at a time on each node.

    Args:
        table_uri: The table.
        rows: What its rows look like.
        groups: The last three arguments of :func:`merge` by name, for each shard to write.

    Returns:
        The shards in the order of the groups; None where no row was left.
    """
    start: Any = merge.remote
    calls = (start(table_uri, rows, **group) for group in groups)
    return get_bounded(calls, _MERGES_A_NODE * max(1, len(cluster.nodes())))


def _persist(table_uri: str, write: Callable[[], T]) -> T:
    """Writes to storage, with patience for errors that pass."""
    for attempt in range(_WRITE_ATTEMPTS):
        try:
            return write()
        except OSError as e:
            if e.errno in _FINAL_ERRNO or attempt + 1 == _WRITE_ATTEMPTS:
                raise RunFailedError(
                    f"cannot write a shard to {redact_uri(table_uri)}: "
                    f"{redact_text(str(e).splitlines()[0])[:300]}; "
                    "what was committed before stays, make room or repair the storage and run again"
                ) from e
            time.sleep(2**attempt)
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Description:
    """What a backbone is once it is built.

    Attributes:
        spec: Of the features it will make.
        weights_bytes: Size of its weights in float32.
    """

    spec: FeatureSpec
    weights_bytes: int


@ray.remote
def describe(backbone: BackboneConfig, resize: str, interpolation: str, decode: str) -> Description:
    """Builds the backbone once, with its weights."""
    built = Backbone(backbone, batch_size=1)
    spec = built.spec(resize=resize, interpolation=interpolation, decode=decode)
    return Description(spec, built.weights_bytes)


@ray.remote(num_cpus=1, max_retries=3, memory=2 * FETCH_BYTES)
def _hash(rows: pa.Table, fetcher: Fetcher) -> tuple[pa.Table, int]:
    found: dict[str, list[str]] = {"image": [], "sha256": []}
    read_bytes = 0
    answers = fetch_in_order(rows, fetcher, _HASH_TASK_ROWS)
    for image, (answer, _) in zip(rows["image"].to_pylist(), answers, strict=True):
        if answer.data is not None:
            found["image"].append(image)
            found["sha256"].append(hashlib.sha256(answer.data).hexdigest())
            read_bytes += len(answer.data)
    schema = pa.schema([("image", pa.string()), ("sha256", pa.string())])
    return pa.table(found, schema), read_bytes


def hash_images(work: pa.Table, fetcher: Fetcher) -> tuple[pa.Table, int]:
    """Reads images to hash them, spread over the cluster.

    Args:
        work: Rows of :data:`bottleneck.plan.WORK_SCHEMA`.
        fetcher: How to read.

    Returns:
        `image`, `sha256` of those that could be read, and the bytes that were.
    """
    tables = [
        work.slice(start, _HASH_TASK_ROWS) for start in range(0, work.num_rows, _HASH_TASK_ROWS)
    ]
    calls = (_hash.remote(table, fetcher) for table in tables)
    parts = get_bounded(calls, _HASH_TASKS_IN_FLIGHT)
    return pa.concat_tables([table for table, _ in parts]), sum(size for _, size in parts)


def get_bounded(calls: Iterable[Any], most: int) -> list[Any]:
    """Starts tasks, no more than some at a time, and waits for all.

    Args:
        calls: Starts the next task when asked for its reference.
        most: Tasks in flight.

    Returns:
        Their results, in order.

    Raises:
        BottleneckError: As :func:`get_all`.
    """
    references: list[Any] = []
    running: list[Any] = []
    for reference in calls:
        references.append(reference)
        running.append(reference)
        if len(running) >= most:
            _, running = ray.wait(running)
    return get_all(references)


def get_all(references: Iterable[Any]) -> list[Any]:
    """Waits for tasks, and says so when no node is up that could run them.

    Raises:
        BottleneckError: What a task raised on purpose, without Ray's traceback.
        RunFailedError: A task failed for another reason.
    """
    wanted = list(references)
    if wanted:
        _, waiting = ray.wait(wanted, num_returns=len(wanted), timeout=_PATIENCE_S)
        if waiting and not any(node.get("CPU", 0) >= 1 for node in cluster.nodes()):
            _log.warning("no node that computes is up; waiting for the cluster to start one")
    try:
        return list(ray.get(wanted))
    except ray.exceptions.RayError as e:
        raise task_error(e) from e


def task_error(error: BaseException) -> BottleneckError:
    """Returns the error of ours that a Ray error wraps, or says in one line what it is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ray.exceptions.RayTaskError) and isinstance(seen.cause, BaseException):
            seen = seen.cause
            continue
        if isinstance(seen, BottleneckError):
            return seen
        # Ray Data's own, as the cause of others, says nothing.
        error, seen = seen if str(seen).strip() else error, seen.__cause__
    text = str(error).strip()
    line = redact_text(text.splitlines()[-1])[:300] if text else ""
    return RunFailedError(
        f"a worker failed: {type(error).__name__}: {line}; what was committed before stays, "
        "run again to continue"
    )
