"""Columns and row groups of shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bottleneck.spec import FeatureSpec
from bottleneck.table.schemas import FEATURES, FIELDS

#: The schema of features tables, under the name that readers of this module know.
SCHEMA = FEATURES

#: A row group holds about this much raw data: 64 rows of 7×7×512 float32. Smaller groups make
#: looking up one image cheap (0.04 s against 1 s for a whole shard), larger ones cost nothing in
#: size (docs/features-table.md); short rows get more rows a group so that footers stay small.
_ROW_GROUP_BYTES = 64 * 25_088 * 4
_MIN_GROUP_ROWS = 64
_MAX_GROUP_ROWS = 8192


#: Encoded over raw size of features (docs/features-table.md): maps behind a ReLU are mostly zeros,
#: pooled vectors are not; values computed in 16 bits leave the low bytes empty.
_ENCODED_SHARE = {
    ("map", True): 0.30,
    ("map", False): 0.18,
    ("vector", True): 0.92,
    ("vector", False): 0.55,
}
_IDENTITY_BYTES = 150


def row_group_rows(feature_length: int) -> int:
    """Rows in a row group for features of this length.

    A power of two (so that it divides batches evenly) between 64 and 8,192.
    """
    rows = max(1, _ROW_GROUP_BYTES // (4 * max(1, feature_length)))
    return int(min(_MAX_GROUP_ROWS, max(_MIN_GROUP_ROWS, 1 << (rows.bit_length() - 1))))


def encoded_row_bytes(spec: FeatureSpec) -> float:
    """Returns the expected size of one row in a shard, in bytes, before there are any shards."""
    kind = "map" if len(spec.shape) > 1 else "vector"
    share = _ENCODED_SHARE[kind, spec.precision == "float32"]
    return share * 4 * spec.length + _IDENTITY_BYTES


def features_array(values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Wraps features as an Arrow list column without copying them.

    Args:
        values: (M, L) float32, the features of the valid rows in order.
        valid: (N,) bool with M true values; the other rows become null.

    Returns:
        list<float32> of N rows.
    """
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    length = values.shape[1] if values.ndim > 1 else 0
    offsets = np.zeros(len(valid) + 1, dtype=np.int32)
    np.cumsum(valid * np.int32(length), out=offsets[1:])
    mask = None if valid.all() else pa.array(~valid)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=mask)


def to_numpy(features: pa.Array | pa.ChunkedArray, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Returns features as an array, without copying when they are one chunk.

    Args:
        features: List<float32> without nulls (select rows whose status is ``ok`` first).
        shape: Shape of one image's features, such as (7, 7, 512).

    Returns:
        (N, *shape) float32.
    """
    if isinstance(features, pa.ChunkedArray):
        chunks = [to_numpy(chunk, shape) for chunk in features.chunks]
        if len(chunks) == 1:
            return chunks[0]
        return np.concatenate(chunks) if chunks else np.empty((0, *shape), np.float32)
    flat: npt.NDArray[np.float32] = features.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(-1, *shape)


def pooled(values: npt.NDArray[np.float32], pool: str) -> npt.NDArray[np.float32]:
    """Reduces maps to one value per channel.

    Args:
        values: (N, …, C) features, channels last.
        pool: ``avg`` or ``max``.

    Returns:
        (N, C) float32.
    """
    flat = values.reshape(len(values), -1, values.shape[-1])
    result: npt.NDArray[np.float32] = flat.mean(axis=1) if pool == "avg" else flat.max(axis=1)
    return result


def conform(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Casts to this package's types, whatever writer the file came from (nullability, views)."""
    schema = pa.schema([FIELDS[name] for name in columns])
    return table.select(list(columns)).cast(schema)
