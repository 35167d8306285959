"""Shards: the Parquet files of a table, and writing them.

Everything here runs wherever it is called (a Ray worker, a notebook); nothing is visible to
readers of the table until :meth:`bottleneck.table.table.ImageTable.commit` names the shard.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from bottleneck.table.columns import row_group_rows
from bottleneck.table.files import TableFiles
from bottleneck.table.schemas import DICTIONARY_COLUMNS


@dataclass(frozen=True)
class Shard:
    """A Parquet file of the table.

    Attributes:
        path: Relative to the table, ASCII, unique for ever.
        size_bytes: Size of the file.
        rows: Number of rows.
        min_image: Smallest image identity.
        max_image: Largest image identity.
    """

    path: str
    size_bytes: int
    rows: int
    min_image: str
    max_image: str


class ShardWriter:
    """Writes one shard, row group by row group, in bounded memory.

    Args:
        files: Files of the table.
    """

    def __init__(self, files: TableFiles) -> None:
        schema = files.row_format.schema
        self._filesystem = files.filesystem
        self._name = f"shard-{uuid.uuid4().hex}.parquet"
        self._path = files.path(self._name)
        self._group_rows = row_group_rows(files.row_format.length)
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._rows = 0
        self._bounds: tuple[str, str] | None = None
        if isinstance(files.filesystem, pafs.LocalFileSystem):
            files.filesystem.create_dir(files.root, recursive=True)
        self._file = files.filesystem.open_output_stream(self._path)
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


def write_shard(files: TableFiles, blocks: Iterable[pa.Table]) -> Shard | None:
    """Writes tables of the files' schema, already in `image` order, as one shard.

    Returns:
        The shard, or None when the tables have no rows.
    """
    writer = ShardWriter(files)
    try:
        for block in blocks:
            writer.write(block)
        return writer.close()
    except BaseException:
        writer.abort()
        raise
