"""A backbone as a Keras model: uint8 images in, float32 features out.

The application is built and loaded in float32; for another precision its layers are then cloned
with that policy. Keras's global policy and random state are left as they were found.
"""

from __future__ import annotations

import contextlib
import random
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.families import FAMILIES, Family, nearest
from bottleneck.backbones.keras_internals import keras_requests
from bottleneck.backbones.weight_loading import layer_names, load_weights, set_random_weights
from bottleneck.backbones.weights import (
    WeightsFile,
    file_matches,
    imagenet_file,
    resolve_weights,
)
from bottleneck.console.redaction import one_line
from bottleneck.errors import BackboneError

# Keras keeps its global policy and its numbering of layers in one place for all threads.
_BUILD_LOCK = threading.RLock()


@dataclass(frozen=True)
class BuiltModel:
    """A backbone's Keras model, and what is known only after building it.

    Attributes:
        model: (N, height, width, 3) uint8 RGB → (N, ...shape) float32.
        layer: Name of the layer whose output (pooled or not) the features are.
        weights_digest: Digest of the weights, as in ``FeatureSpec.weights``.
    """

    model: Any
    layer: str
    weights_digest: str


def build_model(config: BackboneConfig, precision: str) -> BuiltModel:
    """Builds the model of ``config``, weights and preprocessing included.

    Args:
        config: Configuration of the backbone; any but ``channel-means``.
        precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        BackboneError: There is no such layer, a layer that is not a map should be pooled, or the
            weights are not available or do not fit.
    """
    import keras

    if keras.config.image_data_format() != "channels_last":
        raise BackboneError(
            "Keras is set to image_data_format 'channels_first', which backbones do not support; "
            'set "channels_last" in ~/.keras/keras.json'
        )
    family = FAMILIES[config.name]
    with _neutral_keras():
        base, digest, layer = _loaded(config, family)
        if precision != "float32":
            base = _with_precision(base, precision)
        images = keras.Input((*config.input_size, 3), dtype="uint8", name="images")
        pixels = keras.ops.cast(images, "float32")
        features = _up_to(base, layer)(_preprocessed(pixels, family, config.preprocessing))
        features = _pooled(features, config.pooling, layer)
        model = keras.Model(images, keras.ops.cast(features, "float32"), name=config.name)
    return BuiltModel(model, layer, digest)


def channel_means_model(config: BackboneConfig) -> Any:
    """Builds the Keras model that computes what the built-in ``channel-means`` backbone does."""
    import keras

    with _neutral_keras():
        images = keras.Input((*config.input_size, 3), dtype="uint8", name="images")
        pixels = keras.ops.cast(images, "float32")
        if config.preprocessing == "rescale":
            pixels = pixels / 255.0
        return keras.Model(images, keras.ops.mean(pixels, axis=(1, 2)), name="channel_means")


@contextlib.contextmanager
def _neutral_keras() -> Iterator[None]:
    """Sets the global policy to float32 in the block, and restores policy and random state."""
    import keras

    with _BUILD_LOCK:
        policy, state = keras.config.dtype_policy(), random.getstate()
        keras.config.set_dtype_policy("float32")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(policy)
            random.setstate(state)


def _application(config: BackboneConfig, family: Family, weights: str | None) -> Any:
    import keras

    constructor = getattr(keras.applications, family.constructor)
    arguments: dict[str, Any] = {"alpha": config.alpha} if family.alphas else {}
    with warnings.catch_warnings():
        # The MobileNets warn that sizes without weights of their own use those of 224 pixels.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        try:
            return constructor(
                include_top=False, weights=weights, input_shape=(*config.input_size, 3), **arguments
            )
        except ValueError as e:
            raise BackboneError(
                f"Keras cannot build {config.name} with image_size {config.input_size} and alpha "
                f"{config.alpha}: {one_line(e, kind=True)}"
            ) from e


