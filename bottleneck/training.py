"""The train job: snapshot → splits → Ray Train → evaluation → model files.

:func:`train` reads like the run itself. The driver holds no features: workers read, fit and judge
them, the driver decides and writes down what came out.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import ray

from bottleneck import cluster, logs, model_files, tasks
from bottleneck.backbone_of_spec import backbone_of, require_same_weights
from bottleneck.backbone_registry import BackboneConfig
from bottleneck.config import worker_range
from bottleneck.errors import ConfigError, ModelError, RunFailedError
from bottleneck.features import FeaturesTable, Snapshot
from bottleneck.head_fitting import FitConfig
from bottleneck.heads import HeadConfig
from bottleneck.interruption import InterruptedRunError, Interruption
from bottleneck.metrics import Evaluation, evaluate
from bottleneck.model_writing import write_model
from bottleneck.splits import SPLITS, LabelledRows, select_rows
from bottleneck.storage import (
    exists,
    join_uri,
    normalize_uri,
    read_bytes,
    redact_text,
    redact_uri,
    write_bytes,
)
from bottleneck.table_location import filesystem_of
from bottleneck.train_config import TrainConfig, given_weights
from bottleneck.train_summary import TrainSummary
from bottleneck.training_cluster import TensorflowCluster
from bottleneck.training_rows import FeatureRows, window_rows
from bottleneck.training_worker import (
    EpochLog,
    WorkerConfig,
    best_weights,
    judge_rows,
    load_state,
    train_worker,
)

#: Folder under ``--model`` with the checkpoints of a training that is not finished.
_UNFINISHED = "unfinished"
_SETTINGS = "settings.json"

#: Figures of an epoch that are shown.
_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")

_POLL_S = 0.3
_CHECKPOINTS_KEPT = 2
_MAX_CPUS_PER_WORKER = 8


def train(config: TrainConfig) -> TrainSummary:
    """Trains a head and writes the model.

    Args:
        config: What to do.

    Returns:
        What was done.

    Raises:
        BottleneckError: Something the user can mend, or the training could not finish; finished
            epochs stay for ``resume``.
    """
    began, run_id = time.monotonic(), logs.begin_run()
    config = config.settled
    model_uri = normalize_uri(config.model)
    with Interruption() as interruption:
        table = FeaturesTable.open(normalize_uri(config.features))
        earlier = _earlier_settings(model_uri)
        _require_room(config, model_uri, earlier)
        if config.resume and earlier is not None:
            config = replace(config, version=int(earlier["version"]), as_of=None)
        snapshot = table.snapshot(version=config.version, as_of=config.moment)
        rows = select_rows(snapshot, config)
        summary = _begun(run_id, config, snapshot, rows)
        for text in summary.warnings:
            logs.say(f"note: {text}", event="notice", level=logging.WARNING)

        cluster.connect(config.address)
        interruption.reinstall()
        backbone = backbone_of(snapshot.spec, config.weights)
        _require_weights(snapshot, backbone)
        storage, window = _memory(config, snapshot, rows)
        fit = _fit_config(config, snapshot, rows, storage)
        settings = _settings(snapshot, fit)
        if config.resume:
            _require_same(earlier, settings)
        else:
            _discard(model_uri)
            write_bytes(_unfinished(model_uri, _SETTINGS), json.dumps(settings).encode())
        run = _Training(config, model_uri, snapshot, rows, fit, window)
        state = run.execute()

        progress = json.loads(state["progress"].tobytes())
        weights = best_weights(state)
        summary.history, summary.best_epoch = progress["history"], progress["best_epoch"]
        summary.epochs, summary.storage = len(summary.history), storage
        summary.evaluated_on, summary.evaluation = run.judge(weights)
        write_model(config, model_uri, snapshot, fit, weights, backbone, summary)
        _discard(model_uri)
    summary.seconds = time.monotonic() - began
    return summary


def _unfinished(model_uri: str, *parts: str) -> str:
    return join_uri(model_uri, _UNFINISHED, *parts)


def _earlier_settings(model_uri: str) -> dict[str, Any] | None:
    place = _unfinished(model_uri, _SETTINGS)
    if not exists(place):
        return None
    try:
        found: dict[str, Any] = json.loads(read_bytes(place))
    except ValueError as e:
        raise ModelError(
            f"{redact_uri(place)} is no JSON; delete the folder and train again without --resume"
        ) from e
    return found


def _require_room(config: TrainConfig, uri: str, earlier: Mapping[str, Any] | None) -> None:
    shown = redact_uri(uri)
    if config.resume:
        if earlier is None:
            raise ConfigError(
                f"--resume: no stopped training is at {shown}; drop --resume to start one"
            )
        return
    if config.overwrite:
        return
    if model_files.model_exists(uri):
        raise ModelError(f"there is a model at {shown}; give --overwrite, or another --model")
    if earlier is not None:
        raise ModelError(
            f"a training at {shown} was stopped before its end; go on with --resume, or start "
            "anew with --overwrite"
        )


def _require_same(earlier: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    before = dict(earlier or {})
    after = json.loads(json.dumps(now))
    different = [name for name in after if before.get(name) != after[name]]
    if different:
        listed = "; ".join(
            f"{name}: {after[name]} now, {before.get(name)} before" for name in different
        )
        raise ConfigError(
            f"--resume: the stopped training had other settings ({listed}); give the same flags, "
            "or start anew with --overwrite"
        )


def _settings(snapshot: Snapshot, fit: FitConfig) -> dict[str, Any]:
    """What must not change between a training's start and its continuation."""
    flat = asdict(fit)
    head = flat.pop("head")
    return {
        "table": redact_uri(snapshot.table_uri),
        "version": snapshot.version,
        **head,
        **flat,
    }


