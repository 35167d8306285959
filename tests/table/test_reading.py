"""Reading a snapshot: exact rows of every way, from a folder and from S3."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.tables import add_rows, write_table

from benchmarks.support.s3_server import S3Server
from benchmarks.support.specs import make_spec
from bottleneck.errors import TableError
from bottleneck.spec import PredictionSpec
from bottleneck.table import columns, reading
from bottleneck.table.batches import Batch
from bottleneck.table.files import TableFiles
from bottleneck.table.reading import ShardReader
from bottleneck.table.schemas import FEATURES, PREDICTIONS, RowFormat
from bottleneck.table.shards import write_shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable, PredictionsTable

COUNT = 600
SHAPE = (2, 2, 3)
IMAGES = [f"{number:05d}.jpg" for number in range(COUNT)]
LABELS = [("cats", "dogs", None)[number % 3] for number in range(COUNT)]
SPLITS = [("train", "test")[number % 5 == 0] for number in range(COUNT)]
STATUSES = ["truncated" if number % 7 == 3 else "ok" for number in range(COUNT)]
VALUES = np.arange(COUNT * 12, dtype=np.float32).reshape(COUNT, *SHAPE) ** 2 % 1013
OK = np.array([status == "ok" for status in STATUSES])
TRAIN = np.array([split == "train" for split in SPLITS])
CATS = np.array([label == "cats" for label in LABELS])

Chosen = npt.NDArray[np.bool_]


@pytest.fixture(scope="module", params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Three shards with row groups of 64 rows each."""
    if request.param == "folder":
        uri = str(tmp_path_factory.mktemp("reading") / "table")
    else:
        server: S3Server = request.getfixturevalue("s3_session")
        server.create_bucket("reading")
        uri = "s3://reading/table"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_MAX_GROUP_ROWS", 64)
        return write_table(
            uri, VALUES, labels=LABELS, splits=SPLITS, statuses=STATUSES, images=IMAGES
        )


@pytest.fixture
def small(tmp_path: Path) -> Snapshot:
    """One shard of ten rows."""
    return write_table(
        tmp_path / "small", VALUES[:10], labels=LABELS[:10], splits=SPLITS[:10], shards=[10]
    )


