"""Real photos and real weights: all of dogs-vs-cats from disk and from S3, all awkward files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.extraction import counts, run
from support.images import read, read_snapshot

from benchmarks.support.s3_server import S3Server
from bottleneck.images.statuses import STATUSES
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.job import predict
from bottleneck.table.table import FeaturesTable, PredictionsTable
from bottleneck.training.config import TrainConfig
from bottleneck.training.job import train

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


def mobilenet(shared: Path) -> dict[str, object]:
    return {
        "backbone": "mobilenet",
        "alpha": 0.25,
        "weights": str(shared / "weights/mobilenet_2_5_224_tf_no_top.h5"),
        "pooling": "avg",
        "image_size": (128, 128),
        "decode": "exact",
        "batch_size": 64,
    }


@pytest.fixture(scope="module")
def pets(ray_session: None, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of all 4,000 photos, from disk."""
    table = tmp_path_factory.mktemp("pets") / "table"
    summary = run(shared / "data/dogs_vs_cats", table, **mobilenet(shared))
    assert counts(summary) == {"new": 4000, "computed": 4000}
    assert summary.failed == {}
    return table


def test_dogs_vs_cats_from_disk_and_from_s3_are_the_same_table(
    shared: Path, s3: S3Server, pets: Path
) -> None:
    photos = shared / "data/dogs_vs_cats"
    files = {p.relative_to(photos).as_posix(): p for p in photos.rglob("*.jpg")}
    assert len(files) == 4000
    s3.create_bucket("pets")
    s3.put_objects("pets", {f"dogs/{name}": path.read_bytes() for name, path in files.items()})

    remote = run("s3://pets/dogs", "s3://pets/table", **mobilenet(shared))

    assert counts(remote) == {"new": 4000, "computed": 4000}
    assert remote.failed == {}
    ours, theirs = read(str(pets)), read("s3://pets/table")
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


def test_a_head_tells_cats_from_dogs_and_keras_alone_agrees(
    shared: Path, pets: Path, tmp_path: Path
) -> None:
    """Trained on the table; the fused model, fed JPEGs by Keras, predicts what the job does."""
    model = tmp_path / "model"
    summary = train(
        TrainConfig(
            features=str(pets),
            model=str(model),
            weights=str(shared / "weights/mobilenet_2_5_224_tf_no_top.h5"),
            epochs=6,
        )
    )
    assert summary.rows == {"train": 2000, "validation": 1000, "test": 1000}
    assert summary.evaluation is not None
    # At 128 pixels and pooled; the README has the figures of 224 pixels and maps.
    assert summary.evaluation.accuracy.value >= 0.88

    folder = tmp_path / "photos"
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
        for path in sorted((shared / "data/dogs_vs_cats/test" / label).glob("*.jpg"))[:12]:
            shutil.copy(path, folder / label / path.name)
    predict(
        PredictConfig(
            model=str(model), images=str(folder), predictions=str(tmp_path / "p"), actors="1"
        )
    )
    rows = read_snapshot(PredictionsTable.open(str(tmp_path / "p")).snapshot())
    script = """
import json, sys
import keras, numpy
from pathlib import Path
model = keras.saving.load_model(sys.argv[1])
size = model.input_shape[1:3]
names = sorted(p.relative_to(sys.argv[2]).as_posix() for p in Path(sys.argv[2]).rglob("*.jpg"))
load = lambda name: keras.utils.load_img(Path(sys.argv[2]) / name, target_size=size,
                                         interpolation="bilinear")
images = numpy.stack([numpy.array(load(name), numpy.uint8) for name in names])
print(json.dumps(dict(zip(names, model.predict(images, verbose=0).tolist()))))
assert not {"ray", "bottleneck.models.heads"} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, model / "model.keras", folder],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert [row["image"] for row in rows] == sorted(theirs)
    labels = json.loads((model / "labels.json").read_text())
    for row in rows:
        ours = dict(zip(row["top_labels"], row["top_probabilities"], strict=True))
        np.testing.assert_allclose(
            [ours[label] for label in labels], theirs[row["image"]], atol=2e-4
        )
