"""The loop of a run: when it commits, what ends it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from support.images import color, colors_of, draw, numbered, png, read

from benchmarks.support.s3_server import S3Server
from bottleneck.errors import RunFailedError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline import stages, writing
from bottleneck.table.table import FeaturesTable

pytestmark = pytest.mark.usefixtures("ray_session")


def run(images: Path | str, table: Path, **options: Any) -> Summary:
    defaults = {"backbone": "channel-means", "weights": "none", "actors": "1", "batch_size": 8}
    flags = {"images": str(images), "features": str(table), **defaults, **options}
    return extract(ExtractConfig(**flags))


@ray.remote(num_cpus=0)
def slow_write(*arguments: Any) -> writing.Written:
    written: writing.Written = writing.write_blocks._function(*arguments)
    time.sleep(0.7)
    return written


@pytest.mark.slow
def test_a_pipeline_that_is_faster_than_its_storage_commits_in_time(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once no commit came while writes followed upon each other, each of a single block."""
    wanted = {f"things/{number:03d}.png": color(number) for number in range(96)}
    s3.create_bucket("steady", {name: png(value, (8, 8)) for name, value in wanted.items()})
    # Blocks come steadily, some in a second, for seconds.
    s3.delay_s = 0.15
    monkeypatch.setattr(writing, "write_blocks", slow_write)
    summary = run(
        "s3://steady/", tmp_path / "table", commit_every="1s", fetch_concurrency=2, shard_mb=1.0
    )
    assert colors_of(read(str(tmp_path / "table"))) == sorted(wanted.items())
    assert summary.commits >= 3
    shards = FeaturesTable.open(str(tmp_path / "table")).snapshot().shards
    assert len(shards) <= summary.commits + 1


def test_a_backbone_that_no_worker_can_make_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was taken for lost work, three times, and the reason was not told."""

    class NoRoomActor:
        def __init__(self, stages: stages.Stages, threads: int) -> None:
            raise MemoryError("no room for the weights")

        def __call__(self, block: pa.Table) -> pa.Table:
            raise AssertionError

    draw(tmp_path / "photos", numbered(3))
    monkeypatch.setattr(stages, "NetworkActor", NoRoomActor)
    with pytest.raises(RunFailedError, match="no room for the weights") as caught:
        run(tmp_path / "photos", tmp_path / "table")
    assert "\n" not in str(caught.value)
    assert "3 times in a row" not in str(caught.value)
