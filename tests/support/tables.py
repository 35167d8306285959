"""Small features tables with given values, written as the package writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.support.specs import make_spec
from bottleneck.spec import FeatureSpec
from bottleneck.table.columns import SCHEMA, features_array
from bottleneck.table.shards import Shard, write_shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable
from bottleneck.training.rows import FeatureRows

#: Too few, many and some: shards of a table are never of one size.
UNEVEN = (100, 350, 150)


def write_table(
    uri: str | Path,
    values: npt.NDArray[np.float32],
    *,
    labels: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    statuses: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    shards: Sequence[int] = UNEVEN,
    columns: Mapping[str, Sequence[Any]] | None = None,
    spec: FeatureSpec | None = None,
) -> Snapshot:
    """Writes one table.

    Args:
        uri: Where.
        values: (N, *shape) features; those of rows that are not ok are left out.
        labels: Of the N images; none has one when not given.
        splits: The same.
        statuses: All ok when not given.
        images: Ascending names; the images' numbers when not given.
        shards: Rows of each.
        columns: Values of further columns; null when not given.
        spec: Specification; one of VGG16 when not given.
    """
    table = FeaturesTable.create(str(uri), spec or make_spec(values.shape[1:]))
    add_rows(table, values, labels, splits, statuses, images, shards, columns)
    return table.snapshot()


def add_rows(
    table: FeaturesTable,
    values: npt.NDArray[np.float32],
    labels: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    statuses: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    shards: Sequence[int] = UNEVEN,
    more: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Commits more shards to a table; see :func:`write_table`."""
    count = len(values)
    assert sum(shards) == count
    statuses = statuses or ["ok"] * count
    columns: dict[str, Sequence[Any]] = {name: [None] * count for name in SCHEMA.names[:-1]}
    columns |= more or {}
    columns["image"] = images or [f"{number:05d}.jpg" for number in range(count)]
    columns["status"] = statuses
    columns["label"], columns["split"] = (column or [None] * count for column in (labels, splits))
    ok = np.array([status == "ok" for status in statuses])
    arrays = [pa.array(column, SCHEMA.field(name).type) for name, column in columns.items()]
    features = features_array(values[ok].reshape(int(ok.sum()), int(np.prod(values.shape[1:]))), ok)
    rows = pa.table([*arrays, features], schema=SCHEMA)
    files = table.snapshot().files
    written: list[Shard] = []
    begin = 0
    for size in shards:
        shard = write_shard(files, [rows.slice(begin, size)])
        assert shard is not None
        written.append(shard)
        begin += size
    table.commit(base=table.snapshot(), add=written, run="tests")


def images_of(snapshot: Snapshot) -> list[list[str]]:
    """The images of each shard, in the snapshot's order."""
    return [
        snapshot.part([number]).read(["image"])["image"].to_pylist()
        for number in range(len(snapshot.shards))
    ]


def feature_rows(
    snapshot: Snapshot,
    classes: npt.NDArray[Any],
    chosen: npt.NDArray[np.bool_] | None = None,
    *,
    pool: str = "none",
) -> FeatureRows:
    """All rows of a snapshot, or the chosen ones, as workers get them.

    Args:
        snapshot: The table.
        classes: (N,) class of every row.
        chosen: (N,) which to take.
        pool: How maps are reduced.
    """
    sizes = [shard.rows for shard in snapshot.shards]
    shard = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    row = np.concatenate([np.arange(size) for size in sizes]).astype(np.int64)
    which = np.ones(len(row), bool) if chosen is None else chosen
    return FeatureRows(
        snapshot, shard[which], row[which], np.asarray(classes)[which].astype(np.int32), pool
    )
