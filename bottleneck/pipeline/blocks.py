"""The columns that travel between the stages of the pipeline."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bottleneck.images.options import DecodeOptions
from bottleneck.images.statuses import UNAVAILABLE

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
    """Leaves out the rows that the next run should try again; a block without any is not copied."""
    if not pc.any(pc.equal(block["status"], UNAVAILABLE)).as_py():
        return block
    return block.filter(pc.not_equal(block["status"], UNAVAILABLE))
