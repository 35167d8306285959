"""The columns of the tables of this package."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

#: What every row says of its image. These small columns stand first so that reading them touches
#: one contiguous range of each row group.
IDENTITY = (
    pa.field("image", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("split", pa.string()),
    pa.field("fingerprint", pa.string()),
    pa.field("sha256", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
)

#: One row an image, `features` null unless the status is ``ok``.
FEATURES = pa.schema([*IDENTITY, pa.field("features", pa.list_(pa.float32()))])

#: One row an image: the most probable label, its probability, and the best few of both.
PREDICTIONS = pa.schema(
    [
        *IDENTITY,
        pa.field("predicted", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("top_labels", pa.list_(pa.string())),
        pa.field("top_probabilities", pa.list_(pa.float32())),
    ]
)

#: The columns of each kind of table.
SCHEMAS = {"features": FEATURES, "predictions": PREDICTIONS}

#: Every column by name.
FIELDS = {field.name: field for field in (*FEATURES, *PREDICTIONS)}

#: Columns of few distinct values, which are worth a dictionary.
DICTIONARY_COLUMNS = ("label", "split", "status", "error", "predicted", "top_labels.list.element")


@dataclass(frozen=True)
class RowFormat:
    """What the rows of a table look like.

    Attributes:
        schema: :data:`FEATURES` or :data:`PREDICTIONS`.
        length: Values in the longest list of a row, which sets the size of row groups.
    """

    schema: pa.Schema
    length: int
