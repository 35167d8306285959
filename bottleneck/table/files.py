"""The files of a table: the file system, the folder in it, and what rows look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from bottleneck.table.location import arrow_filesystem
from bottleneck.table.schemas import RowFormat


@dataclass(frozen=True)
class TableFiles:
    """Where the shards of a table are read and written.

    File systems hold credentials: pass the table's URI to other processes and make this there.

    Attributes:
        filesystem: A pyarrow file system.
        root: The table's path in it.
        row_format: What the rows look like.
    """

    filesystem: Any
    root: str
    row_format: RowFormat

    @classmethod
    def at(cls, uri: str, row_format: RowFormat) -> Self:
        """Opens the file system of a table.

        Raises:
            TableError: No table can have this address, or the address may not be accessed.
        """
        return cls(*arrow_filesystem(uri), row_format)

    def path(self, shard_path: str) -> str:
        """Returns a shard's path in the file system."""
        return f"{self.root}/{shard_path}"
