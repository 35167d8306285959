"""Draws a small labeled image set: four kinds of shapes, split into train, validation and test.

Each kind of shape has a color of its own, so that even a backbone with random weights can tell
them apart. The bytes are the same on every run (of the same Pillow). Files that already hold them
are not written again, so that a second extraction finds nothing to do.

    python examples/draw_images.py photos
"""

from __future__ import annotations

import argparse
import colorsys
import io
import math
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

Point = tuple[float, float]
Color = tuple[int, int, int]

#: Images of each shape in each split.
SPLITS = {"train": 15, "validation": 4, "test": 4}

#: Shapes are drawn at this multiple of the final size and shrunk, which smooths their edges.
_OVERSAMPLING = 3

_EXIF_ORIENTATION = 0x0112
_EXIF_ROTATE_CLOCKWISE = 6


def _polygon(corners: int, inner: float = 1.0) -> Callable[[Point, float, float], list[Point]]:
    """Returns a function (center, radius, angle) → outline.

    With `inner` below 1 every second corner lies at that fraction of the radius, as in a star.
    """

    def outline(center: Point, radius: float, angle: float) -> list[Point]:
        return [
            (
                center[0] + radius * (inner if k % 2 else 1.0) * math.cos(angle + k * step),
                center[1] + radius * (inner if k % 2 else 1.0) * math.sin(angle + k * step),
            )
            for k in range(corners)
        ]

    step = 2 * math.pi / corners
    return outline


SHAPES = {
    "circles": _polygon(180),
    "squares": _polygon(4),
    "stars": _polygon(10, inner=0.42),
    "triangles": _polygon(3),
}

#: Hue of each shape's color, from 0 to 1: red, green, yellow and blue.
_HUES = {"circles": 0.0, "squares": 0.33, "stars": 0.14, "triangles": 0.62}

#: Largest distance of a color from the hue of its shape.
_HUE_SPREAD = 0.03


def draw(shape: str, seed: str) -> Image.Image:
    """Draws one shape of random shade, size, position, angle and noise.

    Args:
        shape: One of :data:`SHAPES`.
        seed: Determines everything that is random.

    Returns:
        An RGB image with sides of 200 to 420 pixels.
    """
    chance = random.Random(seed)
    width, height = chance.randint(200, 420), chance.randint(200, 420)
    dark = chance.random() < 0.5
    background = (chance.randint(*((20, 90) if dark else (170, 240))),) * 3
    foreground = _color(chance, shape)
    radius = min(width, height) * chance.uniform(0.22, 0.42)
    center = (
        chance.uniform(radius, width - radius),
        chance.uniform(radius, height - radius),
    )
    canvas = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), background)
    outline = SHAPES[shape](center, radius, chance.uniform(0, 2 * math.pi))
    ImageDraw.Draw(canvas).polygon(
        [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in outline], fill=foreground
    )
    image = canvas.resize((width, height), Image.Resampling.BOX)
    noise = Image.frombytes("L", (width, height), chance.randbytes(width * height))
    return Image.blend(image, noise.convert("RGB"), chance.uniform(0.03, 0.18))


def _color(chance: random.Random, shape: str) -> Color:
    hue = (_HUES[shape] + chance.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, chance.uniform(0.7, 1), chance.uniform(0.6, 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def _jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88, exif=exif or Image.Exif())
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _with_alpha(shape: str, seed: str) -> Image.Image:
    """Returns a shape whose background fades to transparent toward the border."""
    image = draw(shape, seed)
    mask = Image.radial_gradient("L").resize(image.size).point(lambda level: 255 - level)
    image.putalpha(mask)
    return image


def _rotated(shape: str, seed: str) -> bytes:
    """Returns a JPEG whose pixels are rotated and whose EXIF tag says so, as cameras write it."""
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _EXIF_ROTATE_CLOCKWISE
    return _jpeg(draw(shape, seed).transpose(Image.Transpose.ROTATE_90), exif)


def image_set() -> dict[str, bytes]:
    """Returns the files of the set: path relative to its folder → bytes."""
    files = {}
    for split, count in SPLITS.items():
        for shape in SHAPES:
            for number in range(count):
                name = f"{split}/{shape}/{number:03}"
                image = draw(shape, name)
                # Every fourth is a PNG, so that both formats are common.
                png = number % 4 == 3
                files[name + (".png" if png else ".jpg")] = _png(image) if png else _jpeg(image)
    files["train/circles/grayscale.jpg"] = _jpeg(draw("circles", "grayscale").convert("L"))
    files["train/squares/alpha.png"] = _png(_with_alpha("squares", "alpha"))
    files["train/triangles/rotated.jpg"] = _rotated("triangles", "rotated")
    whole = _jpeg(draw("stars", "broken"))
    files["train/stars/broken.jpg"] = whole[: len(whole) // 3]
    files["notes.txt"] = b"Not an image: skipped and counted.\n"
    return files


def write_image_set(folder: Path) -> int:
    """Writes the files of the set that are missing or differ.

    Returns:
        Number of files written.
    """
    written = 0
    for name, data in image_set().items():
        path = folder / name
        if path.is_file() and path.read_bytes() == data:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written += 1
    return written


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description="Draws a small labeled image set.")
    parser.add_argument("folder", type=Path, help="where to put it")
    folder = parser.parse_args().folder
    print(f"{folder}: {write_image_set(folder)} files written")


if __name__ == "__main__":
    main()
