"""Listing and planning a nightly run over a large table: time and the driver's peak memory.

Run it as .venv/bin/python -m benchmarks.scale.plan. For each number of rows a table is written,
then a process of its own does what a driver does before the first image is read: it turns the
answers to list requests into a listing, opens the table, and compares the two. In the source 1 % of
the images are new, 0.5 % changed, 0.5 % deleted and 0.1 % renamed. The answers are made up and lie
in a file, so that no time passes waiting for a network; all else is what jobs/extract.py runs.

What planning costs in requests is counted at an S3 server on this machine, where shards have
features of full size.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import tyro

import bottleneck.extraction.job  # noqa: F401  what a driver has imported counts as its memory
from benchmarks.support import tables
from benchmarks.support.processes import peak_bytes
from benchmarks.support.results import CommonSettings, Result
from benchmarks.support.s3_server import S3Server
from benchmarks.support.tables import SPECS, Mix
from bottleneck.incremental.plan import make_plan
from bottleneck.sources.folders import KEYS_PER_REQUEST, object_page
from bottleneck.sources.listing import sift_pages
from bottleneck.sources.rows import Tally, build_listing
from bottleneck.sources.rules import Rules
from bottleneck.table.columns import row_group_rows
from bottleneck.table.table import FeaturesTable

_SOURCE = "s3://photos"
_PAGES_A_FRAME = 64

_AIM_ROWS = 1_000_000
_AIM_S = 60.0
_AIM_MB = 2000.0


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures planning over sizes of the table.

    Attributes:
        rows: Sizes of the table.
        shard_rows: Rows in a shard.
        layouts: `maps` has the row groups of VGG16's activation maps, `pooled` those of 512 values.
        repeat: Processes that plan, for each size; the median counts, and the largest peak.
        scratch: Folder for the tables; a temporary one when not given.
    """

    rows: tuple[int, ...] = (100_000, 1_000_000)
    shard_rows: int = 8_000
    layouts: tuple[str, ...] = ("maps", "pooled")
    repeat: int = 3
    scratch: Path | None = None


@dataclass(frozen=True)
class _Planned:
    """What one process measured.

    Attributes:
        list_s: Seconds from the answers to the listing.
        open_s: Seconds to open the table.
        plan_s: Seconds to compare.
        cpu_s: Processor time of it all.
        listing_mb: Resident memory with the listing made, 10⁶ bytes.
        peak_mb: Largest resident memory of the process.
        found: Images by what is to be done with them.
    """

    list_s: float
    open_s: float
    plan_s: float
    cpu_s: float
    listing_mb: float
    peak_mb: float
    found: dict[str, int]


