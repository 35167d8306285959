"""A night without work needs no cluster, and only such a night."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.images import draw, numbered

from benchmarks.support.specs import make_spec
from bottleneck.backbones.config import BackboneConfig
from bottleneck.cluster import connection
from bottleneck.console.interruption import Interruption
from bottleneck.errors import RunFailedError, SpecMismatchError
from bottleneck.extraction import known_backbone
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.extraction.known_backbone import knows_backbone, remember_backbone, settings_digest
from bottleneck.images.options import DecodeOptions
from bottleneck.incremental.summary import Summary
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable

READ = DecodeOptions(224, 224)


def run(images: Path, features: Path, **options: Any) -> Summary:
    defaults = {"backbone": "channel-means", "weights": "none", "actors": "1", "batch_size": 8}
    flags = {"images": str(images), "features": str(features), **defaults, **options}
    return extract(ExtractConfig(**flags))


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a run that asks for Ray fails."""

    def refuse(address: str | None, interruption: Interruption) -> None:
        raise RunFailedError("no Ray here")

    monkeypatch.setattr(connection, "connect", refuse)


@pytest.mark.usefixtures("ray_session")
def test_a_night_without_work_needs_no_cluster(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    photos, table = tmp_path / "photos", tmp_path / "features"
    draw(photos, numbered(5))
    run(photos, table)
    request.getfixturevalue("no_cluster")

    again = run(photos, table)
    assert (again.outcome, again.unchanged, again.rows) == ("unchanged", 5, 5)
    assert again.precision == "float32"
    planned = run(photos, table, dry_run=True)
    assert (planned.outcome, planned.unchanged) == ("planned", 5)

    # Work, and settings that may make other features, need one.
    draw(photos, numbered(1, start=9))
    assert run(photos, table, dry_run=True).new == 1
    with pytest.raises(RunFailedError, match="no Ray here"):
        run(photos, table)
    (photos / "things/000009.png").unlink()
    with pytest.raises(RunFailedError, match="no Ray here"):
        run(photos, table, resize="pad")
    note = table / "_bottleneck/backbone.json"
    for damaged in ("", "{", "[]", '{"settings": 1}'):
        note.write_text(damaged)
        with pytest.raises(RunFailedError, match="no Ray here"):
            run(photos, table)


@pytest.mark.usefixtures("ray_session")
def test_a_run_without_a_note_leaves_one_and_another_specification_is_still_refused(
    tmp_path: Path,
) -> None:
    photos, table = tmp_path / "photos", tmp_path / "features"
    draw(photos, numbered(3))
    run(photos, table)
    note = table / "_bottleneck/backbone.json"
    before = note.read_text()
    note.unlink()
    with pytest.raises(SpecMismatchError, match="resize: pad in this run"):
        run(photos, table, resize="pad")
    assert run(photos, table, dry_run=True).unchanged == 3
    assert not note.exists()
    assert run(photos, table).outcome == "unchanged"
    assert note.read_text() == before


def test_every_setting_and_the_state_of_the_weights_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.weights.h5"
    file.write_bytes(b"1")
    backbones = [
        BackboneConfig("mobilenet", alpha=0.25, precision="float32"),
        BackboneConfig("mobilenet", alpha=0.5, precision="float32"),
        BackboneConfig("mobilenet", alpha=0.25, precision="bfloat16"),
        BackboneConfig("mobilenet", alpha=0.25, precision="float32", weights="random:1"),
        BackboneConfig("mobilenet", alpha=0.25, precision="float32", weights=str(file)),
    ]
    found = {settings_digest(backbone, READ) for backbone in backbones}
    found |= {
        settings_digest(backbones[0], replace(READ, resize="pad")),
        settings_digest(backbones[0], replace(READ, interpolation="nearest")),
        settings_digest(backbones[0], replace(READ, decode="exact")),
    }
    file.write_bytes(b"22")
    found.add(settings_digest(backbones[-1], READ))
    monkeypatch.setattr(known_backbone, "__version__", "another")
    found.add(settings_digest(backbones[0], READ))
    monkeypatch.undo()
    monkeypatch.setattr(known_backbone, "version", lambda name: version(name) + "1")
    found.add(settings_digest(backbones[0], READ))
    assert len(found) == 11
    assert all(len(digest) == 64 for digest in found)


@pytest.mark.parametrize("weights", ["/nowhere/own.weights.h5", "nosuch://bucket/own.weights.h5"])
def test_weights_that_cannot_be_seen_from_here_are_never_known(
    tmp_path: Path, weights: str
) -> None:
    backbone = BackboneConfig("vgg16", precision="float32", weights=weights)
    assert settings_digest(backbone, READ) == ""
    snapshot = _snapshot(tmp_path)
    remember_backbone(snapshot.table_uri, "", snapshot.spec)
    assert not knows_backbone(snapshot, "")
    assert not (tmp_path / "_bottleneck").exists()


def test_a_note_that_cannot_be_written_is_said_and_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = _snapshot(tmp_path)
    (tmp_path / "_bottleneck").write_text("a file in the way")
    remember_backbone(snapshot.table_uri, "settings", snapshot.spec)
    assert "the table is complete, but a note for the next run is not" in caplog.text
    assert not knows_backbone(snapshot, "settings")


def _snapshot(folder: Path) -> Snapshot:
    return FeaturesTable.create(str(folder), make_spec((2,))).snapshot()
