"""The report's pictures are read as the job reads images: with its timeout, within its limits."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from support.images import png

from benchmarks.support.s3_server import S3Server
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.report import thumbnails
from bottleneck.sources.listing import list_images


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """A small image, one of more bytes, and one of more pixels but fewer bytes."""
    images = {
        "small.bmp": Image.new("RGB", (20, 20)),
        "heavy.bmp": Image.new("RGB", (40, 40)),
        "wide.png": Image.new("RGB", (400, 10)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    listed = list_images(str(tmp_path)).images
    assert dict(zip(*listed.select(["image", "bytes"]).to_pydict().values(), strict=True)) == {
        name: (tmp_path / name).stat().st_size for name in images
    }
    return listed


def shown(rows: pa.Table, **flags: Any) -> set[str]:
    config = PredictConfig(model="model", predictions="table", images="images", **flags)
    pictures = thumbnails(rows, config)
    for picture in pictures.values():
        assert Image.open(io.BytesIO(picture)).size == (160, 160)
    return set(pictures)


def test_every_mistake_has_a_picture_unless_its_image_cannot_be_read(
    rows: pa.Table, tmp_path: Path
) -> None:
    assert shown(rows) == {"small.bmp", "heavy.bmp", "wide.png"}
    (tmp_path / "small.bmp").unlink()
    (tmp_path / "wide.png").write_bytes(b"<html>")
    assert shown(rows) == {"heavy.bmp"}
    assert shown(rows.slice(0, 0)) == set()


def test_images_over_a_limit_of_the_job_have_no_picture(rows: pa.Table) -> None:
    assert shown(rows, max_image_mb=0.002) == {"small.bmp", "wide.png"}
    assert shown(rows, max_pixels=1_600) == {"small.bmp", "heavy.bmp"}


def test_a_read_without_an_answer_is_tried_again_after_the_job_s_timeout(s3: S3Server) -> None:
    s3.create_bucket("mistakes", {"a.png": png((200, 0, 0), (8, 8))})
    listed = list_images("s3://mistakes/").images
    s3.delay_s = 25.0
    recover = threading.Timer(1.0, setattr, [s3, "delay_s", 0.0])
    recover.start()
    began = time.monotonic()
    assert shown(listed, fetch_timeout_s=0.5) == {"a.png"}
    # Without the timeout, the answer to the first request would have been waited for.
    assert time.monotonic() - began < 25
    recover.join()
