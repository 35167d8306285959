"""Heads as Keras models: their layers, what they compute, and their files."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from bottleneck.models.files import keras_bytes, load_keras
from bottleneck.models.heads import (
    HeadConfig,
    build_head,
    class_probabilities,
    dense_part,
    set_standardization,
)

# Raised by Keras, which reads its own variables in an outdated way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Array = npt.NDArray[Any]

SHAPE = (3, 3, 16)
FEATURES = np.random.default_rng(0).gamma(0.5, 2.0, (40, *SHAPE)).astype(np.float32)


def layers_of(head: Any) -> list[tuple[str, tuple[int, ...], int]]:
    """(name, output shape of one row, parameters) of each layer."""
    return [
        (layer.name, tuple(layer.output.shape[1:]), layer.count_params()) for layer in head.layers
    ]


def numpy(tensor: Any) -> Array:
    found: Array = keras.ops.convert_to_numpy(tensor)
    return found


def statistics(values: Array) -> tuple[Array, Array, int]:
    flat = values.reshape(len(values), -1).astype(np.float64)
    return flat.sum(axis=0), (flat**2).sum(axis=0), len(flat)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# Architectures

# Standardizing a feature takes its mean and its variance, and Keras counts the rows beside them.


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (
            HeadConfig(SHAPE, 5),
            [
                ("features", SHAPE, 0),
                ("flatten", (144,), 0),
                ("standardize", (144,), 289),
                ("hidden_1", (256,), 145 * 256),
                ("dropout_1", (256,), 0),
                ("logits", (5,), 257 * 5),
                ("probabilities", (5,), 0),
            ],
        ),
        (
            HeadConfig(SHAPE, 3, hidden=(8, 4), dropout=0.0, standardize=False),
            [
                ("features", SHAPE, 0),
                ("flatten", (144,), 0),
                ("hidden_1", (8,), 145 * 8),
                ("hidden_2", (4,), 9 * 4),
                ("logits", (3,), 5 * 3),
                ("probabilities", (3,), 0),
            ],
        ),
        (
            HeadConfig(SHAPE, 3, hidden=()),
            [
                ("features", SHAPE, 0),
                ("flatten", (144,), 0),
                ("standardize", (144,), 289),
                ("logits", (3,), 145 * 3),
                ("probabilities", (3,), 0),
            ],
        ),
        (
            HeadConfig(SHAPE, 3, hidden=(8,), pool="avg", dropout=0.1),
            [
                ("features", SHAPE, 0),
                ("pool", (16,), 0),
                ("standardize", (16,), 33),
                ("hidden_1", (8,), 17 * 8),
                ("dropout_1", (8,), 0),
                ("logits", (3,), 9 * 3),
                ("probabilities", (3,), 0),
            ],
        ),
        (
            HeadConfig((16,), 2, hidden=(8,), binary=True, standardize=False),
            [
                ("features", (16,), 0),
                ("hidden_1", (8,), 17 * 8),
                ("dropout_1", (8,), 0),
                ("logits", (1,), 9),
                ("probabilities", (1,), 0),
            ],
        ),
    ],
    ids=["mlp", "two-hidden", "linear", "pool", "binary-vector"],
)
def test_layers(config: HeadConfig, wanted: list[tuple[str, tuple[int, ...], int]]) -> None:
    head = build_head(config)
    assert layers_of(head) == wanted
    assert head.input_shape == (None, *config.shape)
    assert head.output_shape == (None, config.outputs)
    assert head.name == "head"
    assert {layer.compute_dtype for layer in head.layers} == {"float32"}
    inner = [name for name, *_ in wanted if name not in ("features", "flatten", "pool")][:-1]
    assert [layer.name for layer in dense_part(head)] == inner


def test_a_tutorials_head_is_as_large_as_it_is_there() -> None:
    """Dense 256 on VGG16's 7×7×512 and one output: 6,423,041 parameters."""
    config = HeadConfig((7, 7, 512), 2, binary=True, standardize=False)
    head = build_head(config)
    assert head.count_params() == (25_088 + 1) * 256 + 257 == 6_423_041


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_what_a_head_computes(pool: str) -> None:
    config = HeadConfig(SHAPE, 3, hidden=(8,), pool=pool, dropout=0.5)
    head = build_head(config)
    pooled = FEATURES.mean(axis=(1, 2)) if pool == "avg" else FEATURES.max(axis=(1, 2))
    set_standardization(head, *statistics(pooled))
    kernel, bias, kernel_out, bias_out = [numpy(w) for w in head.trainable_variables]
    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    head.trainable_variables[1].assign(bias)
    standard = (pooled - pooled.mean(axis=0)) / pooled.std(axis=0)
    hidden = np.maximum(0, standard @ kernel + bias)
    wanted = softmax(hidden @ kernel_out + bias_out)
    # No dropout when predicting.
    np.testing.assert_allclose(head.predict(FEATURES, verbose=0), wanted, rtol=1e-4, atol=1e-6)


