"""Shards: the Parquet files of a features table; writing, rewriting and reading them.

Everything here runs wherever it is called (a Ray worker, a notebook); nothing is visible to
readers of the table until :meth:`bottleneck.table.table.FeaturesTable.commit` names the shard.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from bottleneck.table.columns import SCHEMA, conform, row_group_rows
from bottleneck.table.schemas import DICTIONARY_COLUMNS, FIELDS


@dataclass(frozen=True)
class Shard:
    """A Parquet file of the table.

    Attributes:
        path: Relative to the table, ASCII, unique for ever.
        bytes: Size of the file.
        rows: Number of rows.
        min_image: Smallest image identity.
        max_image: Largest image identity.
    """

    path: str
    bytes: int
    rows: int
    min_image: str
    max_image: str


class ShardWriter:
    """Writes one shard, row group by row group, in bounded memory.

    Args:
        filesystem: A pyarrow file system.
        root: The table's path in it.
        row_length: Values in the longest list of a row, which sets the size of row groups.
        schema: Columns of the table.
    """

    def __init__(
        self, filesystem: Any, root: str, row_length: int, schema: pa.Schema = SCHEMA
    ) -> None:
        self._filesystem = filesystem
        self._name = f"shard-{uuid.uuid4().hex}.parquet"
        self._path = f"{root}/{self._name}"
        self._group_rows = row_group_rows(row_length)
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._rows = 0
        self._bounds: tuple[str, str] | None = None
        if isinstance(filesystem, pafs.LocalFileSystem):
            filesystem.create_dir(root, recursive=True)
        self._file = filesystem.open_output_stream(self._path)
        # Measured on real maps (benchmarks/encoding.py): zstd-3 without dictionary is the
        # smallest that every reader understands; the Arrow schema is left out of the file
        # because readers differ in the Arrow types they accept from it.
        try:
            self._writer = pq.ParquetWriter(
                self._file,
                schema,
                compression="zstd",
                compression_level=3,
                use_dictionary=_dictionary_columns(schema),
                write_statistics=["image"],
                store_schema=False,
            )
        except BaseException:
            _try_all(self._file.close, self._delete)
            raise

    def write(self, rows: pa.Table) -> None:
        """Appends rows of the table's schema."""
        if rows.num_rows == 0:
            return
        bounds = pc.min_max(rows["image"]).as_py()
        low, high = self._bounds or (bounds["min"], bounds["max"])
        self._bounds = (min(low, bounds["min"]), max(high, bounds["max"]))
        self._held.append(rows)
        self._held_rows += rows.num_rows
        while self._held_rows >= self._group_rows:
            self._flush(self._group_rows)

    def _flush(self, count: int) -> None:
        held = pa.concat_tables(self._held)
        self._writer.write_table(held.slice(0, count), row_group_size=self._group_rows)
        self._rows += count
        rest = held.slice(count)
        self._held = [rest] if rest.num_rows else []
        self._held_rows = rest.num_rows

    def close(self) -> Shard | None:
        """Finishes the file.

        Returns:
            The shard, or None (and no file) when no row was written.
        """
        if self._held_rows:
            self._flush(self._held_rows)
        if not self._rows or self._bounds is None:
            self.abort()
            return None
        self._writer.close()
        self._file.close()
        size = self._filesystem.get_file_info(self._path).size
        return Shard(self._name, size, self._rows, *self._bounds)

    def abort(self) -> None:
        """Gives the file up and removes what was written, as far as storage still answers."""
        _try_all(self._writer.close, self._file.close, self._delete)

    def _delete(self) -> None:
        self._filesystem.delete_file(self._path)


def _try_all(*steps: Callable[[], object]) -> None:
    for step in steps:
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            step()


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    return [name for name in DICTIONARY_COLUMNS if name.partition(".")[0] in schema.names]


def write_shard(
    filesystem: Any,
    root: str,
    row_length: int,
    blocks: Iterable[pa.Table],
    schema: pa.Schema = SCHEMA,
) -> Shard | None:
    """Writes tables of one schema, already in `image` order, as one shard.

    Returns:
        The shard, or None when the tables have no rows.
    """
    writer = ShardWriter(filesystem, root, row_length, schema)
    try:
        for block in blocks:
            writer.write(block)
        return writer.close()
    except BaseException:
        writer.abort()
        raise


def read_row_groups(
    filesystem: Any,
    root: str,
    shard_path: str,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Reads a shard row group by row group.

    Yields:
        Tables of all columns, or of those asked for, each column one chunk.
    """
    with pq.ParquetFile(
        f"{root}/{shard_path}", filesystem=filesystem, memory_map=False, pre_buffer=False
    ) as file:
        held = set(file.schema_arrow.names)
        names = list(columns) if columns is not None else [n for n in FIELDS if n in held]
        for group in range(file.num_row_groups):
            yield conform(file.read_row_group(group, columns=names), names)


def read_columns(filesystem: Any, root: str, shard_path: str, columns: Sequence[str]) -> pa.Table:
    """Reads some columns of a whole shard (not `features`: int32 offsets end at 2³¹ values)."""
    # Not `pq.read_table`: going through a data set takes twice the time for many row groups.
    with pq.ParquetFile(f"{root}/{shard_path}", filesystem=filesystem, pre_buffer=True) as file:
        table = file.read(columns=list(columns), use_threads=False)
    return conform(table, columns)
