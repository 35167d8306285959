"""The Ray Data pipeline: images in, blocks of features out.

Two stages that scale apart: tasks on CPUs fetch and decode (:mod:`bottleneck.pipeline.fetching`),
and a pool of actors, each holding one compiled backbone, computes. Blocks carry, beside the
columns of the table, what the run wants to know of each row (`row`, seconds, bytes).
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

from bottleneck.cluster.sizing import ActorMemory, ActorSizing
from bottleneck.images.options import DecodeOptions
from bottleneck.pipeline.fetching import FETCH_BYTES
from bottleneck.storage.fetcher import Fetcher

#: Decoded images between the stages: large enough that Ray's cost of a block (about 10 ms) does
#: not matter, small enough that a few of them in flight fit a laptop's object store.
_BLOCK_BYTES = 20 * 2**20
_MAX_BLOCK_ROWS = 256

#: The plan is cut into about this many fetching tasks, so that they balance the load, but no task
#: is given more rows than this, so that its repetition after a node is lost stays short.
_TASKS = 256
_MAX_TASK_ROWS = 2048


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
        work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
        config: What the stages do.
        actors: How many backbones, how large.

    Yields:
        (reference to a block, its number of rows), as they are finished, in any order. A block is
        an Arrow table of the table's columns and :data:`~bottleneck.pipeline.blocks.COST_SCHEMA`.
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
