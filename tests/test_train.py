"""The train job through a real Ray Train, on a table small enough for seconds."""

from __future__ import annotations

import csv
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
from labelled import SPEC, three_splits, write_table
from s3_server import S3Server

from bottleneck.cli import run_job
from bottleneck.errors import ConfigError, ModelError
from bottleneck.model_files import load_keras, read_file, read_manifest
from bottleneck.train_config import TrainConfig
from bottleneck.train_summary import TrainSummary
from bottleneck.training import train

# Ray Train starts several processes, each of which imports TensorFlow.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[1]

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
    write_table(uri, three_splits())
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
    model = tmp_path_factory.mktemp("models") / "colours"
    return fit(table, model), model


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
    # Colours of the two labels hardly overlap.
    assert summary.evaluation.accuracy.value >= 0.9
    assert "On the test split" in summary.to_text()
    assert json.loads(summary.to_json())["evaluation"]["count"] == 40
    page = (model / "report.html").read_text()
    assert "green" in page
    assert table in page


def test_the_fused_model_is_backbone_and_head(trained: tuple[TrainSummary, Path]) -> None:
    """In a process with Keras alone."""
    _, model = trained
    manifest = read_manifest(str(model))
    colours = np.array([[200, 80, 90], [80, 200, 90], [150, 140, 90]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 8, 8, 3))
    np.save(model.parent / "images.npy", images)
    script = (
        "import keras, numpy, sys; "
        "model = keras.saving.load_model(sys.argv[1]); "
        "print(model.predict(numpy.load(sys.argv[2]), verbose=0).tolist()); "
        "assert 'ray' not in sys.modules and 'bottleneck.heads' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, model / "model.keras", model.parent / "images.npy"],
        capture_output=True,
        text=True,
        check=True,
        cwd=model.parent,
    )
    head = load_keras(read_file(manifest, "head.keras"))
    wanted = head.predict(colours.astype(np.float32), verbose=0)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), wanted, atol=1e-6)
    assert wanted.argmax(axis=1)[:2].tolist() == [1, 0]


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


def train_workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]


def test_two_workers_one_of_them_killed_give_the_losses_of_one(
    trained: tuple[TrainSummary, Path], table: str, tmp_path: Path
) -> None:
    """Order, dropout and sums do not depend on who computes, nor on a resumption."""
    one, _ = trained
    killed: list[int] = []

    def kill_one() -> None:
        state = tmp_path / "model" / "unfinished"
        while not list(state.rglob("state.npz")):
            time.sleep(0.05)
        victim = train_workers()[-1]
        os.kill(victim.pid, signal.SIGKILL)
        killed.append(victim.pid)

    murderer = threading.Thread(target=kill_one, daemon=True)
    murderer.start()
    two = fit(table, tmp_path / "model", workers="2", epochs=6, patience=0)
    murderer.join()
    assert killed
    assert [entry["epoch"] for entry in two.history] == [float(n) for n in range(1, 7)]
    np.testing.assert_allclose(losses(two)[:4], losses(one), rtol=1e-5)
    assert files_of(tmp_path / "model") == FILES


def test_a_stopped_training_goes_on_where_it_was(
    trained: tuple[TrainSummary, Path], table: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    flags = [f"--features={table}", f"--model={model}", "--epochs=8", "--batch-size=16"]
    flags += [f"--address={ray.get_runtime_context().gcs_address}"]
    flags += ["--hidden=8", "--learning-rate=0.01", "--patience=0"]
    process = subprocess.Popen(
        [sys.executable, "jobs/train.py", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    deadline = time.monotonic() + 200
    while not list(model.rglob("state.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.splitlines()[-1] == (
        "error: stopped by SIGTERM; finished epochs are kept, go on with --resume"
    )
    assert "Traceback" not in err
    assert not (model / "model.json").exists()

    with pytest.raises(ModelError, match="was stopped before its end; go on with --resume"):
        fit(table, model)
    with pytest.raises(ConfigError, match=r"other settings \(batch_size: 32 now, 16 before\)"):
        fit(table, model, resume=True, epochs=8, patience=0, batch_size=32)
    resumed = fit(table, model, resume=True, epochs=8, patience=0)
    assert [entry["epoch"] for entry in resumed.history] == [float(n) for n in range(1, 9)]
    np.testing.assert_allclose(losses(resumed)[:4], losses(trained[0]), rtol=1e-5)
    assert files_of(model) == FILES


def test_a_table_and_a_model_in_s3_with_three_labels(
    s3: S3Server, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.create_bucket("heads")
    labels = ("red", "green", "blue")
    write_table("s3://heads/features", three_splits(labels, 240))
    flags = ["--features=s3://heads/features", "--model=s3://heads/model"]
    assert run_job(TrainConfig, train, [*flags, "--binary"]) == 2
    assert "--binary needs two labels and version 1 of s3://heads/features has 3" in (
        capsys.readouterr().err
    )
    flags += ["--epochs=3", "--hidden=8", "--class-weights=balanced", "--log-json"]
    code = run_job(TrainConfig, train, flags)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    lines = [json.loads(line) for line in printed.err.splitlines()]
    epochs = [line for line in lines if line["event"] == "progress"]
    assert [(line["epoch"], line["epochs"]) for line in epochs] == [(1, 3), (2, 3), (3, 3)]
    assert epochs[2]["message"].startswith(f"epoch 3/3  loss {epochs[2]['loss']:.4f}  accuracy ")
    assert printed.out.startswith(f"Trained (run {epochs[0]['run']})\n")
    assert len({line["run"] for line in lines}) == 1
    assert "rows        train 720, validation 240, test 240" in printed.out
    assert read_manifest("s3://heads/model").labels == ("blue", "green", "red")
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
