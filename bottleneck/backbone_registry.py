"""The backbones there are, by name, and what may be asked of each; needs neither Keras nor Ray.

So ``--help`` and every check of a configuration are instant, and a wrong name is answered with
the nearest right one before a second of work is done.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bottleneck.errors import BackboneError
from bottleneck.precision import PRECISIONS
from bottleneck.uris import redact_uri, scheme_of

POOLINGS = ("none", "avg", "max")
PREPROCESSINGS = ("own", "rescale")
WEIGHT_SUFFIXES = (".h5", ".hdf5", ".keras", ".npz")
CHANNEL_MEANS = "channel-means"

_RANDOM = re.compile(r"random:(\d+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Family:
    """One model of ``keras.applications``.

    Attributes:
        name: as ``--backbone`` takes it.
        module: the module in ``keras.applications`` that holds ``preprocess_input``.
        constructor: the model's function in ``keras.applications``.
        size: side in pixels of the square input that the ImageNet weights were trained on.
        min_size: the smallest side that Keras accepts, in pixels.
        normalizes_inside: the model's first layers do the preprocessing and its
            ``preprocess_input`` changes nothing.
        alphas: width multipliers that have ImageNet weights; empty for a family without alpha.
        imagenet_rescales: the architecture for the ImageNet weights has one layer more (a
            correction of their training's normalization) than the one for other weights.
        rounds_badly: rounding grows through the model, so ``auto`` precision means float32.
            Change of the features (norm) by bfloat16, by float16: MobileNet 0.25 with its real
            weights, 200 photos, pooled 11 %, 1.1 %; with seeded weights MobileNetV2 10 %,
            1.5 %, MobileNetV3 4 %, 0.8 %, EfficientNetV2 15 %, 2.7 %; VGG16 0.7 %, 0.1 %.
    """

    name: str
    module: str
    constructor: str
    size: int
    min_size: int = 32
    normalizes_inside: bool = False
    alphas: tuple[float, ...] = ()
    imagenet_rescales: bool = False
    rounds_badly: bool = False


def _families() -> Iterable[Family]:
    yield Family("vgg16", "vgg16", "VGG16", 224)
    yield Family("vgg19", "vgg19", "VGG19", 224)
    for depth in (50, 101, 152):
        yield Family(f"resnet{depth}", "resnet", f"ResNet{depth}", 224)
        yield Family(f"resnet{depth}v2", "resnet_v2", f"ResNet{depth}V2", 224)
    yield Family("inceptionv3", "inception_v3", "InceptionV3", 299, min_size=75)
    yield Family("xception", "xception", "Xception", 299, min_size=71)
    yield Family("inceptionresnetv2", "inception_resnet_v2", "InceptionResNetV2", 299, min_size=75)
    yield Family(
        "mobilenet",
        "mobilenet",
        "MobileNet",
        224,
        alphas=(0.25, 0.5, 0.75, 1.0),
        rounds_badly=True,
    )
    yield Family(
        "mobilenetv2",
        "mobilenet_v2",
        "MobileNetV2",
        224,
        alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        rounds_badly=True,
    )
    for variant in ("Small", "Large"):
        name = f"MobileNetV3{variant}"
        yield Family(
            name.lower(),
            "mobilenet_v3",
            name,
            224,
            normalizes_inside=True,
            alphas=(0.75, 1.0),
            rounds_badly=True,
        )
    # Sizes from the papers, as keras.applications states them (a test compares).
    for i, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600)):
        yield Family(
            f"efficientnetb{i}",
            "efficientnet",
            f"EfficientNetB{i}",
            size,
            normalizes_inside=True,
            imagenet_rescales=True,
        )
    v2_sizes = {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "S": 384, "M": 480, "L": 480}
    for variant, size in v2_sizes.items():
        name = f"EfficientNetV2{variant}"
        yield Family(
            name.lower(), "efficientnet_v2", name, size, normalizes_inside=True, rounds_badly=True
        )
    for depth in (121, 169, 201):
        yield Family(f"densenet{depth}", "densenet", f"DenseNet{depth}", 224)
    for variant in ("Tiny", "Small", "Base", "Large", "XLarge"):
        name = f"ConvNeXt{variant}"
        yield Family(name.lower(), "convnext", name, 224, normalizes_inside=True)
    yield Family("nasnetmobile", "nasnet", "NASNetMobile", 224)
    yield Family("nasnetlarge", "nasnet", "NASNetLarge", 331)


FAMILIES: dict[str, Family] = {family.name: family for family in _families()}
# The tiny built-in: an image's features are the means of its R, G and B. Exact and cheap, so
# that a test can tell which image some features belong to and a benchmark costs no model time.
BACKBONES: tuple[str, ...] = (*FAMILIES, CHANNEL_MEANS)


def canonical_name(name: str) -> str:
    """The registry's spelling of ``name``: ``VGG16`` and ``efficientnet_b0`` are understood.

    Raises:
        BackboneError: there is no such backbone; the message offers the nearest names.
    """
    known = {_plain(known): known for known in BACKBONES}
    if _plain(name) in known:
        return known[_plain(name)]
    raise BackboneError(
        f"unknown backbone {name!r}; {nearest(_plain(name), known, 'known backbones')}"
    )


#: Of more names than this only some are told. All families are fewer.
_MOST_NAMES = 60


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """A phrase that offers the names most like ``name``, or the names when none is like it.

    Of very many the last are told: of a backbone's layers those that features are taken from.
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(close)}"
    if len(names) > _MOST_NAMES:
        return f"the last of {len(names)} {what}: {', '.join(names[-12:])}"
    return f"{what}: {', '.join(names)}"


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


@dataclass(frozen=True)
class BackboneConfig:
    """Which features are wanted; checked when made, without loading Keras.

    Attributes:
        name: a backbone of ``BACKBONES``; case, ``-`` and ``_`` do not matter.
        alpha: width multiplier of the MobileNets (1.0 when None); None for all others.
        layer: the layer whose output is wanted; None for the last one before the classifier.
            Layers that Keras numbers are named as in a fresh process (``conv2d_93``).
        pooling: ``none`` for the layer's whole map, ``avg`` or ``max`` over its positions.
        image_size: (height, width) of the input in pixels; None for the family's own.
        preprocessing: ``own`` is the family's ``preprocess_input``; ``rescale`` divides by 255
            instead, to reproduce models that were trained so. Families that normalize inside
            the model (EfficientNet, EfficientNetV2, MobileNetV3, ConvNeXt) refuse ``rescale``,
            which would normalize twice.
        precision: of the computation: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for
            what is fast on the device (see ``precision.resolve_precision``); the MobileNets
            and EfficientNetV2, whose features rounding changes much, turn it into ``float32``.
        weights: ``imagenet``, ``random:SEED``, or the path or URI of a weights file (.h5,
            .weights.h5, .keras or .npz); ``none`` for a backbone without weights.
        weights_sha256: hex digest that the weights file must have; None to accept any.

    Raises:
        BackboneError: a value is not allowed, or not with this backbone.
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

    @property
    def seed(self) -> int | None:
        """The seed of ``random:SEED`` weights; None for weights of another kind."""
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
    """The URI's last part, without the query (``?...``) where that is not part of the name."""
    name = uri.rsplit("/", 1)[-1]
    return name.partition("?")[0] if scheme_of(uri) in ("http", "https") else name


def _require(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BackboneError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")
