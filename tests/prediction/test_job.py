"""The predict job: images or features and a model → a table, kept up to date."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.images import Color, draw, read_snapshot
from support.labeled import SPEC, ThreeLabels, draw_images, labeled_colors, write_labeled
from support.prometheus import require_served

from bottleneck.cli import run_job
from bottleneck.models.files import load_keras, read_file, read_manifest
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.job import predict
from bottleneck.prediction.summary import PredictSummary
from bottleneck.storage.files import read_bytes
from bottleneck.table.table import FeaturesTable, PredictionsTable

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def model(three_labels: ThreeLabels) -> str:
    return three_labels.model


@pytest.fixture(scope="module")
def images() -> dict[str, Color]:
    drawn = labeled_colors(20, LABELS, "test", seed=1)
    return {name.removeprefix("test/"): value for name, value in drawn.items()}


@pytest.fixture(scope="module")
def photos(images: dict[str, Color], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that tests leave as they are."""
    return draw_images(tmp_path_factory.mktemp("photos"), images)


@pytest.fixture(scope="module")
def of_images(model: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their predictions, which tests leave as they are too."""
    table = tmp_path_factory.mktemp("predictions") / "of_images"
    run(model, table, images=str(photos))
    return table


def run(model: str, table: Path, **options: Any) -> PredictSummary:
    defaults = {"actors": "1", "batch_size": 8, "model": str(model), "predictions": str(table)}
    return predict(PredictConfig(**(defaults | options)))


def rows_of(table: Path) -> list[dict[str, Any]]:
    return read_snapshot(PredictionsTable.open(str(table)).snapshot())


def require_predictions(
    rows: list[dict[str, Any]], images: dict[str, Color], model: str, top: int = 3
) -> None:
    """Every row says what the head says of its image's color."""
    manifest = read_manifest(model)
    head = load_keras(read_file(manifest, "head.keras"))
    good = [row for row in rows if row["status"] == "ok"]
    assert [row["image"] for row in good] == sorted(images)
    colors = np.array([images[row["image"]] for row in good], np.float32)
    wanted = head.predict(colors, verbose=0)
    for row, probabilities in zip(good, wanted, strict=True):
        order = np.argsort(-probabilities, kind="stable")[:top]
        assert row["top_labels"] == [manifest.labels[number] for number in order]
        np.testing.assert_allclose(row["top_probabilities"], probabilities[order], atol=1e-5)
        assert row["predicted"] == row["top_labels"][0]
        assert row["probability"] == row["top_probabilities"][0]


@pytest.mark.slow
def test_images_get_the_predictions_of_the_head_and_only_changes_cost(
    model: str, images: dict[str, Color], tmp_path: Path
) -> None:
    photos, table = draw_images(tmp_path / "photos", images), tmp_path / "predictions"
    (photos / "red/broken.png").write_bytes(b"<html>")
    first = run(model, table, images=str(photos), report=str(tmp_path / "report.html"))
    assert (first.new, first.computed, first.failed) == (61, 61, {"not_an_image": 1})
    rows = rows_of(table)
    assert len(rows) == 61
    require_predictions(rows, images, model)
    broken = next(row for row in rows if row["image"] == "red/broken.png")
    assert (broken["status"], broken["label"]) == ("not_an_image", "red")
    assert [broken[name] for name in ("predicted", "probability", "top_labels")] == [None] * 3
    assert first.evaluation is not None
    assert first.evaluation.count == 60
    right = sum(row["predicted"] == row["label"] for row in rows if row["status"] == "ok")
    assert first.evaluation.accuracy.value == right / 60
    assert json.loads(first.to_json())["evaluation"]["count"] == 60
    require_served(first)
    page = (tmp_path / "report.html").read_text()
    mistakes = [row for row in rows if row["status"] == "ok" and row["predicted"] != row["label"]]
    assert mistakes
    shown = [row["image"] for row in mistakes if row["image"] in page]
    assert page.count("data:image/jpeg") == len(shown) == min(24, len(mistakes))

    second = run(model, table, images=str(photos))
    assert (second.outcome, second.unchanged, second.computed) == ("unchanged", 61, 0)
    assert second.evaluation is not None

    shutil.rmtree(photos / "blue")
    images = {name: value for name, value in images.items() if not name.startswith("blue")}
    images |= draw(photos, {"red/new.png": (201, 80, 80), "green/0000.png": (80, 201, 81)})
    third = run(model, table, images=str(photos))
    assert (third.new, third.changed, third.removed, third.unchanged) == (1, 1, 20, 40)
    require_predictions(rows_of(table), images, model)


@pytest.mark.slow
def test_a_features_table_gets_the_same_predictions_without_its_images(
    model: str, images: dict[str, Color], of_images: Path, tmp_path: Path
) -> None:
    write_labeled(str(tmp_path / "features"), images)
    source = str(tmp_path / "features")
    first = run(model, tmp_path / "of_features", features=source, top=2)
    assert (first.listed, first.computed, first.outcome) == (60, 60, "done")
    rows = rows_of(tmp_path / "of_features")
    require_predictions(rows, images, model, top=2)
    others = rows_of(of_images)
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in others]
    second = run(model, tmp_path / "of_features", features=source, top=2)
    assert (second.outcome, second.unchanged) == ("unchanged", 60)
    # A row removed from the features disappears, by a rewrite of its shard alone.
    table = FeaturesTable.open(source)
    start = table.snapshot()
    table.commit(base=start, remove=[start.shards[0]], run="less")
    third = run(model, tmp_path / "of_features", features=source, top=2)
    assert (third.removed, third.unchanged) == (5, 55)
    assert [row["image"] for row in rows_of(tmp_path / "of_features")] == sorted(images)[5:]


