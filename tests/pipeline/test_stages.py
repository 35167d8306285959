"""A pipeline ends when its owner asks for that, and no other does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from bottleneck.cluster.sizing import ActorSizing
from bottleneck.incremental.pump import Pump
from bottleneck.pipeline.stages import Compute, Stages, run_stages, task_tables

pytestmark = pytest.mark.usefixtures("ray_session")

ACTORS = ActorSizing(low=1, high=1, gpus=0, cpus=0.1, threads=1, memory_bytes=2**20)


def stages_that_wait_for(gate: Path) -> Stages:
    # Classes made here go to workers by value.
    @dataclass(frozen=True)
    class GateReader:
        row_bytes: int = 8

        def memory_bytes(self, block_rows: int) -> int:
            return 2**21

        def read(self, work: pa.Table, *, block_rows: int) -> Iterator[pa.Table]:
            while not gate.exists():
                time.sleep(0.05)
            yield pa.table({"row": work["row"], "features": work["row"]})

    @dataclass(frozen=True)
    class NoNetwork:
        row_length: int = 1
        image_size: tuple[int, int] = (0, 0)
        weights_bytes: int = 0

        def load(self, *, batch_size: int, threads: int) -> Compute:
            return lambda block: {"error": pa.array([f"batches of {batch_size}"] * len(block))}

    return Stages(GateReader(), NoNetwork(), batch_size=4)


def start(gate: Path, rows: int) -> Pump:
    work = pa.table({"row": np.arange(rows)})
    return Pump(partial(run_stages, work, stages_that_wait_for(gate), ACTORS))


def rows_of(pump: Pump) -> list[dict[str, Any]]:
    blocks = []
    deadline = time.monotonic() + 300
    while not pump.ended:
        assert time.monotonic() < deadline, "the pipeline did not end"
        block = pump.next(timeout_s=0.1)
        if block is not None:
            reference, rows = block
            blocks.append(ray.get(reference))
            assert blocks[-1].num_rows == rows
    assert pump.error is None
    return sorted(pa.concat_tables(blocks).to_pylist(), key=lambda row: row["row"])


def test_a_stopped_pipeline_ends_at_once_and_others_go_on(tmp_path: Path) -> None:
    never, gate = tmp_path / "never", tmp_path / "gate"
    other = start(gate, 10)
    stuck = start(never, 10)
    assert stuck.next(timeout_s=1.0) is None
    stuck.stop()
    assert stuck.ended
    # Ray may start a task that it has just been told to cancel, which would keep the CPU for good.
    never.touch()
    assert not other.ended
    gate.touch()
    rows = rows_of(other)
    assert [row["row"] for row in rows] == list(range(10))
    assert {row["error"] for row in rows} == {"batches of 4"}
    assert rows[0].keys() == {"row", "error", "inference_s"}
    other.stop()
    # Nor does the next one begin stopped.
    later = start(gate, 3)
    assert [row["row"] for row in rows_of(later)] == [0, 1, 2]


def test_reading_is_cut_into_tasks_of_whole_batches() -> None:
    work = pa.table({"row": np.arange(100_000)})
    sizes = [table.num_rows for table in task_tables(work, 32)]
    assert set(sizes[:-1]) == {416}
    assert sum(sizes) == 100_000
    assert [table.num_rows for table in task_tables(work.slice(0, 5), 4)] == [4, 1]
