"""Looks at a features table: what is in it, and whether near features mean similar images.

python examples/look_at_table.py photo-features --images photos --sheet out.png
"""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageOps

from bottleneck import FeaturesTable, Snapshot

Features = npt.NDArray[np.float32]

#: Maximum number of images compared; a table may hold more than fit in memory.
_MAX_ROWS = 2000

_NEIGHBORS = 5
_SHEET_ROWS = 8
_TILE_PX = 128


def read_features(snapshot: Snapshot, limit: int = _MAX_ROWS) -> tuple[list[str], Features]:
    """Reads the first images that have features.

    Returns:
        Images, and (N, L) float32 features in their order.
    """
    images: list[str] = []
    features: list[Features] = []
    for batch in snapshot.batches():
        images += batch.images
        features.append(batch.features.reshape(len(batch), -1))
        if len(images) >= limit:
            break
    return images, np.concatenate(features) if features else np.empty((0, 0), np.float32)


def cosines(features: Features) -> Features:
    """Returns how similar images are: (N, N) cosines of features minus their mean, -1 to 1.

    The mean is what all images share (with random weights nearly everything); the remainder tells
    them apart.
    """
    centered = features - features.mean(axis=0)
    centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    alike: Features = centered @ centered.T
    return alike


def neighbors(alike: Features, row: int) -> npt.NDArray[np.intp]:
    """Returns the rows most similar to `row`, the most similar first, without itself."""
    order = np.argsort(-alike[row], kind="stable")
    return order[order != row][:_NEIGHBORS]


def print_rows(snapshot: Snapshot) -> pl.DataFrame:
    """Prints counts by split, label and status, and the failures; returns the small columns."""
    columns = ("image", "label", "split", "status", "error")
    rows = pl.DataFrame(snapshot.read(columns))
    counts = rows.group_by("split", "label", "status").len("rows").sort("split", "label", "status")
    print(f"\nRows by split, label and status ({len(rows):,} together)")
    for split, label, status, count in counts.iter_rows():
        print(f"  {split or '-':12} {label or '-':12} {status:14} {count:8,}")
    failed = rows.filter(pl.col("status") != "ok").sort("image")
    print(f"\nImages without features: {len(failed):,}")
    for image, status, error in failed.select("image", "status", "error").head(10).iter_rows():
        print(f"  {image}  {status}: {error}")
    return rows


def print_features(snapshot: Snapshot, features: Features) -> None:
    """Prints shape, range and size of the features."""
    shape = "×".join(map(str, snapshot.spec.shape))
    print(f"\nFeatures of {len(features):,} images: {shape} {features.dtype} each")
    if features.size:
        print(
            f"  zeros {100 * float((features == 0).mean()):.1f} %, mean {features.mean():.4g}, "
            f"largest {features.max():.4g}"
        )
    raw = 4 * snapshot.spec.length
    size = snapshot.size_bytes / max(1, snapshot.rows)
    print(f"  {size:,.0f} bytes per image in the table, {raw:,} raw ({100 * size / raw:.0f} %)")


def print_neighbors(images: list[str], alike: Features, rows: pl.DataFrame, query: str) -> None:
    """Prints the nearest images of one image, and how often the nearest has the same label."""
    labels = dict(rows.select("image", "label").iter_rows())
    row = images.index(query)
    print(f"\nNearest to {query} (cosine of centered features)")
    for other in neighbors(alike, row):
        print(f"  {alike[row, other]:6.3f}  {images[other]}")
    nearest = [labels[images[int(neighbors(alike, k)[0])]] for k in range(len(images))]
    same = sum(
        labels[image] == label for image, label in zip(images, nearest, strict=True) if label
    )
    share = 100 * same / len(images)
    kinds = Counter(labels[image] for image in images)
    chance = 100 * sum(count * (count - 1) for count in kinds.values())
    chance /= len(images) * (len(images) - 1)
    print(f"  the nearest image has the same label for {share:.0f} % (by chance {chance:.0f} %)")


def print_history(table: FeaturesTable) -> None:
    """Prints the newest commits."""
    print("\nVersions")
    for commit in table.commits(10):
        when = datetime.fromtimestamp(commit.timestamp_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        print(f"  {commit.version:4}  {when}  run {commit.run}  {dict(commit.stats)}")


def draw_sheet(images: list[str], alike: Features, folder: Path, target: Path) -> None:
    """Draws some images in the left column, each with its nearest images beside it."""
    chosen = np.linspace(0, len(images) - 1, min(_SHEET_ROWS, len(images))).astype(int)
    size = (_TILE_PX * (_NEIGHBORS + 1), _TILE_PX * len(chosen))
    sheet = Image.new("RGB", size, "white")
    for line, row in enumerate(chosen):
        for column, other in enumerate([row, *neighbors(alike, int(row))]):
            with Image.open(folder / images[other]) as image:
                upright = ImageOps.exif_transpose(image).convert("RGBA")
            tile = Image.new("RGBA", upright.size, "white")
            tile.alpha_composite(upright)
            tile = ImageOps.contain(tile, (_TILE_PX - 6, _TILE_PX - 6))
            sheet.paste(tile, (column * _TILE_PX + 3, line * _TILE_PX + 3))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)
    print(f"\n{target}: images (left) and their nearest, drawn from {folder}")


def look(table_uri: str, query: str | None, folder: Path | None, sheet: Path | None) -> None:
    """Prints what is in a table.

    Args:
        table_uri: The table.
        query: Image whose nearest images are shown; the first one when None.
        folder: The images, if a sheet is to be drawn.
        sheet: Where to draw it, a PNG.
    """
    table = FeaturesTable.open(table_uri)
    snapshot = table.snapshot()
    print(f"{table_uri}, version {snapshot.version}: {len(snapshot.shards)} shard(s)")
    for name, value in snapshot.spec.to_properties().items():
        print(f"  {name:26} {value or '-'}")
    rows = print_rows(snapshot)
    images, features = read_features(snapshot)
    print_features(snapshot, features)
    if len(images) > 1:
        alike = cosines(features)
        print_neighbors(images, alike, rows, query or images[0])
        if folder is not None and sheet is not None:
            draw_sheet(images, alike, folder, sheet)
    print_history(table)


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description="Looks at a features table.")
    parser.add_argument("features", help="the table: a folder or URI")
    parser.add_argument("--image", help="show the nearest images of this one")
    parser.add_argument("--images", type=Path, help="folder of the images, for --sheet")
    parser.add_argument("--sheet", type=Path, help="draw images and their nearest here (PNG)")
    flags = parser.parse_args()
    look(flags.features, flags.image, flags.images, flags.sheet)


if __name__ == "__main__":
    main()
