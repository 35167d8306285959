"""What to fit and how."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bottleneck.models.heads import HeadConfig


@dataclass(frozen=True)
class FitConfig:
    """How a head is fitted.

    Attributes:
        head: The head.
        optimizer: ``adam``, ``rmsprop`` or ``sgd``.
        learning_rate: At its highest.
        schedule: ``constant``, ``cosine`` or ``exponential``.
        epochs: At most.
        batch_size: Rows of a step over all workers.
        class_weights: Weight of each class.
        monitor: ``val_loss`` or ``val_accuracy``.
        patience: Epochs without a better one after which training stops; 0 for never.
        seed: Of order and dropout.
        dtype: How features are held, see :data:`bottleneck.training.rows.DTYPES`.
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
        """Steps of the whole training, if it is not stopped early."""
        return self.epochs * math.ceil(self.total_rows / self.batch_size)
