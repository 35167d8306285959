"""Decoding that is faster than the backbone waits for it, instead of filling disk or memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.images import draw, numbered, read
from support.paths import ROOT
from support.ray_head import RAY, cluster_of

IMAGES = 256
SIDE = 448
STORE_BYTES = 90 * 2**20


@pytest.mark.ray
@pytest.mark.slow
def test_decoded_images_that_no_store_could_hold_are_not_spilled(tmp_path: Path) -> None:
    draw(tmp_path / "photos", numbered(IMAGES))
    # All of them decoded at once would fill the store almost twice.
    assert IMAGES * SIDE * SIDE * 3 > 1.6 * STORE_BYTES
    with cluster_of(num_cpus=4, object_store_memory=STORE_BYTES) as cluster:
        done = subprocess.run(
            [sys.executable, "jobs/extract.py", f"--images={tmp_path / 'photos'}",
             f"--features={tmp_path / 'table'}", f"--address={cluster.address}",
             "--backbone=mobilenet", "--alpha=0.25", "--weights=random:1", "--pooling=avg",
             "--image-size", f"{SIDE}", f"{SIDE}", "--actors=1", "--cpus-per-actor=1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        memory = subprocess.run(
            [RAY, "memory", f"--address={cluster.address}", "--stats-only"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    # Ray reports spilling only where there was any.
    assert "Aggregate object store stats" in memory
    assert re.findall(r"Spilled.*", memory) == []
    assert [row["status"] for row in read(str(tmp_path / "table"))] == ["ok"] * IMAGES
