"""Configuration of a backbone, checked when made; needs neither Keras nor Ray.

So ``--help`` and every check of a configuration are instant, and a wrong name is answered with the
nearest right one before any work is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bottleneck.backbones.families import CHANNEL_MEANS, FAMILIES, Family, canonical_name
from bottleneck.backbones.precision import PRECISIONS
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import BackboneError
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec
from bottleneck.storage.uris import scheme_of

#: Reduction of a layer's map; see :class:`BackboneConfig`.
Pooling = Literal["none", "avg", "max"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

#: Preprocessing of pixels; see :class:`BackboneConfig`.
Preprocessing = Literal["own", "rescale"]
PREPROCESSINGS: tuple[Preprocessing, ...] = get_args(Preprocessing)

#: Endings of weights files.
WEIGHT_SUFFIXES = (".h5", ".hdf5", ".keras", ".npz")

_RANDOM = re.compile(r"random:(\d+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BackboneConfig:
    """Configuration of a backbone and its features; checked when made, without loading Keras.

    Attributes:
        name: Name in ``BACKBONES``; case, ``-`` and ``_`` do not matter.
        alpha: Width multiplier of the MobileNets (1.0 when None); None for all others.
        layer: Layer whose output the features are; None for the last one before the classifier.
            Layers that Keras numbers are named as in a fresh process (``conv2d_93``).
        pooling: Reduction of the layer's map over its positions: ``avg``, ``max``, or ``none`` for
            the whole map.
        image_size: (height, width) of the input in pixels; None for the family's own.
        preprocessing: Preprocessing of pixels: ``own`` is the family's ``preprocess_input``;
            ``rescale`` divides by 255 instead, to reproduce models that were trained so. Families
            that normalize inside the model (EfficientNet, EfficientNetV2, MobileNetV3, ConvNeXt)
            refuse ``rescale``, which would normalize twice.
        precision: Number format of the computation: ``float32``, ``bfloat16``, ``float16``, or
            ``auto`` for what is fast on the device (see :mod:`bottleneck.backbones.precision`).
            The MobileNets and EfficientNetV2, whose features rounding changes much, turn ``auto``
            into ``float32``.
        weights: Weights: ``imagenet``, ``random:SEED``, or the path or URI of a weights file (.h5,
            .weights.h5, .keras or .npz); ``none`` for a backbone without weights.
        weights_sha256: SHA-256 (hex) that the weights file must have; None to accept any.

    Raises:
        BackboneError: A value is not allowed, or not with this backbone.
    """

    name: str = "vgg16"
    alpha: float | None = None
    layer: str | None = None
    pooling: str = "none"
    image_size: tuple[int, int] | None = None
    preprocessing: str = "own"
    precision: str = "auto"
    weights: str = "imagenet"
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        self._set("name", canonical_name(self.name))
        _require("pooling", self.pooling, POOLINGS)
        _require("preprocessing", self.preprocessing, PREPROCESSINGS)
        _require("precision", self.precision, PRECISIONS)
        if self.name == CHANNEL_MEANS:
            self._check_channel_means()
            return
        family = FAMILIES[self.name]
        if self.preprocessing == "rescale" and family.normalizes_inside:
            raise BackboneError(
                f"preprocessing 'rescale' is not possible with {self.name}: its own first layers "
                "take pixels of 0 to 255 and normalize them; use preprocessing 'own'"
            )
        if self.precision == "auto" and family.rounds_badly:
            self._set("precision", "float32")
        self._check_alpha(family)
        self._check_image_size(family.min_size)
        self._check_weights()

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the backbone takes."""
        if self.image_size is not None:
            return self.image_size
        side = 32 if self.name == CHANNEL_MEANS else FAMILIES[self.name].size
        return side, side

    def decode_options(self, **choices: Any) -> DecodeOptions:
        """Returns the options that decode images to what the backbone takes.

        Args:
            choices: Any fields of ``DecodeOptions`` but height and width.

        Raises:
            ConfigError: A value is not allowed.
        """
        height, width = self.input_size
        return DecodeOptions(height, width, **choices)

    @property
    def seed(self) -> int | None:
        """Seed of ``random:SEED`` weights; None for weights of another kind."""
        match = _RANDOM.fullmatch(self.weights)
        return int(match[1]) if match else None

    @property
    def weights_file(self) -> str | None:
        """Path or URI of the weights file; None for weights that have a name."""
        named = self.weights in ("imagenet", "none") or self.seed is not None
        return None if named else self.weights

    def _set(self, field: str, value: object) -> None:
        # The one way to normalize a field of a frozen dataclass while it is being made.
        object.__setattr__(self, field, value)

    def _check_channel_means(self) -> None:
        if self.weights == "imagenet":
            self._set("weights", "none")
        wrong = {
            "weights": self.weights != "none",
            "weights_sha256": self.weights_sha256 is not None,
            "alpha": self.alpha is not None,
            "layer": self.layer not in (None, "channel_means"),
            "pooling": self.pooling != "none",
            "precision": self.precision not in ("auto", "float32"),
        }
        for field, refused in wrong.items():
            if refused:
                raise BackboneError(
                    f"{field} {getattr(self, field)!r} is not possible with {CHANNEL_MEANS}, "
                    f"which has no weights and no inner layers; leave {field} out"
                )
        self._set("precision", "float32")
        self._check_image_size(1)

    def _check_alpha(self, family: Family) -> None:
        if not family.alphas:
            if self.alpha is not None:
                having = ", ".join(f.name for f in FAMILIES.values() if f.alphas)
                raise BackboneError(
                    f"{self.name} has no alpha (got {self.alpha}); leave it out, or choose one "
                    f"of {having}"
                )
            return
        self._set("alpha", 1.0 if self.alpha is None else float(self.alpha))
        alpha = self.alpha or 0.0
        if not 0.0 < alpha <= 10.0:
            raise BackboneError(f"alpha must be above 0 and at most 10, got {self.alpha}")
        if self.weights == "imagenet" and alpha not in family.alphas:
            raise BackboneError(
                f"there are no ImageNet weights of {self.name} for alpha {alpha}; choose one of "
                f"{', '.join(map(str, family.alphas))}, or give --weights PATH"
            )

    def _check_image_size(self, min_size: int) -> None:
        size = self.image_size
        if size is None:
            return
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise BackboneError(f"image_size must be (height, width) in pixels, got {size!r}")
        if min(size) < min_size:
            raise BackboneError(
                f"image_size {size[0]}x{size[1]} is too small for {self.name}; the smallest is "
                f"{min_size}x{min_size}"
            )

    def _check_weights(self) -> None:
        kinds = "imagenet, random:SEED with an integer seed, or the path or URI of a weights file"
        if self.seed is None and self.weights != "imagenet":
            if self.weights in ("", "none") or self.weights.startswith("random"):
                raise BackboneError(
                    f"weights {self.weights!r} are not possible with {self.name}; give {kinds}"
                )
            if not weights_file_name(self.weights).lower().endswith(WEIGHT_SUFFIXES):
                raise BackboneError(
                    f"weights {redact_uri(self.weights)!r} have no known format; give {kinds} "
                    f"that ends in {', '.join(WEIGHT_SUFFIXES)}"
                )
        if self.weights_sha256 is None:
            return
        self._set("weights_sha256", self.weights_sha256.lower().removeprefix("sha256:"))
        if not _SHA256.fullmatch(self.weights_sha256):
            raise BackboneError(
                f"weights_sha256 must be 64 hexadecimal digits, got {self.weights_sha256!r}; "
                "sha256sum FILE prints them"
            )
        if self.seed is not None:
            raise BackboneError(
                f"weights_sha256 is of a weights file and {self.weights!r} has none; leave it out"
            )


