"""The table's own costs, without pipeline: committing, opening, and planning the next run.

Run it as .venv/bin/python benchmarks/commit.py, with --large for 10,000 files.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import tyro
from results import CommonSettings, Result

from bottleneck.features import FeaturesTable
from bottleneck.plan import make_plan
from bottleneck.shards import SCHEMA, Shard, features_array, write_shard
from bottleneck.sources import LISTING_SCHEMA
from bottleneck.spec import FeatureSpec

T = TypeVar("T")

_SPEC = FeatureSpec(
    backbone="channel-means",
    alpha=None,
    weights="none",
    layer="channel_means",
    shape=(3,),
    pooling="none",
    image_size=(32, 32),
    resize="squash",
    interpolation="bilinear",
    decode="fast",
    preprocessing="own",
    precision="float32",
)


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures commits, and what opening and planning cost, as the table gets more files.

    Attributes:
        files: Shards in the end.
        files_a_commit: Shards in a commit.
        rows: Rows in a shard.
        large: Go on to 10,000 files, which takes minutes.
    """

    files: int = 2000
    files_a_commit: int = 20
    rows: int = 20
    large: bool = False


def main(settings: Settings) -> None:
    files = 40 if settings.smoke else 10_000 if settings.large else settings.files
    result = Result("commit", settings.to_json())
    table = result.table(
        f"Commits of {settings.files_a_commit} shards of {settings.rows} rows, local disk"
    )
    with tempfile.TemporaryDirectory(prefix="bench-commit-") as folder:
        features = FeaturesTable.create(folder, _SPEC)
        snapshot = features.snapshot()
        written = commits = 0
        seconds: list[float] = []
        for goal in _checkpoints(files):
            while written < goal:
                count = min(settings.files_a_commit, goal - written)
                added = [_shard(folder, written + i, settings.rows) for i in range(count)]
                took, snapshot = _timed(
                    lambda added=added, base=snapshot: features.commit(
                        base=base, add=added, run="benchmark", stats={"images_per_s": 1.0}
                    )
                )
                seconds.append(took)
                written, commits = written + count, commits + 1
            recent = seconds[-10:]
            load_s, opened = _timed(lambda: FeaturesTable.open(folder))
            snapshot_s, _ = _timed(opened.snapshot)
            listing = _listing(written * settings.rows)
            plan_s, plan = _timed(lambda new=listing, old=snapshot: make_plan(new, old))
            if not plan.empty or plan.unchanged != listing.num_rows:
                raise SystemExit(f"the plan of an unchanged source has work: {plan}")
            table.add(
                files=written,
                commits=commits,
                commit_ms=_milliseconds(statistics.median(recent)),
                slowest_commit_ms=_milliseconds(max(recent)),
                open_ms=_milliseconds(load_s),
                snapshot_ms=_milliseconds(snapshot_s),
                plan_ms=_milliseconds(plan_s),
                log_kB=round(_log_bytes(Path(folder)) / 1000),
            )
    result.finish(settings.results)


def _checkpoints(files: int) -> list[int]:
    """Numbers of files at which to measure: each about 2.5 times the one before."""
    return sorted({max(1, round(files / divisor)) for divisor in (40, 16, 6.25, 2.5, 1)})


def _shard(root: str, number: int, rows: int) -> Shard:
    first = number * rows
    block = pa.table(
        {
            "image": [_image(first + row) for row in range(rows)],
            "label": ["things"] * rows,
            "split": pa.nulls(rows, pa.string()),
            "fingerprint": [f"size+mtime:100-{first + row}" for row in range(rows)],
            "sha256": ["0" * 64] * rows,
            "width": pa.array([4] * rows, pa.int32()),
            "height": pa.array([4] * rows, pa.int32()),
            "status": ["ok"] * rows,
            "error": pa.nulls(rows, pa.string()),
            "features": features_array(np.zeros((rows, 3), np.float32), np.ones(rows, dtype=bool)),
        }
    )
    shard = write_shard(pafs.LocalFileSystem(), root, _SPEC.length, [block.cast(SCHEMA)])
    assert shard is not None
    return shard


def _listing(rows: int) -> pa.Table:
    """What the source looks like that the shards were made from."""
    columns = {
        "image": [_image(row) for row in range(rows)],
        "uri": [_image(row) for row in range(rows)],
        "label": ["things"] * rows,
        "split": pa.nulls(rows, pa.string()),
        "fingerprint": [f"size+mtime:100-{row}" for row in range(rows)],
        "bytes": [100] * rows,
        "offset": pa.nulls(rows, pa.int64()),
    }
    return pa.table({name: columns[name] for name in LISTING_SCHEMA.names}, schema=LISTING_SCHEMA)


def _image(row: int) -> str:
    return f"things/{row:08d}.png"


def _log_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "_delta_log").iterdir())


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)


if __name__ == "__main__":
    main(tyro.cli(Settings))