def of(values: list[Any], chosen: Chosen) -> list[Any]:
    return [value for value, wanted in zip(values, chosen, strict=True) if wanted]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(TableError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Small columns


def test_small_columns_of_all_rows(snapshot: Snapshot) -> None:
    rows = snapshot.read(["status", "image", "label"])
    assert rows.schema == pa.schema(
        [
            pa.field("status", pa.string(), nullable=False),
            pa.field("image", pa.string(), nullable=False),
            pa.field("label", pa.string()),
        ]
    )
    assert rows["image"].to_pylist() == IMAGES
    assert rows["label"].to_pylist() == LABELS
    assert rows["status"].to_pylist() == STATUSES


def test_all_columns_but_features_by_default(snapshot: Snapshot) -> None:
    rows = snapshot.read()
    assert rows.column_names == FEATURES.names[:-1]
    assert rows.num_rows == COUNT


CONDITIONS: dict[str, tuple[pc.Expression, Chosen]] = {
    "a column that is read": (pc.field("label") == "cats", CATS),
    "a column that is not": (pc.field("split") == "train", TRAIN),
    "several columns": (
        (pc.field("split") == "train") & (pc.field("label") == "cats"),
        TRAIN & CATS,
    ),
    "a list": (pc.field("image").isin(IMAGES[95:105]), np.isin(np.arange(COUNT), range(95, 105))),
    "nulls": (pc.field("label").is_null(), np.array([label is None for label in LABELS])),
    "status": (pc.field("status") != "ok", ~OK),
    "always": (pc.scalar(True), np.ones(COUNT, bool)),
    "never": (pc.field("label") == "birds", np.zeros(COUNT, bool)),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(snapshot: Snapshot, condition: str) -> None:
    where, chosen = CONDITIONS[condition]
    rows = snapshot.read(["image", "label"], where=where)
    assert rows.column_names == ["image", "label"]
    assert rows["image"].to_pylist() == of(IMAGES, chosen)
    assert rows["label"].to_pylist() == of(LABELS, chosen)

    images, labels, features = snapshot.to_numpy(where=where)
    assert images.tolist() == of(IMAGES, chosen & OK)
    assert labels.tolist() == of(LABELS, chosen & OK)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, VALUES[chosen & OK])

    batches = list(snapshot.batches(where=where))
    assert [image for batch in batches for image in batch.images] == of(IMAGES, chosen & OK)
    assert all(len(batch) for batch in batches)


def test_one_name_is_one_column(small: Snapshot) -> None:
    assert small.read("label").column_names == ["label"]  # type: ignore[arg-type]


def test_rows_with_the_number_of_their_shard(snapshot: Snapshot) -> None:
    rows = snapshot.read_by_shard(("image", "label"))
    assert rows["image"].to_list() == IMAGES
    assert rows["shard"].to_list() == [0] * 100 + [1] * 350 + [2] * 150
    assert snapshot.part([2]).read_by_shard(["image"]).rows() == [
        (name, 0) for name in IMAGES[450:]
    ]


def test_unknown_columns_name_the_nearest(small: Snapshot) -> None:
    uri, names = small.table_uri, ", ".join(FEATURES.names)
    message = f"{uri} has no column 'lable'; did you mean 'label'? its columns are {names}"
    assert refusal(lambda: small.read(["image", "lable"])) == message
    assert refusal(lambda: small.read_by_shard(["lable"])) == message
    message = message.replace(f"{names}", ", ".join(FEATURES.names[:-1]))
    where = pc.field("lable") == "cats"
    assert refusal(lambda: small.read(["image"], where=where)) == message
    assert refusal(lambda: small.batches(where=where)) == message
    assert refusal(lambda: small.to_numpy(where=where)) == message
    assert (
        refusal(lambda: small.read(["xyzzy"]))
        == f"{uri} has no column 'xyzzy'; its columns are {names}"
    )


def test_features_are_no_small_column(small: Snapshot) -> None:
    assert refusal(lambda: small.read(["image", "features"])) == (
        f"`features` of {small.table_uri} cannot be read with .read(), which returns small columns "
        "of all rows at once; iterate over .batches(), or call .to_numpy(pool='avg')"
    )
    assert refusal(lambda: small.read(where=pc.field("features").is_valid())) == (
        "where cannot look at `features`; the rows that have them are those with `status` ok"
    )


def test_conditions_that_are_none(small: Snapshot) -> None:
    message = refusal(lambda: small.batches(where="split == 'train'"))  # type: ignore[arg-type]
    assert message == (
        "where is \"split == 'train'\"; give a pyarrow expression such as "
        'pyarrow.compute.field("split") == "train"'
    )
    message = refusal(lambda: small.read(where=pc.field("width") == "large"))
    assert message.startswith(
        f'where=(width == "large") does not fit the columns of {small.table_uri}: '
    )


# Batches


def test_a_batch_for_each_row_group(snapshot: Snapshot) -> None:
    batches = list(snapshot.batches())
    starts = [0, 64, *range(100, 450, 64), *range(450, 600, 64)]
    expected = [OK[start:end] for start, end in zip(starts, [*starts[1:], COUNT], strict=True)]
    assert [len(batch) for batch in batches] == [int(ok.sum()) for ok in expected]
    assert [image for batch in batches for image in batch.images] == of(IMAGES, OK)
    assert [label for batch in batches for label in batch.labels] == of(LABELS, OK)
    assert [split for batch in batches for split in batch.splits] == of(SPLITS, OK)
    for batch in batches:
        assert batch.features.dtype == np.float32
        assert batch.features.shape == (len(batch), *SHAPE)
        assert not batch.features.flags.writeable
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), VALUES[OK])