def _discard(model_uri: str) -> None:
    """Deletes the checkpoints of an unfinished training."""
    filesystem, root = filesystem_of(_unfinished(model_uri))
    if isinstance(filesystem, pafs.LocalFileSystem):
        shutil.rmtree(root, ignore_errors=True)
    elif filesystem.get_file_info(root).type != pafs.FileType.NotFound:
        filesystem.delete_dir(root)


def _begun(
    run_id: str, config: TrainConfig, snapshot: Snapshot, rows: LabelledRows
) -> TrainSummary:
    counts = {split: rows.counts(split) for split in SPLITS}
    summary = TrainSummary(
        run=run_id,
        features_uri=redact_uri(snapshot.table_uri),
        model_uri=redact_uri(normalize_uri(config.model)),
        version=snapshot.version,
        labels=rows.labels,
        rows={split: int(found.sum()) for split, found in counts.items()},
        left_out=rows.left_out,
        workers=config.workers,
    )
    for split, found in counts.items():
        absent = [rows.labels[number] for number in np.flatnonzero(found == 0)]
        if not found.any():
            if split == "validation":
                summary.warnings.append(
                    "no row is in the validation split: every epoch is trained, the last is kept"
                )
        elif absent:
            named = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
            summary.warnings.append(f"no {split} row has the label(s) {named}")
    return summary


def _require_weights(snapshot: Snapshot, backbone: BackboneConfig) -> None:
    """Finds out before the training whether its model can be put together after it."""
    spec = snapshot.spec
    found = tasks.get_all(
        [tasks.describe.remote(backbone, spec.resize, spec.interpolation, spec.decode)]
    )[0]
    require_same_weights(spec, found.spec)


def _memory(config: TrainConfig, snapshot: Snapshot, rows: LabelledRows) -> tuple[str, int]:
    """Decides how features are held and how many at a time."""
    length = FeatureRows(snapshot, rows.shard, rows.row, rows.label, config.pool).length
    held = int((rows.split != SPLITS.index("test")).sum())
    low, _ = worker_range(config.workers)

    def window(storage: str) -> int:
        return window_rows(length, storage, config.memory_gb * 1e9, low, held)

    if config.storage != "auto":
        return config.storage, window(config.storage)
    # Averages of 16-bit values need more bits than these had.
    if snapshot.spec.precision != "float32" and config.pool != "avg":
        return snapshot.spec.precision, window(snapshot.spec.precision)
    if 4 * length * held <= config.memory_gb * 1e9 * low:
        return "float32", held
    return "float16", window("float16")


