"""Whether features fit in memory, said before they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import psutil

from bottleneck.console.formatting import format_bytes
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import TableError
from bottleneck.table.columns import row_group_rows


def require_memory(
    rows: int, shape: Sequence[int], *, pooled: bool, threads: int, table_uri: str
) -> None:
    """Refuses to read more features than memory is available for.

    Args:
        rows: Number of images.
        shape: Of one image's features in the table, channels last.
        pooled: Whether maps are reduced to one value per channel.
        threads: Row groups that are read at a time.
        table_uri: The table, for the message.

    Raises:
        TableError: Too little memory is available; the message says how much, and what helps.
    """
    length = math.prod(shape)
    # A row group is held as bytes of the file, as Arrow's columns and as the chosen rows.
    beside = 3 * threads * 4 * length * row_group_rows(length)
    whole, less = (beside + 4 * rows * values for values in (length, shape[-1]))
    needed = less if pooled else whole
    available = int(psutil.virtual_memory().available)
    if needed <= available:
        return
    pool = f"pool='avg' ({format_bytes(less)}), " if less < needed else ""
    raise TableError(
        f"the features of {rows:,} images of {redact_uri(table_uri)} need {format_bytes(needed)} "
        f"of memory and {format_bytes(available)} are available; give {pool}fewer rows with "
        "where=, or read a part at a time with .batches()"
    )
