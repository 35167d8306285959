"""How images become arrays: the words and the limits of decoding. Loads no image library.

The flags ``--resize``, ``--decode`` and ``--interpolation``, the table's specification and
``DecodeOptions`` use these same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from bottleneck.errors import ConfigError
from bottleneck.spec import FeatureSpec

#: How a picture gets the size that is wanted.
Resize = Literal["squash", "crop", "pad"]

#: Whether decoding may take short cuts.
Decode = Literal["fast", "exact"]

#: Resampling filters, by Pillow's names.
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

#: Pixels above which Pillow itself, and so ``keras.utils.load_img``, refuses an image: twice
#: ``PIL.Image.MAX_IMAGE_PIXELS``, which is 1 GiB / 4 / 3 pixels.
DEFAULT_MAX_PIXELS = 178_956_970

#: Largest side in pixels that the headers of JPEG and GIF can state.
DEFAULT_MAX_SIDE = 65_535

_CHOICES: tuple[tuple[str, Any], ...] = (
    ("resize", Resize),
    ("decode", Decode),
    ("interpolation", Interpolation),
)


@dataclass(frozen=True)
class DecodeOptions:
    """How images become arrays. ``images.decoding.decode`` tells what each choice does.

    Attributes:
        height: Rows of the result, in pixels, at least 1.
        width: Columns of the result, in pixels, at least 1.
        resize: ``squash`` stretches to the target; ``crop`` cuts the largest centered box of the
            target's aspect ratio, then resizes it; ``pad`` fits the whole picture inside the
            target and fills the rest with black (0, 0, 0), the picture in the center.
        decode: ``fast``: looks right and is cheap on large files; ``exact``: what Keras does.
        interpolation: Pillow's filter of that name, antialiased when shrinking (``nearest``
            excepted). ``bilinear`` is the default here; ``keras.utils.load_img`` has ``nearest``.
        max_pixels: Width x height above which an image is ``too_large``. Above the default,
            Pillow's own limit still holds for WebP, and for parts of GIF, ICO and TIFF. Decoding
            takes about 4 bytes per pixel, twice that with transparency.
        max_side: Width or height, in pixels, above which an image is ``too_large``.

    Raises:
        ConfigError: A value is not allowed.
    """

    height: int
    width: int
    resize: Resize = "squash"
    decode: Decode = "fast"
    interpolation: Interpolation = "bilinear"
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_side: int = DEFAULT_MAX_SIDE

    def __post_init__(self) -> None:
        for name in ("height", "width", "max_pixels", "max_side"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"{name} is {value!r}, but must be a whole number of at least 1; "
                    f"set {name} to the number of pixels wanted"
                )
        for name, kind in _CHOICES:
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(
                    f"{name} is {value!r}, but must be one of {', '.join(get_args(kind))}; "
                    f"choose one of these"
                )

    @classmethod
    def of_spec(cls, spec: FeatureSpec, max_pixels: int = DEFAULT_MAX_PIXELS) -> Self:
        """Returns the options under which a table's images were read.

        Args:
            spec: The table's specification.
            max_pixels: Limit on an image's pixels, which is no part of a specification.
        """
        height, width = spec.image_size
        # A specification holds text from a table's properties; making the options checks it.
        words: dict[str, Any] = {name: getattr(spec, name) for name, _ in _CHOICES}
        return cls(height, width, **words, max_pixels=max_pixels)
