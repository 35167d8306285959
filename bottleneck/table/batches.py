"""Batches of rows that have features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Batch:
    """Some rows that have features.

    Attributes:
        images: Names of the N images.
        labels: Their labels; None where there is none.
        splits: Their splits; None where there is none.
        features: (N, *shape) float32, read-only.
    """

    images: list[str]
    labels: list[str | None]
    splits: list[str | None]
    features: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)


def recut(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Cuts and joins batches so that all but the last have `rows` rows."""
    held: list[Batch] = []
    for batch in batches:
        start = 0
        while start < len(batch):
            end = min(len(batch), start + rows - sum(map(len, held)))
            held.append(
                Batch(
                    batch.images[start:end],
                    batch.labels[start:end],
                    batch.splits[start:end],
                    batch.features[start:end],
                )
            )
            start = end
            if sum(map(len, held)) == rows:
                yield _joined(held)
                held = []
    if held:
        yield _joined(held)


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    features = np.concatenate([batch.features for batch in batches])
    features.flags.writeable = False
    return Batch(
        list(itertools.chain.from_iterable(batch.images for batch in batches)),
        list(itertools.chain.from_iterable(batch.labels for batch in batches)),
        list(itertools.chain.from_iterable(batch.splits for batch in batches)),
        features,
    )