def test_what_a_binary_head_computes() -> None:
    config = HeadConfig((16,), 2, hidden=(), binary=True, standardize=False)
    head = build_head(config)
    values = FEATURES[:, 0, 0]
    kernel, bias = head.get_weights()
    wanted = 1 / (1 + np.exp(-(values @ kernel + bias)))
    found = head.predict(values, verbose=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    both = class_probabilities(found)
    np.testing.assert_array_equal(both, np.concatenate([1 - found, found], axis=1))
    assert class_probabilities(both) is both


def test_the_penalty_is_on_kernels_alone() -> None:
    head = build_head(HeadConfig((16,), 3, hidden=(4,), l2=0.01))
    kernels = [numpy(v) for v in head.trainable_variables if v.name == "kernel"]
    assert len(kernels) == 2
    for variable in head.trainable_variables:
        if variable.name == "bias":
            variable.assign(np.full(variable.shape, 100.0))
    penalty = 0.01 * sum((kernel.astype(np.float64) ** 2).sum() for kernel in kernels)
    assert float(sum(head.losses)) == pytest.approx(penalty, rel=1e-6)
    assert build_head(HeadConfig((16,), 3, hidden=(4,))).losses == []


# Initial weights


def test_equal_seeds_give_equal_weights() -> None:
    config = HeadConfig((16,), 3, hidden=(8, 8))
    first = build_head(config).get_weights()
    keras.utils.set_random_seed(99)
    keras.layers.Dense(3).build((None, 5))
    again = build_head(config).get_weights()
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    others = [
        build_head(HeadConfig((16,), 3, hidden=(8, 8), seed=seed))
        for seed in (1, 2, 1000, 2**62 + 7)
    ]
    kernels = {numpy(head.get_layer("hidden_1").kernel).tobytes() for head in others}
    kernels.add(first[3].tobytes())
    assert first[3].shape == (16, 8)
    assert len(kernels) == 5


def test_layers_of_one_head_differ() -> None:
    head = build_head(HeadConfig((8,), 8, hidden=(8, 8)))
    kernels = {
        numpy(head.get_layer(name).kernel).tobytes() for name in ("hidden_1", "hidden_2", "logits")
    }
    assert len(kernels) == 3


def test_weights_that_pooling_does_not_need_do_not_change_the_others() -> None:
    """The weights of a layer depend on its shape, its place and the seed."""
    mapped = build_head(HeadConfig(SHAPE, 3, hidden=(8,), pool="avg"))
    vectors = build_head(HeadConfig((16,), 3, hidden=(8,)))
    for one, other in zip(mapped.get_weights(), vectors.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# Standardization


def standardized(head: Any, values: Array) -> Array:
    layer = head.get_layer("standardize")
    return numpy(layer(values.reshape(len(values), -1)))


def test_standardisation_is_by_mean_and_deviation_with_a_floor() -> None:
    values = FEATURES.copy()
    values[:, 1, 1, 3] = 7.0
    values[:, 2, 0, 5] = np.where(np.arange(40) == 4, 1e-3, 0.0)
    head = build_head(HeadConfig(SHAPE, 3, hidden=()))
    set_standardization(head, *statistics(values))
    flat = values.reshape(40, -1).astype(np.float64)
    deviation = flat.std(axis=0)
    floor = 0.1 * deviation.mean()
    assert ((deviation < floor).sum(), (deviation == 0).sum()) == (2, 1)
    wanted = (flat - flat.mean(axis=0)) / np.maximum(deviation, floor)
    np.testing.assert_allclose(standardized(head, values), wanted, rtol=1e-4, atol=1e-5)
    # A channel that was silent while training does not drown the others when it wakes.
    awake = values[:1].copy()
    awake[0, 1, 1, 3] += 1
    step = standardized(head, awake) - standardized(head, values[:1])
    assert step.max() == pytest.approx(1 / floor, rel=1e-4)


def test_features_that_are_all_constant_do_not_become_nan() -> None:
    values = np.full((6, *SHAPE), 3.0, np.float32)
    head = build_head(HeadConfig(SHAPE, 3, hidden=()))
    set_standardization(head, *statistics(values))
    np.testing.assert_array_equal(standardized(head, values), np.zeros((6, 144)))
    np.testing.assert_array_equal(standardized(head, values + 1), np.ones((6, 144)))


def test_sums_that_are_off_by_rounding_give_no_negative_variance() -> None:
    head = build_head(HeadConfig((2,), 3, hidden=()))
    set_standardization(head, np.array([30.0, 10.0]), np.array([300.0 - 1e-9, 30.0]), 3)
    layer = head.get_layer("standardize")
    variance = numpy(layer.adapt_variance)
    # Both came out below 0.
    assert variance.tolist() == [1.0, 1.0]
    set_standardization(head, np.array([30.0, 9.0]), np.array([300.0 - 1e-9, 75.0]), 3)
    np.testing.assert_allclose(numpy(layer.adapt_variance), [(0.1 * 2.0) ** 2, 16.0])


def test_a_head_without_statistics_yet_changes_nothing() -> None:
    head = build_head(HeadConfig(SHAPE, 3, hidden=()))
    np.testing.assert_array_equal(standardized(head, FEATURES), FEATURES.reshape(40, -1))


# Files


@pytest.mark.parametrize(
    "config",
    [
        HeadConfig(SHAPE, 3, hidden=(8,), l2=1e-3),
        HeadConfig(SHAPE, 2, hidden=(), pool="max", binary=True),
    ],
    ids=["mlp", "binary"],
)
def test_a_saved_head_predicts_the_same(config: HeadConfig) -> None:
    head = build_head(config)
    values = FEATURES.max(axis=(1, 2)) if config.pool == "max" else FEATURES
    set_standardization(head, *statistics(values))
    loaded = load_keras(keras_bytes(head))
    np.testing.assert_array_equal(
        loaded.predict(FEATURES, verbose=0), head.predict(FEATURES, verbose=0)
    )
    assert layers_of(loaded) == layers_of(head)
    assert not loaded.compiled
