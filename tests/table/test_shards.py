"""Shards: what the files are like, and that copying them loses, doubles and swaps nothing."""

from __future__ import annotations

import errno
import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from bottleneck.table import columns as table_columns
from bottleneck.table import shards
from bottleneck.table.columns import SCHEMA
from bottleneck.table.files import TableFiles
from bottleneck.table.merging import ShardMerge, merge_shards, ordered_runs
from bottleneck.table.reading import ShardReader, read_columns
from bottleneck.table.schemas import FEATURES, RowFormat
from bottleneck.table.shards import ShardWriter, write_shard

LOCAL = pafs.LocalFileSystem()
LENGTH = 6


def rows_of(
    images: list[str], *, length: int = LENGTH, failed: frozenset[str] = frozenset()
) -> pa.Table:
    """Rows whose features and other columns are all told by the image's name."""
    ok = [image not in failed for image in images]
    values = [[float(sum(image.encode())), *range(1, length)] for image in images]
    columns: dict[str, list[Any]] = {
        "image": images,
        "label": [f"label of {image}" for image in images],
        "split": [None] * len(images),
        "fingerprint": [f"list:{image}" for image in images],
        "sha256": [
            f"sha of {image}" if good else None for image, good in zip(images, ok, strict=True)
        ],
        "width": [len(image) if good else None for image, good in zip(images, ok, strict=True)],
        "height": [3 if good else None for good in ok],
        "status": ["ok" if good else "empty" for good in ok],
        "error": [None if good else "0 bytes" for good in ok],
        "features": [value if good else None for value, good in zip(values, ok, strict=True)],
    }
    return pa.table(columns, schema=SCHEMA)


def names(numbers: Any) -> list[str]:
    return [f"{number:05d}.png" for number in numbers]


def files(root: Path, length: int = LENGTH, filesystem: Any = LOCAL) -> TableFiles:
    return TableFiles(filesystem, str(root), RowFormat(FEATURES, length))


def groups(root: Path, path: str, columns: list[str] = SCHEMA.names) -> list[pa.Table]:
    """The row groups of a shard."""
    with ShardReader(files(root), path) as reader:
        return [reader.group(number, columns) for number in range(reader.groups)]


def write(root: Path, table: pa.Table, length: int = LENGTH) -> shards.Shard:
    shard = write_shard(files(root, length), [table])
    assert shard is not None
    return shard


def read(root: Path, shard: shards.Shard | None) -> pa.Table:
    assert shard is not None
    return pa.concat_tables(groups(root, shard.path))


def test_the_file_is_plain_parquet_as_documented(tmp_path: Path) -> None:
    table = rows_of(names(range(200)), length=25_088)
    shard = write(tmp_path, table, 25_088)

    assert shard.path.isascii() and "/" not in shard.path
    assert (shard.rows, shard.min_image, shard.max_image) == (200, "00000.png", "00199.png")
    assert shard.size_bytes == (tmp_path / shard.path).stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == [shard.path]

    file = pq.ParquetFile(tmp_path / shard.path)
    assert file.metadata.metadata is None  # no ARROW:schema, no pandas
    assert file.schema_arrow.metadata is None
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [64, 64, 64, 8]
    for group in groups:
        columns = {c.path_in_schema: c for c in map(group.column, range(group.num_columns))}
        assert list(columns) == [*SCHEMA.names[:-1], "features.list.element"]
        assert {c.compression for c in columns.values()} == {"ZSTD"}
        features = columns["features.list.element"]
        assert features.statistics is None
        assert not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(features.encodings)
        assert columns["sha256"].statistics is None
        assert not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(columns["sha256"].encodings)
        assert columns["image"].statistics is not None
        assert "RLE_DICTIONARY" in columns["status"].encodings
    first = groups[0].column(0).statistics
    assert (first.min, first.max) == ("00000.png", "00063.png")


@pytest.mark.parametrize(
    ("length", "rows"),
    [(1, 8192), (3, 8192), (512, 2048), (1280, 1024), (25_088, 64), (25_089, 64), (10**6, 64)],
)
def test_row_groups_hold_about_as_much_whatever_the_features(length: int, rows: int) -> None:
    assert table_columns.row_group_rows(length) == rows


