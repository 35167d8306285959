"""A worker's arithmetic: against Keras, against NumPy, and against more workers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from support.head_worker import CASES, EPOCHS, SHAPE, classes_of, fit_case
from support.paths import environment_with_support
from support.tables import feature_rows, write_table

from bottleneck.models.heads import HeadConfig, build_head
from bottleneck.table.snapshot import Snapshot
from bottleneck.training.checkpoint import Checkpoint
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.fitting import HeadFitter
from bottleneck.training.windows import WindowReader

# Of Keras, which reads its own variables in an old way.
# TensorFlow compiles a step for each fit: half a second for each.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.slow,
]

Array = npt.NDArray[Any]

COUNT = 600
CLASSES = classes_of(COUNT)
#: A class shifts all features a little, and one of them a lot.
VALUES = np.random.default_rng(0).normal(size=(COUNT, *SHAPE)).astype(np.float32)
VALUES += 0.2 * CLASSES[:, None, None, None]
VALUES[:, 0, 0, 0] += CLASSES


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write_table(tmp_path_factory.mktemp("tables") / "table", VALUES)


HEAD = HeadConfig(SHAPE, 3, hidden=(16,), dropout=0.0)
FIT = FitConfig(
    head=HEAD,
    optimizer="adam",
    learning_rate=1e-3,
    schedule="constant",
    epochs=3,
    batch_size=32,
    class_weights=(1.0, 1.0, 1.0),
    monitor="val_loss",
    patience=0,
    seed=0,
    dtype="float32",
    total_rows=COUNT,
)


def fit_config(head: dict[str, Any] | None = None, **options: Any) -> FitConfig:
    return replace(FIT, head=replace(HEAD, **(head or {})), **options)


def reader(snapshot: Snapshot, dtype: str = "float32", size: int = COUNT, **rows: Any) -> Any:
    return WindowReader(feature_rows(snapshot, CLASSES, **rows), dtype=dtype, window_rows=size)


def order_of(seed: int, epoch: int) -> Array:
    """The order in which an epoch uses rows that are all in memory."""
    return np.random.default_rng([seed, epoch]).permutation(COUNT)


# Against Keras


def keras_model(fitter: HeadFitter) -> Any:
    """Keras's own training of the fitter's head, from the same initial weights."""
    config = fitter.config
    model = build_head(config.head)
    model.set_weights(fitter.head.get_weights())
    if config.head.standardize:
        model.get_layer("standardize").finalize_state()
    steps = config.epochs * -(-COUNT // config.batch_size)
    schedules = keras.optimizers.schedules
    rate: Any = {
        "constant": config.learning_rate,
        "cosine": schedules.CosineDecay(config.learning_rate, steps),
        "exponential": schedules.ExponentialDecay(config.learning_rate, steps, 0.01),
    }[config.schedule]
    optimizer = {
        "adam": keras.optimizers.Adam(rate),
        "rmsprop": keras.optimizers.RMSprop(rate),
        "sgd": keras.optimizers.SGD(rate, momentum=0.9),
    }[config.optimizer]
    loss = "binary_crossentropy" if config.head.binary else "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize(
    "config",
    [
        fit_config(),
        fit_config({"l2": 1e-2}, optimizer="rmsprop", class_weights=(1.0, 3.0, 0.2)),
        fit_config(optimizer="sgd", learning_rate=1e-2, schedule="cosine", batch_size=50),
        fit_config(
            {"standardize": False, "hidden": (8, 8), "l2": 1e-3},
            schedule="exponential",
            class_weights=(0.5, 1.0, 2.0),
        ),
        fit_config({"hidden": ()}, optimizer="rmsprop", schedule="cosine", batch_size=601),
        fit_config({"binary": True, "classes": 2}, class_weights=(1.0, 2.5)),
    ],
    ids=["adam", "rmsprop-l2-weights", "sgd-cosine", "exponential", "linear", "binary"],
)
def test_losses_are_those_of_keras(snapshot: Snapshot, config: FitConfig) -> None:
    classes = CLASSES % 2 if config.head.binary else CLASSES
    rows = WindowReader(feature_rows(snapshot, classes), dtype="float32", window_rows=COUNT)
    fitter = HeadFitter(config, 144)
    if config.head.standardize:
        fitter.standardize(rows)
    model = keras_model(fitter)
    weights = np.asarray(config.class_weights, np.float32)[classes]
    for epoch in range(config.epochs):
        entry = fitter.train_epoch(rows, epoch)
        order = order_of(config.seed, epoch)
        history = model.fit(
            VALUES[order],
            classes[order],
            sample_weight=weights[order],
            batch_size=config.batch_size,
            shuffle=False,
            verbose=0,
        ).history
        assert entry["loss"] == pytest.approx(history["loss"][0], abs=1e-5)
        assert entry["accuracy"] == pytest.approx(history["accuracy"][0], abs=1e-6)
    for ours, theirs in zip(fitter.head.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    evaluated = fitter.evaluate(rows)
    penalty = float(sum(fitter.head.losses))
    loss, accuracy = model.evaluate(VALUES, classes, verbose=0)
    assert evaluated["loss"] + penalty == pytest.approx(loss, abs=1e-5)
    assert evaluated["accuracy"] == pytest.approx(accuracy, abs=1e-6)


# Against NumPy


def test_binary_loss_and_accuracy(snapshot: Snapshot) -> None:
    classes = CLASSES % 2
    rows = WindowReader(feature_rows(snapshot, classes), dtype="float32", window_rows=COUNT)
    config = fit_config(
        {"binary": True, "classes": 2, "hidden": (), "standardize": False},
        class_weights=(1.0, 3.0),
        batch_size=COUNT,
    )
    fitter = HeadFitter(config, 144)
    kernel, bias = fitter.head.get_weights()
    logits = (VALUES.reshape(COUNT, -1).astype(np.float64) @ kernel + bias)[:, 0]
    losses = np.logaddexp(0, np.where(classes == 1, -logits, logits))
    hits = (logits > 0) == (classes == 1)
    assert fitter.evaluate(rows) == {
        "loss": pytest.approx(losses.mean(), abs=1e-6),
        "accuracy": pytest.approx(hits.mean()),
    }
    # One step: the loss is that of the weights before it, each row weighted by its class.
    assert fitter.train_epoch(rows, 0) == {
        "loss": pytest.approx((losses * np.where(classes == 1, 3.0, 1.0)).mean(), abs=1e-6),
        "accuracy": pytest.approx(hits.mean()),
    }


def test_standardisation_of_what_is_held(snapshot: Snapshot) -> None:
    """Statistics are of the training rows as stored, in windows or not."""
    chosen = np.arange(COUNT) % 3 != 0
    for size, dtype in ((COUNT, "float16"), (100, "float32")):
        rows = reader(snapshot, dtype, size, chosen=chosen)
        fitter = HeadFitter(fit_config(dtype=dtype), 144)
        fitter.standardize(rows)
        layer = fitter.head.get_layer("standardize")
        stored = VALUES[chosen].reshape(-1, 144).astype(dtype).astype(np.float64)
        mean, variance = (
            keras.ops.convert_to_numpy(found).reshape(-1)
            for found in (layer.adapt_mean, layer.adapt_variance)
        )
        np.testing.assert_allclose(mean, stored.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(variance, stored.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_features_held_in_16_bits_are_computed_with_in_32(snapshot: Snapshot, dtype: str) -> None:
    rows = reader(snapshot, dtype)
    fitter = HeadFitter(fit_config({"standardize": False}, dtype=dtype), 144)
    (window,) = rows.windows()
    outputs = fitter.head.predict(
        window.values.astype(np.float32).reshape(-1, *SHAPE), verbose=0
    ).astype(np.float64)
    loss = -np.log(outputs[np.arange(COUNT), CLASSES]).mean()
    assert fitter.evaluate(rows)["loss"] == pytest.approx(loss, abs=1e-6)


def test_pooled_features(snapshot: Snapshot) -> None:
    rows = reader(snapshot, pool="avg")
    fitter = HeadFitter(fit_config({"pool": "avg"}), 16)
    fitter.standardize(rows)
    fitter.train_epoch(rows, 0)
    outputs = fitter.head.predict(VALUES, verbose=0).astype(np.float64)
    loss = -np.log(outputs[np.arange(COUNT), CLASSES]).mean()
    assert fitter.evaluate(rows)["loss"] == pytest.approx(loss, abs=1e-5)


def test_a_split_without_rows_is_not_evaluated(snapshot: Snapshot) -> None:
    rows = reader(snapshot, chosen=np.zeros(COUNT, bool))
    assert HeadFitter(FIT, 144).evaluate(rows) == {}


# Seeds and dropout


def test_dropout_depends_on_the_seed_and_the_epoch_alone(snapshot: Snapshot) -> None:
    rows = reader(snapshot)

    def losses(seed: int, dropout: float, epochs: Sequence[int]) -> list[float]:
        config = fit_config({"dropout": dropout}, seed=seed)
        fitter = HeadFitter(replace(config, learning_rate=1e-12, optimizer="sgd"), 144)
        return [fitter.train_epoch(rows, epoch)["loss"] for epoch in epochs]

    # Nothing is learned, so that the order of rows does not matter, only what is dropped.
    none = losses(0, 0.0, (0, 1))
    assert none[0] == pytest.approx(none[1], abs=1e-6)
    first, second = losses(0, 0.5, (0, 1))
    assert losses(0, 0.5, (0, 1)) == [first, second]
    (other,) = losses(10**6, 0.5, (0,))
    gaps = np.abs(np.diff([none[0], first, second, other]))
    assert (gaps > 1e-4).all()


def test_dropout_keeps_the_expected_value(snapshot: Snapshot) -> None:
    """Half of the units are dropped and the others doubled: gradients keep their size."""
    rows = reader(snapshot)
    config = fit_config(
        {"dropout": 0.5, "hidden": (512,), "standardize": False},
        optimizer="sgd",
        learning_rate=1e-3,
        batch_size=COUNT,
    )
    moved = {}
    for dropout in (0.0, 0.5):
        fitter = HeadFitter(replace(config, head=replace(config.head, dropout=dropout)), 144)
        before = fitter.head.get_weights()[2]
        fitter.train_epoch(rows, 0)
        moved[dropout] = fitter.head.get_weights()[2] - before
    slope = (moved[0.5] * moved[0.0]).sum() / (moved[0.0] ** 2).sum()
    assert slope == pytest.approx(1, abs=0.1)


# Several workers


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def of_two(snapshot: Snapshot) -> list[dict[str, list[dict[str, float]]]]:
    """What each of two processes says of every case."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for rank in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = environment_with_support(TF_CONFIG=json.dumps(task), TF_CPP_MIN_LOG_LEVEL="3")
        command = [
            sys.executable,
            "-m",
            "support.head_worker",
            snapshot.table_uri,
            str(rank),
            "2",
            *CASES,
        ]
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        answers = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(printed) for printed, _ in answers]


