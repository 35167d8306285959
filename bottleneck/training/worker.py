"""What runs on workers when a head is trained: Ray Train's loop, and tasks before and after it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.runtime import configure_backend
from bottleneck.errors import BottleneckError
from bottleneck.models.files import FUSED, HEAD, FileRecord, keras_bytes, write_file
from bottleneck.models.heads import HeadConfig, build_head, class_probabilities
from bottleneck.training.checkpoint import Checkpoint
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.fitting import HeadFitter
from bottleneck.training.rows import FeatureRows
from bottleneck.training.windows import WindowReader

#: Rows of a window that are converted to float32 at a time: the window may fill the memory.
_CONVERTED_ROWS = 8192


@dataclass(frozen=True)
class WorkerConfig:
    """Settings of every training worker.

    Attributes:
        fit: What to fit and how.
        rows: Training and validation rows, references to :class:`FeatureRows`.
        window_rows: See :class:`WindowReader`.
        threads: CPUs of a worker.
        log: Handle of the :class:`EpochLog`.
    """

    fit: FitConfig
    rows: Sequence[Any]
    window_rows: int
    threads: int
    log: Any


@ray.remote(num_cpus=0)
class EpochLog:
    """Carries finished epochs and errors from the workers to the driver, which polls it."""

    def __init__(self) -> None:
        self._entries: list[dict[str, float]] = []
        self._error: BottleneckError | None = None

    def add(self, entry: dict[str, float]) -> None:
        """Records a finished epoch."""
        self._entries.append(entry)

    def fail(self, error: BottleneckError) -> None:
        """Records an error that a retry cannot fix."""
        self._error = error

    def read(self, start: int) -> tuple[list[dict[str, float]], BottleneckError | None]:
        """Returns the epochs from index `start` on, and the error if there is one."""
        return self._entries[start:], self._error


def train_worker(settings: Mapping[str, Any]) -> None:
    """Runs Ray Train's loop in each worker; after a loss again, from the last checkpoint."""
    config: WorkerConfig = settings["config"]
    _, failed = ray.get(config.log.read.remote(0))
    if failed is not None:
        raise failed
    try:
        _train(config)
    except BottleneckError as e:
        ray.get(config.log.fail.remote(e))
        raise


def _train(config: WorkerConfig) -> None:
    import ray.train

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    configure_backend(config.threads)
    train_rows, validation_rows = ray.get(list(config.rows))
    fitter = HeadFitter(config.fit, train_rows.length, rank=rank, world=world)

    def reader(rows: FeatureRows) -> WindowReader:
        return WindowReader(
            rows,
            dtype=config.fit.dtype,
            window_rows=config.window_rows,
            rank=rank,
            world=world,
            threads=config.threads,
        )

    train, validation = reader(train_rows), reader(validation_rows)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            fitter.restore(Checkpoint.load(Path(folder)))
    elif config.fit.head.standardize:
        fitter.standardize(train)
    while not fitter.finished:
        epoch = len(fitter.history)
        entry = {"epoch": float(epoch + 1), **fitter.train_epoch(train, epoch)}
        evaluated = fitter.evaluate(validation)
        entry |= {f"val_{name}": value for name, value in evaluated.items()}
        fitter.record(entry)
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if rank == 0:
                fitter.checkpoint().save(Path(folder))
                saved = ray.train.Checkpoint.from_directory(folder)
            # Every rank reports each epoch: it is where Ray Train waits for all of them.
            ray.train.report(entry, checkpoint=saved)
        if rank == 0:
            ray.get(config.log.add.remote(entry))


def head_with_weights(config: HeadConfig, weights: Sequence[npt.NDArray[Any]]) -> Any:
    """Returns a head with trained weights, ``keras.Model``."""
    head = build_head(config)
    head.set_weights(list(weights))
    if config.standardize:
        head.get_layer("standardize").finalize_state()
    return head


@ray.remote(num_cpus=1)
def predict_rows(
    rows: FeatureRows,
    config: HeadConfig,
    weights: Sequence[npt.NDArray[Any]],
    dtype: str,
    window_rows: int,
) -> npt.NDArray[np.float32]:
    """Returns the probabilities of all rows of a split, (N, C) float32, in their order."""
    head = head_with_weights(
        HeadConfig(**{**vars(config), "pool": "none", "shape": (rows.length,)}), weights
    )
    reader = WindowReader(rows, dtype=dtype, window_rows=window_rows)
    # One worker holds all rows of its windows, in order.
    parts = []
    for window in reader.windows():
        for start in range(0, len(window.values), _CONVERTED_ROWS):
            values = window.values[start : start + _CONVERTED_ROWS].astype(np.float32)
            parts.append(head.predict(values, batch_size=1024, verbose=0))
    return class_probabilities(np.concatenate(parts))


@ray.remote(num_cpus=1)
def write_models(
    uri: str,
    config: HeadConfig,
    weights: Sequence[npt.NDArray[Any]],
    backbone: BackboneConfig,
) -> dict[str, FileRecord]:
    """Writes ``head.keras`` and ``model.keras``, the backbone with the head on top."""
    import keras

    from bottleneck.backbones.backbone import Backbone

    head = head_with_weights(config, weights)
    base = Backbone(backbone, batch_size=1).model
    fused = keras.Model(base.inputs, head(base.outputs[0]), name="model")
    return {
        HEAD: write_file(uri, HEAD, keras_bytes(head)),
        FUSED: write_file(uri, FUSED, keras_bytes(fused)),
    }