def test_row_groups_do_not_depend_on_how_the_rows_came(tmp_path: Path) -> None:
    table = rows_of(names(range(5_000)), length=512)
    rng = random.Random(5)
    edges = sorted({0, 5_000, *(rng.randrange(5_000) for _ in range(60))})
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    pieces.insert(7, table.slice(0, 0))
    shard = write_shard(files(tmp_path, 512), pieces)
    assert shard is not None
    file = pq.ParquetFile(tmp_path / shard.path)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert groups == [2048, 2048, 904]
    assert read(tmp_path, shard).equals(table)


def test_round_trip_keeps_nulls_and_odd_names(tmp_path: Path) -> None:
    images = sorted(["a/é ü.png", "a/日本.png", 'q"uote\n.png', "", "#%+?.png", "x" * 3_000])
    table = rows_of(images, failed=frozenset({"", "a/日本.png"}))
    shard = write(tmp_path, table)
    back = read(tmp_path, shard)
    assert back.schema == SCHEMA
    assert back.equals(table)
    assert back["features"].to_pylist()[0] is None
    assert (shard.min_image, shard.max_image) == (images[0], images[-1])


def test_special_floats_survive_bit_by_bit(tmp_path: Path) -> None:
    values = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45]], np.float32)
    table = rows_of(["a"]).set_column(
        9, SCHEMA.field("features"), table_columns.features_array(values, np.array([True]))
    )
    back = table_columns.to_numpy(read(tmp_path, write(tmp_path, table))["features"], (6,))
    assert back.tobytes() == values.tobytes()


def test_reading_some_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    table = rows_of(names(range(70)), length=25_088)
    shard = write(tmp_path, table, 25_088)
    asked = ["status", "image"]
    assert read_columns(files(tmp_path), shard.path, asked).equals(table.select(asked))
    read_groups = groups(tmp_path, shard.path, asked)
    assert [group.num_rows for group in read_groups] == [64, 6]
    assert pa.concat_tables(read_groups).equals(table.select(asked))
    for group in groups(tmp_path, shard.path):
        assert {column.num_chunks for column in group.columns} == {1}


def test_features_become_an_array_without_a_copy() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    column = table_columns.features_array(values, np.ones(4, bool))
    assert column.type == SCHEMA.field("features").type
    for features in (column, pa.chunked_array([column])):
        back = table_columns.to_numpy(features, (1, 2, 3))
        assert back.shape == (4, 1, 2, 3)
        assert np.shares_memory(back, values)
        assert np.array_equal(back.reshape(4, 6), values)


def test_to_numpy_takes_slices_chunks_and_nothing() -> None:
    values = np.arange(60, dtype=np.float32).reshape(10, 6)
    column = table_columns.features_array(values, np.ones(10, bool))
    sliced = table_columns.to_numpy(column.slice(3, 4), (6,))
    assert np.array_equal(sliced, values[3:7])
    assert np.shares_memory(sliced, values)
    chunks = pa.chunked_array([column.slice(0, 2), column.slice(5, 0), column.slice(2, 8)])
    assert np.array_equal(table_columns.to_numpy(chunks, (2, 3)), values.reshape(10, 2, 3))
    for nothing in (
        column.slice(0, 0),
        pa.chunked_array([], column.type),
        pa.chunked_array([column.slice(0, 0)]),
    ):
        empty = table_columns.to_numpy(nothing, (7, 7, 512))
        assert (empty.shape, empty.dtype) == ((0, 7, 7, 512), np.float32)


@pytest.mark.parametrize("valid", [[True, True, True], [False, True, False], [False] * 3, []])
def test_failed_rows_have_null_features(valid: list[bool]) -> None:
    values = np.arange(6 * sum(valid), dtype=np.float32).reshape(sum(valid), 6)
    column = table_columns.features_array(values, np.array(valid, bool))
    left = iter(values.tolist())
    assert column.to_pylist() == [next(left) if good else None for good in valid]
    column.validate(full=True)
    assert np.array_equal(table_columns.to_numpy(column.drop_null(), (6,)), values)


