"""The extract job from S3 to S3, on a real S3 API over HTTP."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from support.extraction import counts, run
from support.images import color, colors_of, draw, numbered, png, read

from benchmarks.support.s3_server import S3Server
from bottleneck.errors import BottleneckError

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def bucket(s3: S3Server) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(name)
    return name


def upload(s3: S3Server, bucket: str, folder: Path) -> None:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    s3.put_objects(bucket, {f"photos/{name}": path.read_bytes() for name, path in files.items()})


def gets(s3: S3Server, prefix: str) -> dict[str, int]:
    return {line: n for line, n in s3.counts().items() if line.startswith(f"GET {prefix}")}


def test_same_rows_and_bytes_as_from_disk_with_one_request_per_image(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    draw(tmp_path / "photos", numbered(90, folder="train/a b#%+é"))
    upload(s3, bucket, tmp_path / "photos")
    run(tmp_path / "photos", tmp_path / "table")
    s3.reset()

    summary = run(f"s3://{bucket}/photos/", f"s3://{bucket}/table")

    assert counts(summary) == {"new": 90, "computed": 90}
    images = gets(s3, f"/{bucket}/photos/")
    assert len(images) == 90
    assert set(images.values()) == {1}
    local, remote = read(str(tmp_path / "table")), read(f"s3://{bucket}/table")
    same = [name for name in local[0] if name != "fingerprint"]
    assert [[row[name] for name in same] for row in local] == [
        [row[name] for name in same] for row in remote
    ]
    assert all(row["fingerprint"].startswith("etag:") for row in remote)

    s3.reset()
    assert counts(run(f"s3://{bucket}/photos", f"s3://{bucket}/table")) == {"unchanged": 90}
    assert gets(s3, f"/{bucket}/photos/") == {}


@pytest.mark.slow
def test_a_renamed_object_is_not_even_read(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    wanted = draw(tmp_path / "photos", numbered(10))
    upload(s3, bucket, tmp_path / "photos")
    source, table = f"s3://{bucket}/photos", f"s3://{bucket}/table"
    run(source, table)
    client = s3.client()
    client.copy_object(
        Bucket=bucket,
        Key="photos/moved/x.png",
        CopySource={"Bucket": bucket, "Key": "photos/things/000003.png"},
    )
    client.delete_object(Bucket=bucket, Key="photos/things/000003.png")
    client.put_object(Bucket=bucket, Key="photos/things/000004.png", Body=png((77, 7, 7)))
    wanted["moved/x.png"] = wanted.pop("things/000003.png")
    wanted["things/000004.png"] = (77, 7, 7)
    s3.reset()

    summary = run(source, table)

    assert counts(summary) == {"changed": 1, "reused": 1, "unchanged": 8, "computed": 1}
    assert list(gets(s3, f"/{bucket}/photos/")) == [f"GET /{bucket}/photos/things/000004.png"]
    assert colors_of(read(table)) == sorted(wanted.items())


@pytest.mark.parametrize("status", [500, 503, "reset"])
def test_errors_that_pass_leave_no_trace(
    s3: S3Server, bucket: str, tmp_path: Path, status: Any
) -> None:
    wanted = draw(tmp_path / "photos", numbered(24))
    upload(s3, bucket, tmp_path / "photos")
    s3.fail(status, n_requests=12, match=rf"GET /{bucket}/photos/.*png")
    s3.fail(status, n_requests=3, match=rf"(PUT|POST) /{bucket}/table/shard")
    summary = run(f"s3://{bucket}/photos", f"s3://{bucket}/table")
    assert counts(summary) == {"new": 24, "computed": 24}
    assert summary.failed == {}
    assert colors_of(read(f"s3://{bucket}/table")) == sorted(wanted.items())


@pytest.mark.slow
def test_images_that_cannot_be_had_now_are_tried_again_by_the_next_run(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = draw(tmp_path / "photos", numbered(16))
    upload(s3, bucket, tmp_path / "photos")
    s3.fail(403, seconds=600, match=r"photos/things/00000[0-3].png", code="ExpiredToken")
    source, table = f"s3://{bucket}/photos", f"s3://{bucket}/table"
    first = run(source, table)
    assert first.failed == {"unavailable": 4}
    assert counts(first) == {"new": 16, "computed": 12}
    assert len(read(table)) == 12
    s3.reset()
    assert counts(run(source, table)) == {"new": 4, "unchanged": 12, "computed": 4}
    assert colors_of(read(table)) == sorted(wanted.items())


def test_an_object_deleted_after_the_listing_is_a_missing_row(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    draw(tmp_path / "photos", numbered(5))
    upload(s3, bucket, tmp_path / "photos")
    s3.fail(404, seconds=600, match=r"GET .*photos/things/000002.png")
    source, table = f"s3://{bucket}/photos", f"s3://{bucket}/table"
    assert run(source, table).failed == {"missing": 1}
    assert [(r["image"], r["status"]) for r in read(table) if r["status"] != "ok"] == [
        ("things/000002.png", "missing")
    ]
    s3.client().delete_object(Bucket=bucket, Key="photos/things/000002.png")
    assert counts(run(source, table)) == {"removed": 1, "unchanged": 4}


def test_a_table_that_cannot_be_written_is_one_line(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    draw(tmp_path / "photos", {"a/x.png": color(1)})
    with pytest.raises(BottleneckError, match=r"no-such-bucket") as caught:
        run(tmp_path / "photos", "s3://no-such-bucket/table")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
