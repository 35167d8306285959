"""What a backbone is, told by a worker that built it."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec


@dataclass(frozen=True)
class Description:
    """What a backbone is once it is built.

    Attributes:
        spec: Of the features it will make.
        weights_bytes: Size of its weights in float32.
    """

    spec: FeatureSpec
    weights_bytes: int


@ray.remote
def describe(backbone: BackboneConfig, decoded: DecodeOptions) -> Description:
    """Builds the backbone once, with its weights.

    Args:
        backbone: Which one.
        decoded: How its images are decoded.
    """
    built = Backbone(backbone, batch_size=1)
    return Description(built.spec(decoded), built.weights_bytes)