def test_features_of_another_type_or_order_in_memory_are_converted() -> None:
    values = np.asfortranarray(np.arange(12, dtype=np.float64).reshape(2, 6))
    column = table_columns.features_array(values, np.ones(2, bool))  # type: ignore[arg-type]
    assert column.to_pylist() == values.tolist()
    assert column.type == pa.list_(pa.float32())


@pytest.mark.parametrize("seed", range(60))
def test_ordered_runs_are_a_sort(seed: int) -> None:
    rng = random.Random(seed)
    pool = [f"{rng.choice('aAéz日')}{number}" for number in range(rng.randrange(1, 120))]
    rng.shuffle(pool)
    tables: list[list[str]] = [[] for _ in range(rng.randrange(1, 7))]
    for image in pool:
        rng.choice(tables).append(image)
    if seed % 2:
        tables = [sorted(table, key=str.encode) for table in tables]
    columns: list[Any] = []
    for table in tables:
        cut = rng.randrange(len(table) + 1)
        chunked = pa.chunked_array([table[:cut], table[cut:]], pa.string())
        columns.append(rng.choice([chunked, pa.array(table, pa.string())]))
    keep = [np.array([rng.random() < 0.7 for _ in table], bool) for table in tables]

    def follow(runs: Any) -> list[str]:
        return [image for t, first, count in runs for image in tables[t][first : first + count]]

    runs = list(ordered_runs(columns))
    assert follow(runs) == sorted(pool, key=str.encode)
    assert all(count > 0 for _, _, count in runs)
    kept = {
        i
        for table, mask in zip(tables, keep, strict=True)
        for i, good in zip(table, mask, strict=False)
        if good
    }
    runs = list(ordered_runs(columns, keep))
    assert follow(runs) == sorted(kept, key=str.encode)
    # Runs are as long as they can be: no two that could be one.
    for (t1, first1, count1), (t2, first2, _) in itertools.pairwise(runs):
        assert (t1, first1 + count1) != (t2, first2)


def test_ordered_runs_of_nothing() -> None:
    assert list(ordered_runs([])) == []
    assert list(ordered_runs([pa.array([], pa.string())])) == []
    assert list(ordered_runs([pa.array(["a"])], [np.array([False])])) == []
    assert list(ordered_runs([pa.array(["a", "b"]), pa.array(["c"])])) == [(0, 0, 2), (1, 0, 1)]


def test_dropping_rows_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    table = rows_of(names(range(300)), length=25_088, failed=frozenset({"00070.png"}))
    shard = write(tmp_path, table, 25_088)
    gone = {*names(range(60, 130)), "00299.png", "not there.png"} - {"00070.png"}
    merge = ShardMerge([shard.path], drop={shard.path: sorted(gone)})
    new = merge_shards(files(tmp_path, 25_088), merge)
    assert new is not None and new.path != shard.path
    left = [image not in gone for image in table["image"].to_pylist()]
    assert read(tmp_path, new).equals(table.filter(pa.array(left)))
    assert (new.rows, new.min_image, new.max_image) == (230, "00000.png", "00298.png")
    # The original is for readers of older versions.
    assert read(tmp_path, shard).equals(table)


def test_dropping_everything_leaves_no_file(tmp_path: Path) -> None:
    shard = write(tmp_path, rows_of(names(range(10))))
    drop = {shard.path: names(range(10))}
    assert merge_shards(files(tmp_path), ShardMerge([shard.path], drop=drop)) is None
    assert [p.name for p in tmp_path.iterdir()] == [shard.path]


def test_writing_nothing_leaves_no_file(tmp_path: Path) -> None:
    assert write_shard(files(tmp_path), []) is None
    assert write_shard(files(tmp_path), [SCHEMA.empty_table()]) is None
    assert list(tmp_path.iterdir()) == []