@pytest.mark.parametrize("rows", [1, 50, 64, 100, 514, 1000])
def test_batches_of_one_size(snapshot: Snapshot, rows: int) -> None:
    batches = list(snapshot.batches(batch_rows=rows))
    total = int(OK.sum())
    assert total == 514
    assert [len(batch) for batch in batches] == [
        min(rows, total - start) for start in range(0, total, rows)
    ]
    assert [image for batch in batches for image in batch.images] == of(IMAGES, OK)
    assert [label for batch in batches for label in batch.labels] == of(LABELS, OK)
    assert [split for batch in batches for split in batch.splits] == of(SPLITS, OK)
    assert not any(batch.features.flags.writeable for batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), VALUES[OK])


def test_batches_must_have_rows(small: Snapshot) -> None:
    assert refusal(lambda: small.batches(batch_rows=0)) == (
        "batch_rows is 0; give a number of at least 1, or None"
    )


def test_row_groups_without_a_wanted_row_are_not_read(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []

    class Watched(ShardReader):
        def __init__(self, files: TableFiles, path: str) -> None:
            super().__init__(files, path)
            self.path = path

        def group(self, number: int, columns: Any) -> pa.Table:
            read.append((self.path, number))
            return super().group(number, columns)

    monkeypatch.setattr("bottleneck.table.snapshot.ShardReader", Watched)
    where = pc.field("image").isin([IMAGES[65], IMAGES[300], IMAGES[301]])
    (first, second) = snapshot.batches(where=where)
    assert (first.images, second.images) == ([IMAGES[65]], [IMAGES[300], IMAGES[301]])
    wanted = [(snapshot.shards[0].path, 1), (snapshot.shards[1].path, 3)]
    assert read == wanted
    read.clear()
    snapshot.to_numpy(where=where)
    assert sorted(read) == sorted(wanted)


def test_a_loop_may_end_early(snapshot: Snapshot) -> None:
    first = next(snapshot.batches())
    assert isinstance(first, Batch)
    assert first.images == of(IMAGES[:64], OK[:64])


# NumPy arrays


def test_everything_in_arrays(snapshot: Snapshot) -> None:
    images, labels, features = snapshot.to_numpy()
    assert images.tolist() == of(IMAGES, OK)
    assert labels.tolist() == of(LABELS, OK)
    assert (images.dtype, labels.dtype, features.dtype) == (object, object, np.float32)
    assert (labels == "cats").tolist() == (CATS & OK)[OK].tolist()
    np.testing.assert_array_equal(features, VALUES[OK])


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_pooled_maps(snapshot: Snapshot, pool: Any) -> None:
    images, _, features = snapshot.to_numpy(pool=pool, where=pc.field("split") == "train")
    chosen = VALUES[OK & TRAIN].reshape(-1, 4, 3)
    assert images.tolist() == of(IMAGES, OK & TRAIN)
    expected = chosen.mean(axis=1) if pool == "avg" else chosen.max(axis=1)
    np.testing.assert_array_equal(features, expected)
    assert features.dtype == np.float32


def test_vectors_stay_as_they_are_when_pooled(tmp_path: Path) -> None:
    values = VALUES.reshape(COUNT, 12)
    snapshot = write_table(tmp_path / "vectors", values)
    np.testing.assert_array_equal(snapshot.to_numpy(pool="avg")[2], values)


def test_another_pool_is_refused(small: Snapshot) -> None:
    message = refusal(lambda: small.to_numpy(pool="mean"))  # type: ignore[arg-type]
    assert message == "pool is 'mean'; allowed are 'avg', 'max' and None"


Memory = namedtuple("Memory", ["available"])


def test_features_that_do_not_fit_in_memory_are_refused(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 514 rows of 12 values, and three times a row group of 8,192 rows in each of four threads.
    beside = 3 * 4 * 8192 * 12 * 4
    needed = 514 * 12 * 4 + beside
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(needed - 1))
    assert refusal(snapshot.to_numpy) == (
        f"the features of 514 images of {snapshot.table_uri} need 4.7 MB of memory and 4.7 MB are "
        "available; give pool='avg' (4.7 MB), fewer rows with where=, or read a part at a time "
        "with .batches()"
    )
    less = beside + 514 * 3 * 4
    assert len(snapshot.to_numpy(pool="avg")[2]) == 514
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(less - 1))
    assert refusal(lambda: snapshot.to_numpy(pool="avg")) == (
        f"the features of 514 images of {snapshot.table_uri} need 4.7 MB of memory and 4.7 MB are "
        "available; give fewer rows with where=, or read a part at a time with .batches()"
    )
    where = pc.field("image") == IMAGES[0]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(beside + 12 * 4))
    assert snapshot.to_numpy(where=where)[0].tolist() == [IMAGES[0]]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(needed))
    assert len(snapshot.to_numpy()[2]) == 514


