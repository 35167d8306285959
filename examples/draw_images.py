"""Draws a small labelled image set: four kinds of shapes, split into train, validation and test.

The same bytes on every run (of the same Pillow). Files that already hold them are left alone, so
that a second extraction finds nothing to do.

    python examples/draw_images.py quickstart/images
"""

from __future__ import annotations

import argparse
import io
import math
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

#: Images of each shape in each split.
SPLITS = {"train": 15, "validation": 4, "test": 4}

#: Shapes are drawn at this multiple of the final size and shrunk, which smooths their edges.
_OVERSAMPLING = 3

_EXIF_ORIENTATION = 0x0112
_EXIF_ROTATE_CLOCKWISE = 6


def _polygon(corners: int, inner: float = 1.0) -> Callable[[Point, float, float], list[Point]]:
    """Returns a function (centre, radius, angle) → outline.

    With `inner` below 1 every second corner lies at that share of the radius, as in a star.
    """

    def outline(centre: Point, radius: float, angle: float) -> list[Point]:
        return [
            (
                centre[0] + radius * (inner if k % 2 else 1.0) * math.cos(angle + k * step),
                centre[1] + radius * (inner if k % 2 else 1.0) * math.sin(angle + k * step),
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


def draw(shape: str, seed: str) -> Image.Image:
    """Draws one shape of random colour, size, place, angle and noise.

    Args:
        shape: One of :data:`SHAPES`.
        seed: Decides everything that is random.

    Returns:
        An RGB image of 200 to 420 pixels a side.
    """
    chance = random.Random(seed)
    width, height = chance.randint(200, 420), chance.randint(200, 420)
    dark = chance.random() < 0.5
    background = _colour(chance, (20, 90) if dark else (170, 240))
    foreground = _colour(chance, (150, 255) if dark else (0, 110))
    radius = min(width, height) * chance.uniform(0.22, 0.42)
    centre = (
        chance.uniform(radius, width - radius),
        chance.uniform(radius, height - radius),
    )
    canvas = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), background)
    outline = SHAPES[shape](centre, radius, chance.uniform(0, 2 * math.pi))
    ImageDraw.Draw(canvas).polygon(
        [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in outline], fill=foreground
    )
    image = canvas.resize((width, height), Image.Resampling.BOX)
    noise = Image.frombytes("L", (width, height), chance.randbytes(width * height))
    return Image.blend(image, noise.convert("RGB"), chance.uniform(0.03, 0.18))


def _colour(chance: random.Random, levels: tuple[int, int]) -> Colour:
    return chance.randint(*levels), chance.randint(*levels), chance.randint(*levels)


def _jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88, exif=exif or Image.Exif())
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _with_alpha(shape: str, seed: str) -> Image.Image:
    """A shape whose background is transparent towards the border."""
    image = draw(shape, seed)
    mask = Image.radial_gradient("L").resize(image.size).point(lambda level: 255 - level)
    image.putalpha(mask)
    return image


def _rotated(shape: str, seed: str) -> bytes:
    """A JPEG whose pixels lie on their side and whose EXIF tag says so, as cameras write them."""
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
    """Writes the files that are missing or differ.

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
    parser = argparse.ArgumentParser(description="Draws a small labelled image set.")
    parser.add_argument("folder", type=Path, help="where to put it")
    folder = parser.parse_args().folder
    print(f"{folder}: {write_image_set(folder)} files written")


if __name__ == "__main__":
    main()
