"""Features in the memory of workers: every row once, as written, in one order for all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tables import UNEVEN, feature_rows, write_table

from bottleneck.errors import ConfigError
from bottleneck.table import columns, reading
from bottleneck.table.columns import row_group_rows
from bottleneck.table.snapshot import Snapshot
from bottleneck.training import rows as training_rows
from bottleneck.training.rows import FeatureRows, window_rows
from bottleneck.training.windows import Window, WindowReader, moments

Array = npt.NDArray[Any]

SHAPE = (3, 3, 16)
VALUES = np.random.default_rng(0).normal(size=(600, *SHAPE)).astype(np.float32)
CLASSES = np.random.default_rng(1).integers(0, 3, 600)

#: Rows as long as VGG16's lie 64 to a row group, so that few of them make many chunks. These are
#: shorter, to be quick, and have row groups of that size all the same.
LONG_SHAPE = (7, 7, 8)
LONG_SHARDS = (70, 200, 60)
LONG_COUNT = sum(LONG_SHARDS)
LONG_CLASSES = np.arange(LONG_COUNT) % 5
GROUP = 64


def long_values(numbers: Array) -> npt.NDArray[np.float32]:
    """(N, 392) float32: the row's number, and a little that depends on the place in the row."""
    pattern = np.arange(392, dtype=np.float32) / 512
    return numbers[:, None].astype(np.float32) + pattern


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write_table(tmp_path_factory.mktemp("short") / "table", VALUES)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_group_rows(25_088) == GROUP
    monkeypatch.setattr(columns, "_MAX_GROUP_ROWS", GROUP)


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    values = long_values(np.arange(LONG_COUNT)).reshape(-1, *LONG_SHAPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_MAX_GROUP_ROWS", GROUP)
        return write_table(tmp_path_factory.mktemp("long") / "table", values, shards=LONG_SHARDS)


@pytest.fixture
def long(long_table: Snapshot, small_groups: None) -> Snapshot:
    return long_table


@dataclass(frozen=True)
class Gathered:
    """A window as all workers together have it, its rows in the window's order."""

    label: Array
    values: Array


def gather(
    rows: FeatureRows,
    window_rows: int,
    world: int = 1,
    seed: tuple[int, ...] | None = None,
    dtype: str = "float32",
) -> list[Gathered]:
    """Reads a split once with every worker; makes sure that they agree on who holds what."""
    readers = [
        WindowReader(rows, dtype=dtype, window_rows=window_rows, rank=rank, world=world)
        for rank in range(world)
    ]
    return [
        together(list(windows))
        for windows in zip(*(reader.windows(seed) for reader in readers), strict=True)
    ]


def together(windows: list[Window]) -> Gathered:
    first = windows[0]
    values = np.empty((len(first.label), first.values.shape[1]), first.values.dtype)
    for rank, window in enumerate(windows):
        np.testing.assert_array_equal(window.label, first.label)
        np.testing.assert_array_equal(window.owner, first.owner)
        np.testing.assert_array_equal(window.place, first.place)
        held = window.owner == rank
        assert window.place[held].tolist() == list(range(int(held.sum())))
        assert len(window.values) == held.sum()
        values[held] = window.values[window.place[held]]
    assert set(first.owner.tolist()) <= set(range(len(windows)))
    return Gathered(first.label, values)


def numbers_of(windows: list[Gathered]) -> list[list[int]]:
    """Which rows of the long table each window has; makes sure that they are whole."""
    found = []
    for window in windows:
        numbers = window.values[:, 0].astype(np.int64)
        np.testing.assert_array_equal(window.values, long_values(numbers))
        np.testing.assert_array_equal(window.label, LONG_CLASSES[numbers])
        found.append(numbers.tolist())
    return found


# Every row once


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [GROUP, 100, 200, LONG_COUNT - 1, LONG_COUNT, 1000])
def test_windows_have_every_row_once(long: Snapshot, size: int, world: int) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    windows = numbers_of(gather(rows, size, world, seed=(3, 0)))
    assert sorted(number for window in windows for number in window) == list(range(LONG_COUNT))
    assert max(map(len, windows)) <= size
    if size >= LONG_COUNT:
        assert windows == [list(range(LONG_COUNT))]
    else:
        assert len(windows) > 1


