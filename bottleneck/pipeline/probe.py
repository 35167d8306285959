"""Properties of a backbone that are only known once it is built, on a worker."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec


@dataclass(frozen=True)
class Description:
    """Properties of a backbone that was built.

    Attributes:
        spec: Specification of its features.
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
