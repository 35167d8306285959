"""Backbones that cost nothing, or a known time, in the job's own pipeline and loop.

What remains is what the framework itself costs: listing, planning, fetching, decoding, Ray's
blocks and tasks, writing shards, commits.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ray.cloudpickle import register_pickle_by_value

from benchmarks.support.images import tiny_png
from benchmarks.support.tables import POOLED
from bottleneck.cluster.sizing import size_batch
from bottleneck.console.interruption import Interruption
from bottleneck.extraction.config import ExtractConfig
from bottleneck.images.options import DecodeOptions
from bottleneck.incremental.loop import RunLoop
from bottleneck.incremental.plan import make_plan
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline.blocks import block_pixels
from bottleneck.pipeline.fetching import ImageReader, fetcher_of
from bottleneck.pipeline.stages import Compute, Stages
from bottleneck.sources.listing import list_images
from bottleneck.spec import FeatureSpec
from bottleneck.table.columns import features_array
from bottleneck.table.table import FeaturesTable

_FOLDER_IMAGES = 1_000
_MAX_BLOCK_ROWS = 256

# Workers have the package, but not its benchmarks: what is defined here goes to them by value.
register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class StandInNetwork:
    """Images → vectors that have nothing to do with them and do not compress well.

    Attributes:
        image_size: (height, width) of the images in pixels.
        image_s: Seconds that an image takes, asleep, as on a device that computes elsewhere.
        diary: Folder where each actor records when it computed; None for no records.
    """

    image_size: tuple[int, int]
    image_s: float = 0.0
    diary: str | None = None

    @property
    def row_length(self) -> int:
        """Values in a vector."""
        return POOLED.length

    @property
    def weights_bytes(self) -> int:
        """0: there are no weights."""
        return 0

    def load(self, *, batch_size: int, threads: int) -> Compute:
        """Returns what waits and makes vectors."""
        noise = np.random.default_rng(0).standard_normal((_MAX_BLOCK_ROWS, self.row_length))
        vectors = np.maximum(noise, 0).astype(np.float32)
        name = uuid.uuid4().hex

        def compute(block: pa.Table) -> Mapping[str, pa.Array]:
            began = time.time()
            pixels, valid = block_pixels(block, self.image_size)
            time.sleep(self.image_s * len(pixels))
            if self.diary is not None:
                entry = {"began": began, "ended": time.time(), "images": len(pixels)}
                with (Path(self.diary) / name).open("a") as diary:
                    diary.write(json.dumps(entry) + "\n")
            return {"features": features_array(vectors[: len(pixels)], valid)}

        return compute


def stand_in(side: int, *, image_s: float = 0.0, diary: Path | None = None) -> Stages:
    """Returns stages for images of `side` pixels and vectors of 512 values."""
    flags = ExtractConfig(images="unused", features="unused")
    size = (side, side)
    return Stages(
        reader=ImageReader(DecodeOptions(*size), fetcher_of(flags)),
        network=StandInNetwork(size, image_s, None if diary is None else str(diary)),
        batch_size=size_batch(flags.batch_size, 0, size),
    )


def write_images(folder: Path, count: int) -> None:
    """Writes PNGs of 4×4 pixels, a thousand a folder."""
    for number in range(count):
        path = folder / f"{number // _FOLDER_IMAGES:05d}" / f"{number:08d}.png"
        if number % _FOLDER_IMAGES == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(tiny_png(number))


def run(images: Path, table_uri: str, stages: Stages, flags: dict[str, Any]) -> Summary:
    """Runs the job over all images into a new table, on the Ray that this process has.

    Args:
        images: The source.
        table_uri: Where the table will be.
        stages: What computes.
        flags: Of the job, beside the source and the table.

    Returns:
        What the job says of itself.

    Raises:
        SystemExit: It did not compute every image.
    """
    config = ExtractConfig(images=str(images), features=table_uri, **flags)
    summary = Summary(run="benchmark", source_uri=config.images, table_uri=table_uri)
    began = time.perf_counter()
    listing = list_images(config.images)
    listed = time.perf_counter()
    summary.add_seconds("list", listed - began)
    plan = make_plan(listing.images, None)
    summary.add_seconds("plan", time.perf_counter() - listed)
    table = FeaturesTable.create(table_uri, _spec(stages))
    with Interruption() as interruption:
        RunLoop(config, table, table.snapshot(), plan, stages, summary, interruption).execute()
    summary.seconds = time.perf_counter() - began
    if summary.computed != plan.work.num_rows or summary.failed:
        raise SystemExit(f"{summary.computed} of {plan.work.num_rows} images: {summary.failed}")
    return summary


def _spec(stages: Stages) -> FeatureSpec:
    return replace(POOLED, image_size=stages.network.image_size)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
