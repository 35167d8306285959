"""The known backbones: their names, and what differs between their families."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bottleneck.errors import BackboneError

#: Name of the built-in backbone of tests and benchmarks.
CHANNEL_MEANS = "channel-means"


@dataclass(frozen=True)
class Family:
    """One model of ``keras.applications``.

    Attributes:
        name: Name that ``--backbone`` takes.
        module: Module in ``keras.applications`` that holds ``preprocess_input``.
        constructor: The model's function in ``keras.applications``.
        size: Side in pixels of the square input that the ImageNet weights were trained on.
        min_size: Smallest side that Keras accepts, in pixels.
        normalizes_inside: Whether the model's first layers do the preprocessing, so that its
            ``preprocess_input`` changes nothing.
        alphas: Width multipliers that have ImageNet weights; empty for a family without alpha.
        imagenet_rescales: Whether the architecture for the ImageNet weights has one layer more (a
            correction of their training's normalization) than the one for other weights.
        rounds_badly: Whether rounding grows through the model, so that ``auto`` means float32.
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
#: Names of all backbones. The built-in one makes the means of R, G and B: exact and cheap, so that
#: a test can tell which image some features belong to and a benchmark costs no model time.
BACKBONES: tuple[str, ...] = (*FAMILIES, CHANNEL_MEANS)


def canonical_name(name: str) -> str:
    """Returns the spelling of ``name`` in ``BACKBONES``; ``efficientnet_b0`` is understood.

    Raises:
        BackboneError: There is no such backbone; the message offers the nearest names.
    """
    known = {_plain(known): known for known in BACKBONES}
    if _plain(name) in known:
        return known[_plain(name)]
    # The built-in for tests is no answer to a user who mistyped a network's name.
    raise BackboneError(
        f"unknown backbone {name!r}; {nearest(_plain(name), FAMILIES, 'known backbones')}"
    )


#: Maximum number of names that a message lists; there are fewer families.
_MOST_NAMES = 60


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """Returns a phrase that offers the names most like ``name``, or all names if none is like it.

    Of very many names the last are listed: the layers that features are usually taken from.
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
