"""Images a second that the framework itself moves, with a backbone that costs nothing.

Run it as .venv/bin/python -m benchmarks.scale.throughput. PNGs of 4×4 pixels on a local disk, which
hardly cost any decoding, go through the job's own listing, plan, pipeline, shards and commits; in
place of the backbone an actor returns vectors of 512 values that it holds already; it has a GPU
that Ray only believes in, so that both cores decode, as on a GPU node. The rate is the
one that the job reports: from the first finished block to the last commit, so without the start
of Ray and of its workers.

`alone` is the same work in one process without Ray, stage by stage.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import pyarrow.compute as pc
import ray
import tyro

from benchmarks.support import stand_ins
from benchmarks.support.processes import machine_cpu_s
from benchmarks.support.results import CommonSettings, Result
from bottleneck.cluster import connection
from bottleneck.incremental.plan import make_plan
from bottleneck.pipeline.stages import NetworkActor, Stages, task_tables
from bottleneck.sources.listing import list_images
from bottleneck.table.columns import SCHEMA
from bottleneck.table.files import TableFiles
from bottleneck.table.schemas import RowFormat
from bottleneck.table.shards import write_shard

_AIM_IMAGES_S = 2000.0

_KINDS = ("driver", "Ray's servers", "workers")

#: What Ray starts workers with, until they have a task to be named after.
_WORKER = "default_worker.py"

#: Images for the stages alone.
_ALONE_IMAGES = 20_000


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures images/s of the job around a backbone that costs nothing.

    Attributes:
        images: Images in a turn.
        side: Height and width in pixels that images are decoded to.
        repeat: Turns.
        address: Ray cluster to use; when not given, an embedded one that is told of a GPU.
    """

    images: int = 60_000
    side: int = 32
    repeat: int = 3
    address: str | None = None


def main(settings: Settings) -> None:
    images = 600 if settings.smoke else settings.images
    repeat = 1 if settings.smoke else settings.repeat
    result = Result("scale/throughput", settings.to_json())
    stages = stand_ins.stand_in(settings.side)
    with tempfile.TemporaryDirectory(prefix="bench-throughput-") as scratch:
        folder = Path(scratch)
        stand_ins.write_images(folder / "images", images)
        alone = _alone(folder, stages, min(images, _ALONE_IMAGES))
        if settings.address is None:
            _start_ray()
        else:
            connection.connect(settings.address)
        turns = [_turn(folder, stages, number) for number in range(repeat)]
    table = result.table(
        f"{images:,} images to {settings.side}×{settings.side} pixels and 512 values, "
        f"{stand_ins.cores()} cores"
    )
    for turn in turns:
        table.add(**turn["figures"])
    median = statistics.median(turn["figures"]["images_per_s"] for turn in turns)
    result.target("images/s, median of turns", round(median), _AIM_IMAGES_S)
    best = max(turns, key=lambda turn: turn["figures"]["images_per_s"])
    spent = result.table("Where the time goes in the fastest turn, µs per image")
    for name, seconds in best["spent"].items():
        spent.add(what=name, us_per_image=round(1e6 * seconds / images, 1))
    single = result.table("The same in one process without Ray, µs per image")
    single.add(**alone)
    result.finish(settings.results)