def test_renames_bring_rows_into_their_new_order(tmp_path: Path) -> None:
    table = rows_of(names(range(150)), length=25_088, failed=frozenset({"00003.png"}))
    shard = write(tmp_path, table, 25_088)
    changes: dict[str, dict[str, str | None]] = {
        "00003.png": {"image": "zz.png", "label": None, "split": "test", "fingerprint": "etag:1"},
        "00140.png": {"image": "0000.png", "label": "new", "split": None, "fingerprint": "etag:2"},
        # Two that change names with each other, and one that takes a dropped one's name.
        "00010.png": {"image": "00011.png"},
        "00011.png": {"image": "00010.png"},
        "00020.png": {"image": "00021.png"},
    }
    merge = ShardMerge(
        [shard.path], drop={shard.path: ["00021.png"]}, replace={shard.path: changes}
    )
    new = merge_shards(files(tmp_path, 25_088), merge)
    wanted = []
    for row in table.to_pylist():
        if row["image"] != "00021.png":
            wanted.append(row | changes.get(row["image"], {}))
    wanted.sort(key=lambda row: row["image"])
    assert read(tmp_path, new).to_pylist() == wanted
    assert new is not None
    assert (new.rows, new.min_image, new.max_image) == (149, "0000.png", "zz.png")


