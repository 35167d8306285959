"""The train job through a real Ray Train, on a table small enough for seconds."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from support.labeled import SPEC, ThreeLabels, three_splits, write_labeled
from support.paths import ROOT

from benchmarks.support.s3_server import S3Server
from bottleneck.cli import run_job
from bottleneck.errors import ConfigError, ModelError
from bottleneck.models.files import read_manifest
from bottleneck.training.config import TrainConfig
from bottleneck.training.job import train
from bottleneck.training.summary import TrainSummary

#: Epochs of a training that is stopped, and has a worker killed, before its end.
MANY = 20

FILES = {
    "confusion_matrix.png",
    "head.keras",
    "history.csv",
    "labels.json",
    "learning_curves.png",
    "model.json",
    "model.keras",
    "reliability.png",
    "report.html",
    "tensorboard/events.out.tfevents.0.bottleneck",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("tables") / "features")
    write_labeled(uri, three_splits())
    return uri


def fit(table: str, model: Path | str, **options: Any) -> TrainSummary:
    defaults = {"epochs": 4, "batch_size": 16, "hidden": (8,), "learning_rate": 0.01}
    return train(TrainConfig(features=table, model=str(model), **(defaults | options)))


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def losses(summary: TrainSummary) -> list[float]:
    return [entry["loss"] for entry in summary.history]


@pytest.fixture(scope="module")
def trained(
    ray_session: None, table: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainSummary, Path]:
    """Over a model and a training that was stopped, which were there."""
    model = tmp_path_factory.mktemp("models") / "colors"
    (model / "unfinished").mkdir(parents=True)
    (model / "unfinished/settings.json").write_text('{"version": 0}')
    (model / "model.json").write_text("{}")
    return fit(table, model, overwrite=True), model


@pytest.mark.slow
def test_a_trained_model_is_whole_and_says_what_it_is(
    trained: tuple[TrainSummary, Path], table: str
) -> None:
    summary, model = trained
    assert files_of(model) == FILES
    manifest = read_manifest(str(model))
    assert manifest.spec == SPEC
    assert manifest.labels == ("green", "red")
    assert json.loads((model / "labels.json").read_text()) == ["green", "red"]
    assert set(manifest.files) == FILES - {"model.json"}
    assert manifest.facts["table"] == {"uri": table, "version": 1}
    assert manifest.facts["rows"] == {"train": 120, "validation": 40, "test": 40}
    assert manifest.facts["configuration"]["hidden"] == "8"
    assert manifest.facts["metrics"]["on"] == "test"
    history = list(csv.DictReader(io.StringIO((model / "history.csv").read_text())))
    assert [row["epoch"] for row in history] == ["1.0", "2.0", "3.0", "4.0"]
    assert [float(row["loss"]) for row in history] == losses(summary)
    assert summary.evaluation is not None
    assert summary.evaluation.count == 40
    # Colors of the two labels hardly overlap.
    assert summary.evaluation.accuracy.value >= 0.9
    assert "On the test split" in summary.to_text()
    assert json.loads(summary.to_json())["evaluation"]["count"] == 40
    page = (model / "report.html").read_text()
    assert "green" in page
    assert table in page


def test_a_model_is_not_overwritten_without_being_asked(
    trained: tuple[TrainSummary, Path], table: str
) -> None:
    _, model = trained
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    with pytest.raises(ModelError, match=r"there is a model at .*give --overwrite"):
        fit(table, model)
    with pytest.raises(ConfigError, match="no stopped training is at"):
        fit(table, model, resume=True)
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def checkpoints(model: Path) -> set[str]:
    # Not `rglob`, which fails where a folder that it looks into is deleted.
    return set(glob.glob(f"{model}/**/state.npz", recursive=True))  # noqa: PTH207


def kill_a_train_worker() -> bool:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


@pytest.mark.slow
def test_a_stopped_training_goes_on_where_it_was_though_its_workers_change_and_die(
    trained: tuple[TrainSummary, Path], table: str, tmp_path: Path
) -> None:
    """Order, dropout and sums do not depend on who computes, nor on a resumption."""
    model = tmp_path / "model"
    flags = [f"--features={table}", f"--model={model}", f"--epochs={MANY}", "--batch-size=16"]
    flags += [f"--address={ray.get_runtime_context().gcs_address}"]
    flags += ["--hidden=8", "--learning-rate=0.01", "--patience=0"]
    process = subprocess.Popen(
        [sys.executable, "jobs/train.py", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ray's own pace, at which there is time enough before the end of the training.
        env={**os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"},
    )
    try:
        deadline = time.monotonic() + 300
        while not checkpoints(model):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, out) == (143, ""), err
    assert err.splitlines()[-1] == (
        "error: stopped by SIGTERM; finished epochs are kept, go on with --resume"
    )
    assert "Traceback" not in err
    assert not (model / "model.json").exists()

    with pytest.raises(ModelError, match="was stopped before its end; go on with --resume"):
        fit(table, model)
    with pytest.raises(ConfigError, match=r"other settings \(batch_size: 32 now, 16 before\)"):
        fit(table, model, resume=True, epochs=MANY, patience=0, batch_size=32)

    before, killed, ended = checkpoints(model), threading.Event(), threading.Event()

    def kill_one() -> None:
        while not ended.wait(0.05):
            if checkpoints(model) - before and kill_a_train_worker():
                killed.set()
                return

    murderer = threading.Thread(target=kill_one, daemon=True)
    murderer.start()
    try:
        resumed = fit(table, model, resume=True, workers="2", epochs=MANY, patience=0)
    finally:
        ended.set()
        murderer.join(60)
    assert killed.is_set()
    assert [entry["epoch"] for entry in resumed.history] == [float(n) for n in range(1, MANY + 1)]
    np.testing.assert_allclose(losses(resumed)[:4], losses(trained[0]), rtol=1e-5)
    assert files_of(model) == FILES


def test_a_table_and_a_model_in_s3_with_three_labels(
    three_labels: ThreeLabels, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--features={three_labels.features}", "--model=s3://heads/other"]
    assert run_job(TrainConfig, train, [*flags, "--binary"]) == 2
    assert f"--binary needs two labels and version 1 of {three_labels.features} has 3" in (
        capsys.readouterr().err
    )
    assert three_labels.code == 0, three_labels.err
    lines = [json.loads(line) for line in three_labels.err.splitlines()]
    epochs = [line for line in lines if line["event"] == "progress"]
    assert [(line["epoch"], line["epochs"]) for line in epochs] == [(1, 3), (2, 3), (3, 3)]
    assert epochs[2]["message"].startswith(f"epoch 3/3  loss {epochs[2]['loss']:.4f}  accuracy ")
    assert three_labels.out.startswith(f"Trained (run {epochs[0]['run']})\n")
    assert len({line["run"] for line in lines}) == 1
    assert "rows        train 720, validation 240, test 240" in three_labels.out
    assert read_manifest(three_labels.model).labels == ("blue", "green", "red")
    listed = s3.client().list_objects_v2(Bucket="heads", Prefix="model/")["Contents"]
    # Keys that end in a slash are what file systems on S3 leave to stand for folders.
    keys = {entry["Key"].removeprefix("model/") for entry in listed}
    assert {key for key in keys if key and not key.endswith("/")} == FILES


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--features=/nowhere"], "there is no features table at /nowhere; make one with"),
        (["--version=7"], "has no version 7; its newest is 1"),
        (["--pool=avg"], "--pool avg needs a map and the table's features are vectors"),
        (["--class-weights=puce=2"], "names the label 'puce', which the table does not have"),
        (["--workers=40"], "the cluster has room for"),
        (["--weights=/no/file.h5"], "channel-means has no weights; drop --weights"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    ray_session: None,
    table: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    arguments = [f"--features={table}", f"--model={tmp_path / 'model'}"]
    names = {flag.partition("=")[0] for flag in flags}
    arguments = [flag for flag in arguments if flag.partition("=")[0] not in names]
    assert run_job(TrainConfig, train, [*arguments, *flags]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert said in err
    assert not (tmp_path / "model" / "model.json").exists()