# Tables


def test_an_empty_table(tmp_path: Path) -> None:
    snapshot = FeaturesTable.create(str(tmp_path / "empty"), make_spec(SHAPE)).snapshot()
    assert snapshot.read(["image", "width"]).equals(
        FEATURES.empty_table().select(["image", "width"])
    )
    assert snapshot.read_by_shard(["image", "width"]).schema == {
        "image": pl.String,
        "width": pl.Int32,
        "shard": pl.Int32,
    }
    assert list(snapshot.batches()) == []
    assert list(snapshot.batches(batch_rows=5)) == []
    images, labels, features = snapshot.to_numpy()
    assert (images.shape, labels.shape, features.shape) == ((0,), (0,), (0, *SHAPE))
    assert snapshot.to_numpy(pool="max")[2].shape == (0, 3)


def test_a_table_of_failed_images_alone(tmp_path: Path) -> None:
    snapshot = write_table(
        tmp_path / "failed", VALUES[:3], statuses=["empty"] * 3, images=IMAGES[:3], shards=[3]
    )
    assert list(snapshot.batches()) == []
    assert snapshot.to_numpy()[2].shape == (0, *SHAPE)
    assert snapshot.read(["status"])["status"].to_pylist() == ["empty"] * 3


def test_many_shards(tmp_path: Path) -> None:
    snapshot = write_table(tmp_path / "many", VALUES, images=IMAGES, shards=[4] * 150)
    assert len(snapshot.shards) == 150
    assert snapshot.read(["image"])["image"].to_pylist() == IMAGES
    images, _, features = snapshot.to_numpy()
    assert images.tolist() == IMAGES
    np.testing.assert_array_equal(features, VALUES)
    assert [len(batch) for batch in snapshot.batches(batch_rows=100)] == [100] * 6


def test_a_version_in_the_past(tmp_path: Path) -> None:
    table = FeaturesTable.create(str(tmp_path / "grown"), make_spec(SHAPE))
    add_rows(table, VALUES[:10], images=IMAGES[:10], shards=[10])
    add_rows(table, VALUES[10:30], images=IMAGES[10:30], shards=[15, 5])
    opened = FeaturesTable.open(table.uri)
    for version, rows in ((0, 0), (1, 10), (2, 30)):
        snapshot = opened.snapshot(version=version)
        assert snapshot.read(["image"])["image"].to_pylist() == IMAGES[:rows]
        np.testing.assert_array_equal(snapshot.to_numpy()[2], VALUES[:rows])
        assert sum(map(len, snapshot.batches())) == rows