@pytest.mark.parametrize("seed", range(8))
def test_several_shards_become_one_in_order(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(shards, "row_group_rows", lambda length: rng.choice([8, 16, 32]))
    pool = names(range(400))
    length = LENGTH
    dealt: list[list[str]] = [[] for _ in range(4)]
    for image in pool:
        rng.choice(dealt).append(image)
    failed = frozenset(rng.sample(pool, 20))
    tables = [rows_of(images, length=length, failed=failed) for images in dealt]
    written = [write(tmp_path, table, length) for table in tables]
    gone = set(rng.sample(pool, 90))
    renamed = {image: f"{rng.random()}.png" for image in rng.sample(pool, 60)}
    drop = {s.path: sorted(gone & set(i)) for s, i in zip(written, dealt, strict=True)}
    replace = {
        s.path: {i: {"image": renamed[i]} for i in images if i in renamed}
        for s, images in zip(written, dealt, strict=True)
    }
    paths = [s.path for s in written]
    new = merge_shards(files(tmp_path, length), ShardMerge(paths, drop=drop, replace=replace))

    wanted = {
        renamed.get(row["image"], row["image"]): row
        for table in tables
        for row in table.to_pylist()
        if row["image"] not in gone
    }
    got = read(tmp_path, new).to_pylist()
    assert [row["image"] for row in got] == sorted(wanted)
    assert all(row == wanted[row["image"]] | {"image": row["image"]} for row in got)


_MEMORY = """
import random, sys
import numpy as np, pyarrow as pa
from bottleneck.table import columns, merging, shards
from bottleneck.table.files import TableFiles
from bottleneck.table.schemas import FEATURES, RowFormat

root, case = sys.argv[1:]
L, N = 25_088, 1_200
files = TableFiles.at(root, RowFormat(FEATURES, L))
images = [f"{i:05d}" for i in range(N)]

def blocks():
    for start in range(0, N, 50):
        values = np.random.default_rng(start).random((50, L), np.float32)
        values[values < 0.7] = 0
        part = images[start:start + 50]
        yield pa.table([part, *[[None] * 50] * 6, ["ok"] * 50, [None] * 50,
                        columns.features_array(values, np.ones(50, bool))], schema=columns.SCHEMA)

shard = shards.write_shard(files, blocks())
pool = pa.default_memory_pool()
before, wrote = pool.bytes_allocated(), pool.max_memory()
drop, replace = {shard.path: images[::7]}, {}
if case == "renamed":
    shuffled = images[:]
    random.Random(1).shuffle(shuffled)
    drop = {}
    replace = {shard.path: {a: {"image": "x" + b} for a, b in zip(images[:400], shuffled)}}
pa.set_memory_pool(pool := pa.system_memory_pool())
new = merging.merge_shards(files, merging.ShardMerge([shard.path], drop, replace))
print(new.rows, round(wrote / 1e6), round(pool.max_memory() / 1e6))
"""


@pytest.mark.parametrize("case", ["dropped", "renamed"])
@pytest.mark.slow
def test_rewriting_a_large_shard_takes_little_memory(tmp_path: Path, case: str) -> None:
    """120 MB of raw features, of which a few row groups (6.4 MB each) may be in memory."""
    command = [sys.executable, "-c", _MEMORY, str(tmp_path), case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows, wrote_mb, rewrote_mb = map(int, done.stdout.split())
    assert rows == (1_028 if case == "dropped" else 1_200)
    assert wrote_mb < 80
    assert rewrote_mb < 80


class _FullDisk(pafs.FileSystemHandler):
    """A local file system that takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.deleted: list[str] = []

    def get_type_name(self) -> str:
        return "full-disk"

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        disk, plain = self, Path(path).open("wb")  # noqa: SIM115

        class Stream:
            closed = False

            def write(self, data: Any) -> int:
                disk.room -= len(data)
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return plain.write(data)

            def flush(self) -> None:
                plain.flush()

            def close(self) -> None:
                self.closed = True
                plain.close()

            def writable(self) -> bool:
                return True

            def readable(self) -> bool:
                return False

            def seekable(self) -> bool:
                return False

        return pa.PythonFile(Stream(), mode="w")

    def delete_file(self, path: str) -> None:
        self.deleted.append(path)
        Path(path).unlink()

    def get_file_info(self, paths: list[str]) -> Any:
        return LOCAL.get_file_info(paths)

    def _not_asked(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = _not_asked
    delete_root_dir_contents = get_file_info_selector = move = normalize_path = _not_asked
    open_append_stream = open_input_file = open_input_stream = _not_asked


@pytest.mark.parametrize("room", [2, 3_000, 40_000])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    disk = _FullDisk(room)
    rng = np.random.default_rng(0)
    values = rng.random((200, 25_088), np.float32)
    images = names(range(200))
    table = rows_of(images).set_column(
        9, SCHEMA.field("features"), table_columns.features_array(values, np.ones(200, bool))
    )
    with pytest.raises(OSError, match="No space left on device"):
        write_shard(files(tmp_path, 25_088, pafs.PyFileSystem(disk)), [table])
    assert list(tmp_path.iterdir()) == []
    assert len(disk.deleted) == 1


def test_the_footer_may_be_what_does_not_fit(tmp_path: Path) -> None:
    table = rows_of(names(range(50)))
    size = write(tmp_path, table).size_bytes
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(OSError, match="No space left on device"):
        write_shard(files(tmp_path, filesystem=pafs.PyFileSystem(_FullDisk(size - 10))), [table])
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_source_of_rows_leaves_nothing(tmp_path: Path) -> None:
    def blocks() -> Any:
        yield rows_of(names(range(20)))
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_shard(files(tmp_path), blocks())
    assert list(tmp_path.iterdir()) == []


def test_a_writer_may_be_given_up_twice(tmp_path: Path) -> None:
    writer = ShardWriter(files(tmp_path))
    writer.write(rows_of(["a"]))
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("features", [pa.large_list(pa.float32()), pa.list_(pa.float32(), LENGTH)])
def test_shards_of_other_writers_conform(
    tmp_path: Path, text: pa.DataType, features: pa.DataType
) -> None:
    """Another tool's compaction may have written them, with its own Arrow types in the file."""
    table = rows_of(names(range(9)))
    fields = [pa.field(f.name, text if pa.types.is_string(f.type) else f.type) for f in SCHEMA if f]
    fields[-1] = pa.field("features", features)
    shuffled = table.cast(pa.schema(fields)).select(list(reversed(SCHEMA.names)))
    pq.write_table(shuffled, tmp_path / "part-0.parquet", row_group_size=4)
    got = pa.concat_tables(groups(tmp_path, "part-0.parquet"))
    assert got.schema == SCHEMA
    assert got.equals(table)
    drop = {"part-0.parquet": ["00004.png"]}
    new = merge_shards(files(tmp_path), ShardMerge(["part-0.parquet"], drop=drop))
    left = [image != "00004.png" for image in table["image"].to_pylist()]
    assert read(tmp_path, new).equals(table.filter(pa.array(left)))
