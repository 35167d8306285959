"""What tables of any size need, derived from what the other benchmarks of this folder measured.

Run it as .venv/bin/python -m benchmarks.scale.needs, after the others, whose results it reads. What
was not measured, such as the speed of a GPU and every price, is a flag; its default is an
assumption, and docs/scaling.md says so. Nothing is run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from benchmarks.support.results import CommonSettings, Result, load_result
from benchmarks.support.stand_ins import stand_in
from benchmarks.support.tables import MAPS, SPECS
from bottleneck.extraction.config import ExtractConfig
from bottleneck.sources.folders import KEYS_PER_REQUEST
from bottleneck.table.columns import encoded_row_bytes, row_group_rows

#: A multipart upload's parts as PyArrow cuts them, and its first and last request.
_PART_BYTES = 10 * 2**20
_UPLOAD_REQUESTS = 2

#: Requests of one commit beside the shards (DESIGN: "about 6 requests a commit on S3").
_COMMIT_REQUESTS = 6
_COMMITS_AN_HOUR = 12

#: What a night changes, as in benchmarks.scale.plan: new and changed images.
_NIGHT_SHARE = 0.015

_GIB = 2**30

#: Of the images in benchmarks.scale.throughput.
_SMALL_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Derives nodes, hours, requests, dollars and the driver's memory for large tables.

    Attributes:
        images: Sizes of the table.
        gpus: Nodes with one GPU, for each size.
        gpu_images_s: Images a second of one GPU.
        efficiency: Share of that which the nodes reach together.
        node_hour_dollars: Price of one such node for one hour.
        head_hour_dollars: Price of the head for one hour.
        head_gib: Memory of the head.
        image_kb: Mean size of an image file, 10³ bytes.
        image_core_ms: Milliseconds of a core that reading and decoding an image takes.
        read_mb_s: Raw features that a core reads from shards in a second, 10⁶ bytes.
        write_mb_s: Raw features that a core writes to shards in a second, 10⁶ bytes.
        get_dollars: Price of a thousand GET requests.
        put_dollars: Price of a thousand PUT or LIST requests.
        gb_month_dollars: Price of storing 10⁹ bytes for a month.
        request_ms: Time of one small request to S3.
        prefix_gets_s: GET requests a second that S3 grants a prefix.
    """

    images: tuple[int, ...] = (10_000_000, 1_000_000_000)
    gpus: tuple[int, ...] = (8, 64)
    gpu_images_s: float = 800.0
    efficiency: float = 0.9
    node_hour_dollars: float = 0.40
    head_hour_dollars: float = 0.20
    head_gib: float = 16.0
    image_kb: float = 110.0
    image_core_ms: float = 3.0
    read_mb_s: float = 200.0
    write_mb_s: float = 100.0
    get_dollars: float = 0.0004
    put_dollars: float = 0.005
    gb_month_dollars: float = 0.023
    request_ms: float = 30.0
    prefix_gets_s: float = 5_500.0


def main(settings: Settings) -> None:
    result = Result("scale/needs", settings.to_json())
    plan = _rows(settings, "plan")
    commits = _rows(settings, "commits")
    for layout in SPECS:
        columns = [
            _needs(settings, layout, images, gpus, plan, commits)
            for images, gpus in zip(settings.images, settings.gpus, strict=True)
        ]
        table = result.table(f"Needs, {layout}")
        for name in columns[0]:
            cells = {
                f"{images:,} images": _rounded(column[name])
                for images, column in zip(settings.images, columns, strict=True)
            }
            table.add(what=name, **cells)
    limits = result.table("How far one table goes")
    for name, limit in _limits(settings, plan).items():
        limits.add(limit=name, reached_at=_rounded(limit))
    result.finish(settings.results)


def _rows(settings: Settings, name: str) -> list[list[Mapping[str, Any]]]:
    path = settings.results / "scale" / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path} is missing; run benchmarks/scale/{name}.py first")
    stored = load_result(path)
    return [table["rows"] for table in stored["tables"]]