def _fit_config(
    config: TrainConfig, snapshot: Snapshot, rows: LabelledRows, storage: str
) -> FitConfig:
    hidden = config.hidden if config.head == "mlp" else ()
    head = HeadConfig(
        shape=snapshot.spec.shape,
        classes=len(rows.labels),
        hidden=tuple(hidden or ()),
        pool=config.pool,
        dropout=config.dropout or 0.0,
        l2=config.l2 or 0.0,
        standardize=bool(config.standardize),
        binary=config.binary,
        seed=config.seed,
    )
    if config.pool != "none" and len(head.shape) != 3:
        raise ConfigError(
            f"--pool {config.pool} needs a map and the table's features are vectors of shape "
            f"{head.shape}; drop --pool"
        )
    assert config.optimizer is not None and config.learning_rate is not None
    assert config.epochs is not None and config.batch_size is not None
    assert config.patience is not None
    return FitConfig(
        head=head,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        epochs=config.epochs,
        batch_size=config.batch_size,
        class_weights=_class_weights(config.class_weights, rows),
        monitor=config.monitor,
        patience=config.patience,
        seed=config.seed,
        storage=storage,
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


@dataclass(frozen=True)
class _Workers:
    number: int | tuple[int, int]
    cpus: int
    gpus: float


def _size_workers(config: TrainConfig) -> _Workers:
    """Decides what each worker gets of the cluster."""
    low, high = worker_range(config.workers)
    cpus_there, gpus_there = cluster.total("CPU"), cluster.total("GPU")
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if gpus_there else 0.0
    cpus = config.cpus_per_worker
    if cpus is None:
        cpus = 1.0 if gpus else min(_MAX_CPUS_PER_WORKER, max(1, cpus_there // low))
    fits = sum(
        min(
            math.floor(node.get("CPU", 0) / cpus),
            math.floor(node.get("GPU", 0) / gpus) if gpus else sys.maxsize,
        )
        for node in cluster.nodes()
    )
    if fits < low:
        raise ConfigError(
            f"--workers {config.workers}: the cluster has room for {fits} workers of {cpus:g} CPUs "
            f"and {gpus:g} GPUs ({cpus_there:g} CPUs, {gpus_there:g} GPUs in all); lower "
            "--workers, --cpus-per-worker or --gpus-per-worker"
        )
    return _Workers(low if low == high else (low, high), int(cpus), gpus)


class _Training:
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
        self._workers = _size_workers(config)

    def _rows_of(self, split: str) -> FeatureRows:
        chosen = self._rows.split == SPLITS.index(split)
        return FeatureRows(
            self._snapshot,
            self._rows.shard[chosen],
            self._rows.row[chosen],
            self._rows.label[chosen],
            self._config.pool,
        )

    def execute(self) -> dict[str, Any]:
        """Trains to the end.

        Returns:
            The last checkpoint's arrays.
        """
        import ray.train
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        log = EpochLog.remote()  # type: ignore[attr-defined]
        filesystem, root = filesystem_of(self._model_uri)
        settings = WorkerConfig(
            fit=self._fit,
            rows=[ray.put(self._rows_of(split)) for split in ("train", "validation")],
            window_rows=self._window,
            threads=self._workers.cpus,
            log=log,
        )
        for name in ("ray.train", "ray"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        trainer = DataParallelTrainer(
            train_worker,
            train_loop_config={"config": settings},
            backend_config=TensorflowCluster(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self._workers.number,  # type: ignore[arg-type]
                use_gpu=self._workers.gpus > 0,
                resources_per_worker={"CPU": self._workers.cpus}
                | ({"GPU": self._workers.gpus} if self._workers.gpus else {}),
            ),
            run_config=ray.train.RunConfig(
                # Of the same name and place as before, it goes on from the last checkpoint.
                name=_UNFINISHED,
                storage_path=root,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(
                    max_failures=self._config.max_worker_failures
                ),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=_CHECKPOINTS_KEPT),
            ),
        )
        fitting = _Fitting(trainer)
        shown = 0
        try:
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
            return load_state(Path(folder))

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

    def judge(self, weights: list[Any]) -> tuple[str, Evaluation | None]:
        """Evaluates on the test split, or on the validation split when there is none."""
        for split in ("test", "validation"):
            rows = self._rows_of(split)
            if not len(rows):
                continue
            judged = judge_rows.remote(
                rows, self._fit.head, weights, self._fit.storage, self._window
            )
            probabilities = tasks.get_all([judged])[0]
            return split, evaluate(self._rows.labels, rows.label, probabilities)
        return "", None


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
    lines = [line for line in str(first).strip().splitlines() if line.strip()]
    reason = redact_text(lines[-1])[:300] if lines else ""
    return RunFailedError(
        f"the training failed: {type(first).__name__}: {reason}; "
        "finished epochs are kept, go on with --resume"
    )
