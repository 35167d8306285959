"""How a head is fitted: all that its workers need to know, made of flags, recipe and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bottleneck.errors import ConfigError
from bottleneck.models.heads import HeadConfig
from bottleneck.spec import FeatureSpec
from bottleneck.training.config import TrainConfig, given_weights
from bottleneck.training.splits import LabelledRows


@dataclass(frozen=True)
class FitConfig:
    """How a head is fitted.

    Attributes:
        head: The head.
        optimizer: ``adam``, ``rmsprop`` or ``sgd``.
        learning_rate: Learning rate, at its highest.
        schedule: ``constant``, ``cosine`` or ``exponential``.
        epochs: Maximum passes over the training rows.
        batch_size: Rows per step, over all workers.
        class_weights: Weight of each class.
        monitor: ``val_loss`` or ``val_accuracy``.
        patience: Epochs without a better one after which training stops; 0 for never.
        seed: Seed of order and dropout.
        dtype: How features are held, a key of :data:`bottleneck.training.rows.DTYPES`.
        total_rows: Training rows over all workers.
    """

    head: HeadConfig
    optimizer: str
    learning_rate: float
    schedule: str
    epochs: int
    batch_size: int
    class_weights: tuple[float, ...]
    monitor: str
    patience: int
    seed: int
    dtype: str
    total_rows: int

    @property
    def steps(self) -> int:
        """Number of steps of the whole training, if it is not stopped early."""
        return self.epochs * math.ceil(self.total_rows / self.batch_size)


def fit_config(config: TrainConfig, spec: FeatureSpec, rows: LabelledRows, dtype: str) -> FitConfig:
    """Returns how a head is fitted on rows of a table.

    Args:
        config: The training's flags, completed by its recipe.
        spec: Specification of the features.
        rows: The rows, whose labels are the head's classes.
        dtype: How features are held.

    Raises:
        ConfigError: Pooling is asked for of features that are no maps, or a class weight is given
            to a label that no row has.
    """
    settings = config.head_settings
    head = HeadConfig(
        shape=spec.shape,
        classes=len(rows.labels),
        hidden=settings.hidden,
        pool=config.pool,
        dropout=settings.dropout,
        l2=settings.l2,
        standardize=settings.standardize,
        binary=config.binary,
        seed=config.seed,
    )
    if config.pool != "none" and len(head.shape) != 3:
        raise ConfigError(
            f"--pool {config.pool} needs a map and the table's features are vectors of shape "
            f"{head.shape}; drop --pool"
        )
    return FitConfig(
        head=head,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        schedule=config.schedule,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        class_weights=_class_weights(config.class_weights, rows),
        monitor=config.monitor,
        patience=settings.patience,
        seed=config.seed,
        dtype=dtype,
        total_rows=int(rows.counts("train").sum()),
    )


def _class_weights(text: str, rows: LabelledRows) -> tuple[float, ...]:
    if text == "balanced":
        counts = rows.counts("train")
        present = max(1, int((counts > 0).sum()))
        return tuple(
            float(counts.sum()) / (present * int(count)) if count else 1.0 for count in counts
        )
    given = given_weights(text) or {}
    unknown = sorted(set(given) - set(rows.labels))
    if unknown:
        raise ConfigError(
            f"--class-weights names the label {unknown[0]!r}, which the table does not have; "
            f"its labels are {', '.join(rows.labels[:10])}{', …' if len(rows.labels) > 10 else ''}"
        )
    return tuple(given.get(label, 1.0) for label in rows.labels)
