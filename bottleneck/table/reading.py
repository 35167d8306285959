"""Reads shards: small columns of all rows, or any columns row group by row group."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bottleneck.table.columns import conform
from bottleneck.table.files import TableFiles


class ShardReader:
    """One open shard; a context manager. Threads need readers of their own.

    Args:
        files: Files of the table.
        path: The shard's path, relative to the table.
    """

    def __init__(self, files: TableFiles, path: str) -> None:
        # Pre-buffering would keep every row group in memory until the file is closed.
        self._file: Any = pq.ParquetFile(
            files.path(path), filesystem=files.filesystem, memory_map=False, pre_buffer=False
        )
        groups = [self._file.metadata.row_group(n) for n in range(self._file.num_row_groups)]
        self._edges = np.cumsum([0, *(group.num_rows for group in groups)], dtype=np.int64)
        self._bytes = int(sum(group.total_byte_size for group in groups))

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return len(self._edges) - 1

    @property
    def row_bytes(self) -> float:
        """Average size of one row before compression, in bytes."""
        return self._bytes / max(1, int(self._edges[-1]))

    def group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Reads one row group."""
        return conform(self._file.read_row_group(number, columns=list(columns)), columns)

    def take(
        self, rows: npt.NDArray[np.int64], columns: Sequence[str]
    ) -> Iterator[tuple[slice, pa.Table]]:
        """Reads some rows; each row group that holds any of them is read once.

        Args:
            rows: (N,) places in the shard, ascending.
            columns: Names of the columns.

        Yields:
            (which of `rows`, these rows), for one row group after the other.
        """
        # Slices, because NumPy copies to a slice twice as fast as to an array of places.
        cuts = np.searchsorted(rows, self._edges).tolist()
        for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
            if begin == end:
                continue
            table = self.group(number, columns)
            if end - begin < table.num_rows:
                table = table.take(pa.array(rows[begin:end] - self._edges[number]))
            yield slice(begin, end), table

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_columns(files: TableFiles, path: str, columns: Sequence[str]) -> pa.Table:
    """Reads some columns of a whole shard (not `features`: int32 offsets end at 2³¹ values)."""
    # Not `pq.read_table`: going through a data set takes twice the time for many row groups.
    with pq.ParquetFile(files.path(path), filesystem=files.filesystem, pre_buffer=True) as file:
        table = file.read(columns=list(columns), use_threads=False)
    return conform(table, columns)
