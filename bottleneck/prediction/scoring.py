"""What a predictions table says of a model. No Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from bottleneck.evaluation.evaluate import evaluate, max_evaluated_rows
from bottleneck.evaluation.figures import Evaluation
from bottleneck.images.statuses import OK
from bottleneck.table.snapshot import Snapshot

_COLUMNS = ("image", "label", "status", "predicted", "probability")


@dataclass(frozen=True)
class Scores:
    """What a predictions table says.

    Attributes:
        statuses: Images by status.
        predicted: Images by predicted label.
        evaluation: Figures of the rows whose label is one of the model's; None without any.
        known: Number of these rows.
        evaluated: Number of those that the figures are from, fewer when they are a sample.
        unknown: Rows whose label is none of the model's.
        mistakes: (image, label, predicted, probability), the most confident first.
    """

    statuses: dict[str, int]
    predicted: dict[str, int]
    evaluation: Evaluation | None
    known: int
    evaluated: int
    unknown: int
    mistakes: list[tuple[str, str, str, float]]


def score_predictions(snapshot: Snapshot, labels: Sequence[str], mistakes: int) -> Scores:
    """Counts predictions, and compares them with the labels where these are known.

    Args:
        snapshot: Of a predictions table.
        labels: Names of the model's classes.
        mistakes: How many of the most confident ones are wanted.

    Raises:
        TableError: A shard cannot be read.
    """
    rows = snapshot.read_by_shard(_COLUMNS).with_columns(row=pl.int_range(pl.len()).over("shard"))
    ok = rows.filter(pl.col("status") == OK)
    known = ok.filter(pl.col("label").is_in(labels))
    wrong = known.filter(pl.col("label") != pl.col("predicted"))
    worst = wrong.sort("probability", "image", descending=[True, False]).head(mistakes)
    sampled = known
    maximum = max_evaluated_rows(len(labels))
    if len(known) > maximum:
        sampled = known.sample(maximum, seed=0)
    return Scores(
        statuses=_counts(rows["status"]),
        predicted=_counts(ok["predicted"]),
        evaluation=_evaluation(snapshot, sampled, labels) if len(sampled) else None,
        known=len(known),
        evaluated=len(sampled),
        unknown=int(ok["label"].is_not_null().sum()) - len(known),
        mistakes=list(worst.select("image", "label", "predicted", "probability").iter_rows()),
    )


def _counts(column: pl.Series) -> dict[str, int]:
    counted = column.value_counts(sort=True)
    return {str(name): int(count) for name, count in counted.iter_rows()}


def _evaluation(snapshot: Snapshot, rows: pl.DataFrame, labels: Sequence[str]) -> Evaluation:
    classes = {label: number for number, label in enumerate(labels)}
    probabilities = np.empty((len(rows), len(labels)), np.float32)
    truth = np.empty(len(rows), np.int64)
    done = 0
    for (number,), part in rows.sort("shard", "row").group_by("shard", maintain_order=True):
        table = snapshot.part([int(number)]).read(("top_labels", "top_probabilities"))
        table = table.take(part["row"].to_arrow())
        end = done + len(part)
        probabilities[done:end] = _spread(table, classes)
        truth[done:end] = [classes[label] for label in part["label"]]
        done = end
    return evaluate(labels, truth, probabilities)


def _spread(table: pa.Table, classes: dict[str, int]) -> npt.NDArray[np.float32]:
    """Rebuilds (N, C) probabilities from the kept ones.

    What the kept labels leave of 1 is spread evenly over the others: exact for up to one more
    class than are kept.
    """
    count = table.num_rows
    names = table["top_labels"].combine_chunks()
    kept = len(names.flatten()) // max(1, count)
    place = pa.compute.index_in(names.flatten(), pa.array(classes, pa.string())).to_numpy()
    place = place.reshape(count, kept)
    values = table["top_probabilities"].combine_chunks().flatten().to_numpy().reshape(count, kept)
    others = len(classes) - kept
    rest = np.maximum(0, 1 - values.sum(axis=1, keepdims=True)) / others if others else 0.0
    result = np.broadcast_to(rest, (count, len(classes))).astype(np.float32)
    np.put_along_axis(result, place, values, axis=1)
    return result
