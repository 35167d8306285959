"""Tiny images of one color each: the `channel-means` backbone gives that color back exactly.

So a test can say which features belong to which image, through shuffles, retries and failures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bottleneck.table.reading import ShardReader
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable

Color = tuple[int, int, int]


def color(number: int) -> Color:
    """A color that no other number below 2**24 has."""
    return (number % 256, number // 256 % 256, number // 65536 % 256)


def png(value: Color, size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", size, value).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def draw(folder: Path, colors: Mapping[str, Color]) -> dict[str, Color]:
    """Writes images by relative path; returns what was asked for."""
    for name, value in colors.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    return dict(colors)


def numbered(count: int, start: int = 0, folder: str = "things") -> dict[str, Color]:
    """`count` names with colors of their own, in name order."""
    return {f"{folder}/{i:06d}.png": color(i) for i in range(start, start + count)}


def read(uri: str, version: int | None = None) -> list[dict[str, Any]]:
    """All rows of a table, sorted by image, read shard by shard."""
    snapshot = FeaturesTable.open(uri).snapshot(version=version)
    return read_snapshot(snapshot)


def read_snapshot(snapshot: Snapshot) -> list[dict[str, Any]]:
    """All rows of a snapshot, sorted by image."""
    rows: list[dict[str, Any]] = []
    for shard in snapshot.shards:
        with ShardReader(snapshot.files, shard.path) as reader:
            for group in range(reader.groups):
                rows += reader.group(group, snapshot.schema.names).to_pylist()
    return sorted(rows, key=lambda row: row["image"])


def colors_of(rows: list[dict[str, Any]]) -> list[tuple[str, Color]]:
    """(image, color that its features say) of the rows that are ok, duplicates kept."""
    return [
        (row["image"], tuple(int(v) for v in np.asarray(row["features"])))
        for row in rows
        if row["status"] == "ok"
    ]
