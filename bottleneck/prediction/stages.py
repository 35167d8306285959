"""The stages of the predict job: images, or rows of a features table, to predictions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bottleneck.cluster.sizing import size_batch
from bottleneck.images.options import DecodeOptions
from bottleneck.models.classifier import LocatedModel, load_classifier, load_head, top_labels
from bottleneck.pipeline.blocks import block_features, block_pixels, read_block
from bottleneck.pipeline.fetching import ImageReader, fetcher_of
from bottleneck.pipeline.stages import Compute, Reader, Stages
from bottleneck.prediction.config import PredictConfig
from bottleneck.spec import PredictionSpec
from bottleneck.table.columns import row_group_rows
from bottleneck.table.files import TableFiles
from bottleneck.table.reading import ShardReader
from bottleneck.table.schemas import FEATURES, RowFormat
from bottleneck.table.snapshot import Snapshot


def prediction_stages(
    config: PredictConfig,
    model: LocatedModel,
    spec: PredictionSpec,
    features: Snapshot | None,
    gpus: float,
) -> Stages:
    """Returns the stages of a run.

    Args:
        config: Configuration of the run.
        model: The model that classifies.
        spec: Specification of the predictions.
        features: The features table that is classified; None for images.
        gpus: GPUs per actor.
    """
    reader: Reader
    if features is None:
        decode = DecodeOptions.of_spec(model.spec, config.max_pixels)
        reader = ImageReader(decode, fetcher_of(config))
    else:
        reader = FeatureReader(features.table_uri, features.spec.length)
    return Stages(
        reader=reader,
        network=PredictionNetwork(model, spec.length, head_only=features is not None),
        batch_size=size_batch(config.batch_size, gpus, model.spec.image_size),
    )


@dataclass(frozen=True)
class PredictionNetwork:
    """A model that actors load: `pixels`, or `features` for its head alone, to predictions.

    Attributes:
        model: The model.
        top: Number of labels kept per row.
        head_only: Whether it computes on features.
    """

    model: LocatedModel
    top: int
    head_only: bool

    @property
    def row_length(self) -> int:
        """Number of labels kept per row."""
        return self.top

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images it computes on; (0, 0) for a head."""
        return (0, 0) if self.head_only else self.model.spec.image_size

    @property
    def weights_bytes(self) -> int:
        """About the size of the whole model's weights, of which a head's are a part."""
        return self.model.weights_bytes

    def load(self, *, batch_size: int, threads: int) -> Compute:
        """Loads the model or its head; see :class:`bottleneck.pipeline.stages.Network`."""
        spec, labels = self.model.spec, self.model.labels
        load = load_head if self.head_only else load_classifier
        classifier = load(self.model, batch_size=batch_size, threads=threads)

        def compute(block: pa.Table) -> Mapping[str, pa.Array]:
            if self.head_only:
                inputs, valid = block_features(block, spec.shape)
                return _prediction_columns(classifier(inputs), valid, labels, self.top)
            pixels, valid = block_pixels(block, spec.image_size)
            return _prediction_columns(classifier(pixels), valid, labels, self.top)

        return compute


def _prediction_columns(
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


@dataclass(frozen=True)
class FeatureReader:
    """First stage that reads the rows of a features table, and no image.

    Attributes:
        table_uri: The features table.
        length: Values of one row's features.
    """

    table_uri: str
    length: int

    @property
    def row_bytes(self) -> int:
        """Size of one row's features, float32."""
        return 4 * self.length

    def memory_bytes(self, block_rows: int) -> int:
        """Returns what a task holds: a row group as read, and the rows taken from it."""
        return 2 * max(block_rows, row_group_rows(self.length)) * self.row_bytes

    def read(self, work: pa.Table, *, block_rows: int) -> Iterator[pa.Table]:
        """Reads the rows of one task, row group by row group.

        Args:
            work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`, `uri` the shard's path in
                the table and `offset` the row's place in it.
            block_rows: Maximum number of rows of a block.

        Yields:
            Blocks with `features`, null where the table has none.
        """
        files = TableFiles.at(self.table_uri, RowFormat(FEATURES, self.length))
        for path in dict.fromkeys(work["uri"].to_pylist()):
            part = work.filter(pa.compute.equal(work["uri"], path)).sort_by("offset")
            began = time.perf_counter()
            with ShardReader(files, path) as reader:
                for some, rows in reader.take(part["offset"].to_numpy(), FEATURES.names):
                    row_s = (time.perf_counter() - began) / rows.num_rows
                    planned = part[some]
                    for start in range(0, rows.num_rows, block_rows):
                        yield _block(
                            planned.slice(start, block_rows),
                            rows.slice(start, block_rows),
                            reader.row_bytes,
                            row_s,
                        )
                    began = time.perf_counter()


def _block(work: pa.Table, rows: pa.Table, row_bytes: float, row_s: float) -> pa.Table:
    count = rows.num_rows
    # The plan's identity stands for the row: its fingerprint tells later runs what it was made of.
    found = rows.drop_columns(["image", "label", "split", "fingerprint"])
    return read_block(
        work,
        {name: found[name] for name in found.column_names},
        read_bytes=np.full(count, int(row_bytes)),
        fetch_s=np.full(count, row_s, np.float32),
        decode_s=np.zeros(count, np.float32),
    )