def test_what_does_not_fit_is_one_line(
    model: str,
    photos: Path,
    of_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, before = of_images, rows_of(of_images)

    def refused(*flags: str) -> str:
        arguments = [f"--model={model}", f"--images={photos}", f"--predictions={table}"]
        names = {flag.partition("=")[0] for flag in flags}
        kept = [flag for flag in arguments if flag.partition("=")[0] not in names]
        capsys.readouterr()
        assert run_job(PredictConfig, predict, [*kept, *flags]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    assert "top: 2 in this run, 3 in the table" in refused("--top=2")
    assert "there is no model at" in refused(f"--model={tmp_path}/none")
    assert "this is a predictions table and a features table is needed" in refused(
        "--images=", f"--features={table}"
    )
    assert "give either --images" in refused("--images=")
    spec = tmp_path / "other"
    write_other_features(spec)
    said = refused("--images=", f"--features={spec}", f"--predictions={tmp_path / 'p'}")
    assert "preprocessing: own in the model, rescale in the table" in said
    half = tmp_path / "half"
    half.mkdir()
    (half / "head.keras").write_bytes(read_bytes(f"{model}/head.keras"))
    assert "there is no model at" in refused(f"--model={half}")
    assert rows_of(table) == before


def write_other_features(folder: Path) -> None:
    FeaturesTable.create(str(folder), replace(SPEC, preprocessing="rescale"))


@pytest.mark.slow
def test_dry_run_and_images_without_labels(
    model: str, images: dict[str, Color], tmp_path: Path
) -> None:
    flat = {name.replace("/", "_"): value for name, value in images.items()}
    photos = draw_images(tmp_path / "photos", flat)
    planned = run(model, tmp_path / "p", images=str(photos), dry_run=True)
    assert (planned.outcome, planned.new, planned.commits) == ("planned", 60, 0)
    assert not (tmp_path / "p").exists()
    done = run(model, tmp_path / "p", images=str(photos), top=1)
    assert (done.computed, done.evaluation) == (60, None)
    assert {row["label"] for row in rows_of(tmp_path / "p")} == {None}
    require_predictions(rows_of(tmp_path / "p"), flat, model, top=1)
