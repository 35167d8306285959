"""The images that a run computes, as a table."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

#: Columns that workers get of each image, in the order of the work: `row` counts the plan's images,
#: `old_shard` is the number (in the snapshot) of the shard that holds the row it replaces.
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


def work_of(rows: pl.DataFrame) -> pa.Table:
    """Returns listing rows as work: those that replace a row first, by its shard, then by image.

    Args:
        rows: Listing rows; the column ``shard`` is null, or lacking, where an image has no row yet.
    """
    if "shard" not in rows.columns:
        rows = rows.with_columns(shard=pl.lit(None, pl.Int32))
    ordered = rows.sort("shard", "image", nulls_last=True).with_row_index("row")
    columns = [name if name != "old_shard" else "shard" for name in WORK_SCHEMA.names]
    return ordered.select(columns).to_arrow().rename_columns(WORK_SCHEMA.names).cast(WORK_SCHEMA)
