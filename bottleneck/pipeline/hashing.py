"""Content hashes of images, computed by Ray tasks."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import ray

from bottleneck.cluster.calls import get_bounded
from bottleneck.pipeline.fetching import FETCH_BYTES, fetch_in_order
from bottleneck.storage.fetcher import Fetcher

#: Images per task.
_TASK_ROWS = 256

#: Maximum number of tasks in flight.
_TASKS_IN_FLIGHT = 64


@ray.remote(num_cpus=1, max_retries=3, memory=2 * FETCH_BYTES)
def _hash(rows: pa.Table, fetcher: Fetcher) -> tuple[pa.Table, int]:
    found: dict[str, list[str]] = {"image": [], "sha256": []}
    read_bytes = 0
    answers = fetch_in_order(rows, fetcher, _TASK_ROWS)
    for image, (answer, _) in zip(rows["image"].to_pylist(), answers, strict=True):
        if answer.data is not None:
            found["image"].append(image)
            found["sha256"].append(hashlib.sha256(answer.data).hexdigest())
            read_bytes += len(answer.data)
    schema = pa.schema([("image", pa.string()), ("sha256", pa.string())])
    return pa.table(found, schema), read_bytes


def hash_images(work: pa.Table, fetcher: Fetcher) -> tuple[pa.Table, int]:
    """Reads and hashes images in tasks all over the cluster.

    Args:
        work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
        fetcher: How images are read.

    Returns:
        A table with `image` and `sha256` of the images that could be read, and the number of bytes
        read.

    Raises:
        RunFailedError: A task failed.
    """
    tables = [work.slice(start, _TASK_ROWS) for start in range(0, work.num_rows, _TASK_ROWS)]
    calls = (_hash.remote(table, fetcher) for table in tables)
    parts = get_bounded(calls, _TASKS_IN_FLIGHT)
    return pa.concat_tables([table for table, _ in parts]), sum(size for _, size in parts)
