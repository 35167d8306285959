"""How the rate grows with nodes: weak scaling over nodes that are processes on one machine.

Run it as .venv/bin/python -m benchmarks.scale.nodes. Each node has two CPUs as Ray counts them, one
for an actor and one for decoding, as one GPU beside its CPUs would. In place of a backbone the
actor sleeps for each image, as it does while a GPU computes, so that this machine's processors are
not the limit; images are PNGs of 4×4 pixels on a local disk. Work is proportional to nodes.

The rate counts from the moment when every actor has begun to the moment when the first of them
finds nothing left to do: between the two a run of any length is in its steady state. `whole_s`
also has the start of the actors and the last blocks; it shrinks against a longer run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import tyro
from ray.cluster_utils import Cluster

from benchmarks.support import stand_ins
from benchmarks.support.results import CommonSettings, Result
from bottleneck.cluster import connection

_AIM_EFFICIENCY = 0.9
_OBJECT_STORE_BYTES = 256 * 2**20
_SIDE = 32

#: What an actor did: for each of its blocks when it began and ended, and its images.
Diary = list[tuple[float, float, int]]


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures the steady rate of the job on 1, 2, 4, … nodes.

    Attributes:
        nodes: Numbers of nodes, ascending.
        images: Images for each node.
        image_s: Seconds that an actor sleeps for an image.
    """

    nodes: tuple[int, ...] = (1, 2, 4, 8)
    images: int = 1_500
    image_s: float = 0.04


@dataclass(frozen=True)
class Steady:
    """What actors did while all of them had work.

    Attributes:
        seconds: How long that was.
        images: Images computed in it; a block that is partly in it counts in part.
        busy: Share of it that actors spent computing.
        whole_s: From the first actor's first block to the last actor's last one.
    """

    seconds: float
    images: float
    busy: float
    whole_s: float


def main(settings: Settings) -> None:
    numbers = (1, 2) if settings.smoke else settings.nodes
    each = 400 if settings.smoke else settings.images
    result = Result("scale/nodes", settings.to_json())
    table = result.table(
        f"{each:,} images per node, {1000 * settings.image_s:g} ms asleep for each, "
        f"{stand_ins.cores()} cores in all"
    )
    rate_of_one: float | None = None
    with tempfile.TemporaryDirectory(prefix="bench-nodes-") as scratch:
        folder = Path(scratch)
        for number in _growing(numbers):
            found = _run(folder, settings, number, each * number)
            rate = found.images / found.seconds
            rate_of_one = rate_of_one or rate / number
            table.add(
                nodes=number,
                images=each * number,
                images_per_s=round(rate, 1),
                efficiency=round(rate / number / rate_of_one, 3),
                of_what_actors_could=round(rate * settings.image_s / number, 3),
                actors_busy=round(found.busy, 3),
                steady_s=round(found.seconds, 1),
                whole_s=round(found.whole_s, 1),
            )
            result.target(
                f"efficiency on {number} nodes",
                round(rate / number / rate_of_one, 3),
                _AIM_EFFICIENCY,
            )
    result.finish(settings.results)


def _growing(numbers: Sequence[int]) -> Iterator[int]:
    """Brings up one cluster of each size, by adding nodes to the one before."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        connection.connect(nodes.address)
        there = 0
        for number in numbers:
            for _ in range(number - there):
                nodes.add_node(num_cpus=2, object_store_memory=_OBJECT_STORE_BYTES)
            there = number
            yield number
    finally:
        ray.shutdown()
        nodes.shutdown()


def _run(folder: Path, settings: Settings, nodes: int, images: int) -> Steady:
    place = folder / str(nodes)
    diary = place / "diary"
    diary.mkdir(parents=True)
    stand_ins.write_images(place / "images", images)
    stages = stand_ins.stand_in(_SIDE, image_s=settings.image_s, diary=diary)
    flags = {"actors": str(nodes), "cpus_per_actor": 1.0, "commit_every": "30s"}
    stand_ins.run(place / "images", str(place / "table"), stages, flags)
    diaries = [_read(path) for path in diary.iterdir()]
    if len(diaries) != nodes:
        raise SystemExit(f"{len(diaries)} actors computed where {nodes} were asked for")
    return steady(diaries)


def _read(path: Path) -> Diary:
    entries = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [(entry["began"], entry["ended"], entry["images"]) for entry in entries]


def steady(diaries: Sequence[Diary]) -> Steady:
    """Finds the time in which every actor had work, and what they did in it.

    Raises:
        SystemExit: There is none.
    """
    begin = max(diary[0][0] for diary in diaries)
    end = min(diary[-1][1] for diary in diaries)
    if begin >= end:
        raise SystemExit("one actor ended before another began; give more --images")
    images = busy_s = 0.0
    for diary in diaries:
        for began, ended, count in diary:
            inside = max(0.0, min(ended, end) - max(began, begin))
            busy_s += inside
            images += count * inside / (ended - began)
    return Steady(
        seconds=end - begin,
        images=images,
        busy=busy_s / (end - begin) / len(diaries),
        whole_s=max(diary[-1][1] for diary in diaries) - min(diary[0][0] for diary in diaries),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
