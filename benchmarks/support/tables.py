"""Tables and listings of made-up images, of any size, as a real source and a real run would leave.

An image has a folder and a serial, which make its name, and a content, which makes its ETag and
its SHA-256. All are numbers, so that a million rows take seconds.
"""

from __future__ import annotations

import binascii
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from benchmarks.support.specs import make_spec
from bottleneck.spec import FeatureSpec
from bottleneck.table.columns import SCHEMA, features_array
from bottleneck.table.files import TableFiles
from bottleneck.table.schemas import RowFormat
from bottleneck.table.shards import Shard, write_shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable

Numbers = npt.NDArray[np.int64]

#: VGG16's activation maps, in row groups of 64, and the same averaged to 512 values.
MAPS = make_spec((7, 7, 512), image_size=(224, 224), precision="bfloat16")
POOLED = replace(MAPS, shape=(512,), pooling="avg")
SPECS = {"maps": MAPS, "pooled": POOLED}

_FOLDER_IMAGES = 1_000

#: One in so many of a table's images, in the nightly mix.
_NEW, _CHANGED, _DELETED, _RENAMED = 100, 200, 200, 1_000

_COMMIT_SHARDS = 256


@dataclass(frozen=True)
class Images:
    """Some images.

    Attributes:
        folders: (N,), what their folders are named after.
        serials: (N,), what the files are named after.
        contents: (N,), equal where the bytes are.
    """

    folders: Numbers
    serials: Numbers
    contents: Numbers

    def __len__(self) -> int:
        return len(self.serials)

    def __getitem__(self, chosen: Any) -> Images:
        return Images(self.folders[chosen], self.serials[chosen], self.contents[chosen])

    @property
    def labels(self) -> pl.Series:
        """Names of the folders, which sort as their numbers do."""
        return pl.select(pl.format("class-{}", _digits(self.folders, 6))).to_series()

    @property
    def names(self) -> pl.Series:
        """Paths of the images."""
        return pl.select(
            pl.format("{}/{}.jpg", pl.lit(self.labels), _digits(self.serials, 10))
        ).to_series()


