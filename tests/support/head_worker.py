"""Fits heads in this process, one of several that ``TF_CONFIG`` names; prints their histories.

For training/test_fitting.py, which starts it twice: arguments are the table, the rank, the number
of workers, and the cases to fit.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from support.tables import feature_rows

from bottleneck.models.heads import HeadConfig
from bottleneck.table.table import FeaturesTable
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.fitting import HeadFitter
from bottleneck.training.windows import WindowReader

SHAPE = (3, 3, 16)
EPOCHS = 3

#: Rows that are trained on, and rows of a window. The shards hold 100, 350 and 150 rows, and all
#: rows of a shard this small are one worker's: of the first shard alone the other has none.
CASES = {"memory": (600, 600), "windows": (600, 200), "nothing": (100, 600)}


def classes_of(count: int) -> Any:
    """The class of each row."""
    return np.random.default_rng(2).integers(0, 3, count)


def fit_case(uri: str, case: str, rank: int, world: int) -> list[dict[str, float]]:
    """Fits a head with everything that might depend on the number of workers."""
    count, size = CASES[case]
    snapshot = FeaturesTable.open(uri).snapshot()
    numbers = np.arange(600)
    validation = numbers % 5 == 0
    used = numbers < count
    parts = [
        feature_rows(snapshot, classes_of(600), used & ~validation),
        feature_rows(snapshot, classes_of(600), used & validation),
    ]
    train, evaluated = (
        WindowReader(part, dtype="float32", window_rows=size, rank=rank, world=world)
        for part in parts
    )
    config = FitConfig(
        head=HeadConfig(SHAPE, 3, hidden=(16,), l2=1e-3, dropout=0.5),
        optimizer="adam",
        learning_rate=1e-3,
        schedule="cosine",
        epochs=EPOCHS,
        batch_size=32,
        class_weights=(1.0, 2.0, 0.5),
        monitor="val_loss",
        patience=5,
        seed=0,
        dtype="float32",
        total_rows=len(parts[0]),
    )
    fitter = HeadFitter(config, parts[0].length, rank=rank, world=world)
    fitter.standardize(train)
    for epoch in range(EPOCHS):
        entry = fitter.train_epoch(train, epoch)
        entry |= {f"val_{name}": value for name, value in fitter.evaluate(evaluated).items()}
        fitter.record(entry)
    weights = float(sum(np.abs(values).sum() for values in fitter.head.get_weights()))
    return [*fitter.history, {"weights": weights}]


if __name__ == "__main__":
    uri, rank, world, *cases = sys.argv[1:]
    print(json.dumps({case: fit_case(uri, case, int(rank), int(world)) for case in cases}))
