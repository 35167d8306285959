"""Features of a snapshot in the memory of training workers, window by window.

The rows of a split have one order, that of the snapshot, which every worker knows; each worker
reads and holds the rows it owns. What a worker does with a batch follows from the batch's rows
alone, so that losses do not depend on the number of workers and no row is lost or used twice.
A snapshot larger than memory is cut into chunks, and each epoch deals the chunks, in a seeded
order of its own, into windows that fit. No Ray and no Keras here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.errors import ConfigError
from bottleneck.table.columns import pooled, row_group_rows, to_numpy
from bottleneck.table.reading import ShardReader
from bottleneck.training.rows import DTYPES, FeatureRows

#: Minimum number of chunks that a window is dealt from, so that each epoch mixes other rows.
_CHUNKS_PER_WINDOW = 8

#: Rows converted at a time when all values of a split are summed up.
_SUM_ROWS = 512


@dataclass(frozen=True)
class Window:
    """Rows that are in memory together.

    Attributes:
        label: (n,) int32, classes of all rows of the window, whoever holds them.
        owner: (n,) int32, rank of the worker that holds each row.
        place: (n,) int64, index of the row in that worker's `values`.
        values: (m, L) of the reader's `dtype`: the rows that this worker holds.
    """

    label: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int32]
    place: npt.NDArray[np.int64]
    values: npt.NDArray[Any]

    def batches(
        self, order: npt.NDArray[np.int64], size: int, rank: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]]:
        """Cuts an order of the window's rows into batches.

        Yields:
            (rows of the batch that this worker holds, their places in the batch, size of the
            whole batch); a worker may hold none.
        """
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            places = np.flatnonzero(self.owner[chosen] == rank)
            yield chosen[places], places, len(chosen)


class WindowReader:
    """Reads one worker's part of the windows.

    Args:
        rows: The rows of a split.
        dtype: Key of :data:`~bottleneck.training.rows.DTYPES`.
        window_rows: Maximum rows of a window, over all workers. It decides the order of training
            and must not depend on which workers are there.
        rank: Rank of this worker.
        world: Number of workers.
        threads: Threads that read.
    """

    def __init__(
        self,
        rows: FeatureRows,
        *,
        dtype: str,
        window_rows: int,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
    ) -> None:
        self._rows = rows
        self._dtype = DTYPES[dtype]
        self._rank, self._world, self._threads = rank, world, threads
        self._files = rows.snapshot.files
        self.whole = len(rows) <= window_rows
        self._window_rows = window_rows
        self._edges = _chunk_edges(rows, max(1, window_rows // _CHUNKS_PER_WINDOW))
        self._kept: Window | None = None

    def windows(self, seed: Sequence[int] | None = None) -> Iterator[Window]:
        """Reads the split once.

        The next window is read while the caller works on one. A split that fits one window is
        read the first time only, and stays.

        Args:
            seed: Seed of the order of chunks; None keeps the snapshot's order.

        Yields:
            Windows that together hold every row once.
        """
        if not len(self._rows):
            return
        if self.whole:
            if self._kept is None:
                self._kept = self._read(np.arange(len(self._edges) - 1))
            yield self._kept
            return
        chunks = np.arange(len(self._edges) - 1)
        if seed is not None:
            chunks = np.random.default_rng(seed).permutation(chunks)
        groups = self._grouped(chunks)
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[Window] = ahead.submit(self._read, groups[0])
            for group in [*groups[1:], None]:
                window = coming.result()
                if group is not None:
                    coming = ahead.submit(self._read, group)
                yield window

    def _grouped(self, chunks: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Cuts a sequence of chunks into windows, where the next chunk would not fit."""
        sizes = np.diff(self._edges)[chunks]
        groups, begin, held = [], 0, 0
        for number, size in enumerate(sizes.tolist()):
            if held and held + size > self._window_rows:
                groups.append(chunks[begin:number])
                begin, held = number, 0
            held += size
        return [*groups, chunks[begin:]]

    def _read(self, chunks: npt.NDArray[np.int64]) -> Window:
        """Reads this worker's chunks of a window; of the others' it knows labels and owners."""
        sizes = np.diff(self._edges)[chunks]
        owners = _share_out(sizes, self._world)
        index = np.concatenate(
            [np.arange(self._edges[chunk], self._edges[chunk + 1]) for chunk in chunks]
        )
        owner = np.repeat(owners, sizes)
        place = np.zeros(len(index), np.int64)
        for rank in range(self._world):
            held = owner == rank
            place[held] = np.arange(int(held.sum()))
        values = np.empty((int((owner == self._rank).sum()), self._rows.length), self._dtype)
        self._fill(values, index[owner == self._rank])
        return Window(self._rows.label[index], owner, place, values)

    def _fill(self, values: npt.NDArray[Any], index: npt.NDArray[np.int64]) -> None:
        if not len(index):
            return
        shard, row = self._rows.shard[index], self._rows.row[index]
        group_rows = row_group_rows(self._rows.snapshot.spec.length)
        # One piece of work per row group: large enough for a thread, and no row is read twice.
        group = row // group_rows
        starts = np.flatnonzero(np.r_[True, (np.diff(shard) != 0) | (np.diff(group) != 0)])
        ends = np.r_[starts[1:], len(index)]
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for begin, end in zip(starts.tolist(), ends.tolist(), strict=True):
            by_shard.setdefault(int(shard[begin]), []).append((begin, end))
        # A reader for each run of row groups: Parquet readers may not be shared by threads.
        work = [
            (number, pieces[start : start + _GROUPS_PER_TASK])
            for number, pieces in by_shard.items()
            for start in range(0, len(pieces), _GROUPS_PER_TASK)
        ]

        def read(task: tuple[int, list[tuple[int, int]]]) -> None:
            number, pieces = task
            path = self._rows.snapshot.shards[number].path
            with ShardReader(self._files, path) as reader:
                for begin, end in pieces:
                    # Another writer may have cut the shard into other row groups.
                    part = values[begin:end]
                    for some, table in reader.take(row[begin:end], ["features"]):
                        read = to_numpy(table["features"], self._rows.snapshot.spec.shape)
                        part[some] = self._stored(self._pooled(read))

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(read, work))

    def _pooled(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._rows.pool == "none":
            return values.reshape(len(values), -1)
        return pooled(values, self._rows.pool)

    def _stored(self, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        if self._dtype == np.float16 and len(values) and np.abs(values).max() > _FLOAT16_MAX:
            raise ConfigError(
                f"the table holds features up to {np.abs(values).max():g} and float16 ends at "
                f"{_FLOAT16_MAX:g}; give --dtype float32 or bfloat16"
            )
        return values.astype(self._dtype, copy=False)


_GROUPS_PER_TASK = 8
_FLOAT16_MAX = float(np.finfo(np.float16).max)


def _chunk_edges(rows: FeatureRows, chunk_rows: int) -> npt.NDArray[np.int64]:
    """Cuts the rows at shards' ends and, inside large shards, at row groups.

    Returns:
        (K + 1,) int64, first rows of the chunks, and the end.
    """
    group_rows = row_group_rows(rows.snapshot.spec.length)
    stride = max(1, chunk_rows // group_rows) * group_rows
    part = rows.row // stride
    cut = (np.diff(rows.shard) != 0) | (np.diff(part) != 0)
    return np.concatenate([[0], np.flatnonzero(cut) + 1, [len(rows)]]).astype(np.int64)


def _share_out(sizes: npt.NDArray[np.int64], world: int) -> npt.NDArray[np.int32]:
    """Assigns chunks to workers, largest first, each to the least loaded worker (LPT).

    Returns:
        (K,) int32, rank of each chunk's worker.
    """
    owners = np.zeros(len(sizes), np.int32)
    load = [0] * world
    for chunk in np.argsort(-sizes, kind="stable").tolist():
        rank = load.index(min(load))
        owners[chunk] = rank
        load[rank] += int(sizes[chunk])
    return owners


def moments(
    windows: Iterator[Window],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
    """Sums up the values that this worker holds.

    Returns:
        (L,) sums, (L,) sums of squares, both float64, and the number of rows.
    """
    total: Any = 0.0
    squares: Any = 0.0
    count = 0
    for window in windows:
        for start in range(0, len(window.values), _SUM_ROWS):
            block = window.values[start : start + _SUM_ROWS].astype(np.float32)
            total = total + block.sum(axis=0, dtype=np.float64)
            squares = squares + np.einsum("ij,ij->j", block, block).astype(np.float64)
            count += len(block)
    return np.asarray(total), np.asarray(squares), count
