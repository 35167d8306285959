"""How good a classifier is: figures with 95 % intervals, from true classes and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.errors import ConfigError
from bottleneck.evaluation.figures import ClassMetrics, Evaluation, ReliabilityBin
from bottleneck.evaluation.intervals import (
    Floats,
    Interval,
    Ints,
    basic,
    percentile,
    resamples,
    wilson,
)

_RELIABILITY_BINS = 15
_TOP_K = (1, 3, 5)

#: Elements of a block of rows: 32 MiB at any number of classes.
_BLOCK_ELEMENTS = 1 << 22

#: Resamples draw from cells of nearly equal rows instead of rows, so that their cost depends on
#: these resolutions and not on the number of rows: 1/1024 nat, 1/64 of a reliability bin.
_LOSS_CELLS = 1_024
_CONFIDENCE_CELLS = 64

_SMALLEST = float(np.finfo(np.float32).eps)

#: Maximum rows that are evaluated, and maximum probabilities (rows times classes); of more rows a
#: random sample of this size is.
_MAX_EVALUATED_ROWS = 1_000_000
_MAX_PROBABILITIES = 200_000_000


def evaluate(
    labels: Sequence[str],
    truth: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    seed: int = 0,
) -> Evaluation:
    """Compares predicted probabilities with the true classes.

    Shares have Wilson score intervals. Log loss, F1 and macro figures have percentile intervals
    of 1,000 bootstrap resamples; a class that a resample lacks does not count in it. The
    calibration error, which every resample overestimates, has a basic bootstrap interval (Davison
    & Hinkley 1997, section 5.2). Beside its arguments it takes less than 300 MB of memory for a
    million rows.

    Args:
        labels: Names of the C classes.
        truth: (N,) integers, each row's class as an index into ``labels``.
        probabilities: (N, C) floats; each row sums to 1.
        seed: Of the resamples: equal arguments give equal results.

    Returns:
        The figures.

    Raises:
        ConfigError: There are no rows, shapes differ, a class number is not in 0…C-1, or the
            probabilities are none.
    """
    true = np.asarray(truth)
    probable = np.asarray(probabilities)
    _check(labels, true, probable)
    classes = len(labels)
    true = true.astype(np.int64, copy=False)
    rows = _Rows.of(true, probable)
    confusion = np.bincount(true * classes + rows.predicted, minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    generators = np.random.default_rng(seed).spawn(3)
    reliability, calibration_error = _calibration(rows, generators[0])
    f1s, macros = _resampled_classes(confusion, generators[1])
    return Evaluation(
        labels=tuple(labels),
        count=len(true),
        accuracy=_share(rows.rank < 1),
        top_k={k: _share(rows.rank < k) for k in _TOP_K if k < classes},
        log_loss=_log_loss(rows.probability, generators[2]),
        calibration_error=calibration_error,
        macro_precision=macros[0],
        macro_recall=macros[1],
        macro_f1=macros[2],
        per_class=_per_class(labels, confusion, f1s),
        confusion=confusion,
        reliability=reliability,
    )


@dataclass(frozen=True)
class _Rows:
    """What the figures need of each row.

    Attributes:
        predicted: (N,) the most probable class, the first of equals.
        confidence: (N,) its probability.
        probability: (N,) the probability of the true class.
        rank: (N,) number of classes that come before the true one.
    """

    predicted: Ints
    confidence: Floats
    probability: Floats
    rank: Ints

    @classmethod
    def of(cls, truth: Ints, probabilities: npt.NDArray[Any]) -> _Rows:
        count, classes = probabilities.shape
        rows = cls(
            np.empty(count, np.int64), np.empty(count), np.empty(count), np.empty(count, np.int64)
        )
        size = max(1, _BLOCK_ELEMENTS // classes)
        for start in range(0, count, size):
            part = slice(start, start + size)
            block = probabilities[part].astype(np.float64)
            _check_block(block, start)
            own = np.take_along_axis(block, truth[part, None], axis=1)
            before = np.arange(classes) < truth[part, None]
            rows.rank[part] = ((block > own) | ((block == own) & before)).sum(axis=1)
            rows.predicted[part] = block.argmax(axis=1)
            rows.confidence[part] = block.max(axis=1)
            rows.probability[part] = own[:, 0]
        return rows


def _check(labels: Sequence[str], truth: npt.NDArray[Any], probable: npt.NDArray[Any]) -> None:
    if not truth.size:
        raise ConfigError(
            "there is nothing to evaluate: 0 rows; figures need at least one row with a known"
            " label, so choose a split that has some"
        )
    if truth.ndim != 1 or not np.issubdtype(truth.dtype, np.integer):
        raise ConfigError(
            f"true classes are {truth.shape} {truth.dtype}; pass (N,) integers, indices of labels"
        )
    if probable.shape != (len(truth), len(labels)):
        raise ConfigError(
            f"probabilities have shape {probable.shape}; for {len(truth)} rows and"
            f" {len(labels)} labels it must be ({len(truth)}, {len(labels)})"
        )
    wrong = (truth < 0) | (truth >= len(labels))
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(
            f"true class of row {row} is {truth[row]}; {len(labels)} labels allow"
            f" 0…{len(labels) - 1}: leave out rows of other labels"
        )


def _check_block(block: Floats, start: int) -> None:
    # Rows of a thousand bfloat16 probabilities are off by a percent or two; logits by far more.
    wrong = ~((block.min(axis=1) >= 0) & (np.abs(block.sum(axis=1) - 1) < 0.05))
    if wrong.any():
        row = int(wrong.argmax())
        low, high, total = block[row].min(), block[row].max(), block[row].sum()
        raise ConfigError(
            f"row {start + row} is not a distribution: its values lie in {low:.6g}…{high:.6g} and"
            f" sum to {total:.6g}; probabilities are at least 0 and sum to 1: apply a softmax to"
            " logits, and if they are nan the training diverged, so lower its learning rate"
        )


def _share(hits: npt.NDArray[np.bool_]) -> Interval:
    share = wilson(int(np.count_nonzero(hits)), len(hits))
    assert share is not None
    return share


def _log_loss(probability: Floats, generator: np.random.Generator) -> Interval:
    losses = -np.log(probability.clip(_SMALLEST, 1.0))
    cells = (losses * _LOSS_CELLS).astype(np.int64)
    counts = np.bincount(cells)
    used = counts > 0
    means = np.bincount(cells, losses)[used] / counts[used]
    draws = [block @ means for block in resamples(counts[used], generator)]
    return percentile(float(losses.mean()), np.concatenate(draws) / len(losses))


def _calibration(
    rows: _Rows, generator: np.random.Generator
) -> tuple[tuple[ReliabilityBin, ...], Interval]:
    fine = _RELIABILITY_BINS * _CONFIDENCE_CELLS
    confidence = rows.confidence
    right = rows.rank < 1
    cells = (np.ceil(confidence * fine).astype(np.int64) - 1).clip(0, fine - 1)
    bins = cells // _CONFIDENCE_CELLS
    count = len(bins)
    counts = np.bincount(bins, minlength=_RELIABILITY_BINS)
    sums = np.bincount(bins, confidence, minlength=_RELIABILITY_BINS)
    hits = np.bincount(bins[right], minlength=_RELIABILITY_BINS)
    reliability = tuple(
        ReliabilityBin(
            low=number / _RELIABILITY_BINS,
            high=(number + 1) / _RELIABILITY_BINS,
            count=int(counts[number]),
            confidence=float(sums[number] / counts[number]) if counts[number] else None,
            accuracy=wilson(int(hits[number]), int(counts[number])),
        )
        for number in range(_RELIABILITY_BINS)
    )
    error = float(np.abs(hits - sums).sum()) / count

    cells = 2 * cells + right
    of_cell = np.bincount(cells)
    used = np.flatnonzero(of_cell)
    gaps = np.bincount(cells, right - confidence)[used] / of_cell[used]
    starts = np.unique(used // (2 * _CONFIDENCE_CELLS), return_index=True)[1]
    draws = [
        np.abs(np.add.reduceat(block * gaps, starts, axis=1)).sum(axis=1)
        for block in resamples(of_cell[used], generator)
    ]
    return reliability, basic(error, np.concatenate(draws) / count)


def _class_figures(
    hits: npt.NDArray[Any], support: npt.NDArray[Any], predicted: npt.NDArray[Any]
) -> tuple[Floats, Floats, Floats]:
    """Returns precision (0 if never predicted), recall and F1, nan for classes without support."""
    nothing = np.where(support > 0, 0.0, np.nan)
    precision = nothing + hits / np.maximum(predicted, 1)
    recall = nothing + hits / np.maximum(support, 1)
    return precision, recall, nothing + 2 * hits / np.maximum(support + predicted, 1)


def _resampled_classes(
    confusion: Ints, generator: np.random.Generator
) -> tuple[list[Interval | None], list[Interval]]:
    """Returns F1 by class, and macro precision, recall and F1."""
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    values = _class_figures(np.diagonal(confusion), support, predicted)

    rows, columns = np.nonzero(confusion)
    by_column = np.argsort(columns, kind="stable")
    diagonal = np.flatnonzero(rows == columns)
    true_classes, row_starts = np.unique(rows, return_index=True)
    predicted_classes, column_starts = np.unique(columns[by_column], return_index=True)
    f1s: list[Floats] = []
    macros: list[Floats] = []
    for block in resamples(confusion[rows, columns], generator):
        shape = (len(block), len(confusion))
        resampled_hits, resampled_support, resampled_predicted = (
            np.zeros(shape, np.int64) for _ in range(3)
        )
        resampled_hits[:, rows[diagonal]] = block[:, diagonal]
        resampled_support[:, true_classes] = np.add.reduceat(block, row_starts, axis=1)
        resampled_predicted[:, predicted_classes] = np.add.reduceat(
            block[:, by_column], column_starts, axis=1
        )
        figures = _class_figures(resampled_hits, resampled_support, resampled_predicted)
        f1s.append(figures[2])
        macros.append(np.stack([np.nanmean(figure, axis=1) for figure in figures]))
    resampled_f1 = np.concatenate(f1s)
    resampled_macros = np.concatenate(macros, axis=1)
    return (
        [
            percentile(value, resampled_f1[:, number]) if support[number] else None
            for number, value in enumerate(values[2])
        ],
        [
            percentile(float(np.nanmean(value)), resampled)
            for value, resampled in zip(values, resampled_macros, strict=True)
        ],
    )


def _per_class(
    labels: Sequence[str], confusion: Ints, f1s: Sequence[Interval | None]
) -> tuple[ClassMetrics, ...]:
    support, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    hits = np.diagonal(confusion).tolist()
    return tuple(
        ClassMetrics(
            label=label,
            support=support[number],
            predicted=predicted[number],
            precision=wilson(hits[number], predicted[number]),
            recall=wilson(hits[number], support[number]),
            f1=f1s[number],
        )
        for number, label in enumerate(labels)
    )


def max_evaluated_rows(classes: int) -> int:
    """Returns the maximum rows to evaluate at once, which fit the driver's memory."""
    return min(_MAX_EVALUATED_ROWS, _MAX_PROBABILITIES // max(1, classes))