@pytest.mark.parametrize("case", list(CASES))
def test_two_workers_give_the_losses_of_one(
    snapshot: Snapshot, of_two: list[dict[str, list[dict[str, float]]]], case: str
) -> None:
    alone = fit_case(snapshot.table_uri, case, rank=0, world=1)
    assert len(alone) == EPOCHS + 1
    assert len({entry["loss"] for entry in alone[:EPOCHS]}) == EPOCHS
    for history in (answer[case] for answer in of_two):
        for one, other in zip(alone, history, strict=True):
            assert other == pytest.approx(one, abs=1e-5)


# Stopping and going on


def record_all(fitter: HeadFitter, name: str, scores: Sequence[float]) -> list[bool]:
    """Records epochs after each of which all weights have the epoch's number."""
    finished = []
    for number, score in enumerate(scores, 1):
        fitter.head.set_weights([np.full_like(w, number) for w in fitter.head.get_weights()])
        fitter.record({"loss": 1.0, name: score})
        finished.append(fitter.finished)
    return finished


def kept(fitter: HeadFitter) -> int:
    """The number that all weights kept have."""
    (number,) = {float(value) for array in fitter.checkpoint().best_weights for value in array.flat}
    return int(number)


@pytest.mark.parametrize(
    ("options", "name", "scores", "best", "finished"),
    [
        ({"patience": 2}, "val_loss", [3, 1, 2, 1.5], 2, [False, False, False, True]),
        ({"patience": 2}, "val_loss", [3, 2, 1], 3, [False, False, False]),
        # As good as before is no better.
        ({"patience": 2}, "val_loss", [1, 1, 1], 1, [False, False, True]),
        ({"patience": 9}, "val_loss", [1, 2, 3, 4, 5], 1, [False, False, False, False, True]),
        (
            {"patience": 2, "monitor": "val_accuracy"},
            "val_accuracy",
            [0.5, 0.9, 0.7, 0.9],
            2,
            [False, False, False, True],
        ),
        ({"patience": 0}, "val_loss", [1, 2, 3], 3, [False, False, False]),
        ({"patience": 0}, "val_loss", [1, 2, 3, 4, 5], 5, [False, False, False, False, True]),
        # No validation rows: every epoch is as good as the others, and the last is kept.
        ({"patience": 2}, "accuracy", [0.3, 0.2, 0.1, 0], 4, [False, False, False, False]),
    ],
)
def test_when_training_stops_and_what_is_kept(
    options: dict[str, Any], name: str, scores: list[float], best: int, finished: list[bool]
) -> None:
    fitter = HeadFitter(fit_config({"hidden": (), "standardize": False}, epochs=5, **options), 144)
    assert record_all(fitter, name, scores) == finished
    assert (fitter.best_epoch, kept(fitter)) == (best, best)
    assert [entry[name] for entry in fitter.history] == scores


