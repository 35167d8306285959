"""The extract job on a real local Ray: first runs, nightly runs, exact row sets."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray
from support.extraction import counts, run
from support.images import color, colors_of, draw, numbered, png, read

from bottleneck.cli import run_job
from bottleneck.errors import SpecMismatchError, TableError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental.maintenance import maintain
from bottleneck.incremental.summary import Summary
from bottleneck.table.table import FeaturesTable

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def table(tmp_path: Path) -> str:
    return str(tmp_path / "features")


@pytest.mark.slow
def test_first_run_has_one_row_per_image_with_its_own_features(photos: Path, table: str) -> None:
    wanted = draw(photos, numbered(100, folder="train/blue") | numbered(50, 500, "test/red"))
    (photos / "train/blue/broken.png").write_bytes(b"<html>no image</html>")
    (photos / "train/blue/empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("not an image")

    context = ray.data.DataContext.get_current()
    names = ("enable_progress_bars", "target_max_block_size", "custom_execution_callback_classes")
    before = {name: getattr(context, name) for name in names}

    summary = run(photos, table)

    # The next dataset of the process was once stopped by the last run's callback.
    assert {name: getattr(context, name) for name in names} == before
    assert ray.data.range(3).sum("id") == 3
    assert counts(summary) == {"new": 152, "computed": 152}
    assert summary.listed == 152
    assert summary.skipped == {"not_an_image_extension": 1}
    assert summary.failed == {"not_an_image": 1, "empty": 1}
    assert (summary.version, summary.rows, summary.commits) == (1, 152, 1)
    rows = read(table)
    assert colors_of(rows) == sorted(wanted.items())
    failed = {row["image"]: (row["status"], row["features"]) for row in rows if row["error"]}
    assert failed == {
        "train/blue/broken.png": ("not_an_image", None),
        "train/blue/empty.png": ("empty", None),
    }
    first = rows[0]
    assert (first["image"], first["split"], first["label"]) == (
        "test/red/000500.png",
        "test",
        "red",
    )
    assert (first["width"], first["height"]) == (8, 8)
    assert len(first["sha256"]) == 64


@pytest.mark.slow
def test_new_changed_and_deleted_images_only(photos: Path, table: str) -> None:
    wanted = draw(photos, numbered(60))
    run(photos, table, shard_mb=0.01)
    wanted |= draw(photos, numbered(7, start=1000))
    wanted |= draw(photos, {"things/000003.png": color(70_000), "things/000044.png": (9, 9, 9)})
    for name in ("things/000010.png", "things/000059.png"):
        (photos / name).unlink()
        del wanted[name]

    summary = run(photos, table, shard_mb=0.01)

    assert counts(summary) == {
        "new": 7, "changed": 2, "removed": 2, "unchanged": 56, "computed": 9
    }  # fmt: skip
    assert colors_of(read(table)) == sorted(wanted.items())

    # A source without changes costs nothing, and neither does what is to be kept.
    kept = read(table)
    again = run(photos, table)
    assert again.outcome == "unchanged"
    assert counts(again) == {"unchanged": 65}
    assert (again.version, again.bytes_read, again.commits) == (summary.version, 0, 0)
    (photos / "things/000004.png").unlink()
    again = run(photos, table, keep_deleted=True)
    assert (again.outcome, again.version) == ("unchanged", summary.version)
    assert read(table) == kept


@pytest.mark.slow
def test_every_version_shows_each_image_exactly_once(photos: Path, table: str) -> None:
    before = draw(photos, numbered(64))
    run(photos, table, commit_every="1 shard", shard_mb=0.01, batch_size=16)
    first_full = FeaturesTable.open(table).snapshot().version
    after = before | draw(photos, {name: color(90_000 + i) for i, name in enumerate(before)})

    summary = run(photos, table, commit_every="1 shard", shard_mb=0.001, batch_size=16)

    assert summary.commits > 1
    last = FeaturesTable.open(table).snapshot().version
    for version in range(first_full, last + 1):
        seen = colors_of(read(table, version))
        assert [image for image, _ in seen] == sorted(before)
        assert all(value in (before[image], after[image]) for image, value in seen)
    assert colors_of(read(table)) == sorted(after.items())


@pytest.mark.slow
def test_failed_images_are_retried_only_when_asked_or_changed(photos: Path, table: str) -> None:
    wanted = draw(photos, numbered(5))
    broken = photos / "things/broken.png"
    broken.write_bytes(b"not a png at all")
    assert counts(run(photos, table)) == {"new": 6, "computed": 6}
    assert counts(run(photos, table)) == {"unchanged": 6}
    assert counts(run(photos, table, retry_failed=True)) == {
        "retried": 1, "unchanged": 5, "computed": 1
    }  # fmt: skip
    broken.write_bytes(png((1, 2, 3)))
    assert counts(run(photos, table)) == {"changed": 1, "unchanged": 5, "computed": 1}
    assert colors_of(read(table)) == sorted((wanted | {"things/broken.png": (1, 2, 3)}).items())


def test_renamed_files_keep_their_features_without_the_model(photos: Path, table: str) -> None:
    wanted = draw(photos, numbered(30))
    run(photos, table)
    (photos / "others").mkdir()
    for i in (3, 17):
        name = f"things/{i:06d}.png"
        (photos / name).rename(photos / f"others/{i}.png")
        wanted[f"others/{i}.png"] = wanted.pop(name)
    # A copy that lost its time, and an impostor of the size of an image that is gone.
    shutil.copy(photos / "things/000005.png", photos / "copied.png")
    os.utime(photos / "copied.png", ns=(1, 1))
    (photos / "things/000005.png").unlink()
    wanted["copied.png"] = wanted.pop("things/000005.png")
    gone = (photos / "things/000007.png").stat().st_size
    (photos / "things/000007.png").unlink()
    del wanted["things/000007.png"]
    wanted |= draw(photos, {"impostor.png": color(107)})
    assert (photos / "impostor.png").stat().st_size == gone

    summary = run(photos, table)

    assert counts(summary) == {
        "new": 1, "reused": 3, "removed": 1, "unchanged": 26, "computed": 1
    }  # fmt: skip
    rows = read(table)
    assert colors_of(rows) == sorted(wanted.items())
    assert {row["image"]: row["label"] for row in rows}["others/3.png"] == "others"
    assert counts(run(photos, table)) == {"unchanged": 30}


def test_touched_files_keep_their_features(photos: Path, table: str) -> None:
    wanted = draw(photos, numbered(12))
    run(photos, table)
    for name in list(wanted)[:4]:
        os.utime(photos / name)
    assert counts(run(photos, table)) == {"reused": 4, "unchanged": 8}
    assert counts(run(photos, table)) == {"unchanged": 12}
    assert colors_of(read(table)) == sorted(wanted.items())


def test_a_list_file_that_relabels_an_image_moves_no_pixel(photos: Path, table: str) -> None:
    draw(photos, numbered(3))
    listing = photos / "list.csv"
    lines = [f"things/{i:06d}.png,cat,train" for i in range(3)]
    listing.write_text("\n".join(["uri,label,split", *lines]) + "\n")
    run(listing, table)
    listing.write_text("\n".join(["uri,label,split", *lines[:2], "things/000002.png,dog,test"]))
    assert counts(run(listing, table)) == {"reused": 1, "unchanged": 2}
    assert [(r["label"], r["split"], r["features"]) for r in read(table)] == [
        ("cat", "train", [0.0, 0.0, 0.0]),
        ("cat", "train", [1.0, 0.0, 0.0]),
        ("dog", "test", [2.0, 0.0, 0.0]),
    ]


def test_another_specification_is_refused_and_the_table_stays(photos: Path, table: str) -> None:
    draw(photos, numbered(3))
    run(photos, table)
    draw(photos, numbered(3, start=50))
    with pytest.raises(SpecMismatchError) as caught:
        run(photos, table, preprocessing="rescale", resize="pad")
    message = str(caught.value)
    assert "preprocessing: rescale in this run, own in the table" in message
    assert "resize: pad in this run, squash in the table" in message
    assert "\n" not in message
    assert len(read(table)) == 3


def test_dry_run_plans_and_writes_nothing(photos: Path, table: str) -> None:
    draw(photos, numbered(40))
    planned = run(photos, table, dry_run=True)
    assert planned.outcome == "planned"
    assert planned.estimate is not None
    assert planned.estimate.images == 40
    assert planned.estimate.bytes_to_read == sum(p.stat().st_size for p in photos.rglob("*.png"))
    assert planned.estimate.seconds is None
    assert not Path(table).exists()
    run(photos, table)
    draw(photos, numbered(10, start=100))
    planned = run(photos, table, dry_run=True, node_hour_price=7.2)
    assert counts(planned) == {"new": 10, "unchanged": 40}
    estimate = planned.estimate
    assert estimate is not None and estimate.node_hours is not None
    assert estimate.images_per_node_s is not None
    assert estimate.node_hours == pytest.approx(10 / estimate.images_per_node_s / 3600)
    assert estimate.cost == pytest.approx(7.2 * estimate.node_hours)
    assert "expected cost" in planned.to_text()
    assert len(read(table)) == 40


def test_compact_merges_small_shards_and_keeps_every_row(photos: Path, table: str) -> None:
    # Shards by number of their images, in two runs, so that they overlap.
    for half in (0, 1):
        draw(photos, dict(list(numbered(50).items())[half::2]))
        run(photos, table, commit_every="1 shard", shard_mb=0.001)
    rows = read(table)
    assert len(FeaturesTable.open(table).snapshot().shards) > 4

    summary = maintain(ExtractConfig(features=table, compact=True))

    snapshot = FeaturesTable.open(table).snapshot()
    assert len(snapshot.shards) == 1
    assert read(table) == rows
    assert summary.outcome == "compacted"
    assert counts(run(photos, table)) == {"unchanged": 50}
    # Nothing is left to merge: no commit.
    again = maintain(ExtractConfig(features=table, compact=True))
    assert (again.commits, again.version) == (0, snapshot.version)


def test_vacuum_deletes_orphans_and_old_shards_only(photos: Path, table: str) -> None:
    draw(photos, numbered(10))
    run(photos, table)
    old = Path(table) / FeaturesTable.open(table).snapshot().shards[0].path
    draw(photos, {"things/000001.png": (200, 0, 0)})
    run(photos, table)
    orphan = Path(table) / "shard-0123.parquet"
    shutil.copy(old, orphan)
    young = Path(table) / "shard-4567.parquet"
    shutil.copy(old, young)
    two_days_ago = orphan.stat().st_mtime - 2 * 86_400
    os.utime(orphan, (two_days_ago, two_days_ago))
    rows = read(table)

    summary = maintain(ExtractConfig(features=table, vacuum=1))

    assert not orphan.exists()
    assert young.exists()
    # Removed a moment ago: versions of the last day still need it.
    assert old.exists()
    assert summary.deleted_files == 1
    assert read(table) == rows


def test_tar_shards_are_listed_once_and_rows_follow_the_archive(
    photos: Path, table: str, tmp_path: Path
) -> None:
    import tarfile

    draw(photos, numbered(6))
    source = tmp_path / "tars"
    source.mkdir()

    def pack(name: str, numbers: list[int]) -> None:
        with tarfile.open(source / name, "w") as archive:
            for i in numbers:
                archive.add(photos / f"things/{i:06d}.png", arcname=f"{i}.png")

    pack("a.tar", [0, 1, 2])
    pack("b.tar", [3, 4])
    assert counts(run(source, table)) == {"new": 5, "computed": 5}
    note = Path(table) / "_bottleneck/archives.json"
    note.unlink()
    assert counts(run(source, table)) == {"unchanged": 5}
    # A night without work leaves the note that the one before it was killed too early for.
    assert note.exists()
    # The archive is packed again: members that kept their bytes keep their features.
    pack("a.tar", [1, 2, 5])
    assert counts(run(source, table)) == {
        "new": 1,
        "reused": 2,
        "removed": 1,
        "unchanged": 2,
        "computed": 1,
    }
    assert colors_of(read(table)) == [
        ("a.tar/1.png", color(1)),
        ("a.tar/2.png", color(2)),
        ("a.tar/5.png", color(5)),
        ("b.tar/3.png", color(3)),
        ("b.tar/4.png", color(4)),
    ]


def test_two_runs_at_once_end_with_one_row_per_image(
    photos: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's commit finds that one that took over did all its work in the meantime."""
    wanted = draw(photos, numbered(20))
    run(photos, table)
    wanted |= draw(photos, numbered(20, start=100))
    original = FeaturesTable.commit
    raced: list[Summary] = []

    def commit(self: FeaturesTable, **arguments: Any) -> Any:
        if not raced:
            monkeypatch.setattr(FeaturesTable, "commit", original)
            raced.append(run(photos, table, take_over=True))
        return original(self, **arguments)

    monkeypatch.setattr(FeaturesTable, "commit", commit)
    summary = run(photos, table)
    assert counts(raced[0]) == {"new": 20, "unchanged": 20, "computed": 20}
    assert summary.outcome == "unchanged"
    assert colors_of(read(table)) == sorted(wanted.items())


