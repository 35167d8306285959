"""The columns of a block from the first stage to the tasks that write it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bottleneck.incremental.work import WORK_SCHEMA
from bottleneck.pipeline.blocks import (
    COST_SCHEMA,
    block_features,
    block_pixels,
    committable,
    computed_block,
    pixel_column,
    read_block,
    rows_per_block,
    totals_of,
)
from bottleneck.table.columns import features_array
from bottleneck.table.schemas import FEATURES, FIELDS

PIXELS = np.arange(3 * 2 * 4 * 3, dtype=np.uint8).reshape(3, 2, 4, 3)


def work(count: int, first: int = 0) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [None] * count for name in WORK_SCHEMA.names}
    columns["row"] = list(range(first, first + count))
    for name in ("image", "label", "split", "fingerprint"):
        columns[name] = [f"{name} {row}" for row in columns["row"]]
    return pa.table(columns, WORK_SCHEMA)


def found(statuses: list[str], **inputs: Any) -> dict[str, Any]:
    nothing = [None] * len(statuses)
    columns = dict.fromkeys(("sha256", "width", "height", "error"), nothing) | {"status": statuses}
    return {name: pa.array(some, FIELDS[name].type) for name, some in columns.items()} | inputs


def block_of(statuses: list[str], first: int = 0, **inputs: Any) -> pa.Table:
    count = len(statuses)
    return read_block(
        work(count, first),
        found(statuses, **inputs),
        read_bytes=np.full(count, 10),
        fetch_s=np.full(count, 0.5, np.float32),
        decode_s=np.full(count, 0.25, np.float32),
    )


def test_a_block_has_the_columns_of_the_table_and_of_its_costs_once_it_is_computed() -> None:
    valid = np.array([True, False, True])
    block = block_of(["ok", "missing", "ok"], pixels=pixel_column(PIXELS, valid))
    features = np.arange(4, dtype=np.float32).reshape(2, 2)
    done = computed_block(block, {"features": features_array(features, valid)}, time.perf_counter())
    assert set(done.column_names) == {*FEATURES.names, *COST_SCHEMA.names}
    assert done.select(FEATURES.names).cast(FEATURES).to_pylist() == [
        {
            **{name: f"{name} {row}" for name in ("image", "label", "split", "fingerprint")},
            **dict.fromkeys(("sha256", "width", "height", "error")),
            "status": status,
            "features": some,
        }
        for row, status, some in ((0, "ok", [0, 1]), (1, "missing", None), (2, "ok", [2, 3]))
    ]
    assert done.select(COST_SCHEMA.names).schema == COST_SCHEMA
    assert len(set(done["inference_s"].to_pylist())) == 1


def test_what_reading_finds_replaces_what_was_planned() -> None:
    block = block_of(["ok"], fingerprint=pa.array(["newer"]))
    assert block["fingerprint"].to_pylist() == ["newer"]
    assert block["image"].to_pylist() == ["image 0"]


@pytest.mark.parametrize("valid", [[True] * 3, [True, False, True], [False] * 3])
def test_pixels_come_back_for_the_rows_that_have_an_image(valid: list[bool]) -> None:
    block = pa.table({"pixels": pixel_column(PIXELS, np.array(valid))})
    for first, count in ((0, 3), (1, 2), (2, 1), (0, 0)):
        pixels, which = block_pixels(block.slice(first, count), (2, 4))
        part = valid[first : first + count]
        assert which.tolist() == part
        np.testing.assert_array_equal(pixels, PIXELS[first : first + count][part])
    twice, _ = block_pixels(pa.concat_tables([block, block]), (2, 4))
    np.testing.assert_array_equal(twice, np.concatenate([PIXELS[valid], PIXELS[valid]]))


def test_features_come_back_for_the_rows_that_have_some() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    valid = np.array([False, True, True])
    block = pa.table({"features": features_array(values, valid)})
    features, which = block_features(block, (2, 3))
    assert which.tolist() == [False, True, True]
    np.testing.assert_array_equal(features, values.reshape(2, 2, 3))


def test_rows_to_try_again_are_counted_and_not_committed() -> None:
    blocks = [block_of(["ok", "unavailable", "missing"]), block_of(["ok"] * 2, first=3)]
    blocks = [computed_block(block, {}, time.perf_counter()) for block in blocks]
    kept = [committable(block) for block in blocks]
    assert [block["row"].to_pylist() for block in kept] == [[0, 2], [3, 4]]
    assert kept[1] is blocks[1]
    totals = totals_of(blocks)
    assert totals.statuses == {"ok": 3, "unavailable": 1, "missing": 1}
    assert totals.read_bytes == 50
    assert totals.stage_s.keys() == {"fetch", "decode", "inference"}
    assert (totals.stage_s["fetch"], totals.stage_s["decode"]) == (2.5, 1.25)
    assert 0 < totals.stage_s["inference"] < 60


@pytest.mark.parametrize(
    ("row_bytes", "batch_size", "rows"),
    [
        (224 * 224 * 3, 32, 128),
        (448 * 448 * 3, 32, 32),
        (12, 32, 256),
        # Whole batches, be they larger than a block should be.
        (224 * 224 * 3, 300, 300),
        (10**9, 8, 8),
    ],
)
def test_blocks_are_whole_batches_of_about_20_mib(
    row_bytes: int, batch_size: int, rows: int
) -> None:
    assert rows_per_block(row_bytes, batch_size) == rows