def _needs(
    settings: Settings,
    layout: str,
    images: int,
    gpus: int,
    plan: Sequence[Sequence[Mapping[str, Any]]],
    commits: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, float]:
    spec = SPECS[layout]
    row_bytes = encoded_row_bytes(spec)
    table_bytes = images * row_bytes
    shard_bytes = 1e6 * ExtractConfig(images="unused", features="unused").shard_mb
    shards = math.ceil(table_bytes / shard_bytes)
    rate = gpus * settings.gpu_images_s * settings.efficiency
    hours = images / rate / 3600
    puts = shards * (_UPLOAD_REQUESTS + math.ceil(shard_bytes / _PART_BYTES))
    puts += math.ceil(hours * _COMMITS_AN_HOUR) * _COMMIT_REQUESTS
    lists = math.ceil(images / KEYS_PER_REQUEST)
    compute = hours * (gpus * settings.node_hour_dollars + settings.head_hour_dollars)
    requests = images * settings.get_dollars / 1000 + (puts + lists) * settings.put_dollars / 1000
    memory_a, memory_b = line([row for row in plan[0] if row["layout"] == layout], "peak_MB")
    time_a, time_b = line([row for row in plan[0] if row["layout"] == layout], "cpu_s")
    reads = plan_requests([row for row in plan[1] if row["layout"] == layout])
    plan_gets = images / row_group_rows(spec.length) * reads[1] + shards * reads[0]
    log_a, log_b = line(commits[0], "log_kB", by="shards")
    kept_a, kept_b = line(commits[0], "last_checkpoint_kB", by="shards")
    commit_a, commit_b = line(commits[0], "commit_ms", by="shards")
    night = images * _NIGHT_SHARE
    rewrite_s = 4e-6 * spec.length * (1 / settings.read_mb_s + 1 / settings.write_mb_s)
    return {
        "table, GB": table_bytes / 1e9,
        "shards of 256 MB": shards,
        "nodes with one GPU": gpus,
        "images/s": rate,
        "first run, hours": hours,
        "node-hours of GPU nodes": hours * gpus,
        "cores that decode, per node": settings.gpu_images_s * settings.image_core_ms / 1000,
        "read, TB": images * settings.image_kb / 1e9,
        "read, Gbit/s per node": settings.gpu_images_s * settings.image_kb * 8e3 / 1e9,
        "pixels between stages, MB/s per node": settings.gpu_images_s * _pixel_bytes(layout) / 1e6,
        "GET requests/s in all": rate,
        "GET requests, first run": images,
        "PUT requests, first run": puts,
        "LIST requests, any run": lists,
        "dollars of machines, first run": compute,
        "dollars of requests, first run": requests,
        "dollars of storage, a month": table_bytes / 1e9 * settings.gb_month_dollars,
        "planning: minutes of processor": max(0.0, time_a + time_b * images) / 60,
        "planning: driver's peak, GB": (memory_a + memory_b * images) / 1000,
        "planning: GET requests": plan_gets,
        "planning: minutes of these, 64 at a time": plan_gets * settings.request_ms / 64 / 6e4,
        "night of 1.5 %: hours on as many nodes": night / rate / 3600,
        "night of 1.5 %: dollars of GPU nodes": night
        / (settings.gpu_images_s * settings.efficiency)
        / 3600
        * settings.node_hour_dollars,
        "the same, changes in every shard: GB rewritten": table_bytes / 1e9,
        "the same: core-hours of rewriting": images * rewrite_s / 3600,
        "log of shards as a first run leaves it, MB": (log_a + log_b * shards) / 1000,
        "checkpoint, MB": (kept_a + kept_b * shards) / 1000,
        "commit, ms": commit_a + commit_b * shards,
    }


def _pixel_bytes(layout: str) -> int:
    height, width = SPECS[layout].image_size
    return height * width * 3


def _limits(settings: Settings, plan: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Numbers of images, or of GPUs, at which one table or one prefix is not enough."""
    limits = {}
    for layout in SPECS:
        at_zero, slope = line([row for row in plan[0] if row["layout"] == layout], "peak_MB")
        usable = 0.75 * settings.head_gib * _GIB / 1e6
        limits[f"images, {layout}: three quarters of the head's memory"] = (
            usable - at_zero
        ) / slope
    spent = {row["what"]: row["us_per_image"] for row in _rows(settings, "throughput")[1]}
    # Blocks of small images have the most rows that there may be, those of 224×224 fewer.
    small, large = (stand_in(side).block_rows for side in (_SMALL_SIDE, MAPS.image_size[0]))
    driver_s = 1e-6 * spent["processor, driver"] * small / large
    limits["GPUs: one driver's processor, if all of it was for blocks"] = 1 / (
        driver_s * settings.gpu_images_s * settings.efficiency
    )
    limits["GPUs: GET requests/s of one prefix"] = settings.prefix_gets_s / settings.gpu_images_s
    return limits


def _rounded(value: float) -> float:
    """Returns a value with three digits that count, as an int where it has no others."""
    value = float(f"{value:.3g}")
    return int(value) if value.is_integer() else value


def line(rows: Sequence[Mapping[str, Any]], value: str, *, by: str = "rows") -> tuple[float, float]:
    """Returns value at zero and slope of the line through the smallest and the largest size."""
    first, last = rows[0], rows[-1]
    slope = (last[value] - first[value]) / (last[by] - first[by])
    return first[value] - slope * first[by], slope


def plan_requests(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Returns requests that planning takes for a shard, and for a row group."""
    return line(rows, "requests", by="row_groups")


if __name__ == "__main__":
    main(tyro.cli(Settings))