def test_a_folder_with_other_things_is_no_place_for_a_table(photos: Path, tmp_path: Path) -> None:
    draw(photos, numbered(2))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("dear")
    with pytest.raises(TableError, match=r"holds other things \(letter.txt, …\)"):
        run(photos, tmp_path / "home")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_exit_codes_and_summary_file(
    photos: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(photos, numbered(8))
    for i in range(2):
        (photos / f"things/bad{i}.png").write_bytes(b"garbage")
    report = tmp_path / "summary.json"
    flags = [f"--images={photos}", f"--features={table}", "--backbone=channel-means"]
    flags += ["--weights=none", "--actors=1", f"--summary={report}"]
    assert run_job(ExtractConfig, extract, flags) == 1
    printed = capsys.readouterr()
    assert "error: 2 images failed and --max-failed 10% allows 1;" in printed.err
    assert "\x1b" not in printed.err + printed.out
    assert "\r" not in printed.err
    assert len(read(table)) == 10
    saved = json.loads(report.read_text())
    assert saved["failed"] == {"not_an_image": 2}
    assert (saved["new"], saved["computed"], saved["version"]) == (10, 10, 1)
    assert saved["bytes_read"] == sum(p.stat().st_size for p in photos.rglob("*.png"))
    # The bad ones do not change: the next night is quiet and succeeds.
    assert run_job(ExtractConfig, extract, flags) == 0
    assert json.loads(report.read_text())["outcome"] == "unchanged"
