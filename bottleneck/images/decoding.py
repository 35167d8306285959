"""Encoded image bytes → (H, W, 3) uint8 RGB pixels, or the reason they cannot be had.

``decode`` is the only entry point; it takes bytes, does no I/O and never raises for bad data.
Color profiles (ICC) are ignored, as Keras ignores them. Only the first picture of an animated or
multi-picture file is decoded.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from bottleneck.images.formats import RefusedError, format_of, open_image, ran_out_of_bytes
from bottleneck.images.options import DecodeOptions, Resize
from bottleneck.images.statuses import EMPTY, OK, TOO_LARGE, TRUNCATED, UNREADABLE

#: Factor of the target's size to which fast decoding reduces at most, by DCT scaling or box
#: averaging; the resize proper does the rest. Measured at 224x224: with 2, photographs differ by up
#: to 18 levels instead of 11, at no gain in time; with 4, a JPEG of 12 megapixels takes 58 ms
#: instead of 45 (in full: 95).
REDUCTION_MARGIN = 3

# box is missing on purpose: averaging twice on two grids moves edges by up to 60 levels.
_REDUCIBLE = ("bilinear", "bicubic", "lanczos", "hamming")

# EXIF orientation (CIPA DC-008, tag 0x0112) → what turns the stored picture upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)

_PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."))

_MAX_ERROR_CHARS = 200


@dataclass(frozen=True)
class Decoded:
    """What became of one image.

    Attributes:
        status: One of ``STATUSES``.
        error: Why there are no pixels: one line of at most 200 characters, the same for the same
            bytes; None when ``status`` is ``ok``.
        width: Columns of the original as its header states them, before any EXIF rotation;
            None when no header could be read.
        height: Rows of the original, likewise.
        pixels: (H, W, 3) uint8, RGB, 0..255, C-contiguous and writable; None unless ``ok``.
    """

    status: str
    error: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: np.ndarray | None = None


def decode(data: bytes, options: DecodeOptions) -> Decoded:
    """Decodes one image of any of ``FORMATS`` and resizes it.

    ``fast``: EXIF orientation is applied; transparency is composited on white; 16-bit grayscale
    is scaled to 8 bits by its full range (floating-point and 32-bit samples have none and are
    ``unreadable``). Large pictures are shrunk while decoding (JPEG) or by box averaging (others)
    to no less than ``REDUCTION_MARGIN`` times the target before the resize proper, except with
    ``nearest`` and ``box``. Tolerance, against decoding in full, on photographs: mean absolute
    difference at most 1 level of 255, largest at most 12 (measured: 0.6 and 9 with ``bilinear``,
    0.8 and 11 over all filters, on photos of 0.2 to 12 megapixels). Line art in saturated colors
    differs more, through its subsampled chroma: mean 2, single edges 40.
    Pictures less than six times the target on a side are decoded in full and do not differ.

    ``exact``: bit-equal to ``keras.utils.load_img(path, target_size=(height, width),
    interpolation=interpolation, keep_aspect_ratio=resize == "crop")`` for every file of
    ``FORMATS`` that it reads within the limits. That includes what it does not do: no EXIF
    rotation (but for TIFF, where Pillow rotates), alpha dropped, 16-bit grayscale clipped at 255.
    ``pad`` has no counterpart in Keras and only pads what ``exact`` decoded.

    Pillow's warnings (corrupt EXIF, large pictures) are silenced in the whole process, in a way
    that is safe with threads. libtiff may still print a line to stderr for a damaged TIFF. A
    damaged JPEG whose decoder fills the gap and goes on is ``ok``, as it is for Keras.

    Args:
        data: The whole file.
        options: Size, semantics and limits.

    Returns:
        The pixels, or the status and the reason. Bad data never raises.
    """
    _silence_pillow()
    if not data:
        return Decoded(EMPTY, "the file has 0 bytes")
    image: ImageFile.ImageFile | None = None
    width = height = None
    try:
        image = open_image(data)
        width, height = image.size
        _check_limits(width, height, options)
        render = _render_fast if options.decode == "fast" else _render_exact
        pixels = np.array(_pad(render(image, options), options))
    except RefusedError as e:
        return Decoded(e.status, _one_line(e.detail), width, height)
    except Image.DecompressionBombError as e:
        return Decoded(TOO_LARGE, _one_line(str(e)), width, height)
    except Exception as e:  # Decoders raise almost anything for hostile bytes.
        status = TRUNCATED if ran_out_of_bytes(e, data, image) else UNREADABLE
        detail = f"{format_of(data) or 'image'}: {str(e) or type(e).__name__}"
        return Decoded(status, _one_line(detail), width, height)
    return Decoded(OK, None, width, height, pixels)


def _silence_pillow() -> None:
    # warnings.catch_warnings swaps process-wide state and is not safe with decoding threads, so
    # one filter stays; it is put back in front when someone (a test, a library) reset the list.
    if not warnings.filters or warnings.filters[0][:4] != _PILLOW_FILTER[:4]:
        warnings.filterwarnings("ignore", module=_PILLOW_FILTER[3].pattern)


def _check_limits(width: int, height: int, options: DecodeOptions) -> None:
    if max(width, height) > options.max_side:
        detail = f"a side is above max_side {options.max_side}"
    elif width * height > options.max_pixels:
        detail = f"{width * height} pixels are above max_pixels {options.max_pixels}"
    else:
        return
    raise RefusedError(TOO_LARGE, f"{width}x{height}: {detail}")


def _render_exact(image: Image.Image, options: DecodeOptions) -> Image.Image:
    """Follows ``keras.utils.load_img`` of Keras 3.15 (keras/src/utils/image_utils.py)."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    box, fitted = _geometry(rgb.size, (options.width, options.height), options.resize)
    if rgb.size == fitted:
        return rgb
    return rgb.resize(fitted, _filter(options), box)


