"""The Ray Data pipeline: rows of a plan in, blocks of results out.

Two stages that scale apart: tasks on CPUs read (:class:`Reader`), and a pool of actors, each with
one compiled network (:class:`Network`), computes. A job combines one of each into
:class:`Stages`; the columns of a block are those of :mod:`bottleneck.pipeline.blocks`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray

from bottleneck.cluster.ray_internals import ExecutionCallback, block_references
from bottleneck.cluster.sizing import ActorMemory, ActorSizing
from bottleneck.pipeline.blocks import computed_block, rows_per_block

#: The plan is cut into about this many reading tasks, so that they balance the load, but no task
#: is given more rows than this, so that its repetition after a node is lost stays short.
_TASKS = 256
_MAX_TASK_ROWS = 2048


#: What a loaded network does: a block of the first stage in, columns of results by name out.
Compute = Callable[[pa.Table], Mapping[str, pa.Array]]


class Reader(Protocol):
    """The first stage: what a task reads; made on the driver, sent to workers."""

    @property
    def row_bytes(self) -> int:
        """Size of a row as it is read."""

    def memory_bytes(self, block_rows: int) -> int:
        """Returns the memory that a task takes.

        Args:
            block_rows: Rows of each block that it makes.
        """

    def read(self, work: pa.Table, *, block_rows: int) -> Iterator[pa.Table]:
        """Reads the rows of one task.

        Args:
            work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
            block_rows: Maximum number of rows of a block.

        Yields:
            Blocks, see :func:`~bottleneck.pipeline.blocks.read_block`.
        """


class Network(Protocol):
    """The second stage: what an actor computes; made on the driver, loaded in each actor."""

    @property
    def row_length(self) -> int:
        """Values in one row of the result."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images it computes on; (0, 0) if on none."""

    @property
    def weights_bytes(self) -> int:
        """Size of its weights."""

    def load(self, *, batch_size: int, threads: int) -> Compute:
        """Loads the network, in the process that computes.

        Args:
            batch_size: Rows computed at once.
            threads: Threads to compute with; 0 leaves their number to the Keras backend.
        """


@dataclass(frozen=True)
class Stages:
    """The two stages of a job, and their sizes.

    Attributes:
        reader: The first stage.
        network: The second stage.
        batch_size: Rows that the network computes at once.
    """

    reader: Reader
    network: Network
    batch_size: int

    @property
    def row_bytes(self) -> int:
        """Size of a row between the stages or after them, whichever is larger."""
        return max(self.reader.row_bytes, 4 * self.network.row_length)

    @property
    def block_rows(self) -> int:
        """Rows of a block between the stages: a multiple of the batch size."""
        return rows_per_block(self.row_bytes, self.batch_size)

    @property
    def actor_memory(self) -> ActorMemory:
        """What an actor of the second stage has in memory."""
        return ActorMemory(self.batch_size, self.network.image_size, self.network.weights_bytes)


class NetworkActor:
    """A Ray actor with one loaded network.

    Args:
        stages: The stages it is the second of.
        threads: Threads to compute with; 0 leaves their number to the Keras backend.
    """

    def __init__(self, stages: Stages, threads: int) -> None:
        self._compute = stages.network.load(batch_size=stages.batch_size, threads=threads)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Computes one block."""
        began = time.perf_counter()
        return computed_block(block, self._compute(block), began)


class PipelineStoppedError(Exception):
    """The pipeline ended because its owner asked for that."""


#: The event that ends the pipeline which this thread is starting. Ray Data makes its callbacks
#: itself, from a class without arguments that has to be importable on workers; it makes them in
#: the thread that asks for the first block, so each takes its own pipeline's event from here.
_stop: ContextVar[threading.Event | None] = ContextVar("_stop", default=None)


class StopPipeline(ExecutionCallback):
    """Ends its pipeline once asked to from another thread, also one that makes no progress.

    Ray Data has no handle for that, but it calls this at each step of its scheduling loop.
    """

    def __init__(self) -> None:
        # A dataset that is none of our pipelines has nobody who would stop it.
        self._stop = _stop.get() or threading.Event()

    def on_execution_step(self, executor: Any) -> None:
        """Fails the execution if it should stop; Ray Data then ends its tasks and actors."""
        if self._stop.is_set():
            raise PipelineStoppedError


def run_stages(
    work: pa.Table, stages: Stages, actors: ActorSizing, stop: threading.Event
) -> Iterator[Any]:
    """Runs the pipeline over planned work.

    Args:
        work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
        stages: What is read and computed.
        actors: Number and size of the actors.
        stop: Ends the pipeline when it is set, from whatever thread.

    Yields:
        (reference to a block, its number of rows), as they are finished, in any order. A block is
        an Arrow table of the table's columns and :data:`~bottleneck.pipeline.blocks.COST_SCHEMA`.

    Raises:
        PipelineStoppedError: `stop` was set; Ray Data may wrap it.
    """
    with _ray_data_settings(stages, stop):
        yield from block_references(_dataset(work, stages, actors))


@contextlib.contextmanager
def _ray_data_settings(stages: Stages, stop: threading.Event) -> Iterator[None]:
    """Sets Ray Data up for a pipeline, and back: the process may use it for other things too."""
    context = ray.data.DataContext.get_current()
    settings = {
        "enable_progress_bars": False,
        "target_max_block_size": stages.block_rows * stages.row_bytes,
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
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


def _dataset(work: pa.Table, stages: Stages, actors: ActorSizing) -> Any:
    block_rows = stages.block_rows
    dataset: Any = ray.data.from_arrow(task_tables(work, stages.batch_size))
    dataset = dataset.map_batches(
        stages.reader.read,
        fn_kwargs={"block_rows": block_rows},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=1,
        # Ray fuses stages of equal requests, which would read inside the actors. The requests
        # differ by what each stage truly has in memory.
        memory=stages.reader.memory_bytes(block_rows),
    )
    return dataset.map_batches(
        NetworkActor,
        fn_constructor_args=(stages, actors.threads),
        # With GPUs Ray Data insists on a number; no block has more rows than this.
        batch_size=block_rows if actors.gpus else None,
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
    """Cuts the work into one table per reading task, whole batches each."""
    wanted = min(_MAX_TASK_ROWS, max(1, work.num_rows // _TASKS))
    rows = math.ceil(wanted / batch_size) * batch_size
    return [work.slice(start, rows) for start in range(0, work.num_rows, rows)]
