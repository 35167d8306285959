"""What runs on workers beside the pipeline: Ray tasks that describe, hash, write and merge.

Tasks that write ask for no CPU: the number of them in flight is bounded by who calls, and on a
small machine a task that waited for a CPU which a stalled fetching task holds would stall both.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray

from bottleneck.backbones import Backbone, BackboneConfig
from bottleneck.errors import BottleneckError, RunFailedError
from bottleneck.pipeline import COST_SCHEMA, PipelineConfig, committable, requests_of
from bottleneck.precision import detect_hardware, resolve_precision
from bottleneck.schemas import RowFormat
from bottleneck.shards import Shard, merge_shards, ordered_runs, write_shard
from bottleneck.spec import FeatureSpec
from bottleneck.storage import Fetcher, redact_uri
from bottleneck.table_location import filesystem_of

T = TypeVar("T")

#: Storage that answers with errors is tried again after 1, 2, 4, 8 and 16 seconds.
_WRITE_ATTEMPTS = 6

#: Errors of a file system that waiting does not cure.
_FINAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})

_HASH_TASK_ROWS = 256
_HASH_TASKS_IN_FLIGHT = 64


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


@ray.remote(num_cpus=0, max_retries=3)
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


def _persist(table_uri: str, write: Callable[[], T]) -> T:
    """Writes to storage, with patience for errors that pass."""
    for attempt in range(_WRITE_ATTEMPTS):
        try:
            return write()
        except OSError as e:
            if e.errno in _FINAL_ERRNO or attempt + 1 == _WRITE_ATTEMPTS:
                raise RunFailedError(
                    f"cannot write a shard to {redact_uri(table_uri)}: "
                    f"{str(e).splitlines()[0][:300]}; what was committed before stays, "
                    "make room or repair the storage and run again"
                ) from e
            time.sleep(2**attempt)
    raise AssertionError("unreachable")


@ray.remote(num_cpus=1)
def describe(backbone: BackboneConfig, resize: str, interpolation: str, decode: str) -> FeatureSpec:
    """Builds the backbone once, with its weights, to know what features it will make."""
    return Backbone(backbone, batch_size=1).spec(
        resize=resize, interpolation=interpolation, decode=decode
    )


@ray.remote
def native_precision() -> str:
    """Returns the fastest precision of the hardware that this runs on."""
    return resolve_precision("auto", detect_hardware())


@ray.remote(num_cpus=1, max_retries=3)
def _hash(rows: pa.Table, config: PipelineConfig) -> pa.Table:
    fetcher = Fetcher(
        concurrency=config.fetch_concurrency,
        timeout_s=config.fetch_timeout_s,
        max_bytes=config.max_image_bytes,
    )
    answers = fetcher.fetch(requests_of(rows))
    found = [
        (image, hashlib.sha256(answer.data).hexdigest())
        for image, answer in zip(rows["image"].to_pylist(), answers, strict=True)
        if answer.data is not None
    ]
    return pa.table(
        {
            "image": pa.array([image for image, _ in found], pa.string()),
            "sha256": pa.array([digest for _, digest in found], pa.string()),
        }
    )


def hash_images(work: pa.Table, config: PipelineConfig) -> pa.Table:
    """Reads images to hash them, spread over the cluster.

    Args:
        work: Rows of :data:`bottleneck.plan.WORK_SCHEMA`.
        config: How to read.

    Returns:
        `image`, `sha256` of those that could be read.
    """
    tables = [
        work.slice(start, _HASH_TASK_ROWS) for start in range(0, work.num_rows, _HASH_TASK_ROWS)
    ]
    results: list[pa.Table] = []
    running: list[Any] = []
    for table in tables:
        running.append(_hash.remote(table, config))
        if len(running) >= _HASH_TASKS_IN_FLIGHT:
            done, running = ray.wait(running)
            results += get_all(done)
    return pa.concat_tables(results + get_all(running))


def get_all(references: Iterable[Any]) -> list[Any]:
    """Waits for tasks.

    Raises:
        BottleneckError: What a task raised on purpose, without Ray's traceback.
        RunFailedError: A task failed for another reason.
    """
    try:
        return list(ray.get(list(references)))
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
        error, seen = seen, seen.__cause__
    text = str(error).strip()
    line = text.splitlines()[-1][:300] if text else ""
    return RunFailedError(
        f"a worker failed: {type(error).__name__}: {line}; what was committed before stays, "
        "run again to continue"
    )
