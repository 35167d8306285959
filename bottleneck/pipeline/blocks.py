"""The blocks of a pipeline: the columns that each stage adds, and what is read from them.

The first stage makes a block (:func:`read_block`) with something to compute on, `pixels` or
`features`; the second stage replaces that by its results (:func:`computed_block`); tasks that write
keep the rows that can be committed (:func:`committable`) and add up the rest (:func:`totals_of`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bottleneck.images.statuses import UNAVAILABLE
from bottleneck.table.columns import to_numpy
from bottleneck.table.schemas import FIELDS

#: Columns of a block that a shard does not have: row number in the plan, bytes, seconds by stage.
COST_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("read_bytes", pa.int64()),
        pa.field("fetch_s", pa.float32()),
        pa.field("decode_s", pa.float32()),
        pa.field("inference_s", pa.float32()),
    ]
)

#: Columns of the planned work that rows of the table have too.
_PLANNED = ("image", "label", "split", "fingerprint")

#: Columns that the second stage computes on, and drops.
_INPUTS = frozenset({"pixels", "features"})

#: Target size of a block between the stages: large enough that Ray's cost per block (about 10 ms)
#: does not matter, small enough that a few blocks in flight fit a laptop's object store.
_BLOCK_BYTES = 20 * 2**20
_MAX_BLOCK_ROWS = 256


@dataclass(frozen=True)
class BlockTotals:
    """What blocks add up to, rows that are not committed included.

    Attributes:
        statuses: Number of images by status.
        read_bytes: Bytes of image files read.
        stage_s: Seconds by stage: `fetch`, `decode` and `inference`.
    """

    statuses: Mapping[str, int]
    read_bytes: int
    stage_s: Mapping[str, float]


def rows_per_block(row_bytes: int, batch_size: int) -> int:
    """Returns the number of rows of a block: a multiple of the batch size, 256 at most if it can.

    Args:
        row_bytes: Size of a row between the stages or after them, whichever is larger.
        batch_size: Rows computed at once.
    """
    rows = min(_MAX_BLOCK_ROWS, max(1, _BLOCK_BYTES // row_bytes))
    return max(1, rows // batch_size) * batch_size


def read_block(
    work: pa.Table,
    found: Mapping[str, Any],
    *,
    read_bytes: npt.NDArray[np.int64],
    fetch_s: npt.NDArray[np.float32],
    decode_s: npt.NDArray[np.float32],
) -> pa.Table:
    """Makes a block of the first stage.

    Args:
        work: N rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
        found: Arrow columns that reading adds: the small columns of a table's row that the plan
            does not know, and `pixels` or `features`. They replace planned columns of that name.
        read_bytes: (N,) bytes read for each row.
        fetch_s: (N,) seconds that reading it took.
        decode_s: (N,) seconds that decoding it took.
    """
    costs = {
        "row": work["row"],
        "read_bytes": pa.array(read_bytes),
        "fetch_s": pa.array(fetch_s),
        "decode_s": pa.array(decode_s),
    }
    return pa.table({name: work[name] for name in _PLANNED} | dict(found) | costs)


def computed_block(block: pa.Table, results: Mapping[str, pa.Array], began: float) -> pa.Table:
    """Replaces what the second stage computed on by what it computed.

    Args:
        block: A block of the first stage, N rows.
        results: N values of each column of the table that was computed, null where there is none.
        began: When computing began, by ``time.perf_counter``; each row is charged its share.
    """
    done = block.drop_columns([name for name in block.column_names if name in _INPUTS])
    for name, column in results.items():
        done = done.append_column(FIELDS[name], column)
    seconds = (time.perf_counter() - began) / max(1, done.num_rows)
    shares = np.full(done.num_rows, seconds, np.float32)
    return done.append_column("inference_s", pa.array(shares))


def committable(block: pa.Table) -> pa.Table:
    """Leaves out the rows that the next run should try again; a block without any is not copied."""
    if not pc.any(pc.equal(block["status"], UNAVAILABLE)).as_py():
        return block
    return block.filter(pc.not_equal(block["status"], UNAVAILABLE))


def totals_of(blocks: Sequence[pa.Table]) -> BlockTotals:
    """Adds up the images and the costs of computed blocks."""
    columns = pa.concat_tables([block.select(["status", *COST_SCHEMA.names]) for block in blocks])
    return BlockTotals(
        statuses={
            entry["values"]: entry["counts"]
            for entry in pc.value_counts(columns["status"]).to_pylist()
        },
        read_bytes=int(pc.sum(columns["read_bytes"]).as_py() or 0),
        stage_s={
            stage: float(pc.sum(columns[f"{stage}_s"]).as_py() or 0)
            for stage in ("fetch", "decode", "inference")
        },
    )


def pixel_column(pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Wraps images as a column of fixed-size binary values without copying them.

    Args:
        pixels: (N, H, W, 3) uint8 RGB.
        valid: (N,) whether a row has an image; the other rows become null.
    """
    size = int(np.prod(pixels.shape[1:]))
    bits = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    buffers = [None if valid.all() else bits, pa.py_buffer(pixels)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(pixels), buffers)


def block_pixels(
    block: pa.Table, image_size: tuple[int, int]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Returns the images of a block, the inverse of :func:`pixel_column`.

    Args:
        block: N rows.
        image_size: (height, width) of the images in pixels.

    Returns:
        (M, H, W, 3) uint8 RGB of the rows that have an image, and which rows those are, (N,).
    """
    height, width = image_size
    column = block["pixels"]
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy()
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if array.null_count:
        array = array.drop_null()
    size = height * width * 3
    flat = np.frombuffer(array.buffers()[1], np.uint8)
    start = array.offset * size
    return flat[start : start + len(array) * size].reshape(-1, height, width, 3), valid


def block_features(
    block: pa.Table, shape: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Returns the features of a block.

    Args:
        block: N rows.
        shape: Shape of one row's features.

    Returns:
        (M, *shape) float32 of the rows that have features, and which rows those are, (N,).
    """
    valid: npt.NDArray[np.bool_] = block["features"].is_valid().to_numpy()
    return to_numpy(block["features"].drop_null(), shape), valid