def _loaded(config: BackboneConfig, family: Family) -> tuple[Any, str, str]:
    """Returns the application with its weights, their digest, and the name of the layer."""
    if config.weights == "imagenet":
        file, base = imagenet_file(
            lambda: _application(config, family, "imagenet"), config.name, config.weights_sha256
        )
        return base, f"sha256:{file.sha256}", _layer_name(base, config)
    if config.seed is not None:
        base = _application(config, family, None)
        layer = _layer_name(base, config)
        return base, f"random:{config.seed} sha256:{set_random_weights(base, config.seed)}", layer
    file = resolve_weights(config.weights, config.weights_sha256)
    official = _official(config, family, file)
    base = official if official is not None else _application(config, family, None)
    layer = _layer_name(base, config)
    if official is None:
        load_weights(base, _up_to(base, layer), file.path, config.name)
    return base, f"sha256:{file.sha256}", layer


class _NotOfficialError(Exception):
    """The file at hand is not the one that Keras would download."""


def _official(config: BackboneConfig, family: Family, file: WeightsFile) -> Any | None:
    """Returns the ImageNet architecture with ``file`` loaded, if it differs and is Keras's file.

    EfficientNet's has a layer that corrects the normalization those weights were trained with;
    Keras leaves it out when the same file is given by path, and the features come out wrong.
    """
    if not family.imagenet_rescales:
        return None

    def answer(
        _fname: str, _origin: str, *, file_hash: str | None = None, **_unused: object
    ) -> str:
        if file_hash is None or not file_matches(file.path, file_hash):
            raise _NotOfficialError
        return str(file.path)

    try:
        with keras_requests(answer):
            return _application(config, family, "imagenet")
    except _NotOfficialError:
        return None


def _layer_name(base: Any, config: BackboneConfig) -> str:
    names = [name for name in layer_names(base) if not name.startswith("input_layer")]
    if config.layer is None:
        return names[-1]
    if config.layer not in names:
        raise BackboneError(
            f"{config.name} has no layer {config.layer!r}; {nearest(config.layer, names, 'layers')}"
        )
    return config.layer


def _up_to(base: Any, layer: str) -> Any:
    import keras

    return keras.Model(base.inputs[0], layer_names(base)[layer].output)


def _with_precision(base: Any, precision: str) -> Any:
    """Returns a copy whose layers compute in ``precision`` and keep their variables in float32.

    Layers that normalize pixels stay float32: their input has 8 significant bits, their output
    should be rounded once, not at each of three steps.
    """
    import keras

    def converted(layer: Any) -> Any:
        exact = isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)
        config = layer.get_config()
        if not isinstance(layer, keras.layers.Layer):
            # A bare operation (the + of a residual): computes in the dtype it is given.
            return type(layer).from_config(config)
        config["dtype"] = "float32" if exact else f"mixed_{precision}"
        return type(layer).from_config(config)

    copy = keras.models.clone_model(base, clone_function=converted, recursive=True)
    copy.set_weights(base.get_weights())
    return copy


def _preprocessed(pixels: Any, family: Family, preprocessing: str) -> Any:
    import keras

    if preprocessing == "rescale":
        return pixels / 255.0
    return getattr(keras.applications, family.module).preprocess_input(pixels)


def _pooled(features: Any, pooling: str, layer: str) -> Any:
    import keras

    if pooling == "none":
        return features
    if len(features.shape) != 4:
        raise BackboneError(
            f"pooling {pooling!r} needs a map (height, width, channels) and the layer {layer} "
            f"gives {tuple(features.shape[1:])}; use pooling 'none' or another layer"
        )
    if pooling == "max":
        return keras.ops.max(features, axis=(1, 2))
    # The mean is taken in float32 and rounded once to the precision of the computation.
    mean = keras.ops.mean(keras.ops.cast(features, "float32"), axis=(1, 2))
    return keras.ops.cast(mean, features.dtype)
