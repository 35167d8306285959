"""The images that a run computes, as a table."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

#: What workers are given of an image, in the order of the work: `row` is its place in the plan,
#: `old_shard` the number (in the snapshot) of the shard that holds the row it replaces.
WORK_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("image", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("old_shard", pa.int32()),
    ]
)


def _work(rows: pl.DataFrame) -> pa.Table:
    ordered = rows.sort("shard", "image", nulls_last=True).with_row_index("row")
    columns = [name if name != "old_shard" else "shard" for name in WORK_SCHEMA.names]
    return ordered.select(columns).to_arrow().rename_columns(WORK_SCHEMA.names).cast(WORK_SCHEMA)
