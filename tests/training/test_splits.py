"""Which rows of a table a head is trained, validated and tested on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tables import add_rows, images_of, write_table

from benchmarks.support.specs import make_spec
from bottleneck.errors import BottleneckError, ConfigError, SourceError, TableError
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable
from bottleneck.training.config import TrainConfig
from bottleneck.training.splits import SPLITS, LabelledRows, select_rows, side_of

COUNT = 600
#: ant has 300 rows, bee 200, cat 100, mixed through all shards.
LABELS = (["ant", "bee", "ant", "cat", "ant", "bee"]) * 100


def table(
    uri: Path,
    labels: Sequence[str | None] = LABELS,
    splits: Sequence[str | None] | None = None,
    statuses: Sequence[str] | None = None,
    shards: Sequence[int] | None = None,
) -> Snapshot:
    count = len(labels)
    if shards is None:
        shards = (100, 350, 150) if count == COUNT else (1, count - 1)
    return write_table(
        uri,
        np.zeros((count, 2), np.float32),
        labels=labels,
        splits=splits,
        statuses=statuses,
        shards=shards,
    )


def select(snapshot: Snapshot, **options: Any) -> LabelledRows:
    return select_rows(snapshot, TrainConfig(features="table", model="model", **options))


def sides(snapshot: Snapshot, rows: LabelledRows) -> dict[str, str]:
    """The split of each image that takes part."""
    images = images_of(snapshot)
    found = {
        images[shard][row]: SPLITS[split]
        for shard, row, split in zip(rows.shard, rows.row, rows.split, strict=True)
    }
    assert len(found) == len(rows.row)
    return found


def refusal(snapshot: Snapshot, kind: type[BottleneckError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        select(snapshot, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """600 labeled rows without splits."""
    return table(tmp_path_factory.mktemp("plain") / "table")


# The `split` column


def test_the_column_says_where_a_row_belongs(tmp_path: Path) -> None:
    snapshot = table(
        tmp_path / "table",
        ["b", "a", "b", "c", "a", "b", "a"],
        ["train", "test", "validation", None, "holdout", "train", "train"],
        ["ok", "ok", "ok", "ok", "ok", "truncated", "ok"],
    )
    for options in ({}, {"split": "column"}):
        rows = select(snapshot, **options)
        assert rows.labels == ("a", "b")
        assert sides(snapshot, rows) == {
            "00000.jpg": "train",
            "00001.jpg": "test",
            "00002.jpg": "validation",
            "00006.jpg": "train",
        }
        assert (rows.shard.tolist(), rows.row.tolist()) == ([0, 1, 1, 1], [0, 0, 1, 5])
        assert (rows.label.tolist(), rows.split.tolist()) == ([1, 0, 1, 0], [0, 2, 1, 0])
        assert rows.left_out == {"failed": 1, "without split": 2}
        assert {split: rows.counts(split).tolist() for split in SPLITS} == {
            "train": [1, 1],
            "validation": [0, 1],
            "test": [1, 0],
        }
        assert [array.dtype for array in (rows.shard, rows.row, rows.label, rows.split)] == [
            np.int32,
            np.int64,
            np.int32,
            np.int8,
        ]


def test_the_order_is_the_snapshots_and_shards_come_one_by_one(plain: Snapshot) -> None:
    rows = select(plain)
    assert rows.shard.tolist() == [0] * 100 + [1] * 350 + [2] * 150
    assert rows.row.tolist() == [*range(100), *range(350), *range(150)]
    assert [rows.labels[number] for number in rows.label] == LABELS


def test_missing_validation_rows_are_drawn_from_the_training_rows(tmp_path: Path) -> None:
    splits = ["test" if number % 4 == 0 else "train" for number in range(COUNT)]
    snapshot = table(tmp_path / "table", splits=splits)
    images = [image for shard in images_of(snapshot) for image in shard]
    where = dict(zip(images, side_of(images, 7), strict=True))
    for fraction, share in ((None, 0.2), (0.35, 0.35)):
        got = sides(snapshot, select(snapshot, seed=7, validation_fraction=fraction))
        assert got == {
            image: split if split == "test" else ("validation" if where[image] < share else "train")
            for image, split in zip(images, splits, strict=True)
        }
    none = select(snapshot, seed=7, validation_fraction=0.0)
    assert sides(snapshot, none) == dict(zip(images, splits, strict=True))


def test_missing_test_rows_are_drawn_only_when_asked_for(tmp_path: Path) -> None:
    splits = ["validation" if number % 4 == 0 else "train" for number in range(COUNT)]
    snapshot = table(tmp_path / "table", splits=splits)
    images = [image for shard in images_of(snapshot) for image in shard]
    assert sides(snapshot, select(snapshot)) == dict(zip(images, splits, strict=True))
    where = dict(zip(images, side_of(images, 0), strict=True))
    assert sides(snapshot, select(snapshot, test_fraction=0.3)) == {
        image: "test" if split == "train" and where[image] < 0.3 else split
        for image, split in zip(images, splits, strict=True)
    }


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_fraction_beside_rows_of_that_split_is_refused(tmp_path: Path, name: str) -> None:
    snapshot = table(tmp_path / "table", ["a", "b", "a", "b"], ["train", "train", name, name])
    assert refusal(snapshot, ConfigError, **{f"{name}_fraction": 0.1}) == (
        f"--{name}-fraction 0.1 is given and version 1 of {tmp_path}/table has a {name} split of "
        "its own; drop it, or draw all splits with --split hash"
    )
    rows = select(snapshot, split="hash", **{f"{name}_fraction": 0.0})
    assert rows.counts(name).tolist() == [0, 0]


def test_a_column_without_splits(tmp_path: Path, plain: Snapshot) -> None:
    unknown = table(tmp_path / "table", splits=["left", "right", None] * 200)
    for snapshot in (plain, unknown):
        assert refusal(snapshot, ConfigError, split="column") == (
            f"--split column: no row of version 1 of {snapshot.table_uri} has a split called "
            "train, validation, test; draw the splits with --split hash"
        )
        assert sides(snapshot, select(snapshot)) == sides(snapshot, select(snapshot, split="hash"))


def test_a_column_without_training_rows(tmp_path: Path) -> None:
    snapshot = table(tmp_path / "table", ["a", "b", "a"], ["test", "validation", "test"])
    assert refusal(snapshot, ConfigError) == (
        f"no row of version 1 of {tmp_path}/table is in the train split; look at the `split` "
        "column of the table or of --split-list, or draw the splits of more rows with --split hash"
    )


# Hash


def test_drawn_shares_are_near_the_fractions_within_every_label(plain: Snapshot) -> None:
    rows = select(plain, validation_fraction=0.25, test_fraction=0.15)
    totals = np.array([300, 200, 100])
    for split, share in (("train", 0.6), ("validation", 0.25), ("test", 0.15)):
        spread = np.sqrt(totals * share * (1 - share))
        assert (np.abs(rows.counts(split) - totals * share) < 3 * spread).all()
    assert sum(rows.counts(split).sum() for split in SPLITS) == COUNT
    assert rows.left_out == {}


def test_a_fifth_each_is_drawn_by_default(plain: Snapshot) -> None:
    found = Counter(sides(plain, select(plain)).values())
    drawn = select(plain, split="hash", validation_fraction=0.2, test_fraction=0.2)
    assert found == Counter(sides(plain, drawn).values())
    assert all(90 < found[split] < 150 for split in ("validation", "test"))


def test_a_side_depends_on_the_name_and_the_seed_alone() -> None:
    """The numbers are a promise: another version must not put an image on another side."""
    names = ["cats/1.jpg", "dogs/ä ö.jpg", ""]
    expected = [0.2938134611400669, 0.0884091086375822, 0.8193018466044045]
    assert side_of(names, 0).tolist() == expected
    assert side_of(names[1:], 0).tolist() == expected[1:]
    assert side_of(names[:1], 1).tolist() != expected[:1]
    assert side_of([], 0).shape == (0,)
    many = side_of([str(number) for number in range(20_000)], 3)
    assert many.min() >= 0
    assert many.max() < 1
    assert np.histogram(many, 10, (0, 1))[0].tolist() == pytest.approx([2000] * 10, abs=150)


def test_an_image_never_changes_sides_when_others_are_added(tmp_path: Path) -> None:
    snapshot = table(tmp_path / "table")
    options: dict[str, Any] = {"seed": 4, "validation_fraction": 0.2, "test_fraction": 0.1}
    before = sides(snapshot, select(snapshot, **options))
    more = FeaturesTable.open(snapshot.table_uri)
    # Names before, between and after the others, and a label that is new.
    names = sorted(f"{number:05d}{end}" for number in range(600) for end in (".aaa", ".zzz"))
    add_rows(
        more,
        np.zeros((1200, 2), np.float32),
        labels=["aardvark", "bee"] * 600,
        images=names,
        shards=(7, 1193),
    )
    later = more.snapshot()
    after = sides(later, select(later, **options))
    assert len(after) == 1800
    assert {image: after[image] for image in before} == before


def test_another_seed_draws_otherwise(plain: Snapshot) -> None:
    one, two = (sides(plain, select(plain, seed=seed)) for seed in (0, 1))
    assert one != two
    assert one == sides(plain, select(plain, seed=0))


def test_no_fraction_draws_nothing(plain: Snapshot) -> None:
    rows = select(plain, validation_fraction=0.0, test_fraction=0.0)
    assert rows.counts("train").tolist() == [300, 200, 100]
    assert rows.counts("validation").tolist() == rows.counts("test").tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"test_fraction": 0.85}, ("0.2", "0.85")),
        ({"validation_fraction": 0.8}, ("0.8", "0.2")),
    ],
)
def test_fractions_that_leave_nothing_beside_the_default_one(
    plain: Snapshot, options: dict[str, float], shares: tuple[str, str]
) -> None:
    assert refusal(plain, ConfigError, **options) == (
        f"--validation-fraction {shares[0]} and --test-fraction {shares[1]} (0.2 when not given) "
        "leave nothing to train on; their sum must be below 1"
    )


def test_hash_overrules_the_column(tmp_path: Path, plain: Snapshot) -> None:
    snapshot = table(tmp_path / "table", splits=["test"] * COUNT)
    assert sides(snapshot, select(snapshot, split="hash")) == sides(plain, select(plain))


# A list


def write_list(path: Path, rows: Sequence[dict[str, str | None]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        names = list(rows[0])
        lines = [",".join(row[name] or "" for name in names) for row in rows]
        path.write_text("\n".join([",".join(names), *lines]) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


FORMATS = pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])


@FORMATS
def test_a_list_says_it_instead_of_the_column(tmp_path: Path, suffix: str) -> None:
    snapshot = table(
        tmp_path / "table",
        ["b", "a", "b", "a", "c", None],
        ["test"] * 6,
        ["ok", "ok", "ok", "ok", "empty", "ok"],
    )
    split_list = write_list(
        tmp_path / f"list.{suffix}",
        [
            {"image": "00003.jpg", "split": "train"},
            {"image": "00000.jpg", "split": "TRAIN"},
            {"image": "00001.jpg", "split": "val"},
            {"image": "00004.jpg", "split": "train"},
            {"image": "00005.jpg", "split": "test"},
            {"image": "of another table.jpg", "split": "test"},
        ],
    )
    rows = select(snapshot, split_list=split_list)
    assert sides(snapshot, rows) == {
        "00000.jpg": "train",
        "00001.jpg": "validation",
        "00003.jpg": "train",
    }
    assert rows.labels == ("a", "b")
    assert rows.left_out == {"failed": 1, "without label": 1, "without split": 1}


@FORMATS
@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (
            [{"image": "00000.jpg", "split": "train"}, {"image": "00001.jpg", "split": "dev"}],
            ConfigError,
            "{uri} puts '00001.jpg' into the split 'dev'; allowed are train, validation, test",
        ),
        (
            [{"image": "00000.jpg", "split": "train"}, {"image": "00001.jpg", "split": None}],
            ConfigError,
            "{uri} puts '00001.jpg' into the split None; allowed are train, validation, test",
        ),
        (
            [{"image": "00000.jpg", "label": "a"}],
            ConfigError,
            "{uri} puts '00000.jpg' into the split None; allowed are train, validation, test",
        ),
        (
            [
                {"image": "00000.jpg", "split": "train"},
                {"image": "00001.jpg", "split": "train"},
                {"image": "00001.jpg", "split": "test"},
            ],
            ConfigError,
            "{uri} names '00001.jpg' twice; name it once",
        ),
        (
            [{"image": "photos/00001.jpg", "split": "train"}],
            ConfigError,
            "{uri} names no image of the table; its first is 'photos/00001.jpg', the table's "
            "'00000.jpg'",
        ),
        (
            [{"name": "00000.jpg", "split": "train"}],
            SourceError,
            "{uri} has no column 'image'; it has name, split; name the images in a column "
            "'image' (optional: uri, label, split, fingerprint)",
        ),
    ],
    ids=["unknown", "empty", "no-column-split", "twice", "foreign", "no-column-image"],
)
def test_lists_that_do_not_fit(
    tmp_path: Path,
    plain: Snapshot,
    suffix: str,
    rows: list[dict[str, str | None]],
    kind: type[BottleneckError],
    message: str,
) -> None:
    uri = write_list(tmp_path / f"list.{suffix}", rows)
    assert refusal(plain, kind, split_list=uri) == message.format(uri=uri)


def test_a_list_that_is_not_there(tmp_path: Path, plain: Snapshot) -> None:
    place = f"{tmp_path}/none.csv"
    message = refusal(plain, SourceError, split_list=place)
    assert message == f"{place} does not exist; check the path"


def test_a_list_without_training_rows(tmp_path: Path, plain: Snapshot) -> None:
    uri = write_list(
        tmp_path / "list.csv",
        [{"image": "00000.jpg", "split": "test"}, {"image": "00001.jpg", "split": "test"}],
    )
    assert "is in the train split" in refusal(plain, ConfigError, split_list=uri)


# Labels


def test_rows_without_label_and_failed_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    labels = [None if number % 10 == 3 else label for number, label in enumerate(LABELS)]
    statuses = ["unreadable" if number % 7 == 0 else "ok" for number in range(COUNT)]
    snapshot = table(tmp_path / "table", labels, None, statuses)
    rows = select(snapshot)
    kept = [
        f"{number:05d}.jpg"
        for number in range(COUNT)
        if statuses[number] == "ok" and labels[number] is not None
    ]
    failed = statuses.count("unreadable")
    assert list(sides(snapshot, rows)) == kept
    assert rows.left_out == {"failed": failed, "without label": COUNT - failed - len(kept)}


def test_a_label_of_failed_rows_alone_is_no_class(tmp_path: Path) -> None:
    snapshot = table(tmp_path / "table", ["a", "b", "z"], ["train"] * 3, ["ok", "ok", "too_large"])
    assert select(snapshot).labels == ("a", "b")


def test_labels_are_sorted_whatever_they_are_called(tmp_path: Path) -> None:
    names = ["žába", "Äpfel", "a b", "10", "9", "a,b", "犬", "A"]
    snapshot = table(tmp_path / "table", names, ["train"] * 8)
    rows = select(snapshot)
    assert rows.labels == ("10", "9", "A", "a b", "a,b", "Äpfel", "žába", "犬")
    assert [rows.labels[number] for number in rows.label] == names


def test_a_class_missing_from_validation_is_allowed(tmp_path: Path) -> None:
    snapshot = table(
        tmp_path / "table", ["a", "b", "c", "a"], ["train", "train", "train", "validation"]
    )
    rows = select(snapshot)
    assert rows.counts("validation").tolist() == [1, 0, 0]
    assert rows.counts("test").tolist() == [0, 0, 0]


def test_no_labels(tmp_path: Path) -> None:
    snapshot = table(tmp_path / "table", [None] * 5, None, ["ok", "ok", "empty", "ok", "missing"])
    assert refusal(snapshot, TableError) == (
        f"no row of version 1 of {tmp_path}/table has features and a label (5 rows, 2 failed, "
        "3 without label); extract with --layout label, or from a list file with a `label` column"
    )


def test_an_empty_table(tmp_path: Path) -> None:
    empty = FeaturesTable.create(str(tmp_path / "table"), make_spec((2,))).snapshot()
    assert refusal(empty, TableError).startswith(
        f"no row of version 0 of {tmp_path}/table has features and a label (0 rows, 0 failed, "
        "0 without label)"
    )


def test_one_label_only(tmp_path: Path) -> None:
    snapshot = table(tmp_path / "table", ["cat"] * 6)
    assert refusal(snapshot, TableError) == (
        f"all rows of version 1 of {tmp_path}/table that can be used have the label 'cat'; "
        "a head tells at least two labels apart"
    )


def test_binary_needs_two_labels(tmp_path: Path, plain: Snapshot) -> None:
    assert refusal(plain, ConfigError, binary=True) == (
        f"--binary needs two labels and version 1 of {plain.table_uri} has 3 (ant, bee, cat); "
        "drop --binary"
    )
    seven = table(tmp_path / "seven", list("gfedcba"), ["train"] * 7)
    assert refusal(seven, ConfigError, binary=True) == (
        f"--binary needs two labels and version 1 of {seven.table_uri} has 7 (a, b, c, d, e, …); "
        "drop --binary"
    )
    two = table(tmp_path / "two", ["a", "b", "a"], ["train"] * 3)
    assert select(two, binary=True).labels == ("a", "b")
