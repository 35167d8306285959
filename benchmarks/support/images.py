"""Images to measure with: real photos from beside the project, or drawn ones."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.support.paths import SHARED

PHOTOS = SHARED / "data" / "dogs_vs_cats"


def small_photos(count: int) -> tuple[str, list[bytes]]:
    """Returns what they are, and `count` JPEGs of a few hundred pixels a side."""
    if PHOTOS.is_dir():
        paths = sorted(PHOTOS.rglob("*.jpg"))
        # Spread over the folders; repeated when more are asked for than there are.
        chosen = [paths[i * 7919 % len(paths)] for i in range(count)]
        return "photos (dogs_vs_cats)", [path.read_bytes() for path in chosen]
    return "drawn photos", [drawn_jpeg(500, 375, seed) for seed in range(count)]


def write_photos(folder: Path, count: int) -> str:
    """Writes `count` small photos in two folders of labels; returns what they are."""
    shutil.rmtree(folder, ignore_errors=True)
    what, contents = small_photos(count)
    for number, data in enumerate(contents):
        path = folder / ("cats", "dogs")[number % 2] / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return what


def drawn_jpeg(width: int, height: int, seed: int) -> bytes:
    """Returns a JPEG with a photograph's mix of smooth areas, edges and grain (quality 90)."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((4, 0.5), (24, 0.3), (150, 0.2)):
        coarse = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        layers += weight * np.asarray(Image.fromarray(coarse).resize((width, height)), np.float32)
    layers += rng.normal(0, 4, (height, width, 1))
    buffer = io.BytesIO()
    picture = Image.fromarray(layers.clip(0, 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def tiny_png(number: int) -> bytes:
    """Returns a PNG of 4×4 pixels whose color is the number's own, in some 10 µs."""
    row = b"\0" + bytes((number & 255, number >> 8 & 255, number >> 16 & 255)) * 4
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * 4, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
