"""The stages of the predict job: images, or rows of a features table, → predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bottleneck.cluster.sizing import ActorMemory, size_batch
from bottleneck.images.options import DecodeOptions
from bottleneck.models.classifier import LocatedModel, load_classifier, load_head, top_labels
from bottleneck.pipeline.blocks import pixels_of, with_inference_time
from bottleneck.pipeline.fetching import fetch_and_decode, fetcher_of
from bottleneck.pipeline.stages import PipelineConfig
from bottleneck.prediction.config import PredictConfig
from bottleneck.spec import PredictionSpec
from bottleneck.table.columns import to_numpy
from bottleneck.table.files import TableFiles
from bottleneck.table.reading import ShardReader
from bottleneck.table.schemas import FEATURES, FIELDS, RowFormat
from bottleneck.table.snapshot import Snapshot


def prediction_stages(
    config: PredictConfig,
    model: LocatedModel,
    spec: PredictionSpec,
    features: Snapshot | None,
    gpus: float,
) -> PipelineConfig:
    """Returns the stages of a run.

    Args:
        config: Configuration of the run.
        model: What classifies.
        spec: Specification of the predictions.
        features: The features table that is classified; None for images.
        gpus: GPUs per actor.
    """
    common: dict[str, Any] = {
        "decode": DecodeOptions.of_spec(model.spec, config.max_pixels),
        "batch_size": size_batch(config.batch_size, gpus, model.spec.image_size),
        "fetcher": fetcher_of(config),
        "row_length": spec.length,
        "weights_bytes": model.weights_bytes,
        "model": model,
        "top": spec.length,
    }
    if features is not None:
        return FeaturePredictions(table_uri=features.table_uri, **common)
    return ImagePredictions(**common)


@dataclass(frozen=True)
class ImagePredictions(PipelineConfig):
    """Images → predictions.

    Attributes:
        model: What classifies.
        top: Number of labels kept.
    """

    model: LocatedModel
    top: int

    @property
    def stages(self) -> tuple[Callable[..., Iterator[pa.Table]], type]:
        """Fetching and decoding, then the whole network."""
        return fetch_and_decode, ClassifierActor


@dataclass(frozen=True)
class FeaturePredictions(PipelineConfig):
    """Rows of a features table → predictions; no image is read.

    Attributes:
        model: What classifies; its head alone is used.
        top: Number of labels kept.
        table_uri: The features table.
    """

    model: LocatedModel
    top: int
    table_uri: str

    @property
    def row_bytes(self) -> int:
        """Size of one row's features."""
        return 4 * self.model.spec.length

    @property
    def actor_memory(self) -> ActorMemory:
        """What an actor holds: a head, and no image."""
        return ActorMemory(self.batch_size, (0, 0), self.weights_bytes)

    @property
    def stages(self) -> tuple[Callable[..., Iterator[pa.Table]], type]:
        """Reading features, then the head."""
        return read_features, HeadActor


class ClassifierActor:
    """Second stage: one :class:`~bottleneck.models.classifier.Classifier` in a Ray actor."""

    def __init__(self, config: ImagePredictions, threads: int) -> None:
        self._config = config
        self._classifier = load_classifier(
            config.model, batch_size=config.batch_size, threads=threads
        )

    def __call__(self, block: pa.Table) -> pa.Table:
        """Replaces `pixels` by predictions."""
        began = time.perf_counter()
        pixels, valid = pixels_of(block, self._config.decode)
        probabilities = self._classifier(pixels)
        result = block.drop_columns(["pixels"])
        for name, column in _columns(
            probabilities, valid, self._config.model.labels, self._config.top
        ).items():
            result = result.append_column(FIELDS[name], column)
        return with_inference_time(result, began)


class HeadActor:
    """Second stage over a features table: one head in a Ray actor."""

    def __init__(self, config: FeaturePredictions, threads: int) -> None:
        self._config = config
        self._head = load_head(config.model, batch_size=config.batch_size, threads=threads)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Replaces `features` by predictions."""
        began = time.perf_counter()
        valid = block["features"].is_valid().to_numpy()
        model = self._config.model
        probabilities = self._head(to_numpy(block["features"].drop_null(), model.spec.shape))
        result = block.drop_columns(["features"])
        for name, column in _columns(probabilities, valid, model.labels, self._config.top).items():
            result = result.append_column(FIELDS[name], column)
        return with_inference_time(result, began)


def _columns(
    probabilities: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    labels: Sequence[str],
    top: int,
) -> dict[str, pa.Array]:
    """Makes the columns of the valid rows' predictions; null in the other rows."""
    order, best = top_labels(probabilities, top)
    names = pa.array(labels, pa.string())
    width = order.shape[1]
    # Null where a row is not valid; `take` passes nulls on.
    place = np.cumsum(valid) - 1
    index = pa.array(place, mask=~valid)
    lists = pa.ListArray.from_arrays
    offsets = pa.array(np.arange(len(order) + 1, dtype=np.int32) * np.int32(width))
    top_names = lists(offsets, names.take(pa.array(order.reshape(-1))))
    top_values = lists(offsets, pa.array(best.reshape(-1), pa.float32()))
    first = names.take(pa.array(order[:, 0])) if width else names.slice(0, 0)
    return {
        "predicted": first.take(index),
        "probability": pa.array(best[:, 0], pa.float32()).take(index),
        "top_labels": top_names.take(index),
        "top_probabilities": top_values.take(index),
    }


def read_features(work: pa.Table, *, config: FeaturePredictions) -> Iterator[pa.Table]:
    """First stage over a features table: reads the rows of one task, shard by shard.

    Args:
        work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`, `uri` the shard's path in the
            table and `offset` the row's place in it.
        config: What the stages do.

    Yields:
        Blocks with the identity columns, `features` and what they cost.
    """
    files = TableFiles.at(config.table_uri, RowFormat(FEATURES, config.model.spec.length))
    for path in dict.fromkeys(work["uri"].to_pylist()):
        part = work.filter(pa.compute.equal(work["uri"], path)).sort_by("offset")
        began = time.perf_counter()
        with ShardReader(files, path) as reader:
            for some, rows in reader.take(part["offset"].to_numpy(), FEATURES.names):
                yield _with_costs(rows, part[some], reader.row_bytes, began)
                began = time.perf_counter()


def _with_costs(rows: pa.Table, work: pa.Table, row_bytes: float, began: float) -> pa.Table:
    count = rows.num_rows
    fetch_s = (time.perf_counter() - began) / max(1, count)
    costs: dict[str, Any] = {
        "row": work["row"],
        "read_bytes": pa.array(np.full(count, int(row_bytes))),
        "fetch_s": pa.array(np.full(count, fetch_s, np.float32)),
        "decode_s": pa.array(np.zeros(count, np.float32)),
    }
    # The plan's identity stands for the row: its fingerprint tells later runs what it was made of.
    for name in ("image", "label", "split", "fingerprint"):
        rows = rows.set_column(rows.schema.get_field_index(name), FIELDS[name], work[name])
    for name, column in costs.items():
        rows = rows.append_column(name, column)
    return rows