@pytest.mark.parametrize("size", [1, 100, 300, 600])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_short_rows_too(short: Snapshot, size: int, world: int) -> None:
    """Thousands of short rows lie in one row group: a shard here is a chunk, and read whole."""
    windows = gather(feature_rows(short, CLASSES), size, world)
    np.testing.assert_array_equal(
        np.concatenate([window.values for window in windows]), VALUES.reshape(600, -1)
    )
    np.testing.assert_array_equal(np.concatenate([window.label for window in windows]), CLASSES)
    assert [len(window.label) for window in windows] == ([600] if size == 600 else list(UNEVEN))


def test_a_worker_may_own_nothing(short: Snapshot) -> None:
    rows = feature_rows(short, CLASSES, np.arange(600) < 100)
    readers = [
        WindowReader(rows, dtype="float32", window_rows=600, rank=rank, world=3)
        for rank in range(3)
    ]
    windows = [next(iter(reader.windows())) for reader in readers]
    assert [window.values.shape for window in windows] == [(100, 144), (0, 144), (0, 144)]
    assert [len(window.label) for window in windows] == [100, 100, 100]
    total, squares, count = moments(readers[2].windows())
    assert (total.tolist(), squares.tolist(), count) == (0.0, 0.0, 0)


def test_work_is_shared_out_evenly(long: Snapshot) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    held = [
        len(next(iter(reader.windows())).values)
        for reader in (
            WindowReader(rows, dtype="float32", window_rows=LONG_COUNT, rank=rank, world=2)
            for rank in range(2)
        )
    ]
    assert sum(held) == LONG_COUNT
    assert max(held) - min(held) <= GROUP


def test_a_split_without_rows(short: Snapshot) -> None:
    rows = feature_rows(short, CLASSES, np.zeros(600, bool))
    reader = WindowReader(rows, dtype="float32", window_rows=600)
    assert len(rows) == 0
    assert list(reader.windows()) == list(reader.windows(seed=(0, 0))) == []


def test_rows_between_that_take_no_part(tmp_path: Path, small_groups: None) -> None:
    """Failed rows have no features in the shard; rows of other splits have and are left out."""
    count = LONG_COUNT
    statuses = ["truncated" if number % 7 == 2 or 70 <= number < 140 else "ok"
                for number in range(count)]  # fmt: skip
    values = long_values(np.arange(count)).reshape(-1, *LONG_SHAPE)
    snapshot = write_table(tmp_path / "table", values, statuses=statuses, shards=LONG_SHARDS)
    chosen = np.array([status == "ok" for status in statuses]) & (np.arange(count) % 3 != 1)
    rows = feature_rows(snapshot, LONG_CLASSES, chosen)
    for size in (GROUP, 100, count):
        for world in (1, 2):
            windows = numbers_of(gather(rows, size, world))
            found = [number for window in windows for number in window]
            assert found == np.flatnonzero(chosen).tolist()


@pytest.mark.parametrize("group", [1, 37, 64, 500])
def test_row_groups_and_types_of_another_writer(
    tmp_path: Path, small_groups: None, group: int
) -> None:
    """A compaction by another program keeps neither our row groups nor our types."""
    values = long_values(np.arange(LONG_COUNT)).reshape(-1, *LONG_SHAPE)
    statuses = ["ok" if number % 5 else "empty" for number in range(LONG_COUNT)]
    snapshot = write_table(tmp_path / "table", values, statuses=statuses, shards=LONG_SHARDS)
    for shard in snapshot.shards:
        path = tmp_path / "table" / shard.path
        table = pq.read_table(path)
        features = table["features"].cast(pa.large_list(pa.float64()))
        place = table.schema.get_field_index("features")
        pq.write_table(table.set_column(place, "features", features), path, row_group_size=group)
    chosen = np.arange(LONG_COUNT) % 5 > 1
    rows = feature_rows(snapshot, LONG_CLASSES, chosen)
    for size in (100, LONG_COUNT):
        windows = gather(rows, size, world=2)
        np.testing.assert_array_equal(
            np.concatenate([window.values for window in windows]),
            values[chosen].reshape(int(chosen.sum()), -1),
        )


