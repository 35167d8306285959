"""Features of a handful of images, in a notebook: no table, no cluster.

>>> features_of(["cat.jpg", "s3://photos/dog.png"], "vgg16").shape
(2, 7, 7, 512)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.images.decoding import decode
from bottleneck.images.options import DecodeOptions
from bottleneck.storage.fetcher import Fetcher, FetchRequest
from bottleneck.storage.uris import normalize_uri

#: A path or URI, the bytes of a file, a Pillow image, or (height, width, 3) uint8 RGB pixels.
AnyImage: TypeAlias = "str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"

#: Images that go through a backbone at once when it is made for one call.
_BATCH_SIZE = 32

#: Modes that Pillow writes to PNG; others are converted first.
_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")


def features_of(
    images: Iterable[AnyImage], backbone: Backbone | BackboneConfig | str, **choices: Any
) -> npt.NDArray[np.float32]:
    """Computes the features of some images, as the extract job computes them.

    Args:
        images: Paths, URIs, bytes of image files, Pillow images, or (height, width, 3) uint8 RGB
            arrays of any size, in any mixture. Pixels are resized like files.
        backbone: A backbone, or what to make one from: its configuration, or its name. Making it
            takes seconds, so make it once for several calls.
        choices: How images are decoded, by fields of ``DecodeOptions`` but height and width, such
            as ``resize="crop"``.

    Returns:
        (N, *shape) float32, in the order of the images.

    Raises:
        SourceError: An image cannot be read or decoded; the message names it and the reason.
        BackboneError: The backbone or its weights cannot be loaded.
        ConfigError: A choice is not allowed.
    """
    named = _named(images)
    if isinstance(backbone, str):
        backbone = BackboneConfig(backbone)
    if isinstance(backbone, BackboneConfig):
        backbone.decode_options(**choices)
        backbone = Backbone(backbone, batch_size=max(1, min(_BATCH_SIZE, len(named))))
    options = backbone.decode_options(**choices)
    features = np.empty((len(named), *backbone.shape), np.float32)
    for start in range(0, len(named), backbone.batch_size):
        some = named[start : start + backbone.batch_size]
        features[start : start + len(some)] = backbone(_pixels_of(some, options))
    return features


def _named(images: Iterable[AnyImage]) -> list[tuple[str, AnyImage]]:
    """Returns images with what messages call them."""
    if isinstance(images, str | bytes | PathLike | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim != 4
    ):
        raise SourceError(
            "images is a single image; give a sequence of them, such as [image], or a "
            "(N, height, width, 3) uint8 array"
        )
    return [
        (
            redact_uri(fspath(image)) if isinstance(image, str | PathLike) else f"images[{number}]",
            image,
        )
        for number, image in enumerate(images)
    ]


def _pixels_of(
    named: Sequence[tuple[str, AnyImage]], options: DecodeOptions
) -> npt.NDArray[np.uint8]:
    """Reads and decodes images to (N, height, width, 3)."""
    pixels = np.empty((len(named), options.height, options.width, 3), np.uint8)
    for number, ((name, image), data) in enumerate(zip(named, _files_of(named), strict=True)):
        if isinstance(image, np.ndarray) and image.shape == pixels.shape[1:]:
            pixels[number] = image
            continue
        decoded = decode(data, options)
        if decoded.pixels is None:
            raise _refused(name, decoded.status, decoded.error)
        pixels[number] = decoded.pixels
    return pixels


def _files_of(named: Sequence[tuple[str, AnyImage]]) -> list[bytes]:
    """Returns the bytes of an image file for each image; files are read many at a time."""
    located = [
        number for number, (_, image) in enumerate(named) if isinstance(image, str | PathLike)
    ]
    requests = [FetchRequest(normalize_uri(fspath(named[number][1]))) for number in located]  # type: ignore[arg-type]
    answers = dict(zip(located, Fetcher().fetch(requests), strict=True))
    files = []
    for number, (name, image) in enumerate(named):
        if number in answers:
            answer = answers[number]
            if answer.data is None:
                raise _refused(name, answer.status, answer.error)
            files.append(answer.data)
        elif isinstance(image, bytes):
            files.append(image)
        else:
            files.append(_encoded(name, image))
    return files


def _encoded(name: str, image: object) -> bytes:
    """Encodes pixels without loss, so that they are resized by the decoder of files."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise SourceError(
                f"{name} is an array {image.shape} {image.dtype}; give (height, width, 3) uint8 RGB"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise SourceError(
            f"{name} is of type {type(image).__name__}; give a path or URI, bytes, a Pillow image "
            "or a (height, width, 3) uint8 array"
        )
    if image.mode == "F":
        raise SourceError(
            f"{name} has floating-point samples, which have no fixed range; convert it to RGB"
        )
    if image.mode not in _PNG_MODES:
        image = image.convert("RGBA" if image.mode in ("PA", "La", "RGBa") else "RGB")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0, exif=image.getexif())
    return file.getvalue()


def _refused(name: str, status: str | None, error: str | None) -> SourceError:
    return SourceError(
        f"{name} has no features ({status}): {error}; leave it out, or extract a table, which "
        "keeps a row with the reason for each such image"
    )
