"""The Ray Data pipeline: images in, blocks of features out.

Two stages that scale apart: tasks on CPUs fetch and decode (:mod:`bottleneck.fetch_stage`), and a
pool of actors, each holding one compiled backbone, computes. Blocks carry, beside the
columns of the table, what the run wants to know of each row (`row`, seconds, bytes).
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

from bottleneck.backbones import Backbone, BackboneConfig
from bottleneck.fetch_stage import FETCH_BYTES, fetch_and_decode, pixels_of
from bottleneck.images import DecodeOptions
from bottleneck.placement import ActorMemory, ActorSizing
from bottleneck.schemas import UNAVAILABLE
from bottleneck.shards import features_array
from bottleneck.storage import Fetcher

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
    """Bytes a fetching task holds: raw files, those read ahead included, and decoded blocks."""
    return 2 * FETCH_BYTES + 2 * config.block_rows * config.image_bytes


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


def with_inference_time(block: pa.Table, began: float) -> pa.Table:
    """Notes in each row its share of the time since `began` (``time.perf_counter``)."""
    seconds = (time.perf_counter() - began) / max(1, block.num_rows)
    times = np.full(block.num_rows, seconds, np.float32)
    return block.append_column("inference_s", pa.array(times))


def committable(block: pa.Table) -> pa.Table:
    """Leaves out the rows that the next run should try again; a block without any is not copied."""
    if not pc.any(pc.equal(block["status"], UNAVAILABLE)).as_py():
        return block
    return block.filter(pc.not_equal(block["status"], UNAVAILABLE))
