"""One call of Ray Train: how many workers of what size, its progress, its result, its figures."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bottleneck.cluster import calls, nodes
from bottleneck.cluster.head_watch import watching_head
from bottleneck.cluster.ray_internals import data_parallel_trainer
from bottleneck.cluster.worker_sizing import size_workers
from bottleneck.config.values import worker_range
from bottleneck.console import logs
from bottleneck.console.interruption import InterruptedRunError
from bottleneck.console.redaction import one_line
from bottleneck.errors import RunFailedError
from bottleneck.evaluation.evaluate import evaluate, max_evaluated_rows
from bottleneck.evaluation.figures import Evaluation
from bottleneck.table.location import arrow_filesystem
from bottleneck.table.snapshot import Snapshot
from bottleneck.training.checkpoint import Checkpoint
from bottleneck.training.config import TrainConfig
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.resume import UNFINISHED
from bottleneck.training.rows import FeatureRows, row_length, window_rows
from bottleneck.training.splits import SPLITS, LabelledRows
from bottleneck.training.tf_config import TensorflowCluster
from bottleneck.training.worker import EpochLog, WorkerConfig, predict_rows, train_worker

#: Figures of an epoch that are shown.
_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")

#: Splits that the figures may be from, the first that has rows.
_EVALUATED = ("test", "validation")

_POLL_S = 0.3
_CHECKPOINTS_KEPT = 2


class TrainingRun:
    """One call of Ray Train, and the figures on its result."""

    def __init__(
        self,
        config: TrainConfig,
        model_uri: str,
        snapshot: Snapshot,
        rows: LabelledRows,
        fit: FitConfig,
        window: int,
    ) -> None:
        self._config = config
        self._model_uri = model_uri
        self._snapshot = snapshot
        self._rows = rows
        self._fit = fit
        self._window = window
        self._workers = size_workers(
            worker_range(config.workers),
            config.cpus_per_worker,
            config.gpus_per_worker,
            nodes.possible_nodes(),
        )
        self._evaluated = next(
            (self._sampled(split) for split in _EVALUATED if rows.counts(split).any()), None
        )
        if self._evaluated is not None:
            # One task predicts, whatever the number of workers.
            self._evaluated_window = window_rows(
                row_length(snapshot.spec, config.pool),
                fit.dtype,
                config.memory_gb * 1e9,
                1,
                len(self._evaluated),
            )

    def _rows_of(self, split: str) -> FeatureRows:
        return self._rows_at(np.flatnonzero(self._rows.split == SPLITS.index(split)))

    def _sampled(self, split: str) -> npt.NDArray[np.int64]:
        """Returns the places of the rows that the figures are from."""
        chosen = np.flatnonzero(self._rows.split == SPLITS.index(split))
        maximum = max_evaluated_rows(len(self._rows.labels))
        if len(chosen) <= maximum:
            return chosen
        logs.say(
            f"note: the figures will be from {maximum:,} of {len(chosen):,} {split} rows, sampled",
            event="notice",
        )
        return np.sort(np.random.default_rng(0).choice(chosen, maximum, replace=False))

    def _rows_at(self, chosen: npt.NDArray[np.int64]) -> FeatureRows:
        return FeatureRows(
            self._snapshot,
            self._rows.shard[chosen],
            self._rows.row[chosen],
            self._rows.label[chosen],
            self._config.pool,
        )

    def execute(self) -> Checkpoint:
        """Trains to the end.

        Returns:
            The last checkpoint.

        Raises:
            BottleneckError: What a worker raised on purpose.
            InterruptedRunError: A signal came; finished epochs are kept.
            RunFailedError: The training failed, or ended without an epoch.
        """
        # Beside the driver, with which it lives and dies; another node may go at any time.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        log = EpochLog.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        fitting = _Fitting(self._trainer(log))
        shown = 0
        try:
            with watching_head():
                while not fitting.wait(_POLL_S):
                    shown = self._show(log, shown)
        except InterruptedRunError as e:
            kept = "finished epochs are kept, go on with --resume"
            raise InterruptedRunError(e.signum, kept) from e
        self._show(log, shown)
        if fitting.error is not None:
            _, failed = ray.get(log.read.remote(0))
            raise failed or _failure(fitting.error) from fitting.error
        checkpoint = fitting.result.checkpoint
        if checkpoint is None:
            raise RunFailedError("the training ended without an epoch; run again")
        with checkpoint.as_directory() as folder:
            return Checkpoint.load(Path(folder))

    def _trainer(self, log: Any) -> Any:
        """Returns Ray Train's trainer, set up.

        Args:
            log: Handle of the :class:`EpochLog`.
        """
        import ray.train

        for name in ("ray.train", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # Ray Train takes a finished epoch when it looks after its workers, every two seconds if not
        # told otherwise: with a small head most of a training would be waiting.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
        filesystem, root = arrow_filesystem(self._model_uri)
        config = WorkerConfig(
            fit=self._fit,
            rows=[ray.put(self._rows_of(split)) for split in ("train", "validation")],
            window_rows=self._window,
            threads=self._workers.threads,
            log=log,
        )
        return data_parallel_trainer()(
            train_worker,
            train_loop_config={"config": config},
            backend_config=TensorflowCluster(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self._workers.number,  # type: ignore[arg-type]
                use_gpu=self._workers.gpus > 0,
                resources_per_worker=self._workers.resources,
            ),
            run_config=ray.train.RunConfig(
                # Of the same name and place as before, it goes on from the last checkpoint.
                name=UNFINISHED,
                storage_path=root,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(
                    max_failures=self._config.max_worker_failures
                ),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=_CHECKPOINTS_KEPT),
            ),
        )

    def _show(self, log: Any, start: int) -> int:
        entries, _ = ray.get(log.read.remote(start))
        for entry in entries:
            epoch, epochs = int(entry["epoch"]), self._fit.epochs
            figures = {name: entry[name] for name in _SHOWN if name in entry}
            text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            logs.say(
                f"epoch {epoch}/{epochs}  {text}",
                event="progress",
                epoch=epoch,
                epochs=epochs,
                **figures,
            )
        return start + len(entries)

    def evaluate(self, weights: Sequence[npt.NDArray[Any]]) -> tuple[str, Evaluation | None]:
        """Evaluates on the test split, or on the validation split when there is none.

        Args:
            weights: Weights of the head.

        Returns:
            Name of the split, and the figures; "" and None when both splits are empty.
        """
        if self._evaluated is None:
            return "", None
        rows = self._rows_at(self._evaluated)
        predicted = predict_rows.remote(
            rows, self._fit.head, weights, self._fit.dtype, self._evaluated_window
        )
        probabilities = calls.get_all([predicted])[0]
        split = SPLITS[self._rows.split[self._evaluated[0]]]
        return split, evaluate(self._rows.labels, rows.label, probabilities)


class _Fitting:
    """Runs Ray Train in a thread, so that progress is shown and signals are heard meanwhile."""

    def __init__(self, trainer: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._trainer = trainer
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self.result = self._trainer.fit()
        except BaseException as e:  # handed to the waiting thread
            self.error = e

    def wait(self, timeout_s: float) -> bool:
        """Returns whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


def _failure(error: BaseException) -> RunFailedError:
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    return RunFailedError(
        f"the training failed: {one_line(first, 'last', kind=True)}; "
        "finished epochs are kept, go on with --resume"
    )