def weights_file_name(uri: str) -> str:
    """Returns the URI's last part, without a query (``?...``) that is not part of the name."""
    name = uri.rsplit("/", 1)[-1]
    return name.partition("?")[0] if scheme_of(uri) in ("http", "https") else name


def _require(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BackboneError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")


def backbone_of(spec: FeatureSpec, weights: str | None = None) -> BackboneConfig:
    """Returns the configuration of the backbone that a specification describes.

    Args:
        spec: The specification; it holds a digest of the weights, not the weights.
        weights: Path or URI of the weights; when None, the seed in the digest, else Keras's own.

    Raises:
        BackboneError: The combination is not possible.
    """
    seeded = re.match(r"random:(\d+) ", spec.weights)
    if spec.backbone == CHANNEL_MEANS:
        if weights is not None:
            raise BackboneError(f"{CHANNEL_MEANS} has no weights; drop --weights {weights}")
        return BackboneConfig(
            spec.backbone,
            image_size=spec.image_size,
            preprocessing=spec.preprocessing,
            weights="none",
        )
    found = weights or (f"random:{seeded[1]}" if seeded else "imagenet")
    return BackboneConfig(
        spec.backbone,
        alpha=spec.alpha,
        layer=spec.layer,
        pooling=spec.pooling,
        image_size=spec.image_size,
        preprocessing=spec.preprocessing,
        precision=spec.precision,
        weights=found,
    )


def require_same_weights(spec: FeatureSpec, found: FeatureSpec) -> None:
    """Refuses a backbone whose weights are not those that the table was made with.

    Raises:
        BackboneError: They differ.
    """
    if found.weights != spec.weights:
        raise BackboneError(
            f"the table's features are of {spec.backbone} with the weights {spec.weights}, and "
            f"these are {found.weights}; give the file that the table was made with as --weights"
        )
