"""Heads: small dense classifiers on bottleneck features, as Keras models.

>>> head = build_head(HeadConfig(shape=(7, 7, 512), classes=2))
>>> head.predict(features)  # (N, 7, 7, 512) float32 → (N, 2) probabilities
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Minimum of a feature's standard deviation, as a share of the mean over all features: channels
#: that are silent in nearly all training images would otherwise be amplified a thousandfold in the
#: first other image that activates them.
_MIN_DEVIATION = 0.1


@dataclass(frozen=True)
class HeadConfig:
    """What a head looks like.

    Attributes:
        shape: Shape of one image's features.
        classes: Number of labels.
        hidden: Units of the hidden layers; none for a linear head.
        pool: ``none``, ``avg`` or ``max`` over the map before anything else.
        dropout: Share of each hidden layer's units dropped while training.
        l2: Weight of the penalty on squared kernels.
        standardize: Whether features are standardized first.
        binary: One sigmoid output, the probability of the second label, instead of a softmax.
        seed: Seed of the initial weights.
    """

    shape: tuple[int, ...]
    classes: int
    hidden: tuple[int, ...] = (256,)
    pool: str = "none"
    dropout: float = 0.5
    l2: float = 0.0
    standardize: bool = True
    binary: bool = False
    seed: int = 0

    @property
    def outputs(self) -> int:
        """Number of output units."""
        return 1 if self.binary else self.classes


def build_head(config: HeadConfig) -> Any:
    """Builds the Keras model, with initial weights that depend on the seed alone.

    Returns:
        ``keras.Model``, (N, *shape) float32 → (N, classes) probabilities, or (N, 1) for a binary
        head. Layers are called `standardize`, `hidden_1`, …, `logits` and `probabilities`.
    """
    import keras

    layers = keras.layers
    penalty = keras.regularizers.L2(config.l2) if config.l2 else None

    def dense(units: int, number: int, **options: Any) -> Any:
        start = keras.initializers.GlorotUniform(seed=(config.seed * 1000 + number) % 2**32)
        return layers.Dense(units, kernel_initializer=start, kernel_regularizer=penalty, **options)

    inputs = keras.Input(config.shape, dtype="float32", name="features")
    x = inputs
    if config.pool != "none":
        kind = layers.GlobalAveragePooling2D if config.pool == "avg" else layers.GlobalMaxPooling2D
        x = kind(name="pool")(x)
    if len(x.shape) > 2:
        x = layers.Flatten(name="flatten")(x)
    if config.standardize:
        layer = layers.Normalization(axis=-1, name="standardize")
        layer.build(x.shape)
        layer.finalize_state()
        x = layer(x)
    for number, units in enumerate(config.hidden, 1):
        x = dense(units, number, activation="relu", name=f"hidden_{number}")(x)
        if config.dropout:
            x = layers.Dropout(config.dropout, name=f"dropout_{number}")(x)
    x = dense(config.outputs, 0, name="logits")(x)
    kind = "sigmoid" if config.binary else "softmax"
    outputs = layers.Activation(kind, name="probabilities")(x)
    return keras.Model(inputs, outputs, name="head")


def set_standardization(
    head: Any,
    total: npt.NDArray[np.float64],
    squares: npt.NDArray[np.float64],
    count: int,
) -> None:
    """Stores the training rows' statistics in the head.

    Args:
        head: Model of :func:`build_head` with a `standardize` layer.
        total: (L,) sums of the training rows' features.
        squares: (L,) sums of their squares.
        count: Number of training rows.
    """
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    floor = (_MIN_DEVIATION * np.sqrt(variance).mean()) ** 2
    # All features constant: dividing by one leaves the head to learn nothing, not NaN.
    variance = np.maximum(variance, floor if floor > 0 else 1.0)
    layer = head.get_layer("standardize")
    layer.adapt_mean.assign(mean.astype(np.float32).reshape(layer.adapt_mean.shape))
    layer.adapt_variance.assign(variance.astype(np.float32).reshape(layer.adapt_variance.shape))
    layer.finalize_state()


def dense_part(head: Any) -> Sequence[Any]:
    """Returns the layers from `standardize` to `logits`, in order: vectors in, logits out."""
    skipped = ("features", "pool", "flatten", "probabilities")
    return [layer for layer in head.layers if layer.name not in skipped]


def class_probabilities(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns a head's outputs with one column per class: (N, 1) or (N, C) → (N, C)."""
    if outputs.shape[1] > 1:
        return outputs
    return np.concatenate([1 - outputs, outputs], axis=1)