def _render_fast(image: ImageFile.ImageFile, options: DecodeOptions) -> Image.Image:
    is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    if not is_jpeg:
        # Only now a TIFF has turned itself upright, and a PNG has seen EXIF after its pixels.
        image.load()
    upright = _upright(image)
    target = (options.width, options.height)
    if upright in _SWAPS_SIDES:
        target = target[::-1]
    box, fitted = _geometry(image.size, target, options.resize)
    reducible = options.interpolation in _REDUCIBLE
    if is_jpeg and reducible:
        full_width = image.size[0]
        drafted = image.draft(None, (REDUCTION_MARGIN * fitted[0], REDUCTION_MARGIN * fitted[1]))
        if drafted is not None:
            scale = full_width / drafted[1][2]
            box = (box[0] / scale, box[1] / scale, box[2] / scale, box[3] / scale)
    gap = float(REDUCTION_MARGIN) if reducible else None
    resized = _to_rgb(image).resize(fitted, _filter(options), box, reducing_gap=gap)
    # Turned last, when it is small; the target's sides were swapped to allow for that.
    return resized if upright is None else resized.transpose(upright)


def _filter(options: DecodeOptions) -> Image.Resampling:
    return Image.Resampling[options.interpolation.upper()]


def _geometry(
    size: tuple[int, int], target: tuple[int, int], resize: Resize
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Returns the box of the original that is used, and the size it is resized to."""
    (width, height), (target_width, target_height) = size, target
    if resize == "crop":
        # Keras's integers; it has no max(1, …) and fails on slivers.
        crop_width = max(1, min(width, height * target_width // target_height))
        crop_height = max(1, min(height, width * target_height // target_width))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return (left, top, left + crop_width, top + crop_height), target
    if resize == "pad":
        scale = min(target_width / width, target_height / height)
        fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
        return (0, 0, width, height), fitted
    return (0, 0, width, height), target


def _pad(image: Image.Image, options: DecodeOptions) -> Image.Image:
    if image.size == (options.width, options.height):
        return image
    canvas = Image.new("RGB", (options.width, options.height))
    canvas.paste(
        image, ((options.width - image.size[0]) // 2, (options.height - image.size[1]) // 2)
    )
    return canvas


def _upright(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # A picture with broken EXIF is still a picture; Pillow raises many kinds.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB, transparency composited on white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        raise RefusedError(
            UNREADABLE,
            f"{image.format} with samples of Pillow's mode {image.mode}, which have no fixed "
            f"range; convert to 8 or 16 bits",
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 and would turn almost everything white.
    samples = np.asarray(image).astype(np.int32)
    gray = ((samples.clip(0, 65_535) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray[samples == transparent] = 255
    return Image.fromarray(gray).convert("RGB")


def _one_line(message: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in message)
    line = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "file", " ".join(printable.split()))
    return line if len(line) <= _MAX_ERROR_CHARS else line[: _MAX_ERROR_CHARS - 1] + "…"
