"""The backbone that computed a table's features, built again from the table's specification."""

from __future__ import annotations

import re

from bottleneck.backbone_registry import CHANNEL_MEANS, BackboneConfig
from bottleneck.errors import BackboneError
from bottleneck.spec import FeatureSpec


def backbone_of(spec: FeatureSpec, weights: str | None = None) -> BackboneConfig:
    """Returns the configuration of the backbone that a specification describes.

    Args:
        spec: The specification; it holds a digest of the weights, not the weights.
        weights: Where they are; found out from the digest when not given: a seed, else Keras's.

    Raises:
        BackboneError: The combination is not possible.
    """
    drawn = re.match(r"random:(\d+) ", spec.weights)
    if spec.backbone == CHANNEL_MEANS:
        if weights is not None:
            raise BackboneError(f"{CHANNEL_MEANS} has no weights; drop --weights {weights}")
        return BackboneConfig(
            spec.backbone,
            image_size=spec.image_size,
            preprocessing=spec.preprocessing,
            weights="none",
        )
    found = weights or (f"random:{drawn[1]}" if drawn else "imagenet")
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
