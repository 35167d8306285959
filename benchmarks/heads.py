"""Training a head: one epoch of ours against in-memory ``keras.Model.fit``, and windows.

.venv/bin/python -m benchmarks.heads

Every contestant runs in a process of its own, in turns, on the same table; the first epoch, which
compiles, is not counted.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import tyro

from benchmarks.support.results import CommonSettings, Result
from benchmarks.support.tables import MAPS
from bottleneck.table.columns import SCHEMA, features_array
from bottleneck.table.shards import write_shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable

_SPEC = replace(MAPS, precision="float32")
_CONTESTANTS = ("keras", "ours", "ours, windows")
_AIM = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures epochs of the `mlp` head (25,088 → 256 → 2) on made-up VGG16 maps.

    Attributes:
        rows: Training rows.
        batch_sizes: Rows of a step.
        epochs: Counted epochs of each contestant in a turn.
        repeat: Turns of each contestant.
        memory_gb: Memory of the contestant that reads windows.
        contestant: Run this one alone and print what it measured (the benchmark's own use).
        table: Its table.
    """

    rows: int = 4000
    batch_sizes: tuple[int, ...] = (32, 256)
    epochs: int = 3
    repeat: int = 3
    memory_gb: float = 0.2
    contestant: str = ""
    table: str = ""


def main(settings: Settings) -> None:
    if settings.contestant:
        print(json.dumps(_measure(settings)))
        return
    rows = 256 if settings.smoke else settings.rows
    batch_sizes = settings.batch_sizes[:1] if settings.smoke else settings.batch_sizes
    result = Result("heads", settings.to_json())
    with tempfile.TemporaryDirectory() as scratch:
        _write_table(f"{scratch}/features", rows)
        for batch_size in batch_sizes:
            _compare(settings, result, f"{scratch}/features", rows, batch_size)
    result.finish(settings.results)


def _compare(settings: Settings, result: Result, uri: str, rows: int, batch_size: int) -> None:
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in _CONTESTANTS}
    for _ in range(1 if settings.smoke else settings.repeat):
        for name in _CONTESTANTS:
            turns[name].append(_turn(settings, uri, name, batch_size))
    table = result.table(
        f"Epochs of the mlp head, {rows:,} × 25,088, RMSprop, batches of {batch_size}, "
        "medians of warm epochs"
    )
    medians = {}
    for name, taken in turns.items():
        epochs = [seconds for turn in taken for seconds in turn["epochs_s"]]
        medians[name] = statistics.median(epochs)
        table.add(
            contestant=name,
            held_as=taken[0]["dtype"],
            epoch_s=round(medians[name], 3),
            rows_per_s=round(rows / medians[name]),
            peak_GB=round(max(turn["peak_bytes"] for turn in taken) / 1e9, 2),
        )
    ratio = statistics.median(
        statistics.median(keras["epochs_s"]) / statistics.median(ours["epochs_s"])
        for keras, ours in zip(turns["keras"], turns["ours"], strict=True)
    )
    what = f"epochs, ours against keras.Model.fit, batches of {batch_size}, median of turns"
    result.target(what, round(ratio, 2), _AIM)


def _turn(settings: Settings, uri: str, name: str, batch_size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.heads", "--contestant", name, "--table", uri]
    command += ["--batch-sizes", str(batch_size), "--memory-gb", str(settings.memory_gb)]
    command += ["--epochs", "1" if settings.smoke else str(settings.epochs)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _write_table(uri: str, count: int) -> None:
    """Writes sparse maps as VGG16's are, a quarter of the values positive."""
    table = FeaturesTable.create(uri, _SPEC)
    files = table.snapshot().files
    drawn = np.random.default_rng(0)
    shards = []
    for start in range(0, count, 1000):
        size = min(1000, count - start)
        values = drawn.standard_normal((size, _SPEC.length), np.float32)
        np.maximum(values - 0.7, 0, out=values)
        columns: dict[str, Any] = dict.fromkeys(SCHEMA.names[:-1], [None] * size)
        columns["image"] = [f"{number:06d}" for number in range(start, start + size)]
        columns["label"] = [("cats", "dogs")[number % 2] for number in range(size)]
        columns["split"] = ["train"] * size
        columns["status"] = ["ok"] * size
        arrays = [pa.array(held, SCHEMA.field(name).type) for name, held in columns.items()]
        rows = pa.table([*arrays, features_array(values, np.ones(size, bool))], schema=SCHEMA)
        shard = write_shard(files, [rows])
        assert shard is not None
        shards.append(shard)
    table.commit(base=table.snapshot(), add=shards, run="benchmark")


def _measure(settings: Settings) -> dict[str, Any]:
    snapshot = FeaturesTable.open(settings.table).snapshot()
    run = _run_keras if settings.contestant == "keras" else _run_ours
    epochs, dtype = run(settings, snapshot)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"epochs_s": epochs, "dtype": dtype, "peak_bytes": peak}


def _run_keras(settings: Settings, snapshot: Snapshot) -> tuple[list[float], str]:
    import keras

    from bottleneck.models.heads import HeadConfig, build_head
    from bottleneck.training.windows import WindowReader

    rows = _rows(snapshot)
    reader = WindowReader(rows, dtype="float32", window_rows=len(rows))
    window = next(reader.windows())
    head = build_head(HeadConfig(_SPEC.shape, 2, standardize=False))
    loss = "sparse_categorical_crossentropy"
    head.compile(keras.optimizers.RMSprop(1e-4), loss, metrics=["accuracy"])
    x = window.values.reshape(-1, *_SPEC.shape)
    seconds = []
    for _ in range(settings.epochs + 1):
        began = time.perf_counter()
        head.fit(x, window.label, batch_size=settings.batch_sizes[0], epochs=1, verbose=0)
        seconds.append(time.perf_counter() - began)
    return seconds[1:], "float32"


def _run_ours(settings: Settings, snapshot: Snapshot) -> tuple[list[float], str]:
    from bottleneck.models.heads import HeadConfig
    from bottleneck.training.fit_config import FitConfig
    from bottleneck.training.fitting import HeadFitter
    from bottleneck.training.rows import window_rows
    from bottleneck.training.windows import WindowReader

    rows = _rows(snapshot)
    dtype, size = "float32", len(rows)
    if settings.contestant != "ours":
        dtype = "float16"
        size = window_rows(rows.length, dtype, settings.memory_gb * 1e9, 1, len(rows))
    fit = FitConfig(
        head=HeadConfig(_SPEC.shape, 2, standardize=False),
        optimizer="rmsprop",
        learning_rate=1e-4,
        schedule="constant",
        epochs=settings.epochs + 1,
        batch_size=settings.batch_sizes[0],
        class_weights=(1.0, 1.0),
        monitor="val_loss",
        patience=0,
        seed=0,
        dtype=dtype,
        total_rows=len(rows),
    )
    fitter = HeadFitter(fit, rows.length)
    reader = WindowReader(rows, dtype=dtype, window_rows=size)

    seconds = []
    for epoch in range(settings.epochs + 1):
        began = time.perf_counter()
        fitter.train_epoch(reader, epoch)
        seconds.append(time.perf_counter() - began)
    return seconds[1:], dtype


def _rows(snapshot: Snapshot) -> Any:
    from bottleneck.training.rows import FeatureRows

    sizes = [shard.rows for shard in snapshot.shards]
    number = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    row = np.concatenate([np.arange(size) for size in sizes])
    return FeatureRows(snapshot, number, row, (np.arange(len(row)) % 2).astype(np.int32))


if __name__ == "__main__":
    main(tyro.cli(Settings))