def saved(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Returns a checkpoint after its way through a file."""
    checkpoint.save(folder)
    return Checkpoint.load(folder)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_an_interrupted_training_goes_on_as_if_it_were_not(
    snapshot: Snapshot, tmp_path: Path, optimizer: str
) -> None:
    """Bit by bit: weights, moments, place in the schedule, statistics, best epoch."""
    config = fit_config(
        {"dropout": 0.5}, optimizer=optimizer, schedule="cosine", epochs=4, patience=3
    )
    rows = reader(snapshot)

    def go_on(fitter: HeadFitter, end: int) -> None:
        for epoch in range(len(fitter.history), end):
            entry = fitter.train_epoch(rows, epoch)
            evaluated = fitter.evaluate(rows)
            fitter.record({**entry, "val_loss": evaluated["loss"]})

    whole = HeadFitter(config, 144)
    whole.standardize(rows)
    go_on(whole, 2)
    middle = saved(whole.checkpoint(), tmp_path)
    go_on(whole, 4)
    again = HeadFitter(config, 144)
    again.restore(middle)
    assert (again.history, again.best_epoch) == (whole.history[:2], 2)
    go_on(again, 4)
    assert again.history == whole.history
    assert again.finished
    one, other = again.checkpoint(), whole.checkpoint()
    for kind in ("head", "best", "optimizer", "best_weights"):
        assert getattr(one, kind)
        for own, wanted in zip(getattr(one, kind), getattr(other, kind), strict=True):
            np.testing.assert_array_equal(own, wanted)


def test_the_best_epoch_survives_an_interruption(tmp_path: Path) -> None:
    config = fit_config({"hidden": (), "standardize": False}, epochs=9, patience=3)
    fitter = HeadFitter(config, 144)
    record_all(fitter, "val_loss", [2, 1, 5])
    again = HeadFitter(config, 144)
    again.restore(saved(fitter.checkpoint(), tmp_path))
    assert (kept(again), again.best_epoch, again.finished) == (2, 2, False)
    again.record({"val_loss": 4.0})
    assert not again.finished
    again.record({"val_loss": 3.0})
    assert again.finished
    assert kept(again) == 2
