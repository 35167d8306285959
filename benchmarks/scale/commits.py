"""The table's own costs as it grows: committing, opening, its log, and planning the next run.

Run it as .venv/bin/python -m benchmarks.scale.commits. Shards are small, since neither a commit nor
the log looks into them; only planning does, and a plan of many small shards is what a table costs
that was never compacted.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
import tyro

from benchmarks.support.results import CommonSettings, Result
from benchmarks.support.tables import POOLED, numbered, pages, write
from bottleneck.incremental.plan import make_plan
from bottleneck.sources.folders import KEYS_PER_REQUEST, object_page
from bottleneck.sources.listing import sift_pages
from bottleneck.sources.rows import Tally, build_listing
from bottleneck.sources.rules import Rules
from bottleneck.table.table import FeaturesTable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures commits, and what opening and planning cost, as the table gets more shards.

    Attributes:
        shards: Numbers of shards to measure at, ascending.
        shards_per_commit: Shards in a commit.
        rows: Rows in a shard.
        repeat: How often a table is opened, and how many of the last commits count.
    """

    shards: tuple[int, ...] = (10, 100, 1_000, 10_000)
    shards_per_commit: int = 10
    rows: int = 20
    repeat: int = 10


def main(settings: Settings) -> None:
    goals = (10, 40) if settings.smoke else settings.shards
    result = Result("scale/commits", settings.to_json())
    table = result.table(
        f"Commits of {settings.shards_per_commit} shards of {settings.rows} rows, local disk"
    )
    with tempfile.TemporaryDirectory(prefix="bench-commits-") as folder:
        log = Path(folder) / "_delta_log"
        features = FeaturesTable.create(folder, POOLED)
        snapshot = features.snapshot()
        seconds: list[float] = []
        for begin, goal in itertools.pairwise((0, *goals)):
            for first in range(begin, goal, settings.shards_per_commit):
                last = min(first + settings.shards_per_commit, goal)
                added = [
                    write(folder, POOLED, numbered(number * settings.rows, settings.rows))
                    for number in range(first, last)
                ]
                took, snapshot = _timed(
                    lambda added=added, base=snapshot: features.commit(
                        base=base, add=added, run="benchmark", stats={"images_per_s": 1.0}
                    )
                )
                seconds.append(took)
            recent = seconds[-settings.repeat :]
            opening = [_timed(lambda: FeaturesTable.open(folder)) for _ in range(settings.repeat)]
            snapshots = [_timed(opened.snapshot)[0] for _, opened in opening]
            listing = _listing(goal * settings.rows)
            plan_s, plan = _timed(lambda new=listing, old=snapshot: make_plan(new, old))
            if not plan.empty or plan.unchanged != listing.num_rows:
                raise SystemExit(f"the plan of an unchanged source has work: {plan}")
            checkpoints = list(log.glob("*.checkpoint*.parquet"))
            table.add(
                shards=goal,
                commits=len(seconds),
                commit_ms=_milliseconds(statistics.median(recent)),
                slowest_commit_ms=_milliseconds(max(recent)),
                open_ms=_milliseconds(statistics.median(took for took, _ in opening)),
                snapshot_ms=_milliseconds(statistics.median(snapshots)),
                plan_ms=_milliseconds(plan_s),
                log_files=sum(1 for _ in log.iterdir()),
                log_kB=round(_size(log.iterdir()) / 1000),
                checkpoints=len(checkpoints),
                last_checkpoint_kB=round(_size(sorted(checkpoints)[-1:]) / 1000),
            )
    result.finish(settings.results)


def _listing(rows: int) -> pa.Table:
    """Returns a listing of the source that the shards were made from."""
    answers = list(pages(numbered(0, rows), KEYS_PER_REQUEST))
    rules, tally = Rules(), Tally()
    frames: list[pl.DataFrame]
    frames, _ = sift_pages([object_page(answers, "")], "s3://photos", rules, tally)
    return build_listing(frames, "s3://photos", rules, tally).images


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)


if __name__ == "__main__":
    main(tyro.cli(Settings))
