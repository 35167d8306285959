"""Small tables of labeled colors: what a head can learn from without a real backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.images import Color, draw
from support.tables import write_table

from benchmarks.support.specs import make_spec
from bottleneck.table.snapshot import Snapshot

#: What `--backbone channel-means --weights none` with images of 8 by 8 pixels would write.
SPEC = make_spec(backbone="channel-means", layer="channel_means")

#: Middle of each label's colors; they overlap a little.
MIDDLES: dict[str, Color] = {"red": (190, 90, 90), "green": (90, 190, 90), "blue": (90, 90, 190)}


def labeled_colors(
    count: int, labels: tuple[str, ...] = ("red", "green"), split: str = "train", seed: int = 0
) -> dict[str, Color]:
    """`count` images of each label, named split/label/number.png, with colors of their own."""
    drawn = np.random.default_rng([seed, len(split)])
    found: dict[str, Color] = {}
    for label in labels:
        middle = np.array(MIDDLES[label])
        for number in range(count):
            value = np.clip(middle + drawn.normal(0, 40, 3), 0, 255).astype(int)
            found[f"{split}/{label}/{number:04d}.png"] = tuple(int(v) for v in value)  # type: ignore[assignment]
    return found


def write_labeled(uri: str, images: Mapping[str, Color], shards: int = 3) -> Snapshot:
    """Writes a features table as jobs/extract.py would for split/label/file images.

    Shards are of uneven sizes: the first holds a few rows only.
    """
    names = sorted(images)
    count = len(names)
    edges = sorted({0, min(5, count), *range(count // shards, count, count // shards), count})
    parts = [name.split("/") for name in names]
    return write_table(
        uri,
        np.array([images[name] for name in names], np.float32),
        images=names,
        labels=[part[-2] for part in parts],
        splits=[part[0] if part[0] in ("train", "validation", "test") else None for part in parts],
        shards=np.diff(edges).tolist(),
        columns={
            "fingerprint": [f"etag:{name}" for name in names],
            "sha256": [f"{number:064x}" for number in range(count)],
            "width": [8] * count,
            "height": [8] * count,
        },
        spec=SPEC,
    )


def three_splits(labels: tuple[str, ...] = ("red", "green"), count: int = 60) -> dict[str, Color]:
    """Images of all splits, a third as many for validation and for test."""
    return {
        **labeled_colors(count, labels),
        **labeled_colors(count // 3, labels, "validation"),
        **labeled_colors(count // 3, labels, "test"),
    }


def draw_images(folder: Path, images: Mapping[str, Color]) -> Path:
    """Draws the images of a table."""
    draw(folder, images)
    return folder


@dataclass(frozen=True)
class ThreeLabels:
    """A model of three labels that the job trained in S3, and what the job said.

    Attributes:
        features: Its table.
        model: Where it is.
        code: The job's exit code.
        out: What it printed on standard output.
        err: And on standard error.
    """

    features: str
    model: str
    code: int
    out: str
    err: str