@dataclass(frozen=True)
class Mix:
    """What a night does to a table of so many images.

    Attributes:
        rows: Images before.
    """

    rows: int

    @property
    def expected(self) -> dict[str, int]:
        """Counts that a plan must find."""
        numbers = np.arange(self.rows)
        return {
            "new": self.rows // _NEW,
            "changed": int(_changed(numbers).sum()),
            "removed": int(_deleted(numbers).sum()),
            "reused": int(_renamed(numbers).sum()),
        }

    def images(self) -> Images:
        """Returns the source after that night, in the order of a listing."""
        numbers = np.arange(self.rows, dtype=np.int64)
        numbers = numbers[~_deleted(numbers)]
        added = np.arange(self.rows // _NEW, dtype=np.int64)
        far = 10 * self.rows
        serials = np.where(_renamed(numbers), numbers + far, numbers)
        contents = np.where(_changed(numbers), numbers + far, numbers)
        folders = np.concatenate([numbers, added * _NEW]) // _FOLDER_IMAGES
        serials = np.concatenate([serials, added + self.rows])
        contents = np.concatenate([contents, added + self.rows])
        order = np.lexsort((serials, folders))
        return Images(folders[order], serials[order], contents[order])


def _changed(numbers: Numbers) -> npt.NDArray[np.bool_]:
    return numbers % _CHANGED == 7


def _deleted(numbers: Numbers) -> npt.NDArray[np.bool_]:
    return numbers % _DELETED == 11


def _renamed(numbers: Numbers) -> npt.NDArray[np.bool_]:
    return numbers % _RENAMED == 13


def numbered(first: int, count: int) -> Images:
    """Images of a source that nothing happened to yet."""
    numbers = np.arange(first, first + count, dtype=np.int64)
    return Images(numbers // _FOLDER_IMAGES, numbers, numbers)


def write_table(uri: str, spec: FeatureSpec, rows: int, shard_rows: int) -> Snapshot:
    """Writes a table of so many rows, as a run would; replaces what is there."""
    shutil.rmtree(uri, ignore_errors=True)
    table = FeaturesTable.create(uri, spec)
    snapshot = table.snapshot()
    shards: list[Shard] = []
    for first in range(0, rows, shard_rows):
        shards.append(write(uri, spec, numbered(first, min(shard_rows, rows - first))))
        if len(shards) == _COMMIT_SHARDS or first + shard_rows >= rows:
            snapshot = table.commit(base=snapshot, add=shards, run="benchmark")
            shards = []
    return snapshot


def write(uri: str, spec: FeatureSpec, images: Images, *, length: int = 1) -> Shard:
    """Writes one shard.

    Args:
        uri: The table.
        spec: Whose row groups the shard gets.
        images: Its rows, in order.
        length: Values that each row has for features. Fewer than they should be change the size
            of the file and nothing that a plan looks at.
    """
    files = TableFiles.at(uri, RowFormat(SCHEMA, spec.length))
    shard = write_shard(files, [_rows(images, length)])
    assert shard is not None
    return shard


def _rows(images: Images, length: int) -> pa.Table:
    count = len(images)
    nothing = pa.nulls(count, pa.string())
    values = np.random.default_rng(0).standard_normal((count, length), np.float32)
    # As computed in bfloat16 behind a ReLU.
    features = (np.maximum(values, 0).view(np.uint32) & 0xFFFF0000).view(np.float32)
    columns = {
        "image": _text(images.names),
        "label": _text(images.labels),
        "split": nothing,
        "fingerprint": _hexadecimal(images.contents, 32, "etag:", ""),
        "sha256": _hexadecimal(images.contents, 64, "", ""),
        "width": pa.array(np.full(count, 500, np.int32)),
        "height": pa.array(np.full(count, 375, np.int32)),
        "status": pa.repeat(pa.scalar("ok"), count),
        "error": nothing,
        "features": features_array(features, np.ones(count, bool)),
    }
    return pa.table(columns, schema=SCHEMA)


def pages(images: Images, size: int) -> Iterator[pa.RecordBatch]:
    """Answers of an object store to list requests, as obstore gives them."""
    for first in range(0, len(images), size):
        page = images[first : first + size]
        count = len(page)
        yield pa.record_batch(
            {
                "path": _text(page.names),
                "last_modified": pa.repeat(pa.scalar(1_700_000_000_000), count).cast(
                    pa.timestamp("ms", "UTC")
                ),
                "size": pa.array(np.full(count, 110_000, np.uint64)),
                "e_tag": _hexadecimal(page.contents, 32, '"', '"'),
                "version": pa.nulls(count, pa.string()),
            }
        )


def _digits(numbers: Numbers, digits: int) -> pl.Expr:
    return pl.lit(pl.Series(numbers)).cast(pl.String).str.zfill(digits)


def _text(series: pl.Series) -> pa.Array:
    return series.to_arrow().cast(pa.string())


def _hexadecimal(numbers: Numbers, digits: int, before: str, after: str) -> pa.Array:
    """Returns hexadecimal digits that look random and follow from the number."""
    words = digits // 16
    mixed = numbers.astype(np.uint64)[:, None] * np.uint64(words) + np.arange(
        words, dtype=np.uint64
    )
    # SplitMix64 (Steele, Lea and Flood 2014).
    mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    text = np.frombuffer(binascii.hexlify(mixed.tobytes()), np.uint8).reshape(len(numbers), digits)
    ends = [
        np.broadcast_to(np.frombuffer(end.encode(), np.uint8), (len(numbers), len(end)))
        for end in (before, after)
    ]
    letters = np.ascontiguousarray(np.concatenate([ends[0], text, ends[1]], axis=1))
    offsets = (np.arange(len(numbers) + 1) * letters.shape[1]).astype(np.int32)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(letters))
