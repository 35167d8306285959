"""What every kind of image file becomes, against Keras, against itself and by known pixels."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.paths import SHARED

from bottleneck.errors import ConfigError
from bottleneck.images import decoding
from bottleneck.images.decoding import Decoded, decode
from bottleneck.images.formats import FORMATS
from bottleneck.images.options import DEFAULT_MAX_PIXELS, DecodeOptions
from bottleneck.images.statuses import STATUSES

AWKWARD = SHARED / "data" / "awkward"
PILLOW = AWKWARD / "pillow"
PHOTOS = SHARED / "data" / "dogs_vs_cats"
needs_shared = pytest.mark.shared(AWKWARD)

FAILING = {
    "pillow/broken.png": (
        "unreadable",
        "PNG: broken PNG file (chunk b'\\xf4\\xa8\\x81\\xe1')",
    ),
    "pillow/decompression_bomb.gif": (
        "too_large",
        "Image size (4364696535 pixels) exceeds limit of 178956970 pixels, "
        "could be decompression bomb DOS attack.",
    ),
    "pillow/truncated_image.png": ("truncated", "PNG: image file is truncated"),
    "pillow/truncated_jpeg.jpg": (
        "truncated",
        "JPEG: image file is truncated (8 bytes not processed)",
    ),
    "web/10_zero_byte.jpg": ("empty", "the file has 0 bytes"),
    "web/124_truncated.jpg": (
        "truncated",
        "JPEG: image file is truncated (0 bytes not processed)",
    ),
    "web/130_html_named_jpg.jpg": (
        "not_an_image",
        "starts with b'<!DOCTYPE html P', which is none of "
        "JPEG, PNG, WEBP, GIF, BMP, TIFF, ICO, PPM",
    ),
}


def awkward_files() -> list[str]:
    lines = (AWKWARD / "manifest.tsv").read_text().splitlines()[1:]
    return [line.split("\t")[0] for line in lines]


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes, height: int = 128, width: int = 128, **options: object) -> np.ndarray:
    decoded = decode(data, DecodeOptions(height, width, **options))
    assert (decoded.status, decoded.error) == ("ok", None)
    assert decoded.pixels is not None
    assert decoded.pixels.shape == (height, width, 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    return decoded.pixels


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


def quadrants(width: int, height: int) -> Image.Image:
    """Red, green / blue, yellow: no two orientations look the same."""
    image = Image.new("RGB", (width, height), "yellow")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill="red")
    draw.rectangle((width // 2, 0, width - 1, height // 2 - 1), fill=(0, 255, 0))
    draw.rectangle((0, height // 2, width // 2 - 1, height - 1), fill="blue")
    return image


def exif_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def mosaic(width: int, height: int, seed: int = 0) -> Image.Image:
    """A large picture with the fine structure of real photos: photos side by side, unscaled."""
    paths = sorted((PHOTOS / "train").rglob("*.jpg"))
    draw = random.Random(seed)
    canvas = Image.new("RGB", (width, height))
    for top in range(0, height, 160):
        left = 0
        while left < width:
            with Image.open(draw.choice(paths)) as photo:
                canvas.paste(photo, (left, top))
                left += photo.width
    return canvas


def png(width: int, height: int, depth: int, color: int, rows: list[bytes], trns: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        + (chunk(b"tRNS", trns) if trns else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


# Real files


@needs_shared
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_every_awkward_file_ends_as_ok_or_the_named_status(mode: str) -> None:
    files = awkward_files()
    assert len(files) == 50
    got = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in files:
            decoded = decode((AWKWARD / name).read_bytes(), DecodeOptions(64, 96, decode=mode))
            assert (decoded.pixels is not None) == (decoded.status == "ok"), name
            if decoded.status != "ok":
                got[name] = (decoded.status, decoded.error)
    assert got == FAILING


@needs_shared
def test_width_and_height_are_the_headers_even_when_rotated_or_truncated() -> None:
    def size(name: str) -> tuple[int | None, int | None]:
        decoded = decode((AWKWARD / name).read_bytes(), DecodeOptions(8, 8))
        return decoded.width, decoded.height

    assert size("imagenet/exif_orientation_6_n02951585_can_opener.JPEG") == (392, 294)
    assert size("web/124_truncated.jpg") == (449, 337)
    assert size("web/10_zero_byte.jpg") == (None, None)


@needs_shared
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 8])
def test_orientation_files_all_show_the_upright_photo(orientation: int) -> None:
    upright = pixels_of((PILLOW / "hopper.jpg").read_bytes())
    turned = pixels_of((PILLOW / f"hopper_orientation_{orientation}.jpg").read_bytes())
    assert difference(turned, upright).mean() < 6  # compressed again; wrongly turned: 60


@needs_shared
@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("hopper.png", 3),
        ("hopper.bmp", 3),
        ("hopper.tif", 3),
        ("hopper_lzw.tif", 3),
        ("hopper.ppm", 3),
        ("hopper.webp", 5),
        ("hopper_orientation_6.webp", 5),
        ("hopper.gif", 10),
    ],
)
def test_formats_show_the_same_photo(name: str, mean: float) -> None:
    jpeg = pixels_of((PILLOW / "hopper.jpg").read_bytes())
    assert difference(pixels_of((PILLOW / name).read_bytes()), jpeg).mean() < mean


@needs_shared
def test_cmyk_gray_and_transparent_files() -> None:
    cmyk = pixels_of((PILLOW / "pil_sample_cmyk.jpg").read_bytes(), 100, 100)
    rgb = pixels_of((PILLOW / "pil_sample_rgb.jpg").read_bytes(), 100, 100)
    assert difference(cmyk, rgb).mean() < 5
    gray = pixels_of((PILLOW / "hopper_gray.jpg").read_bytes())
    photo = pixels_of((PILLOW / "hopper.jpg").read_bytes())
    assert np.ptp(gray, axis=2).max() == 0
    assert difference(gray, np.asarray(Image.fromarray(photo).convert("L"))[..., None]).mean() < 3
    for name in ("transparent.png", "transparent.webp", "transparent.gif"):
        dice = pixels_of((PILLOW / name).read_bytes(), 150, 200)
        assert [dice[y, x].tolist() for y in (0, -1) for x in (0, -1)] == [[255] * 3] * 4, name
    for name in ("1_trns.png", "l_trns.png", "i_trns.png", "p_trns_single.png", "rgb_trns.png"):
        hole = pixels_of((PILLOW / name).read_bytes(), 64, 64)
        assert hole[32, 32].tolist() == [255] * 3, name


# Colors and depths


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientations_of_a_picture_that_is_not_square(orientation: int, format: str) -> None:
    upright = quadrants(120, 80)
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose by number
    stored = upright
    if orientation > 1:
        stored = upright.transpose(Image.Transpose(inverse[orientation]))
    data = encode(stored, format, exif=exif_orientation(orientation), quality=95)
    for resize in ("squash", "crop", "pad"):
        expected = pixels_of(encode(upright, "PNG"), 40, 60, resize=resize)
        assert difference(pixels_of(data, 40, 60, resize=resize), expected).mean() < 2


def test_exact_ignores_orientation() -> None:
    data = encode(quadrants(80, 80), "PNG", exif=exif_orientation(3))
    assert pixels_of(data, 80, 80, decode="exact")[0, 0].tolist() == [255, 0, 0]
    assert pixels_of(data, 80, 80, decode="fast")[0, 0].tolist() == [255, 255, 0]


def test_alpha_is_composited_on_white_in_fast_and_dropped_in_exact() -> None:
    rgba = encode(Image.new("RGBA", (4, 4), (200, 100, 0, 51)), "PNG")
    assert pixels_of(rgba, 4, 4)[0, 0].tolist() == [244, 224, 204]  # 51/255 = a fifth
    assert pixels_of(rgba, 4, 4, decode="exact")[0, 0].tolist() == [200, 100, 0]
    la = encode(Image.new("LA", (4, 4), (0, 51)), "PNG")
    assert pixels_of(la, 4, 4)[0, 0].tolist() == [204] * 3
    lossless = encode(Image.new("RGBA", (4, 4), (200, 100, 0, 51)), "WEBP", lossless=True)
    assert pixels_of(lossless, 4, 4)[0, 0].tolist() == [244, 224, 204]


def test_palette_with_one_alpha_per_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    data = encode(image, "PNG", transparency=bytes([255, 51]))
    assert pixels_of(data, 1, 2).tolist() == [[[255, 0, 0], [204, 204, 255]]]


SIXTEEN_BITS = [0, 128, 129, 257, 25_700, 32_896, 65_406, 65_407, 65_535]
EIGHT_BITS = [0, 0, 1, 1, 100, 128, 254, 255, 255]  # round(v / 257)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grayscale_is_scaled_not_clipped(format: str) -> None:
    data = encode(Image.fromarray(np.array([SIXTEEN_BITS], np.uint16)), format)
    assert pixels_of(data, 1, 9)[0].tolist() == [[v] * 3 for v in EIGHT_BITS]
    clipped = [[min(v, 255)] * 3 for v in SIXTEEN_BITS]
    assert pixels_of(data, 1, 9, decode="exact")[0].tolist() == clipped


def test_other_depths() -> None:
    pgm = b"P5 9 1 65535\n" + struct.pack(">9H", *SIXTEEN_BITS)
    assert pixels_of(pgm, 1, 9)[0].tolist() == [[v] * 3 for v in EIGHT_BITS]
    gray16 = png(2, 1, 16, 0, [struct.pack(">2H", 25_700, 51_400)], struct.pack(">H", 51_400))
    assert pixels_of(gray16, 1, 2)[0].tolist() == [[100] * 3, [255] * 3]
    rgb16 = png(1, 1, 16, 2, [struct.pack(">3H", 0x1234, 0x56FF, 0xFFFF)], b"")
    assert pixels_of(rgb16, 1, 1).tolist() == [[[0x12, 0x56, 0xFF]]]
    one_bit = encode(Image.fromarray(np.array([[True, False]])), "PNG")
    assert pixels_of(one_bit, 1, 2).tolist() == [[[255] * 3, [0] * 3]]
    gray_jpeg = encode(Image.new("L", (16, 16), 77), "JPEG", progressive=True)
    assert pixels_of(gray_jpeg, 2, 2).tolist() == [[[77] * 3] * 2] * 2
    cmyk = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert difference(pixels_of(cmyk, 1, 1), np.array([[[255, 0, 0]]])).max() <= 2


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70_000)])
def test_samples_without_a_range_are_refused_in_fast(mode: str, value: float) -> None:
    decoded = decode(encode(Image.new(mode, (4, 3), value), "TIFF"), DecodeOptions(4, 4))
    error = (
        f"TIFF with samples of Pillow's mode {mode}, which have no fixed range; "
        f"convert to 8 or 16 bits"
    )
    assert decoded == Decoded("unreadable", error, 4, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "MPO", "TIFF"])
def test_only_the_first_picture_of_several_counts(format: str) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue", "white")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    for mode in ("fast", "exact"):
        assert difference(pixels_of(data, 8, 8, decode=mode), np.array([255, 0, 0])).max() <= 3


# Geometry


def test_crop_takes_the_centre_and_pad_adds_black() -> None:
    stripes = np.zeros((4, 8, 3), np.uint8)
    stripes[:, :, 0] = np.arange(8) * 10
    data = encode(Image.fromarray(stripes), "PNG")
    for mode in ("fast", "exact"):
        crop = pixels_of(data, 4, 4, resize="crop", decode=mode)
        assert crop[0, :, 0].tolist() == [20, 30, 40, 50]
        pad = pixels_of(data, 8, 8, resize="pad", decode=mode)
        assert (pad[:2] == 0).all()
        assert (pad[6:] == 0).all()
        assert (pad[2:6] == stripes).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_slivers(size: tuple[int, int], resize: str) -> None:
    for format in ("PNG", "JPEG"):
        data = encode(Image.new("RGB", size, (255, 255, 255)), format)
        for mode in ("fast", "exact"):
            for target in ((24, 24), (10, 30), (30, 10)):
                pixels = pixels_of(data, *target, resize=resize, decode=mode)
                assert pixels.max() == 255
                assert resize == "pad" or pixels.min() == 255


# The stated tolerance of fast


@needs_shared
def test_fast_stays_within_the_stated_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [
        (encode(mosaic(4032, 3024), "JPEG", quality=90, exif=exif_orientation(6)), 224),
        (encode(mosaic(2000, 1500, 1), "JPEG", quality=85), 224),
        (encode(mosaic(2000, 1500, 1), "PNG", compress_level=1), 224),
        ((AWKWARD / "imagenet/exif_orientation_0_n03337140_file.JPEG").read_bytes(), 160),
    ]
    photos = sorted((SHARED / "data/furniture").rglob("*.jp*g"))[::25]
    cases = large + [(path.read_bytes(), 40) for path in photos]
    filters = ("bilinear", "bicubic", "lanczos", "hamming")
    reduced, whole = [], []
    for margin, results in ((decoding.REDUCTION_MARGIN, reduced), (10**6, whole)):
        monkeypatch.setattr(decoding, "REDUCTION_MARGIN", margin)
        for number, (data, side) in enumerate(cases):
            resize = ("squash", "crop", "pad")[number % 3]
            options = {"resize": resize, "interpolation": filters[number % 4]}
            results.append(pixels_of(data, side, side, **options))
    differences = [difference(a, b) for a, b in zip(reduced, whole, strict=True)]
    assert max(d.mean() for d in differences) <= 1
    assert max(d.max() for d in differences) <= 12
    # The test would be empty if nothing had been reduced.
    assert all(d.max() > 0 for d in differences[: len(large)])


@needs_shared
@pytest.mark.parametrize("interpolation", ["nearest", "box"])
def test_nearest_and_box_decode_in_full(interpolation: str) -> None:
    data = encode(mosaic(1600, 1200), "JPEG", quality=90)
    fast, exact = (
        pixels_of(data, 64, 64, decode=mode, interpolation=interpolation)
        for mode in ("fast", "exact")
    )
    assert (fast == exact).all()


# exact against Keras


@needs_shared
def test_exact_is_bit_equal_to_load_img() -> None:
    from keras.utils import load_img

    filters = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
    rotated = encode(quadrants(120, 80), "TIFF", exif=exif_orientation(6))
    lzw = encode(quadrants(80, 120), "TIFF", exif=exif_orientation(8), compression="tiff_lzw")
    files = [(AWKWARD / name).read_bytes() for name in awkward_files()]
    photos = sorted(PHOTOS.rglob("*.jpg"))[::80]
    photos += sorted((SHARED / "data/furniture").rglob("*.jp*g"))[::50]
    files += [rotated, lzw, *(path.read_bytes() for path in photos)]
    compared = 0
    for number, data in enumerate(files):
        for height, width, resize in ((224, 224, "squash"), (96, 128, "crop"), (64, 64, "crop")):
            interpolation = filters[(number + height) % len(filters)]
            options = DecodeOptions(
                height, width, decode="exact", resize=resize, interpolation=interpolation
            )
            decoded = decode(data, options)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = load_img(
                        io.BytesIO(data),
                        target_size=(height, width),
                        interpolation=interpolation,
                        keep_aspect_ratio=resize == "crop",
                    )
            except (OSError, ValueError, Image.DecompressionBombError):
                continue
            compared += 1
            assert decoded.pixels is not None, (number, decoded)
            assert (decoded.pixels == np.asarray(expected)).all(), (number, resize, interpolation)
    assert compared == 3 * (50 - len(FAILING) + 2 + 50 + 20)


# Limits


def huge_headers() -> dict[str, bytes]:
    side = struct.pack(">HH", 65_000, 65_000)
    jpeg = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = side
    bmp = bytearray(encode(Image.new("RGB", (16, 16)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 65_000, 65_000)
    return {
        "JPEG": bytes(jpeg),
        "PNG": png(65_000, 65_000, 8, 2, [b"\0"], b""),
        "BMP": bytes(bmp),
        "PPM": b"P6 65000 65000 255\n",
    }


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "PPM"])
def test_a_bomb_is_refused_by_its_header(format: str) -> None:
    error = "65000x65000: 4225000000 pixels are above max_pixels 178956970"
    expected = Decoded("too_large", error, 65_000, 65_000)
    assert decode(huge_headers()[format], DecodeOptions(8, 8)) == expected


def test_own_limits_and_not_pillows_global_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (40, 30)), "PNG")
    error = "40x30: 1200 pixels are above max_pixels 1199"
    refused = decode(data, DecodeOptions(8, 8, max_pixels=1199))
    assert refused == Decoded("too_large", error, 40, 30)
    error = "40x30: a side is above max_side 39"
    assert decode(data, DecodeOptions(8, 8, max_side=39)) == Decoded("too_large", error, 40, 30)
    wide = png(70_000, 1, 8, 0, [bytes(70_000)], b"")
    assert decode(wide, DecodeOptions(8, 8)).error == "70000x1: a side is above max_side 65535"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, DecodeOptions(8, 8, max_pixels=1200)).status == "ok"


def test_the_default_limit_is_pillows() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS - DEFAULT_MAX_PIXELS in (0, 1)


# Bad data


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b"", "empty", "the file has 0 bytes"),
        (b"\0" * 64, "not_an_image", f"starts with {bytes(16)!r}, which is none of "),
        (b"BMW builds cars", "not_an_image", "starts with b'BMW builds cars', which is none of "),
        (b"P5 is a prefix", "not_an_image", "starts with b'P5 is a prefix', which is none of "),
        (b"%PDF-1.7 \n", "not_an_image", "starts with b'%PDF-1.7 \\n', which is none of "),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            "not_an_image",
            "starts with b'%!PS-Adobe-3.0 E', which is none of ",
        ),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1",
            "unreadable",
            "HEIC is not decoded here; convert to one of ",
        ),
        (
            b"\0\0\0\x1cftypavif\0\0\0\0",
            "unreadable",
            "AVIF is not decoded here; convert to one of ",
        ),
    ],
)
def test_what_is_not_an_image(data: bytes, status: str, error: str) -> None:
    if status != "empty":
        error += ", ".join(FORMATS)
    for mode in ("fast", "exact"):
        assert decode(data, DecodeOptions(8, 8, decode=mode)) == Decoded(status, error)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("ICO", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_half_a_file_is_truncated(format: str, options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), format, **options)
    assert decode(data, DecodeOptions(8, 8)).status == "ok"
    for share in (0.2, 0.5, 0.9):
        decoded = decode(data[: int(len(data) * share)], DecodeOptions(8, 8))
        assert decoded.status == "truncated", (share, decoded)


def test_a_tiff_whose_pixels_end_early_but_whose_directory_does_not() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytearray(encode(Image.fromarray(noise), "TIFF", compression="tiff_adobe_deflate"))
    # Pillow writes the directory last, so the strip is pushed over the end instead of cut.
    (directory,) = struct.unpack_from("<I", data, 4)
    entry = data.index(struct.pack("<HH", 273, 4), directory)
    assert struct.unpack_from("<I", data, entry + 4) == (1,)
    (strip,) = struct.unpack_from("<I", data, entry + 8)
    struct.pack_into("<I", data, entry + 8, strip + 2000)
    decoded = decode(bytes(data), DecodeOptions(8, 8))
    assert (decoded.status, decoded.width, decoded.height) == ("truncated", 64, 64)


def test_fuzzed_files_never_raise() -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))
    exif = exif_orientation(6)
    seeds = [
        encode(photo, "JPEG", exif=exif),
        encode(photo, "JPEG", progressive=True),
        encode(photo.convert("CMYK"), "JPEG"),
        encode(photo, "PNG", exif=exif),
        encode(photo.convert("P"), "PNG", transparency=3),
        encode(photo, "WEBP", exif=exif),
        encode(photo, "GIF"),
        encode(photo, "BMP"),
        encode(photo, "TIFF"),
        encode(photo, "TIFF", compression="tiff_lzw"),
        encode(photo, "ICO"),
        encode(photo, "PPM"),
        encode(photo, "MPO", save_all=True, append_images=[photo]),
    ]
    draw = random.Random(2)
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(600):
            data = bytearray(seeds[number % len(seeds)])
            for _ in range(draw.choice((1, 3, 10, 50))):
                # Headers are short: half of the changes go there.
                reach = draw.choice((min(64, len(data)), len(data)))
                data[draw.randrange(reach)] = draw.randrange(256)
            if number % 3 == 0:
                del data[draw.randrange(len(data)) :]
            mode = ("fast", "exact")[number % 2]
            options = DecodeOptions(24, 32, decode=mode, max_pixels=4_000_000)
            decoded = decode(bytes(data), options)
            assert decoded.status in STATUSES
            seen.add(decoded.status)
            if decoded.status == "ok":
                assert decoded.error is None
                assert decoded.pixels is not None
                assert decoded.pixels.shape == (24, 32, 3)
            else:
                assert decoded.error
                assert len(decoded.error) <= 200
                assert decoded.error.isprintable()
                assert " at 0x" not in decoded.error
                assert decoded == decode(bytes(data), options)
    assert seen == {"ok", "not_an_image", "unreadable", "truncated", "too_large"}


@needs_shared
def test_threads_get_the_same_pixels() -> None:
    files = [path.read_bytes() for path in sorted((PHOTOS / "test").rglob("*.jpg"))[:64]]
    options = DecodeOptions(64, 64)
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda data: decode(data, options).pixels, files))
    assert all((a == decode(b, options).pixels).all() for a, b in zip(threaded, files, strict=True))


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"height": 0},
            "height is 0, but must be a whole number of at least 1; "
            "set height to the number of pixels wanted",
        ),
        (
            {"width": 2.5},
            "width is 2.5, but must be a whole number of at least 1; "
            "set width to the number of pixels wanted",
        ),
        (
            {"max_pixels": True},
            "max_pixels is True, but must be a whole number of at least 1; "
            "set max_pixels to the number of pixels wanted",
        ),
        (
            {"max_side": -1},
            "max_side is -1, but must be a whole number of at least 1; "
            "set max_side to the number of pixels wanted",
        ),
        (
            {"resize": "stretch"},
            "resize is 'stretch', but must be one of squash, crop, pad; choose one of these",
        ),
        (
            {"decode": "slow"},
            "decode is 'slow', but must be one of fast, exact; choose one of these",
        ),
        (
            {"interpolation": "cubic"},
            "interpolation is 'cubic', but must be one of nearest, bilinear, bicubic, lanczos, "
            "box, hamming; choose one of these",
        ),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DecodeOptions(**{"height": 8, "width": 8, **options})
    assert str(caught.value) == message


@pytest.mark.parametrize("tag", [273, 279], ids=["offsets", "byte counts"])
@pytest.mark.parametrize("kind", [2, 7], ids=["ascii", "undefined"])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_a_tiff_whose_tags_are_of_the_wrong_type_never_raises(
    tag: int, kind: int, compression: int
) -> None:
    values = {256: 4, 257: 4, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: 4, 279: 16}
    entries = b"".join(
        struct.pack("<HHII", number, kind if number == tag else 4, 1, value)
        for number, value in values.items()
    )
    data = b"II*\0" + struct.pack("<I", 24) + bytes(16) + struct.pack("<H", 9) + entries + bytes(4)
    decoded = decode(data, DecodeOptions(4, 4))
    assert decoded.status in ("ok", "unreadable")
    if tag == 273:
        assert decoded.status == "unreadable"
