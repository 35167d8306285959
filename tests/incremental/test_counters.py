"""What Prometheus gets to see of a run, scraped from a real node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from support.images import draw, numbered
from support.paths import ROOT
from support.prometheus import embedded_port, figures_in, figures_of, figures_once, require_served
from support.ray_head import Head, free_port, running

from bottleneck.cli import run_job
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental.maintenance import maintain
from bottleneck.incremental.summary import Summary


class MeasuredHead(Head):
    """A head that serves its metrics where a test finds them."""

    def __init__(self) -> None:
        self.metrics_port = free_port()
        super().__init__(
            "--num-cpus=2", "--num-gpus=0", "--object-store-memory=200000000",
            "--include-dashboard=false", f"--metrics-export-port={self.metrics_port}",
        )  # fmt: skip


@pytest.fixture
def head() -> Iterator[MeasuredHead]:
    with running(MeasuredHead) as head:
        yield head


def summary_in(path: Path) -> Summary:
    values = json.loads(path.read_text())
    return Summary(**{field.name: values[field.name] for field in fields(Summary)})


def photos_with_broken_ones(folder: Path) -> Path:
    draw(folder, numbered(37))
    (folder / "things/empty.png").write_bytes(b"")
    for number in range(2):
        (folder / f"things/page-{number}.png").write_bytes(b"<html>")
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_a_short_runs_last_figures_are_served_after_its_driver_is_gone(
    head: MeasuredHead, tmp_path: Path
) -> None:
    """Ray reports every ten seconds and when a driver ends; all figures of this run are late."""
    photos = photos_with_broken_ones(tmp_path / "photos")
    done = subprocess.run(
        [sys.executable, "jobs/extract.py", f"--address={head.address}", f"--images={photos}",
         f"--features={tmp_path / 'table'}", "--backbone=channel-means", "--weights=none",
         "--batch-size=8", "--shard-mb=0.001", "--commit-every=2 shards", "--max-failed=2",
         f"--summary={tmp_path / 'summary.json'}", "--log-json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    summary = summary_in(tmp_path / "summary.json")
    assert (summary.computed, summary.failed) == (40, {"empty": 1, "not_an_image": 2})
    assert summary.commits > 1
    wanted = figures_in(summary)
    assert len(wanted) == 9
    # The summary rounds seconds to milliseconds.
    found = figures_once(head.metrics_port, summary.run, pytest.approx(wanted, rel=0, abs=0.0005))
    whole = [name for name in wanted if "seconds" not in name]
    assert {name: found[name] for name in whole} == {name: wanted[name] for name in whole}

    # The same run's lines: JSON to the last, each with the run's id once it has one.
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["run"] for line in lines} == {summary.run}
    last = lines[-2]
    assert (last["event"], last["done"], last["total"]) == ("progress", 40, 40)
    assert (last["failed"], last["committed"]) == (3, 40)
    assert (lines[-1]["event"], lines[-1]["exit_code"]) == ("error", 1)
    assert lines[-1]["message"].startswith("3 images failed and --max-failed 2 allows 2; ")
    assert done.stdout.startswith(f"Done (run {summary.run})\n")


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_each_run_of_a_process_has_its_own_figures_and_stderr_stays_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos, table = photos_with_broken_ones(tmp_path / "photos"), str(tmp_path / "table")

    def config(**more: object) -> ExtractConfig:
        flags = {"backbone": "channel-means", "weights": "none", "batch_size": 8, "actors": "1"}
        return ExtractConfig(images=str(photos), features=table, **(flags | more))  # type: ignore[arg-type]

    first = extract(config(shard_mb=0.001))
    draw(photos, numbered(5, start=500))
    (photos / "things/000003.png").unlink()
    second = extract(config())
    third = maintain(ExtractConfig(features=table, compact=True))
    assert (first.computed, second.computed, second.removed) == (40, 5, 1)
    assert third.commits == 1
    assert "Traceback" not in capfd.readouterr().err
    # A source without changes counts nothing.
    flags = [f"--images={photos}", f"--features={table}", "--backbone=channel-means",
             "--weights=none", "--actors=1"]  # fmt: skip
    capfd.readouterr()
    assert run_job(ExtractConfig, extract, flags) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    quiet = printed.out.split("(run ")[1][:12]
    for run in (first, second, third):
        require_served(run)
    assert figures_of(embedded_port(), quiet) == {}
