"""Shards: the Parquet files of a features table; writing, rewriting and reading them.

Everything here runs wherever it is called (a Ray worker, a notebook); nothing is visible to
readers of the table until :meth:`bottleneck.features.FeaturesTable.commit` names the shard.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from bottleneck.schemas import DICTIONARY_COLUMNS, FEATURES, FIELDS
from bottleneck.spec import FeatureSpec

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


def row_group_rows(feature_length: int) -> int:
    """Rows in a row group for features of this length.

    A power of two (so that it divides batches evenly) between 64 and 8,192.
    """
    rows = max(1, _ROW_GROUP_BYTES // (4 * max(1, feature_length)))
    return int(min(_MAX_GROUP_ROWS, max(_MIN_GROUP_ROWS, 1 << (rows.bit_length() - 1))))


def encoded_row_bytes(spec: FeatureSpec) -> float:
    """Expected size in a shard of one image's row, until the table's own shards tell."""
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
        features: list<float32> without nulls (select rows whose status is ``ok`` first).
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


def merge_shards(
    filesystem: Any,
    root: str,
    row_length: int,
    shard_paths: Sequence[str],
    *,
    drop: Mapping[str, Iterable[str]] | None = None,
    replace: Mapping[str, Mapping[str, Mapping[str, str | None]]] | None = None,
    schema: pa.Schema = SCHEMA,
) -> Shard | None:
    """Copies shards into one, in `image` order, row group by row group.

    With one shard and something to drop or replace it is a rewrite, with several a compaction.
    At most a few row groups a shard are in memory at a time.

    Args:
        filesystem: A pyarrow file system.
        root: The table's path in it.
        row_length: Values in the longest list of a row.
        shard_paths: Shards to copy, relative to the table.
        drop: Shard → images whose rows are left out.
        replace: Shard → image → new values of `image`, `label`, `split`, `fingerprint` for rows
            whose features stay but whose identity changes (a renamed or relabelled file).
        schema: Columns of the table.

    Returns:
        The new shard, or None when no row is left.
    """
    drop, replace = drop or {}, replace or {}
    names = schema.names
    files = [
        pq.ParquetFile(f"{root}/{path}", filesystem=filesystem, pre_buffer=False)
        for path in shard_paths
    ]

    @functools.lru_cache(maxsize=2 * len(files) + 2)
    def row_group(source: int, group: int) -> pa.Table:
        read = conform(files[source].read_row_group(group, columns=names), names)
        return _with_identities(read, replace.get(shard_paths[source], {}))

    try:
        order = _row_group_order(files, shard_paths, drop, replace)
        blocks = (_part(row_group(*place), first, count) for place, first, count in order)
        return write_shard(filesystem, root, row_length, blocks, schema)
    finally:
        row_group.cache_clear()
        for file in files:
            file.close()


def _part(rows: pa.Table, first: int, count: int) -> pa.Table:
    """Some rows; as a copy unless they are all, since a slice would keep the others in memory."""
    return rows if count == rows.num_rows else rows.take(pa.array(range(first, first + count)))


def _row_group_order(
    files: Sequence[Any],
    shard_paths: Sequence[str],
    drop: Mapping[str, Iterable[str]],
    replace: Mapping[str, Mapping[str, Mapping[str, str | None]]],
) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Yields ((source, row group), first row, row count) so that images come in order."""
    places: list[tuple[int, int]] = []
    images: list[pa.Array] = []
    keep: list[npt.NDArray[np.bool_]] = []
    for source, (file, path) in enumerate(zip(files, shard_paths, strict=True)):
        gone = pa.array(sorted(drop.get(path, ())), pa.string())
        for group in range(file.num_row_groups):
            rows = conform(file.read_row_group(group, columns=["image"]), ["image"])
            keep.append(pc.invert(pc.is_in(rows["image"], value_set=gone)).to_numpy())
            images.append(_with_identities(rows, replace.get(path, {}))["image"])
            places.append((source, group))
    for place, first, count in ordered_runs(images, keep):
        yield places[place], first, count


def ordered_runs(
    images: Sequence[pa.Array | pa.ChunkedArray],
    keep: Sequence[npt.NDArray[np.bool_]] | None = None,
) -> Iterator[tuple[int, int, int]]:
    """Brings the rows of several tables into `image` order as runs of consecutive rows.

    Args:
        images: The image columns of the tables.
        keep: For each table which rows to keep, (N,) bool; all when not given.

    Yields:
        (table, first row, number of rows).
    """
    lengths = [len(column) for column in images]
    if not sum(lengths):
        return
    tables = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    chunks = [
        chunk
        for column in images
        for chunk in (column.chunks if isinstance(column, pa.ChunkedArray) else [column])
    ]
    order = pc.sort_indices(pa.chunked_array(chunks, pa.string())).to_numpy().astype(np.int64)
    if keep is not None:
        order = order[np.concatenate(keep)[order]]
    if not len(order):
        return
    breaks = np.flatnonzero((np.diff(order) != 1) | (np.diff(tables[order]) != 0)) + 1
    edges = [0, *breaks.tolist(), len(order)]
    for begin, end in itertools.pairwise(edges):
        first = int(order[begin])
        table = int(tables[first])
        yield table, first - int(starts[table]), end - begin


def _with_identities(rows: pa.Table, changes: Mapping[str, Mapping[str, str | None]]) -> pa.Table:
    images = rows["image"].to_pylist()
    if not any(image in changes for image in images):
        return rows
    for name in {"image", "label", "split", "fingerprint"} & set(rows.column_names):
        values = [
            changes[image].get(name, old) if image in changes else old
            for image, old in zip(images, rows[name].to_pylist(), strict=True)
        ]
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, FIELDS[name], pa.array(values, pa.string()))
    return rows


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


def conform(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Casts to this package's types, whatever writer the file came from (nullability, views)."""
    schema = pa.schema([FIELDS[name] for name in columns])
    return table.select(list(columns)).cast(schema)
