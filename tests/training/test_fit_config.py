"""From flags, a recipe and rows to what the workers are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.support.specs import make_spec
from bottleneck.errors import ConfigError
from bottleneck.models.heads import HeadConfig
from bottleneck.training.config import TrainConfig
from bottleneck.training.fit_config import FitConfig, fit_config
from bottleneck.training.splits import LabelledRows

SHAPE = (3, 3, 16)

#: Of label a 1 training row, of b 3, of c only one for validation.
ROWS = LabelledRows(
    labels=("a", "b", "c"),
    shard=np.zeros(5, np.int32),
    row=np.arange(5),
    label=np.asarray([0, 1, 1, 1, 2], np.int32),
    split=np.asarray([0, 0, 0, 0, 1], np.int8),
    left_out={},
)


def fitted(shape: tuple[int, ...] = SHAPE, **flags: Any) -> FitConfig:
    config = TrainConfig(features="table", model="model", **flags)
    return fit_config(config, make_spec(shape), ROWS, "float16")


def test_without_flags_the_defaults_hold() -> None:
    assert fitted() == FitConfig(
        head=HeadConfig(SHAPE, 3, (256,), "none", 0.5, 0.0, True, False, 0),
        optimizer="adam",
        learning_rate=3e-4,
        schedule="constant",
        epochs=50,
        batch_size=64,
        class_weights=(1.0, 1.0, 1.0),
        monitor="val_loss",
        patience=8,
        seed=0,
        dtype="float16",
        total_rows=4,
    )


def test_flags_beside_a_recipe_arrive_at_the_workers() -> None:
    found = fitted(
        recipe="keras-blog",
        hidden=(8, 4),
        dropout=0.0,
        l2=0.01,
        pool="max",
        seed=7,
        schedule="cosine",
        monitor="val_accuracy",
        epochs=3,
        class_weights="a=2,c=0.5",
    )
    assert found == FitConfig(
        head=HeadConfig(SHAPE, 3, (8, 4), "max", 0.0, 0.01, False, False, 7),
        optimizer="rmsprop",
        learning_rate=1e-3,
        schedule="cosine",
        epochs=3,
        batch_size=16,
        class_weights=(2.0, 1.0, 0.5),
        monitor="val_accuracy",
        patience=0,
        seed=7,
        dtype="float16",
        total_rows=4,
    )
    assert found.steps == 3


def test_a_linear_head_has_no_hidden_layers() -> None:
    assert fitted(head="linear").head.hidden == ()


def test_balanced_labels_weigh_the_same_and_one_without_training_rows_does_not_count() -> None:
    # Two labels share four rows: two each would weigh 1.
    assert fitted(class_weights="balanced").class_weights == (2.0, 2 / 3, 1.0)


@pytest.mark.parametrize(
    ("shape", "flags", "message"),
    [
        (
            (16,),
            {"pool": "avg"},
            "--pool avg needs a map and the table's features are vectors of shape (16,); "
            "drop --pool",
        ),
        (
            SHAPE,
            {"class_weights": "a=1,puce=2"},
            "--class-weights names the label 'puce', which the table does not have; "
            "its labels are a, b, c",
        ),
    ],
)
def test_what_the_table_does_not_have_is_refused(
    shape: tuple[int, ...], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        fitted(shape, **flags)
    assert str(caught.value) == message
