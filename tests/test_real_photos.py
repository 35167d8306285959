"""Real photos and real weights: all of dogs-vs-cats from disk and from S3, all awkward files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coloured import read
from s3_server import S3Server
from test_extract import counts, run

from bottleneck.features import FeaturesTable
from bottleneck.images import STATUSES

pytestmark = pytest.mark.usefixtures("ray_session")


def mobilenet(shared: Path) -> dict[str, object]:
    return {
        "backbone": "mobilenet",
        "alpha": 0.25,
        "weights": str(shared / "weights/mobilenet_2_5_224_tf_no_top.h5"),
        "pooling": "avg",
        "image_size": (128, 128),
        "batch_size": 64,
    }


def test_dogs_vs_cats_from_disk_and_from_s3_are_the_same_table(
    shared: Path, s3: S3Server, tmp_path: Path
) -> None:
    photos = shared / "data/dogs_vs_cats"
    files = {p.relative_to(photos).as_posix(): p for p in photos.rglob("*.jpg")}
    assert len(files) == 4000
    s3.create_bucket("pets")
    s3.put_objects("pets", {f"dogs/{name}": path.read_bytes() for name, path in files.items()})

    local = run(photos, tmp_path / "table", **mobilenet(shared))
    remote = run("s3://pets/dogs", "s3://pets/table", **mobilenet(shared))

    assert counts(local) == counts(remote) == {"new": 4000, "computed": 4000}
    assert local.failed == remote.failed == {}
    ours, theirs = read(str(tmp_path / "table")), read("s3://pets/table")
    assert [row["image"] for row in ours] == sorted(files)
    for name in ("image", "label", "split", "sha256", "width", "height", "status"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    assert {(row["split"], row["label"]) for row in ours} == {
        (split, label) for split in ("train", "validation", "test") for label in ("cats", "dogs")
    }
    disk = np.array([row["features"] for row in ours], np.float32)
    cloud = np.array([row["features"] for row in theirs], np.float32)
    assert disk.shape == (4000, 256)
    assert disk.tobytes() == cloud.tobytes()
    # ImageNet features tell cats from dogs: the classes' means differ far beyond chance.
    cats = np.array([row["label"] == "cats" for row in ours])
    spread = disk.std(axis=0) / np.sqrt(1000)
    distance = np.abs(disk[cats].mean(axis=0) - disk[~cats].mean(axis=0))
    assert np.median(distance / np.maximum(spread, 1e-6)) > 2


def test_no_awkward_file_stops_the_run(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/awkward"
    summary = run(folder, tmp_path / "table", layout="label", **mobilenet(shared))
    rows = {row["image"]: row for row in read(str(tmp_path / "table"))}
    images = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in ("", ".tsv")
    }
    assert set(rows) == images
    assert {row["status"] for row in rows.values()} <= set(STATUSES)
    bad = {image: row["status"] for image, row in rows.items() if row["status"] != "ok"}
    assert bad == {
        "pillow/broken.png": "unreadable",
        "pillow/decompression_bomb.gif": "too_large",
        "pillow/truncated_image.png": "truncated",
        "pillow/truncated_jpeg.jpg": "truncated",
        "web/10_zero_byte.jpg": "empty",
        "web/124_truncated.jpg": "truncated",
        "web/130_html_named_jpg.jpg": "not_an_image",
    }
    assert all((row["features"] is None) == (row["status"] != "ok") for row in rows.values())
    assert summary.failed == {
        "unreadable": 1, "too_large": 1, "truncated": 3, "empty": 1, "not_an_image": 1
    }  # fmt: skip
    spec = FeaturesTable.open(str(tmp_path / "table")).snapshot().spec
    assert (spec.backbone, spec.precision, spec.shape) == ("mobilenet", "float32", (256,))
