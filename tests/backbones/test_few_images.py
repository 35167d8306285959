"""Features of a handful of images: every kind of image, in order, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bottleneck
from benchmarks.support.s3_server import S3Server
from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.few_images import features_of
from bottleneck.errors import BackboneError, BottleneckError, ConfigError, SourceError

COLORS = [(10, 20, 30), (200, 0, 50), (0, 255, 7)]
MEANS = np.array(COLORS, np.float32)


def picture(color: tuple[int, int, int], size: tuple[int, int] = (9, 5)) -> Image.Image:
    return Image.new("RGB", size, color)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.of("channel-means", image_size=(8, 8), batch_size=2)


def refusal(call: Callable[[], object], kind: type[BottleneckError] = SourceError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


KINDS: dict[str, Callable[[Path, tuple[int, int, int]], Any]] = {
    "path": lambda path, color: path,
    "text": lambda path, color: str(path),
    "URI": lambda path, color: path.as_uri(),
    "bytes": lambda path, color: path.read_bytes(),
    "Pillow": lambda path, color: Image.open(path),
    "array": lambda path, color: np.asarray(picture(color)),
    "array of the backbone's size": lambda path, color: np.asarray(picture(color, (8, 8))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image(tmp_path: Path, backbone: Backbone, kind: str) -> None:
    images = []
    for number, color in enumerate(COLORS):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(picture(color)))
        images.append(KINDS[kind](path, color))
    features = features_of(images, backbone)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, MEANS)


def test_kinds_may_be_mixed_and_keep_their_order(
    tmp_path: Path, backbone: Backbone, s3: S3Server
) -> None:
    s3.create_bucket("few")
    s3.put_objects("few", {"a.png": png(picture(COLORS[0]))})
    (tmp_path / "b.png").write_bytes(png(picture(COLORS[1])))
    images: list[Any] = [
        picture(COLORS[2]),
        "s3://few/a.png",
        tmp_path / "b.png",
        np.asarray(picture(COLORS[2])),
        png(picture(COLORS[0])),
    ]
    np.testing.assert_array_equal(features_of(iter(images), backbone), MEANS[[2, 0, 1, 2, 0]])


def test_one_array_of_many_images(backbone: Backbone) -> None:
    images = np.stack([np.asarray(picture(color)) for color in COLORS])
    np.testing.assert_array_equal(features_of(images, backbone), MEANS)


@pytest.mark.parametrize(
    "given", ["channel-means", BackboneConfig("channel-means", image_size=(8, 8))]
)
def test_a_name_or_a_configuration_makes_the_backbone(given: Any) -> None:
    np.testing.assert_array_equal(features_of([picture(COLORS[1])], given), MEANS[1:2])


def test_no_images(backbone: Backbone) -> None:
    assert features_of([], backbone).shape == (0, 3)
    assert features_of([], "channel-means").shape == (0, 3)


def test_images_are_decoded_as_asked(backbone: Backbone) -> None:
    """Half black, half white: padding adds black, cropping takes the middle."""
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (4, 0, 12, 8))
    whole = features_of([image], backbone)
    assert whole[0, 0] == pytest.approx(127.5, abs=5)
    assert features_of([image], backbone, resize="crop")[0, 0] == 255
    assert features_of([image], backbone, resize="pad")[0, 0] == pytest.approx(64, abs=5)
    message = refusal(lambda: features_of([image], backbone, resize="stretch"), ConfigError)
    assert message.startswith("resize is 'stretch', but must be one of squash, crop, pad")


def test_pixels_get_what_their_file_gets(backbone: Backbone) -> None:
    """A Pillow image and an array are resized by the decoder that files go through."""
    drawn = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    image = Image.fromarray(drawn)
    files = features_of([png(image)], backbone)
    np.testing.assert_array_equal(features_of([image, drawn], backbone), files[[0, 0]])


@pytest.mark.parametrize(
    ("mode", "color", "mean"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 7, (7, 7, 7)),
        ("P", 0, (0, 0, 0)),
        ("RGBA", (9, 9, 9, 0), (255, 255, 255)),
        ("LA", (9, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_modes_of_pillow(backbone: Backbone, mode: str, color: Any, mean: Any) -> None:
    features = features_of([Image.new(mode, (9, 5), color)], backbone)
    np.testing.assert_array_equal(features, np.array([mean], np.float32))


def test_orientation_of_an_opened_file_is_kept() -> None:
    image = Image.new("RGB", (8, 8))
    image.paste((255, 0, 0), (0, 0, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    backbone = Backbone.of("channel-means", image_size=(8, 8))
    seen: list[Any] = []
    compute = backbone._compute
    backbone._compute = lambda pixels: seen.append(pixels.copy()) or compute(pixels)
    features_of([file.getvalue()], backbone)
    features_of([Image.open(file)], backbone)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert seen[0][0][0, 7, 0] == 255 and seen[0][0][7, 0, 0] == 0


ADVICE = "; leave it out, or extract a table, which keeps a row with the reason for each such image"


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path, backbone: Backbone) -> None:
    good = png(picture(COLORS[0], (300, 300)))
    cut = tmp_path / "cut.png"
    cut.write_bytes(good[: len(good) // 2])
    missing = tmp_path / "none.png"
    message = refusal(lambda: features_of([good, good, cut], backbone))
    assert message.startswith(f"{cut} has no features (truncated): PNG: ")
    assert message.endswith(ADVICE)
    message = refusal(lambda: features_of([missing], backbone))
    assert message.startswith(f"{missing} has no features (missing): ")
    assert message.endswith(ADVICE)
    assert refusal(lambda: features_of([good, b""], backbone)) == (
        f"images[1] has no features (empty): the file has 0 bytes{ADVICE}"
    )
    message = refusal(lambda: features_of([good] * 3 + [b"<html>"], backbone))
    assert message.startswith("images[3] has no features (not_an_image): ")


def test_passwords_in_addresses_are_not_printed(backbone: Backbone) -> None:
    message = refusal(lambda: features_of(["http://me:secret@127.0.0.1:1/a.png"], backbone))
    assert "secret" not in message


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((4, 4), np.uint8),
            "images[0] is an array (4, 4) uint8; give (height, width, 3) uint8 RGB",
        ),
        (
            np.zeros((4, 4, 3), np.float32),
            "images[0] is an array (4, 4, 3) float32; give (height, width, 3) uint8 RGB",
        ),
        (
            7,
            "images[0] is of type int; give a path or URI, bytes, a Pillow image or a "
            "(height, width, 3) uint8 array",
        ),
        (
            Image.new("F", (4, 4)),
            "images[0] has floating-point samples, which have no fixed range; convert it to RGB",
        ),
    ],
)
def test_what_is_no_image(backbone: Backbone, image: Any, message: str) -> None:
    assert refusal(lambda: features_of([image], backbone)) == message


@pytest.mark.parametrize(
    "single", ["cat.jpg", Path("cat.jpg"), b"", picture(COLORS[0]), np.zeros((8, 8, 3), np.uint8)]
)
def test_a_single_image_is_no_sequence(backbone: Backbone, single: Any) -> None:
    assert refusal(lambda: features_of(single, backbone)) == (
        "images is a single image; give a sequence of them, such as [image], or a "
        "(N, height, width, 3) uint8 array"
    )


def test_an_unknown_backbone() -> None:
    message = refusal(lambda: features_of([picture(COLORS[0])], "vgg17"), BackboneError)
    assert "vgg16" in message


def test_it_is_public_and_loads_no_ray() -> None:
    assert bottleneck.features_of is features_of
    code = (
        "import sys, bottleneck, numpy as np\n"
        "image = np.full((4, 4, 3), 7, np.uint8)\n"
        "print(bottleneck.features_of([image], 'channel-means').tolist())\n"
        "print(sorted({'ray', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[[7.0, 7.0, 7.0]]", "[]"]