def test_a_predictions_table_has_no_features(tmp_path: Path) -> None:
    table = PredictionsTable.create(
        str(tmp_path / "said"), PredictionSpec.of(make_spec((3,)), model="m", top=2)
    )
    rows = pa.Table.from_pylist(
        [
            {"image": "a", "status": "ok", "predicted": "cat", "top_labels": ["cat", "dog"]},
            {"image": "b", "status": "empty"},
        ],
        PREDICTIONS,
    )
    snapshot = table.snapshot()
    shard = write_shard(snapshot.files, [rows])
    assert shard is not None
    snapshot = table.commit(base=snapshot, add=[shard], run="tests")
    assert snapshot.files.row_format == RowFormat(PREDICTIONS, 2)
    assert snapshot.read().equals(rows)
    found = snapshot.read(["image", "top_labels"], where=pc.field("predicted") == "cat")
    assert found.to_pylist() == [{"image": "a", "top_labels": ["cat", "dog"]}]
    message = (
        f"{table.uri} is a predictions table and holds no features; read its columns with "
        ".read(), or open the features table it was made from"
    )
    assert refusal(snapshot.to_numpy) == message
    assert refusal(snapshot.batches) == message


@pytest.mark.parametrize("how", ["read", "batches", "to_numpy"])
def test_a_shard_that_is_gone_is_one_line(small: Snapshot, how: str) -> None:
    (Path(small.table_uri) / small.shards[0].path).unlink()
    calls: dict[str, Callable[[], object]] = {
        "read": small.read,
        "batches": lambda: list(small.batches()),
        "to_numpy": small.to_numpy,
    }
    message = refusal(calls[how])
    assert message.startswith(f"cannot read version 1 of {small.table_uri}: ")
    assert message.endswith("; check the credentials, or run again if a vacuum was under way")


def test_storage_that_refuses_is_one_line(s3: S3Server) -> None:
    s3.create_bucket("refusing")
    snapshot = write_table("s3://refusing/table", VALUES[:4], shards=[4])
    s3.fail(403, n_requests=1000, match=r"^(GET|HEAD) /[^?]*/shard-")
    message = refusal(snapshot.read)
    assert message.startswith("cannot read version 1 of s3://refusing/table: ")


# One shard


def test_rows_of_a_shard_row_group_by_row_group(tmp_path: Path) -> None:
    files = TableFiles.at(str(tmp_path), RowFormat(FEATURES, 2))
    rows = pa.Table.from_pylist(
        [
            {"image": name, "status": "ok", "features": [float(n), 0.5]}
            for n, name in enumerate("abcdefghij")
        ],
        FEATURES,
    )
    pq.write_table(rows, tmp_path / "part.parquet", row_group_size=4)
    with ShardReader(files, "part.parquet") as reader:
        assert reader.groups == 3
        taken = list(reader.take(np.array([1, 4, 5, 6, 7, 9]), ["image", "features"]))
        assert list(reader.take(np.array([], np.int64), ["image"])) == []
        assert reader.group(2, ["image"])["image"].to_pylist() == ["i", "j"]
        sizes = pq.ParquetFile(tmp_path / "part.parquet").metadata
        total = sum(sizes.row_group(group).total_byte_size for group in range(3))
        assert reader.row_bytes == total / 10
    assert [(some, table["image"].to_pylist()) for some, table in taken] == [
        (slice(0, 1), ["b"]),
        (slice(1, 5), ["e", "f", "g", "h"]),
        (slice(5, 6), ["j"]),
    ]
    assert taken[1][1]["features"].to_pylist() == [[float(n), 0.5] for n in range(4, 8)]


def test_files_of_a_table_are_not_sent_with_credentials(tmp_path: Path) -> None:
    """Snapshots travel to workers, and make their file system there."""
    import pickle

    snapshot = write_table(tmp_path / "table", VALUES[:4], shards=[4])
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    assert b"FileSystem" not in pickle.dumps(snapshot)
    assert reading.read_columns(snapshot.files, snapshot.shards[0].path, ["image"]).num_rows == 4
