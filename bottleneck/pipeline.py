"""The Ray Data pipeline: images in, blocks of features out.

Two stages that scale apart: tasks on CPUs fetch and decode (one GET an image, many in flight),
and a pool of actors, each holding one compiled backbone, computes. Blocks carry, beside the
columns of the table, what the run wants to know of each row (`row`, seconds, bytes).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

from bottleneck import images
from bottleneck.backbones import Backbone, BackboneConfig
from bottleneck.images import DecodeOptions
from bottleneck.placement import ActorMemory, ActorSizing
from bottleneck.shards import SCHEMA, features_array
from bottleneck.storage import Fetcher, FetchRequest

#: Decoded images between the stages: large enough that Ray's cost of a block (about 10 ms) does
#: not matter, small enough that a few of them in flight fit a laptop's object store.
_BLOCK_BYTES = 20 * 2**20
_MAX_BLOCK_ROWS = 256

#: The plan is cut into about this many fetching tasks, so that they balance the load, but no task
#: is given more rows than this, so that its repetition after a node is lost stays short.
_TASKS = 256
_MAX_TASK_ROWS = 2048

#: Columns of a row that the shard does not keep: place in the plan, cost, size.
COST_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("read_bytes", pa.int64()),
        pa.field("fetch_s", pa.float32()),
        pa.field("decode_s", pa.float32()),
        pa.field("inference_s", pa.float32()),
    ]
)

#: Rows of this status are not committed, so that the next run tries them again.
UNAVAILABLE = "unavailable"


class FetchFlags(Protocol):
    """The flags of a job that say how images are read."""

    @property
    def fetch_concurrency(self) -> int:
        """Reads in flight in a fetching task."""

    @property
    def fetch_timeout_s(self) -> float:
        """Seconds without progress after which a read is tried again."""

    @property
    def max_image_mb(self) -> float:
        """Megabytes; larger files are not read."""


def fetcher_of(flags: FetchFlags) -> Fetcher:
    """Returns what reads a job's images."""
    return Fetcher(
        concurrency=flags.fetch_concurrency,
        timeout_s=flags.fetch_timeout_s,
        max_bytes=int(flags.max_image_mb * 1e6),
    )