def test_batches_have_every_row_once(short: Snapshot) -> None:
    rows = feature_rows(short, CLASSES)
    order = np.random.default_rng(5).permutation(600)
    batches: list[list[tuple[Array, Array, int]]] = []
    for rank in range(3):
        reader = WindowReader(rows, dtype="float32", window_rows=600, rank=rank, world=3)
        (window,) = reader.windows()
        batches.append(list(window.batches(order, 64, rank)))
        for chosen, _, _ in batches[-1]:
            assert (window.owner[chosen] == rank).all()
    for start, parts in zip(range(0, 600, 64), zip(*batches, strict=True), strict=True):
        wanted = order[start : start + 64]
        assert {size for _, _, size in parts} == {len(wanted)}
        found = np.full(len(wanted), -1)
        for chosen, places, _ in parts:
            found[places] = chosen
        np.testing.assert_array_equal(found, wanted)


# Order


@pytest.mark.parametrize("size", [100, 200, LONG_COUNT])
def test_the_order_is_the_same_for_every_number_of_workers(long: Snapshot, size: int) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    one, two, three = (numbers_of(gather(rows, size, world, seed=(0, 4))) for world in (1, 2, 3))
    assert one == two == three


def test_the_order_of_chunks_differs_by_epoch(long: Snapshot) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    plain = numbers_of(gather(rows, 100))
    assert [number for window in plain for number in window] == list(range(LONG_COUNT))
    epochs = [numbers_of(gather(rows, 100, seed=(0, epoch))) for epoch in range(4)]
    again = [numbers_of(gather(rows, 100, seed=(0, epoch))) for epoch in range(4)]
    assert epochs == again
    assert len({str(epoch) for epoch in [plain, *epochs]}) == 5
    assert numbers_of(gather(rows, 100, seed=(1, 0))) != epochs[0]
    # Windows are dealt again: rows of different chunks meet.
    assert len({str(sorted(window)) for epoch in epochs for window in epoch}) > len(plain)


def test_chunks_are_runs_of_row_groups(long: Snapshot) -> None:
    """So that no row group is read for two windows."""
    windows = numbers_of(gather(feature_rows(long, LONG_CLASSES), GROUP, seed=(0, 0)))
    runs = [[first, last + 1] for window in windows for first, last in runs_of(window)]
    assert sorted(runs) == [
        [0, 64], [64, 70], [70, 134], [134, 198], [198, 262], [262, 270], [270, 330]
    ]  # fmt: skip