def _start_ray() -> None:
    """Starts an embedded Ray that believes in a GPU, so that the actor leaves the CPUs alone.

    What costs nothing here costs nothing on CPUs where a GPU computes; there all of them decode.
    """
    ray.init(
        address="local",
        num_cpus=stand_ins.cores(),
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _turn(folder: Path, stages: Stages, number: int) -> dict[str, Any]:
    with _CpuWatch() as watch:
        summary = stand_ins.run(
            folder / "images", str(folder / f"table-{number}"), stages, {"commit_every": "20s"}
        )
    seconds = (summary.computed - stages.block_rows) / summary.images_per_s
    cpu = watch.in_the_last(seconds)
    own_cores = sum(cpu[kind] for kind in _KINDS)
    figures = {
        "turn": number + 1,
        "images_per_s": round(summary.images_per_s),
        "own_cores": round(own_cores, 2),
        "others_cores": round(max(0.0, cpu["machine"] - own_cores), 2),
        "cpu_us_per_image": round(1e6 * own_cores / summary.images_per_s),
        "wall_s": round(summary.seconds, 1),
        "commits": summary.commits,
    }
    spent = {f"{name}, seconds of its own": s for name, s in summary.stage_s.items()}
    per_image = summary.computed / summary.images_per_s
    spent |= {f"processor, {kind}": cpu[kind] * per_image for kind in _KINDS}
    return {"figures": figures, "spent": spent}


class _CpuWatch(threading.Thread):
    """Adds up what this process and all that it started use, also of those that end meanwhile."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._seen: dict[tuple[int, float], tuple[str, float]] = {}
        self._samples: list[tuple[float, dict[str, float]]] = []

    def __enter__(self) -> Self:
        self._look()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._look()

    def in_the_last(self, seconds: float) -> dict[str, float]:
        """Returns processors in use on average, by kind and of the whole machine."""
        end, after = self._samples[-1]
        begin, before = min(self._samples[:-1], key=lambda sample: abs(sample[0] - end + seconds))
        return {kind: (after[kind] - before[kind]) / (end - begin) for kind in after}

    def run(self) -> None:
        """Looks every half second."""
        while not self._over.wait(0.5):
            self._look()

    def _look(self) -> None:
        driver = psutil.Process()
        for process in (driver, *driver.children(recursive=True)):
            try:
                kind = "driver" if process == driver else _kind(process.cmdline())
                self._seen[process.pid, process.create_time()] = (kind, _cpu_s(process))
            except psutil.NoSuchProcess:
                continue
        totals = dict.fromkeys(_KINDS, 0.0) | {"machine": machine_cpu_s()}
        for kind, seconds in self._seen.values():
            totals[kind] += seconds
        self._samples.append((time.perf_counter(), totals))


def _kind(command: list[str]) -> str:
    is_worker = any(word.startswith("ray::") or _WORKER in word for word in command)
    return "workers" if is_worker else "Ray's servers"


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _alone(folder: Path, stages: Stages, images: int) -> dict[str, Any]:
    """Runs the stages one after the other in this process."""
    began = time.perf_counter()
    listing = list_images(str(folder / "images"))
    listed = time.perf_counter()
    plan = make_plan(listing.images, None)
    planned = time.perf_counter()
    work = plan.work.slice(0, images)
    blocks = [
        block
        for table in task_tables(work, stages.batch_size)
        for block in stages.reader.read(table, block_rows=stages.block_rows)
    ]
    decoded = time.perf_counter()
    fetch_s, decode_s = (
        sum(float(pc.sum(block[name]).as_py()) for block in blocks)
        for name in ("fetch_s", "decode_s")
    )
    actor = NetworkActor(stages, 1)
    results = [actor(block).select(SCHEMA.names).cast(SCHEMA) for block in blocks]
    began_write = time.perf_counter()
    alone = TableFiles.at(str(folder / "alone"), RowFormat(SCHEMA, stages.network.row_length))
    write_shard(alone, results)
    wrote = time.perf_counter()
    everything = listing.images.num_rows
    return {
        "list": round(1e6 * (listed - began) / everything, 1),
        "plan": round(1e6 * (planned - listed) / everything, 1),
        "fetch": round(1e6 * fetch_s / images, 1),
        "decode": round(1e6 * decode_s / images, 1),
        "fetch_and_decode": round(1e6 * (decoded - planned) / images, 1),
        "write": round(1e6 * (wrote - began_write) / images, 1),
    }


if __name__ == "__main__":
    main(tyro.cli(Settings))
