"""One version of a table: its shards, and its rows as Arrow, Polars or NumPy.

>>> snapshot = FeaturesTable.open("photo-features").snapshot()
>>> rows = snapshot.read(["image", "label", "status"])  # small columns of all rows
>>> for batch in snapshot.batches(): ...  # features, in bounded memory
>>> images, labels, features = snapshot.to_numpy(pool="avg")  # features, all at once
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import TableError
from bottleneck.images.statuses import OK
from bottleneck.spec import FeatureSpec
from bottleneck.table.batches import Batch, recut
from bottleneck.table.columns import encoded_row_bytes, pooled, to_numpy
from bottleneck.table.conditions import columns_of, matching, require_columns
from bottleneck.table.files import TableFiles
from bottleneck.table.memory import require_memory
from bottleneck.table.reading import ShardReader, read_columns
from bottleneck.table.schemas import SCHEMAS, RowFormat
from bottleneck.table.shards import Shard

#: Shards whose small columns are read at a time.
_READ_THREADS = 16

#: Shards whose features are read at a time by :meth:`Snapshot.to_numpy`.
_FEATURE_THREADS = 4

#: Reads in flight below these threads. In an object store the small columns of a row group are one
#: request, of VGG16's maps 16 per thousand images: Arrow's own 8 would leave a driver waiting.
_IO_THREADS = 64


@dataclass(frozen=True)
class Snapshot:
    """What the table holds at one version.

    Rows are read shard by shard, and within a shard in `image` order.

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
    def size_bytes(self) -> int:
        """Size of all shards in bytes."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def row_bytes(self) -> float:
        """Average size of a row in the shards, in bytes; what is expected while there is none."""
        return self.size_bytes / self.rows if self.rows else encoded_row_bytes(self.spec)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        return SCHEMAS[self.spec.kind]

    @property
    def row_format(self) -> RowFormat:
        """What the rows look like."""
        return RowFormat(self.schema, self.spec.length)

    @property
    def files(self) -> TableFiles:
        """Where the shards are, with a file system of its own for each call."""
        return TableFiles.at(self.table_uri, self.row_format)

    def part(self, numbers: Iterable[int]) -> Snapshot:
        """Returns the same version with some of its shards only, given by their numbers."""
        return replace(self, shards=tuple(self.shards[number] for number in numbers))

    def read(
        self, columns: Iterable[str] | None = None, *, where: pc.Expression | None = None
    ) -> pa.Table:
        """Reads small columns, failed images included.

        Args:
            columns: Their names; all but `features` when not given.
            where: Condition on small columns, such as ``pc.field("split") == "train"`` with
                ``import pyarrow.compute as pc``.

        Returns:
            One row per image.

        Raises:
            TableError: There is no such column, it is `features`, or a shard cannot be read.
        """
        names = self._small.names if columns is None else self._named(columns)
        conditions = [] if where is None else self._columns_of(where)
        tables = self._read_all(list(dict.fromkeys([*names, *conditions])))
        if where is not None:
            tables = [table.take(pa.array(matching(table, where))) for table in tables]
        return pa.concat_tables(
            [self.schema.empty_table().select(names)] + [table.select(names) for table in tables]
        )

    def read_by_shard(self, columns: Iterable[str]) -> pl.DataFrame:
        """Reads small columns of all rows, with the number of each row's shard as `shard`, int32.

        Raises:
            TableError: There is no such column, it is `features`, or a shard cannot be read.
        """
        names = self._named(columns)
        schema = self._small
        tables = self._read_all(names)
        empty = pa.schema([schema.field(name) for name in names]).empty_table()
        frames = [
            _frame(table).with_columns(pl.lit(number, pl.Int32).alias("shard"))
            for number, table in enumerate(tables or [empty])
        ]
        return pl.concat(frames, rechunk=False)

    def batches(
        self, *, where: pc.Expression | None = None, batch_rows: int | None = None
    ) -> Iterator[Batch]:
        """Reads the features of the images that have some (`status` ok), a few rows at a time.

        No more than a row group is in memory (6 MB of features, or 64 rows where those are
        larger), besides the batch itself and the names and labels of one shard.

        Args:
            where: Condition on small columns, as for :meth:`read`. Row groups without a row that
                meets it are not read.
            batch_rows: Rows of each batch but the last; when not given, what each row group has.

        Returns:
            An iterator of batches, none of them empty.

        Raises:
            TableError: This is no features table, the condition does not fit it, or a shard cannot
                be read.
        """
        self._require_features()
        if batch_rows is not None and batch_rows < 1:
            raise TableError(f"batch_rows is {batch_rows}; give a number of at least 1, or None")
        conditions = [] if where is None else self._columns_of(where)
        groups = self._group_batches(where, conditions)
        return groups if batch_rows is None else recut(groups, batch_rows)

    def to_numpy(
        self,
        *,
        pool: Literal["avg", "max"] | None = None,
        where: pc.Expression | None = None,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Reads the features of all images that have some (`status` ok) into memory.

        Args:
            pool: Reduce maps to their mean (``avg``) or maximum (``max``) per channel.
            where: Condition on small columns, as for :meth:`read`.

        Returns:
            (N,) names and (N,) labels (None where there is none), both of dtype object, and
            (N, *shape) float32 features; (N, C) when pooled.

        Raises:
            TableError: They do not fit in memory, this is no features table, the condition does
                not fit it, or a shard cannot be read.
        """
        self._require_features()
        if pool not in (None, "avg", "max"):
            raise TableError(f"pool is {pool!r}; allowed are 'avg', 'max' and None")
        conditions = [] if where is None else self._columns_of(where)
        names = list(dict.fromkeys(["image", "label", "status", *conditions]))
        chosen = [_with_features(table, where) for table in self._read_all(names)]
        edges = np.cumsum([0, *(len(rows) for rows, _ in chosen)])
        shape = self.spec.shape if pool is None else self.spec.shape[-1:]
        require_memory(
            int(edges[-1]),
            self.spec.shape,
            pooled=pool is not None,
            threads=_FEATURE_THREADS,
            table_uri=self.table_uri,
        )
        features = np.empty((int(edges[-1]), *shape), np.float32)
        files = self.files

        def fill(number: int) -> None:
            rows, _ = chosen[number]
            part = features[edges[number] : edges[number + 1]]
            with ShardReader(files, self.shards[number].path) as reader:
                for some, table in reader.take(rows, ["features"]):
                    values = to_numpy(table["features"], self.spec.shape)
                    part[some] = values if pool is None else pooled(values, pool)

        with self._reading(), ThreadPoolExecutor(_FEATURE_THREADS) as threads:
            list(threads.map(fill, [n for n, (rows, _) in enumerate(chosen) if len(rows)]))
        identities = pa.concat_tables(
            [self.schema.empty_table().select(["image", "label"])]
            + [table.select(["image", "label"]) for _, table in chosen]
        )
        return (
            identities["image"].to_numpy(),
            np.array(identities["label"].to_pylist(), dtype=object),
            features,
        )

    @property
    def _small(self) -> pa.Schema:
        return pa.schema([field for field in self.schema if field.name != "features"])

    def _named(self, columns: Iterable[str]) -> list[str]:
        return require_columns(columns, self.schema, self.table_uri)

    def _columns_of(self, where: pc.Expression) -> list[str]:
        return columns_of(where, self._small, self.table_uri)

    def _read_all(self, columns: Sequence[str]) -> list[pa.Table]:
        """Reads small columns of each shard."""
        # Before there is a file system, which takes its number of connections from it.
        pa.set_io_thread_count(max(_IO_THREADS, pa.io_thread_count()))
        files = self.files
        with self._reading(), ThreadPoolExecutor(_READ_THREADS) as threads:
            return list(
                threads.map(lambda shard: read_columns(files, shard.path, columns), self.shards)
            )

    def _group_batches(
        self, where: pc.Expression | None, conditions: Sequence[str]
    ) -> Iterator[Batch]:
        names = list(dict.fromkeys(["image", "label", "split", "status", *conditions]))
        files = self.files
        with self._reading():
            for shard in self.shards:
                rows, identities = _with_features(read_columns(files, shard.path, names), where)
                if not len(rows):
                    continue
                with ShardReader(files, shard.path) as reader:
                    for some, table in reader.take(rows, ["features"]):
                        few = identities[some]
                        yield Batch(
                            few["image"].to_pylist(),
                            few["label"].to_pylist(),
                            few["split"].to_pylist(),
                            to_numpy(table["features"], self.spec.shape),
                        )

    def _require_features(self) -> None:
        if "features" not in self.schema.names:
            raise TableError(
                f"{redact_uri(self.table_uri)} is a {self.spec.kind} table and holds no features; "
                "read its columns with .read(), or open the features table it was made from"
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns what storage raises while a shard is read into one line."""
        try:
            yield
        except (OSError, pa.ArrowException) as e:
            raise TableError(
                f"cannot read version {self.version} of {redact_uri(self.table_uri)}: "
                f"{one_line(e, 'first')}; check the credentials, or run again if a vacuum was "
                "under way"
            ) from e


def _with_features(
    rows: pa.Table, where: pc.Expression | None
) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """Returns the places in the shard of the rows to read, and what is known of them."""
    ok = pc.field("status") == OK
    places = matching(rows, ok if where is None else ok & where)
    return places, rows.take(pa.array(places))


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame
