"""The shards of one version of a table, and reading what identifies rows."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from bottleneck.spec import FeatureSpec
from bottleneck.table import shards
from bottleneck.table.location import arrow_filesystem, reading
from bottleneck.table.shards import Shard

_READ_THREADS = 16

#: Reads in flight below these threads. In an object store the small columns of a row group are one
#: request, of VGG16's maps 16 a thousand images: Arrow's own 8 would leave a driver waiting.
_IO_THREADS = 64


@dataclass(frozen=True)
class Snapshot:
    """What the table holds at one version.

    Attributes:
        table_uri: Where the table is.
        version: Delta version, 0 for a table just created.
        spec: Feature specification that every row was computed with.
        shards: The Parquet files of this version, ordered by their smallest image.
        app_version: Number of commits that this package made up to this version.
    """

    table_uri: str
    version: int
    spec: FeatureSpec
    shards: tuple[Shard, ...]
    app_version: int

    @property
    def rows(self) -> int:
        """Number of rows, failed images included."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(shard.bytes for shard in self.shards)


def read_identities(snapshot: Snapshot, columns: Iterable[str]) -> pl.DataFrame:
    """Reads small columns of all rows, with the number of each row's shard as `shard`.

    Raises:
        TableError: A shard cannot be read.
    """
    # Before there is a file system, which takes its number of connections from it.
    pa.set_io_thread_count(max(_IO_THREADS, pa.io_thread_count()))
    filesystem, root = arrow_filesystem(snapshot.table_uri)
    names = list(columns)

    def read(number: int) -> pl.DataFrame:
        table = shards.read_columns(filesystem, root, snapshot.shards[number].path, names)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame.with_columns(pl.lit(number, pl.Int32).alias("shard"))

    schema = dict.fromkeys(names, pl.String) | {"shard": pl.Int32}
    with reading(snapshot.table_uri), ThreadPoolExecutor(_READ_THREADS) as pool:
        frames = list(pool.map(read, range(len(snapshot.shards))))
    return pl.concat(frames, rechunk=False) if frames else pl.DataFrame(schema=schema)