def main(settings: Settings) -> None:
    result = Result("scale/plan", settings.to_json())
    table = result.table(
        f"Planning a night on a table in shards of {settings.shard_rows:,} rows, medians of "
        f"{settings.repeat}"
    )
    for rows in (1_000,) if settings.smoke else settings.rows:
        for layout in settings.layouts:
            with tempfile.TemporaryDirectory(prefix="bench-plan-", dir=settings.scratch) as folder:
                planned = _plan_often(Path(folder), settings, layout, rows)
            took = [one.list_s + one.open_s + one.plan_s for one in planned]
            peak_mb = max(one.peak_mb for one in planned)
            table.add(
                rows=rows,
                layout=layout,
                shards=-(-rows // settings.shard_rows),
                list_s=_median(one.list_s for one in planned),
                open_s=_median(one.open_s for one in planned),
                plan_s=_median(one.plan_s for one in planned),
                all_s=_median(took),
                fastest_s=round(min(took), 2),
                cpu_s=_median(one.cpu_s for one in planned),
                listing_MB=round(statistics.median(one.listing_mb for one in planned)),
                peak_MB=round(peak_mb),
                bytes_per_row=round(1e6 * peak_mb / rows),
            )
            if rows == _AIM_ROWS:
                what = f"{rows:,} rows, {layout}"
                seconds = round(statistics.median(took), 2)
                result.target(f"{what}: seconds", seconds, _AIM_S, at_most=True)
                result.target(f"{what}: peak in MB", round(peak_mb), _AIM_MB, at_most=True)
    _count_requests(result, settings)
    result.finish(settings.results)


def _median(values: Iterator[float] | list[float]) -> float:
    return round(statistics.median(values), 2)


def _plan_often(folder: Path, settings: Settings, layout: str, rows: int) -> list[_Planned]:
    table = str(folder / "table")
    tables.write_table(table, SPECS[layout], rows, settings.shard_rows)
    mix = Mix(rows)
    answers = folder / "answers.arrow"
    _store(tables.pages(mix.images(), KEYS_PER_REQUEST), answers)
    context = multiprocessing.get_context("spawn")
    planned = []
    for _ in range(1 if settings.smoke else settings.repeat):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            planned.append(pool.submit(_plan, answers, table).result())
        if planned[-1].found != mix.expected:
            raise SystemExit(f"planned {planned[-1].found} where {mix.expected} was to be found")
    return planned


def _store(pages: Iterator[pa.RecordBatch], path: Path) -> None:
    first = next(pages)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        for page in itertools.chain([first], pages):
            writer.write_batch(page)


def _plan(answers: Path, table_uri: str) -> _Planned:
    """Does what a driver does before its first image, in a fresh process."""
    began, began_cpu = time.perf_counter(), time.process_time()
    rules, tally = Rules(), Tally()
    frames, archives = sift_pages(_frames(answers), _SOURCE, rules, tally)
    assert not archives
    listing = build_listing(frames, _SOURCE, rules, tally)
    del frames
    listed = time.perf_counter()
    listing_mb = _resident_mb()
    snapshot = FeaturesTable.open(table_uri).snapshot()
    opened = time.perf_counter()
    plan = make_plan(listing.images, snapshot, hasher=_must_not_read)
    planned = time.perf_counter()
    found = {name: getattr(plan, name) for name in ("new", "changed", "removed", "reused")}
    return _Planned(
        list_s=listed - began,
        open_s=opened - listed,
        plan_s=planned - opened,
        cpu_s=time.process_time() - began_cpu,
        listing_mb=listing_mb,
        peak_mb=peak_bytes(os.getpid()) / 1e6,
        found=found,
    )


def _frames(answers: Path) -> Iterator[Any]:
    with pa.OSFile(str(answers)) as file, pa.ipc.open_file(file) as reader:
        for first in range(0, reader.num_record_batches, _PAGES_A_FRAME):
            last = min(first + _PAGES_A_FRAME, reader.num_record_batches)
            yield object_page([reader.get_batch(number) for number in range(first, last)], "")


def _must_not_read(work: pa.Table) -> pa.Table:
    raise AssertionError(f"{work.num_rows} images would be read although ETags decide")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _count_requests(result: Result, settings: Settings) -> None:
    """Counts what reading a shard's identities takes, at two sizes, and so what a group takes."""
    table = result.table("Requests to S3 that planning takes, for one shard with full features")
    groups = {"maps": (1, 3), "pooled": (1, 2)}
    if not settings.smoke:
        groups = {"maps": (10, 40), "pooled": (1, 4)}
    with S3Server() as s3, s3.environ():
        s3.create_bucket("lake")
        for layout in settings.layouts:
            spec = SPECS[layout]
            for count in groups[layout]:
                uri = f"s3://lake/{layout}-{count}"
                features = FeaturesTable.create(uri, spec)
                rows = count * row_group_rows(spec.length)
                shard = tables.write(uri, spec, tables.numbered(0, rows), length=spec.length)
                snapshot = features.commit(base=features.snapshot(), add=[shard], run="benchmark")
                s3.reset()
                names = ("image", "label", "split", "fingerprint", "status")
                assert len(snapshot.read_by_shard(names)) == rows
                table.add(
                    layout=layout,
                    row_groups=count,
                    rows=rows,
                    shard_MB=round(shard.size_bytes / 1e6, 1),
                    bytes_per_row=round(shard.size_bytes / rows),
                    # Without those of the log, which is read ahead of time.
                    requests=sum(n for key, n in s3.counts().items() if "/shard-" in key),
                )


if __name__ == "__main__":
    main(tyro.cli(Settings))
