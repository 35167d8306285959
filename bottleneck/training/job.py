"""The train job: snapshot → splits → Ray Train → evaluation → model files.

:func:`train` reads like the run itself. The driver holds no features: workers read them, fit heads
and predict with them; the driver decides and writes down what came out.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from bottleneck.backbones.config import BackboneConfig, backbone_of, require_same_weights
from bottleneck.cluster import calls, connection
from bottleneck.config.values import worker_range
from bottleneck.console import logs
from bottleneck.console.interruption import Interruption
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import ConfigError
from bottleneck.images.options import DecodeOptions
from bottleneck.pipeline import probe
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable
from bottleneck.training.config import TrainConfig
from bottleneck.training.fit_config import fit_config
from bottleneck.training.model_writing import TrainedModel, write_model
from bottleneck.training.ray_train import TrainingRun
from bottleneck.training.resume import (
    discard,
    earlier_settings,
    require_room,
    require_same,
    settings_of,
    write_settings,
)
from bottleneck.training.rows import row_length, window_rows
from bottleneck.training.splits import SPLITS, LabelledRows, select_rows
from bottleneck.training.summary import TrainSummary


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
    model_uri = normalize_uri(config.model)
    with Interruption() as interruption:
        table = FeaturesTable.open(normalize_uri(config.features))
        earlier = earlier_settings(model_uri)
        require_room(config, model_uri, earlier)
        if config.resume and earlier is not None:
            config = _at_earlier_version(config, int(earlier["version"]))
        snapshot = table.snapshot(version=config.version, as_of=config.moment)
        rows = select_rows(snapshot, config)
        summary = _begun(run_id, config, snapshot, rows)
        for text in summary.warnings:
            logs.say(f"note: {text}", event="notice", level=logging.WARNING)

        connection.connect(config.address, interruption)
        backbone = backbone_of(snapshot.spec, config.weights)
        _require_weights(snapshot, backbone)
        dtype, window = _hold(config, snapshot, rows)
        fit = fit_config(config, snapshot.spec, rows, dtype)
        # Refuses what the cluster has no room for before anything is written.
        run = TrainingRun(config, model_uri, snapshot, rows, fit, window)
        settings = settings_of(snapshot, rows, fit)
        if config.resume:
            require_same(earlier, settings)
        else:
            discard(model_uri)
            write_settings(model_uri, settings)
        last = run.execute()

        summary.history, summary.best_epoch = list(last.history), last.best_epoch
        summary.epochs, summary.dtype = len(summary.history), dtype
        summary.evaluated_on, summary.evaluation = run.evaluate(last.best_weights)
        write_model(
            TrainedModel(
                uri=model_uri,
                config=config,
                snapshot=snapshot,
                fit=fit,
                weights=last.best_weights,
                backbone=backbone,
                summary=summary,
            )
        )
        discard(model_uri)
    summary.seconds = time.monotonic() - began
    return summary


def _at_earlier_version(config: TrainConfig, version: int) -> TrainConfig:
    """Has a training go on with the rows that it was begun with."""
    if config.as_of is not None or config.version not in (None, version):
        asked = "--as-of" if config.as_of is not None else f"--version {config.version}"
        raise ConfigError(
            f"--resume goes on with version {version} of the table, which the stopped training "
            f"was begun with; drop {asked}"
        )
    return replace(config, version=version)


def _begun(
    run_id: str, config: TrainConfig, snapshot: Snapshot, rows: LabelledRows
) -> TrainSummary:
    counts = {split: rows.counts(split) for split in SPLITS}
    summary = TrainSummary(
        run=run_id,
        table_uri=redact_uri(snapshot.table_uri),
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
    found = calls.get_all([probe.describe.remote(backbone, DecodeOptions.of_spec(spec))])[0]
    require_same_weights(spec, found.spec)


def _hold(config: TrainConfig, snapshot: Snapshot, rows: LabelledRows) -> tuple[str, int]:
    """Decides how features are held in memory.

    Returns:
        Their dtype, and how many rows are held at a time.
    """
    length = row_length(snapshot.spec, config.pool)
    held = int((rows.split != SPLITS.index("test")).sum())
    low, _ = worker_range(config.workers)

    def window(dtype: str) -> int:
        return window_rows(length, dtype, config.memory_gb * 1e9, low, held)

    if config.dtype != "auto":
        return config.dtype, window(config.dtype)
    # Averages of 16-bit values need more bits than these had.
    if snapshot.spec.precision != "float32" and config.pool != "avg":
        return snapshot.spec.precision, window(snapshot.spec.precision)
    if 4 * length * held <= config.memory_gb * 1e9 * low:
        return "float32", held
    return "float16", window("float16")
