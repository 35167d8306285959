"""Which image format bytes hold, and opening them as no other."""

from __future__ import annotations

import io
import re
import struct
from typing import Literal

# The plugins register themselves in Image.OPEN; naming them here keeps every other one (EPS
# would start Ghostscript) out of reach of the bytes of strangers.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from bottleneck.images.statuses import NOT_AN_IMAGE, UNREADABLE

#: Formats that are decoded, by content, whatever the file is called (MPO counts as JPEG, APNG as
#: PNG).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM")

# Signatures of two letters that any text could start with: what then fails to open is no image.
_WEAK_SIGNATURES = ("BMP", "PPM")

_FOREIGN_SIGNATURES = (
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
)


class RefusedError(Exception):
    """An image that is refused before a decoder fails on it.

    Attributes:
        status: One of ``images.statuses.STATUSES``.
        detail: Why, for the table's ``error`` column.
    """

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def format_of(data: bytes) -> str | None:
    """Returns the format that the first bytes name, one of ``FORMATS``, or None."""
    for name in FORMATS:
        _, accept = Image.OPEN[name]
        if accept is not None and accept(data[:16]) is True:
            return name
    return None


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Reads the header only.

    Not ``Image.open``, whose limit on the size is global and hides the size.

    Raises:
        RefusedError: It is no image, or of a format that is not decoded here.
        Exception: Whatever Pillow raises for a damaged header.
    """
    readable = ", ".join(FORMATS)
    unknown = f"starts with {data[:16]!r}, which is none of {readable}"
    name = format_of(data)
    if name is None:
        for start, signature, foreign in _FOREIGN_SIGNATURES:
            if data.startswith(signature, start):
                detail = f"{foreign} is not decoded here; convert to one of {readable}"
                raise RefusedError(UNREADABLE, detail)
        raise RefusedError(NOT_AN_IMAGE, unknown)
    factory, _ = Image.OPEN[name]
    try:
        return factory(io.BytesIO(data), "")
    except Exception as e:
        if name in _WEAK_SIGNATURES:
            raise RefusedError(NOT_AN_IMAGE, unknown) from e
        raise


def ran_out_of_bytes(error: BaseException, data: bytes, image: ImageFile.ImageFile | None) -> bool:
    """Returns whether a decoder failed because the bytes end too early.

    Args:
        error: What the decoder raised.
        data: The whole file.
        image: What was opened; None if the header could not be read.
    """
    # Decoders say so in many ways; those of WebP and TIFF do not say it at all.
    causes = (error, error.__cause__)
    if any(isinstance(cause, EOFError | IndexError | struct.error) for cause in causes):
        return True
    if re.search(r"truncated|not enough image data|reached eof", str(error), re.IGNORECASE):
        return True
    name = format_of(data)
    if name == "WEBP":
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    if name == "TIFF":
        return _tiff_ends_early(data, image)
    return False


def _tiff_ends_early(data: bytes, image: ImageFile.ImageFile | None) -> bool:
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    directory = int.from_bytes(data[4:8], order)
    entries = int.from_bytes(data[directory : directory + 2], order)
    # TIFF 6.0, section 2: a count of 2 bytes, entries of 12, then the next directory's offset.
    if directory + 2 + 12 * entries > len(data):
        return True
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    for offsets, byte_counts in ((273, 279), (324, 325)):  # strips, tiles
        try:
            pieces = zip(tags.get(offsets, ()), tags.get(byte_counts, ()), strict=False)
            if any(offset + count > len(data) for offset, count in pieces):
                return True
        except Exception:  # Hostile tags are of any type and length.
            return False
    return False