def runs_of(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last numbers of runs that end where the next number is not the next row's.

    A run ends at the edges of shards and row groups too.
    """
    edges = {0, 64, 70, 134, 198, 262, 270}
    starts = [0, *(place for place, (a, b) in enumerate(pairwise(numbers), 1)
                   if b != a + 1 or b in edges)]  # fmt: skip
    return [(numbers[start], numbers[end - 1]) for start, end in pairwise([*starts, len(numbers)])]


# Values


def test_values_are_those_that_were_written(short: Snapshot) -> None:
    rows = feature_rows(short, CLASSES)
    ((float32,), (float16,), (bfloat16,)) = (
        gather(rows, 600, world=2, dtype=dtype) for dtype in ("float32", "float16", "bfloat16")
    )
    flat = VALUES.reshape(600, -1)
    assert float32.values.dtype == np.float32
    np.testing.assert_array_equal(float32.values, flat)
    assert float16.values.dtype == np.float16
    np.testing.assert_array_equal(float16.values, flat.astype(np.float16))
    assert bfloat16.values.dtype == ml_dtypes.bfloat16
    # The upper half of a float32, rounded to the nearest, ties to even.
    bits = flat.view(np.uint32)
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    np.testing.assert_array_equal(bfloat16.values.astype(np.float32), upper.view(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_values_computed_in_16_bits_lose_nothing(tmp_path: Path, dtype: str) -> None:
    values = VALUES[:40].astype(training_rows.DTYPES[dtype]).astype(np.float32)
    snapshot = write_table(tmp_path / "table", values, shards=(1, 39))
    (window,) = gather(feature_rows(snapshot, CLASSES[:40]), 40, dtype=dtype)
    np.testing.assert_array_equal(window.values.astype(np.float32), values.reshape(40, -1))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("pool", "reduce"), [("avg", np.mean), ("max", np.max)], ids=["avg", "max"]
)
def test_pooling(short: Snapshot, pool: str, reduce: Callable[..., Any], dtype: str) -> None:
    rows = feature_rows(short, CLASSES, pool=pool)
    assert rows.length == 16
    held = training_rows.DTYPES[dtype]
    wanted = reduce(VALUES, axis=(1, 2)).astype(held).astype(np.float32)
    found = np.concatenate([window.values for window in gather(rows, 100, 2, dtype=dtype)])
    assert found.dtype == held
    if pool == "max":
        np.testing.assert_array_equal(found.astype(np.float32), wanted)
    else:
        # Sums in another order may round to the neighboring value.
        step = {"float32": 1e-6, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
        np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=step, atol=1e-7)


def test_lengths(short: Snapshot) -> None:
    assert [feature_rows(short, CLASSES, pool=pool).length for pool in ("none", "avg", "max")] == [
        144,
        16,
        16,
    ]


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    values = VALUES[:30].copy()
    values[17, 1, 2, 3] = -70_000
    snapshot = write_table(tmp_path / "table", values, shards=(10, 20))
    rows = feature_rows(snapshot, CLASSES[:30])
    with pytest.raises(ConfigError) as caught:
        gather(rows, 30, dtype="float16")
    assert str(caught.value) == (
        "the table holds features up to 70000 and float16 ends at 65504; "
        "give --dtype float32 or bfloat16"
    )
    with pytest.raises(ConfigError, match="float16 ends at 65504"):
        gather(rows, 10, dtype="float16")
    (window,) = gather(rows, 30, dtype="float32")
    np.testing.assert_array_equal(window.values, values.reshape(30, -1))
    gather(rows, 30, dtype="bfloat16")
    # The row is in another split, so nothing is wrong.
    gather(feature_rows(snapshot, CLASSES[:30], np.arange(30) != 17), 30, dtype="float16")


def test_moments(short: Snapshot) -> None:
    for dtype in ("float32", "float16"):
        rows = feature_rows(short, CLASSES)
        stored = VALUES.reshape(600, -1).astype(dtype).astype(np.float64)
        sums = []
        for rank in range(2):
            reader = WindowReader(rows, dtype=dtype, window_rows=300, rank=rank, world=2)
            sums.append(moments(reader.windows()))
        total, squares, count = (sum(parts) for parts in zip(*sums, strict=True))
        assert count == 600
        np.testing.assert_allclose(total, stored.sum(axis=0), rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(squares, (stored**2).sum(axis=0), rtol=1e-6)


# Memory


@pytest.mark.parametrize(
    ("length", "dtype", "memory", "workers", "total", "wanted"),
    [
        (25_088, "float32", 4e9, 1, 4_000, 4_000),
        (25_088, "float32", 4e9, 1, 39_859, 39_859),
        (25_088, "float32", 4e9, 1, 39_860, 13_286),
        (25_088, "float16", 4e9, 1, 100_000, 26_573),
        (25_088, "bfloat16", 4e9, 2, 1_000_000, 53_146),
        (25_088, "float32", 20e6, 1, 10_000_000, 66),
    ],
)
def test_rows_of_a_window(
    length: int, dtype: str, memory: float, workers: int, total: int, wanted: int
) -> None:
    assert window_rows(length, dtype, memory, workers, total) == wanted


@pytest.mark.parametrize(
    ("length", "dtype", "memory", "workers", "message"),
    [
        (25_088, "float32", 12e6, 1,
         "--memory-gb 0.012 holds 119 rows of 25,088 values; give 0.02 or more"),
        (25_088, "float16", 1e6, 1,
         "--memory-gb 0.001 holds 19 rows of 25,088 values; give 0.01 or more"),
        (25_088, "float32", 5e6, 2,
         "--memory-gb 0.005 holds 99 rows of 25,088 values; give 0.01 or more"),
        (1_280, "float32", 10e6, 1,
         "--memory-gb 0.01 holds 1,953 rows of 1,280 values; give 0.016 or more"),
    ],
)  # fmt: skip
def test_memory_for_too_few_rows(
    length: int, dtype: str, memory: float, workers: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        window_rows(length, dtype, memory, workers, 1_000_000)
    assert str(caught.value) == message
    advised = float(message.split()[-3]) * 1e9
    assert window_rows(length, dtype, advised, workers, 1_000_000) >= row_group_rows(length)


# Reading


@dataclass
class Reads:
    """What was read of which files."""

    opened: list[str] = field(default_factory=list)
    groups: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    seen = Reads()

    class Watched(pq.ParquetFile):  # type: ignore[misc]
        def __init__(self, path: str, **options: Any) -> None:
            super().__init__(path, **options)
            self.place = path
            seen.opened.append(path)

        def read_row_group(self, number: int, **options: Any) -> Any:
            seen.groups.append((self.place, number))
            return super().read_row_group(number, **options)

    monkeypatch.setattr(reading.pq, "ParquetFile", Watched)
    return seen


def test_a_split_that_fits_is_read_once(long: Snapshot, reads: Reads) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    reader = WindowReader(rows, dtype="float32", window_rows=LONG_COUNT)
    (first,) = reader.windows(seed=(0, 0))
    opened = len(reads.opened)
    assert sorted(set(reads.opened)) == sorted(
        f"{long.table_uri}/{shard.path}" for shard in long.shards
    )
    for seed in (None, (0, 1), (0, 2)):
        (again,) = reader.windows(seed=seed)
        assert again is first
    assert len(reads.opened) == opened
    assert len(set(reads.groups)) == len(reads.groups) == 2 + 4 + 1


def test_a_split_that_does_not_fit_is_read_once_an_epoch(long: Snapshot, reads: Reads) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    reader = WindowReader(rows, dtype="float32", window_rows=100)
    for epoch in range(3):
        reads.groups.clear()
        assert sum(len(window.label) for window in reader.windows((0, epoch))) == LONG_COUNT
        assert len(set(reads.groups)) == len(reads.groups) == 2 + 4 + 1


def test_workers_read_their_own_rows_only(long: Snapshot, reads: Reads) -> None:
    rows = feature_rows(long, LONG_CLASSES)
    for size in (100, LONG_COUNT):
        reads.groups.clear()
        for rank in range(3):
            reader = WindowReader(rows, dtype="float32", window_rows=size, rank=rank, world=3)
            list(reader.windows((0, 0)))
        assert len(set(reads.groups)) == len(reads.groups) == 2 + 4 + 1


def test_rows_of_other_splits_cost_no_row_group(long: Snapshot, reads: Reads) -> None:
    chosen = (np.arange(LONG_COUNT) >= 134) & (np.arange(LONG_COUNT) < 198)
    reader = WindowReader(
        feature_rows(long, LONG_CLASSES, chosen), dtype="float32", window_rows=LONG_COUNT
    )
    list(reader.windows())
    assert reads.groups == [(f"{long.table_uri}/{long.shards[1].path}", 1)]


def test_the_next_window_is_read_meanwhile(long: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = WindowReader(feature_rows(long, LONG_CLASSES), dtype="float32", window_rows=100)
    read = reader._read
    begun = [threading.Event() for _ in range(8)]
    numbers = iter(range(8))

    def watched(chunks: Any) -> Window:
        begun[next(numbers)].set()
        return read(chunks)

    monkeypatch.setattr(reader, "_read", watched)
    windows = reader.windows()
    count = 5
    for number, _ in enumerate(windows):
        # Nobody has asked for it yet. Nobody reads further ahead either: memory is for two.
        if number + 1 < count:
            assert begun[number + 1].wait(120)
        assert not begun[number + 2].is_set()
    assert [event.is_set() for event in begun] == [True] * count + [False] * 3


def test_an_epoch_that_is_given_up_ends(long: Snapshot) -> None:
    reader = WindowReader(feature_rows(long, LONG_CLASSES), dtype="float32", window_rows=100)
    before = set(threading.enumerate())
    windows = reader.windows()
    next(windows)
    windows.close()
    # Threads of others, as of Ray, may have ended meanwhile.
    assert set(threading.enumerate()) <= before
    assert sum(len(window.label) for window in reader.windows()) == LONG_COUNT
