"""Specifications of made-up features, for benchmarks and tests."""

from __future__ import annotations

from typing import Any

from bottleneck.spec import FeatureSpec


def make_spec(shape: tuple[int, ...] = (3,), **changes: Any) -> FeatureSpec:
    """Returns a specification of features of this shape, with other values where given."""
    values: dict[str, Any] = {
        "backbone": "vgg16",
        "alpha": None,
        "weights": "none",
        "layer": "block5_pool",
        "shape": shape,
        "pooling": "none",
        "image_size": (8, 8),
        "resize": "squash",
        "interpolation": "bilinear",
        "decode": "fast",
        "preprocessing": "own",
        "precision": "float32",
    }
    return FeatureSpec(**(values | changes))
