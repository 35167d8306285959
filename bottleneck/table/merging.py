"""Merging shards into one."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bottleneck.table.files import TableFiles
from bottleneck.table.reading import ShardReader
from bottleneck.table.schemas import FIELDS
from bottleneck.table.shards import Shard, write_shard


@dataclass(frozen=True)
class ShardMerge:
    """Which shards become one, and what changes on the way.

    With one shard and something to drop or replace it is a rewrite, with several a compaction.

    Attributes:
        shard_paths: Shards to copy, relative to the table.
        drop: Shard → images whose rows are left out.
        replace: Shard → image → new values of `image`, `label`, `split`, `fingerprint` for rows
            whose features stay but whose identity changes (a renamed or relabeled file).
    """

    shard_paths: Sequence[str]
    drop: Mapping[str, Iterable[str]] = field(default_factory=dict)
    replace: Mapping[str, Mapping[str, Mapping[str, str | None]]] = field(default_factory=dict)


def merge_shards(files: TableFiles, merge: ShardMerge) -> Shard | None:
    """Copies shards into one, in `image` order, row group by row group.

    At most a few row groups per shard are in memory at a time.

    Args:
        files: Files of the table.
        merge: Which shards, and what changes.

    Returns:
        The new shard, or None when no row is left.
    """
    with contextlib.ExitStack() as opened:
        readers = [opened.enter_context(ShardReader(files, path)) for path in merge.shard_paths]

        @functools.lru_cache(maxsize=2 * len(readers) + 2)
        def row_group(source: int, group: int) -> pa.Table:
            read = readers[source].group(group, files.row_format.schema.names)
            return _with_identities(read, merge.replace.get(merge.shard_paths[source], {}))

        opened.callback(row_group.cache_clear)
        order = _row_group_order(readers, merge)
        blocks = (_part(row_group(*place), first, count) for place, first, count in order)
        return write_shard(files, blocks)


def _part(rows: pa.Table, first: int, count: int) -> pa.Table:
    """Returns some rows, copied unless they are all: a slice would keep the others in memory."""
    return rows if count == rows.num_rows else rows.take(pa.array(range(first, first + count)))


def _row_group_order(
    readers: Sequence[ShardReader], merge: ShardMerge
) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Yields ((source, row group), first row, row count) so that images come in order."""
    places: list[tuple[int, int]] = []
    images: list[pa.Array] = []
    keep: list[npt.NDArray[np.bool_]] = []
    for source, (reader, path) in enumerate(zip(readers, merge.shard_paths, strict=True)):
        gone = pa.array(sorted(merge.drop.get(path, ())), pa.string())
        for group in range(reader.groups):
            rows = reader.group(group, ["image"])
            keep.append(pc.invert(pc.is_in(rows["image"], value_set=gone)).to_numpy())
            images.append(_with_identities(rows, merge.replace.get(path, {}))["image"])
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
