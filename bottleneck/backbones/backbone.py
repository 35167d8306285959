"""A backbone: images in, bottleneck features out; needs no cluster.

>>> backbone = Backbone.of("vgg16")
>>> features = backbone(images)  # (N, 224, 224, 3) uint8 RGB → (N, 7, 7, 512) float32
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.families import CHANNEL_MEANS
from bottleneck.backbones.precision import detect_hardware, resolve_precision
from bottleneck.backbones.runtime import (
    Features,
    Images,
    compiled,
    configure_backend,
    require_exact_float32,
)
from bottleneck.errors import BackboneError
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec


class Backbone:
    """A compiled function from images to features, with a fixed batch shape.

    Preprocessing runs inside it, in float32, on the device. Making a backbone loads Keras and the
    weights; it can then be called any number of times.

    Attributes:
        config: Configuration of the backbone.
        batch_size: Images computed at once; the last batch is padded.
        image_size: (height, width) in pixels that images must have.
        precision: Number format of the computation: ``float32``, ``bfloat16`` or ``float16``.
        layer: Name of the layer whose output the features are.
        shape: Shape of one image's features, channels last.
        weights_digest: Digest of the weights, as in ``FeatureSpec.weights``.
    """

    def __init__(self, config: BackboneConfig, *, batch_size: int = 32, threads: int = 0) -> None:
        """Loads the model.

        Args:
            config: Configuration of the backbone.
            batch_size: Images per step; VGG16 was measured with 32 on two cores.
            threads: Cores per operation (TensorFlow only); 0 for all. TensorFlow takes it once per
                process, before its first operation.

        Raises:
            BackboneError: The weights are not available or do not fit, there is no such layer, or
                ``threads`` comes too late.
        """
        if batch_size < 1 or threads < 0:
            raise BackboneError(
                f"batch_size must be at least 1 and threads at least 0, got {batch_size} and "
                f"{threads}"
            )
        self.config = config
        self.batch_size = batch_size
        self.image_size = config.input_size
        if config.name == CHANNEL_MEANS:
            self.precision, self.layer, self.weights_digest = "float32", "channel_means", "none"
            self.shape: tuple[int, ...] = (3,)
            self._compute: Callable[[Images], Features] = self._channel_means
            return

        from bottleneck.backbones.keras_models import build_model

        configure_backend(threads)
        self.precision = resolve_precision(config.precision, detect_hardware())
        require_exact_float32(self.precision)
        built = build_model(config, self.precision)
        self.model = built.model
        self.layer, self.weights_digest = built.layer, built.weights_digest
        self.shape = tuple(int(side) for side in built.model.output_shape[1:])
        self._compute = compiled(built.model, (batch_size, *self.image_size, 3))

    @classmethod
    def of(cls, name: str, *, batch_size: int = 32, threads: int = 0, **config: Any) -> Backbone:
        """Makes a backbone from keywords: ``Backbone.of("vgg16", weights="random:0")``."""
        return cls(BackboneConfig(name, **config), batch_size=batch_size, threads=threads)

    def __call__(self, images: Images) -> Features:
        """Computes the features of any number of images.

        Args:
            images: (N, height, width, 3) uint8, RGB, of ``image_size``; N may be 0.

        Returns:
            (N, ...shape) float32, in the order of the images. Values computed in bfloat16 or
            float16 are exactly representable there.

        Raises:
            BackboneError: The array has another shape or dtype, or an activation overflowed.
        """
        expected = (*self.image_size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise BackboneError(
                f"images must be (N, {', '.join(map(str, expected))}) uint8 RGB for "
                f"{self.config.name}, got {images.shape} {images.dtype}"
            )
        features = np.empty((len(images), *self.shape), np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            count = len(batch)
            if count < self.batch_size:
                padding = np.zeros((self.batch_size - count, *expected), np.uint8)
                batch = np.concatenate([batch, padding])
            features[start : start + count] = self._compute(batch)[:count]
        if not np.isfinite(features).all():
            raise BackboneError(
                f"some features of {self.config.name} are not finite in {self.precision}: float16 "
                "overflows above 65504, and weights may be broken; use precision float32, or "
                "other weights"
            )
        return features

    def decode_options(self, **choices: Any) -> DecodeOptions:
        """Returns the options that decode images to what this backbone takes.

        Args:
            choices: Any fields of ``DecodeOptions`` but height and width.
        """
        return self.config.decode_options(**choices)

    def spec(self, decoded: DecodeOptions) -> FeatureSpec:
        """Returns the specification of this backbone's features.

        Args:
            decoded: How the images were decoded.

        Raises:
            BackboneError: They were decoded to another size than the backbone takes.
        """
        if (decoded.height, decoded.width) != self.image_size:
            raise BackboneError(
                f"images were decoded to {decoded.height}x{decoded.width} and {self.config.name} "
                f"takes {self.image_size[0]}x{self.image_size[1]}; decode them with "
                "Backbone.decode_options()"
            )
        return FeatureSpec(
            backbone=self.config.name,
            alpha=self.config.alpha,
            weights=self.weights_digest,
            layer=self.layer,
            shape=self.shape,
            pooling=self.config.pooling,
            image_size=self.image_size,
            resize=decoded.resize,
            interpolation=decoded.interpolation,
            decode=decoded.decode,
            preprocessing=self.config.preprocessing,
            precision=self.precision,
        )

    @property
    def weights_bytes(self) -> int:
        """Size of the weights in float32."""
        return 0 if self.config.name == CHANNEL_MEANS else 4 * int(self.model.count_params())

    @cached_property
    def model(self) -> Any:
        """The Keras model: (N, height, width, 3) uint8 RGB → (N, ...shape) float32."""
        from bottleneck.backbones.keras_models import channel_means_model

        return channel_means_model(self.config)

    def _channel_means(self, images: Images) -> Features:
        # Sums of uint8 are exact in float64, so the means are the same for every batch and machine.
        means = images.mean(axis=(1, 2), dtype=np.float64)
        if self.config.preprocessing == "rescale":
            means /= 255.0
        features: Features = means.astype(np.float32)
        return features