@dataclass(frozen=True)
class PipelineConfig:
    """What the stages need, on whatever machine they run; a job adds what its actors do.

    Attributes:
        decode: How images become arrays.
        batch_size: Images a backbone computes at once.
        fetcher: How they are read.
        row_length: Values in one row of the result.
        weights_bytes: Size of the weights that each actor holds.
    """

    decode: DecodeOptions
    batch_size: int
    fetcher: Fetcher
    row_length: int
    weights_bytes: int

    @property
    def actor_memory(self) -> ActorMemory:
        """What an actor of the second stage holds."""
        size = (self.decode.height, self.decode.width)
        return ActorMemory(self.batch_size, size, self.weights_bytes)

    @property
    def stages(self) -> tuple[Callable[..., Iterator[pa.Table]], type]:
        """The function of the first stage and the actor of the second."""
        raise NotImplementedError

    @property
    def image_bytes(self) -> int:
        """Size of one decoded image, (H, W, 3) uint8."""
        return self.decode.height * self.decode.width * 3

    @property
    def block_rows(self) -> int:
        """Rows of a block between the stages: a multiple of the batch size."""
        rows = min(_MAX_BLOCK_ROWS, max(1, _BLOCK_BYTES // self.row_bytes))
        return max(1, rows // self.batch_size) * self.batch_size

    @property
    def row_bytes(self) -> int:
        """Size of a row between the stages or behind them, whichever is larger."""
        return max(self.image_bytes, 4 * self.row_length)


@dataclass(frozen=True)
class BackbonePipeline(PipelineConfig):
    """Images → features.

    Attributes:
        backbone: The backbone each actor holds.
    """

    backbone: BackboneConfig

    @property
    def stages(self) -> tuple[Callable[..., Iterator[pa.Table]], type]:
        """Fetching and decoding, then the backbone."""
        return fetch_and_decode, BackboneActor


class PipelineStoppedError(Exception):
    """The pipeline ended because :meth:`StopPipeline.asked` was set."""


class StopPipeline(ExecutionCallback):
    """Ends the running pipeline from another thread, also one that makes no progress.

    Ray Data offers no handle for that; it does call this at each step of its scheduling loop.
    """

    asked = threading.Event()

    def on_execution_step(self, executor: Any) -> None:
        """Fails the execution if it should stop; Ray Data then ends its tasks and actors."""
        if self.asked.is_set():
            raise PipelineStoppedError


def run_stages(work: pa.Table, config: PipelineConfig, actors: ActorSizing) -> Iterator[Any]:
    """Runs the pipeline over planned work.

    Args:
        work: Rows of :data:`bottleneck.plan.WORK_SCHEMA`.
        config: What the stages do.
        actors: How many backbones, how large.

    Yields:
        (reference to a block, its number of rows), as they are finished, in any order. A block is
        an Arrow table of the table's columns and :data:`COST_SCHEMA`.
    """
    with _settings_of_ray_data(config):
        for bundle in _dataset(work, config, actors).iter_internal_ref_bundles():
            for entry in bundle.blocks:
                yield entry.ref, entry.metadata.num_rows


@contextlib.contextmanager
def _settings_of_ray_data(config: PipelineConfig) -> Iterator[None]:
    """Sets Ray Data up for a pipeline, and back: the process may use it for other things too."""
    StopPipeline.asked.clear()
    context = ray.data.DataContext.get_current()
    settings = {
        "enable_progress_bars": False,
        "target_max_block_size": config.block_rows * config.row_bytes,
        # Waiting for nodes is not a failure: the run says that it waits and goes on.
        "execution_no_progress_timeout_s": -1,
        "custom_execution_callback_classes": [StopPipeline],
    }
    before = {name: getattr(context, name) for name in settings}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
        StopPipeline.asked.clear()


def _dataset(work: pa.Table, config: PipelineConfig, actors: ActorSizing) -> Any:
    read, actor = config.stages
    dataset: Any = ray.data.from_arrow(task_tables(work, config.batch_size))
    dataset = dataset.map_batches(
        read,
        fn_kwargs={"config": config},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=1,
        # Ray fuses stages of equal requests, which would decode inside the backbone's actors.
        # The requests differ by what each stage truly holds in memory.
        memory=_decode_memory(config),
    )
    return dataset.map_batches(
        actor,
        fn_constructor_args=(config, actors.threads),
        # With GPUs Ray Data insists on a number; no block has more rows than this.
        batch_size=config.block_rows if actors.gpus else None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
        memory=actors.memory_bytes,
        compute=ray.data.ActorPoolStrategy(
            min_size=actors.low,
            max_size=actors.high,
            initial_size=actors.low,
            max_tasks_in_flight_per_actor=4,
        ),
    )


def task_tables(work: pa.Table, batch_size: int) -> list[pa.Table]:
    """Cuts the work into one table for each fetching task, whole batches each."""
    wanted = min(_MAX_TASK_ROWS, max(1, work.num_rows // _TASKS))
    rows = math.ceil(wanted / batch_size) * batch_size
    return [work.slice(start, rows) for start in range(0, work.num_rows, rows)]


def _decode_memory(config: PipelineConfig) -> int:
    """Bytes a fetching task holds: raw files of two blocks in flight, and decoded blocks."""
    return 2 * config.block_rows * (config.image_bytes + 512 * 1024)


def fetch_and_decode(work: pa.Table, *, config: PipelineConfig) -> Iterator[pa.Table]:
    """First stage: reads and decodes the images of one task.

    The next block is fetched while the current one is decoded.

    Yields:
        Blocks with all columns but `features`, and `pixels`: H·W·3 bytes an image, RGB, null
        where there is no image.
    """

    def fetch(start: int) -> tuple[pa.Table, list[Any], float]:
        rows = work.slice(start, config.block_rows)
        began = time.perf_counter()
        fetched = config.fetcher.fetch(requests_of(rows))
        return rows, fetched, time.perf_counter() - began

    starts = range(0, work.num_rows, config.block_rows)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(fetch, 0)
        for start in starts:
            rows, fetched, fetch_s = coming.result()
            if start + config.block_rows < work.num_rows:
                coming = ahead.submit(fetch, start + config.block_rows)
            yield _decode_block(rows, fetched, fetch_s, config.decode)


def _decode_block(
    rows: pa.Table, fetched: list[Any], fetch_s: float, options: DecodeOptions
) -> pa.Table:
    count = rows.num_rows
    began = time.perf_counter()
    pixels = np.zeros((count, options.height, options.width, 3), np.uint8)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("fingerprint", "sha256", "width", "height", "status", "error")
    }
    sizes = np.zeros(count, np.int64)
    for number, answer in enumerate(fetched):
        if answer.data is None:
            result = images.Decoded(answer.status, answer.error, None, None, None)
            digest = None
        else:
            sizes[number] = len(answer.data)
            digest = hashlib.sha256(answer.data).hexdigest()
            result = images.decode(answer.data, options)
            if result.pixels is not None:
                pixels[number] = result.pixels
        # A missing file has no fingerprint of its own; the listed one stands for "seen so".
        columns["fingerprint"].append(answer.fingerprint or rows["fingerprint"][number].as_py())
        columns["sha256"].append(digest)
        columns["width"].append(result.width)
        columns["height"].append(result.height)
        columns["status"].append(result.status)
        columns["error"].append(result.error)
    ok = np.array([status == "ok" for status in columns["status"]], dtype=bool)
    decode_s = (time.perf_counter() - began) / max(1, count)
    block = {name: rows[name] for name in ("image", "label", "split")}
    block |= {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
    block |= {
        "row": rows["row"],
        "read_bytes": pa.array(sizes),
        "fetch_s": pa.array(np.full(count, fetch_s / max(1, count), np.float32)),
        "decode_s": pa.array(np.full(count, decode_s, np.float32)),
        "pixels": _pixel_column(pixels, ok),
    }
    return pa.table(block)


def _pixel_column(pixels: npt.NDArray[np.uint8], ok: npt.NDArray[np.bool_]) -> pa.Array:
    """Wraps (N, H, W, 3) uint8 as fixed-size binary without copying."""
    size = int(np.prod(pixels.shape[1:]))
    validity = None if ok.all() else pa.py_buffer(np.packbits(ok, bitorder="little").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(pixels), [validity, pa.py_buffer(pixels)]
    )


def _pixel_array(column: pa.ChunkedArray, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Undoes :func:`_pixel_column` for the rows that have pixels: (M, H, W, 3) uint8."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if array.null_count:
        array = array.drop_null()
    size = height * width * 3
    flat = np.frombuffer(array.buffers()[1], np.uint8)
    start = array.offset * size
    return flat[start : start + len(array) * size].reshape(-1, height, width, 3)


def requests_of(rows: pa.Table) -> list[FetchRequest]:
    """Returns what to read for rows of a plan: whole objects, or tar members."""
    return [
        FetchRequest(uri, offset, size if offset is not None else None, fingerprint)
        for uri, offset, size, fingerprint in zip(
            rows["uri"].to_pylist(),
            rows["offset"].to_pylist(),
            rows["bytes"].to_pylist(),
            rows["fingerprint"].to_pylist(),
            strict=True,
        )
    ]


class BackboneActor:
    """Second stage: deploys one :class:`~bottleneck.backbones.Backbone` in a Ray actor."""

    def __init__(self, config: BackbonePipeline, threads: int) -> None:
        self._config = config
        self._backbone = Backbone(config.backbone, batch_size=config.batch_size, threads=threads)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Replaces `pixels` by `features`."""
        began = time.perf_counter()
        pixels, valid = pixels_of(block, self._config.decode)
        if len(pixels):
            values = self._backbone(pixels).reshape(len(pixels), -1)
        else:
            values = np.empty((0, self._config.row_length), np.float32)
        result = block.drop_columns(["pixels"])
        result = result.append_column("features", features_array(values, valid))
        return with_inference_time(result, began)


def pixels_of(
    block: pa.Table, options: DecodeOptions
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Returns a block's images, (M, H, W, 3) uint8 RGB, and which of its rows have one, (N,)."""
    valid: npt.NDArray[np.bool_] = block["pixels"].is_valid().to_numpy()
    return _pixel_array(block["pixels"], options.height, options.width), valid


def with_inference_time(block: pa.Table, began: float) -> pa.Table:
    """Notes in each row its share of the time since `began` (``time.perf_counter``)."""
    seconds = (time.perf_counter() - began) / max(1, block.num_rows)
    times = np.full(block.num_rows, seconds, np.float32)
    return block.append_column("inference_s", pa.array(times))


def committable(block: pa.Table) -> pa.Table:
    """Leaves out the rows that the next run should try again."""
    return block.filter(pc.not_equal(block["status"], UNAVAILABLE))
