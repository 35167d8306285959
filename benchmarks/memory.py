"""Memory of the driver, run after run, as the table grows: it should hardly.

Run it as .venv/bin/python -m benchmarks.memory. For each size of source, drawn images of 4×4 pixels
go through jobs/extract.py with the `channel-means` backbone, three times: first into a new table,
then unchanged, then with 1 % of the images changed, 1 % deleted and 1 % new. The peak is the
process's own (VmHWM), embedded Ray's processes and the workers not included.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.support.images import tiny_png
from benchmarks.support.processes import run_job
from benchmarks.support.results import CommonSettings, Result

_IMAGES_A_FOLDER = 1000

#: A table of ten times the rows may cost the driver this much more.
_AIM_GROWTH_MB = 200.0


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures peak memory of the extract job's driver over sizes of the table.

    Attributes:
        rows: Sizes of the table to compare.
        image_size: Height and width that images are decoded to.
        job_flags: More flags for jobs/extract.py, in one text.
    """

    rows: tuple[int, ...] = (10_000, 50_000, 100_000)
    image_size: tuple[int, int] = (32, 32)
    job_flags: str = ""


@dataclass(frozen=True)
class _Run:
    """One run of the job.

    Attributes:
        summary: What it says of itself.
        seconds: Wall-clock time, start-up included.
        peak_mb: Peak resident memory of the driver, 10⁶ bytes.
    """

    summary: dict[str, Any]
    seconds: float
    peak_mb: float


def main(settings: Settings) -> None:
    result = Result("memory", settings.to_json())
    table = result.table("Peak memory of the driver, and time, by rows of the table")
    peaks: dict[str, list[tuple[int, float]]] = {}
    for rows in (200,) if settings.smoke else settings.rows:
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as scratch:
            for step, run in _runs(settings, Path(scratch), rows).items():
                computed = run.summary["computed"]
                peaks.setdefault(step, []).append((rows, run.peak_mb))
                table.add(
                    rows=rows,
                    run=step,
                    computed=computed,
                    driver_peak_MB=round(run.peak_mb, 1),
                    wall_clock_s=round(run.seconds, 1),
                    job_s=round(run.summary["seconds"], 1),
                    images_per_s=round(run.summary["images_per_s"]) if computed else None,
                    commits=run.summary["commits"],
                )
    growth = result.table("Growth of the driver's peak from the smallest to the largest table")
    for step, points in peaks.items():
        (few, low), (many, high) = points[0], points[-1]
        growth.add(
            run=step,
            growth_MB=round(high - low, 1),
            bytes_per_row=round(1e6 * (high - low) / max(1, many - few)),
        )
        result.target(
            f"{step}: growth of the driver's peak from {few:,} to {many:,} rows in MB",
            round(high - low, 1),
            _AIM_GROWTH_MB,
            at_most=True,
        )
    result.finish(settings.results)


def _runs(settings: Settings, scratch: Path, rows: int) -> dict[str, _Run]:
    images = scratch / "images"
    for number in range(rows):
        _write(images, number, number)
    runs = {"first": _extract(settings, scratch, images)}
    runs["unchanged"] = _extract(settings, scratch, images)
    touched = max(1, rows // 100)
    for part in range(touched):
        _write(images, part * 100, rows + part)
        _path(images, part * 100 + 1).unlink()
        _write(images, rows + part, 2 * rows + part)
    runs["1 % changed"] = _extract(settings, scratch, images)
    _require(runs["first"].summary, new=rows, computed=rows, rows=rows)
    _require(runs["unchanged"].summary, unchanged=rows, computed=0, rows=rows)
    _require(runs["1 % changed"].summary, new=touched, changed=touched, removed=touched, rows=rows)
    return runs


def _path(images: Path, number: int) -> Path:
    return images / f"{number // _IMAGES_A_FOLDER:04d}" / f"{number:07d}.png"


def _write(images: Path, number: int, color: int) -> None:
    path = _path(images, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tiny_png(color))


def _extract(settings: Settings, scratch: Path, images: Path) -> _Run:
    summary = scratch / "summary.json"
    flags = ["--images", str(images), "--features", str(scratch / "table")]
    flags += ["--backbone", "channel-means", "--summary", str(summary)]
    flags += ["--image-size", *map(str, settings.image_size), *settings.job_flags.split()]
    seen = run_job(flags, scratch / "log.txt")
    answer = json.loads(summary.read_text(encoding="utf-8"))
    summary.unlink()
    return _Run(answer, seen.seconds, seen.peak_bytes / 1e6)


def _require(summary: dict[str, Any], **expected: int) -> None:
    """Refuses to measure a run that went wrong."""
    found = {name: summary[name] for name in expected}
    if found != expected:
        raise SystemExit(f"the job did {found} where {expected} was expected")


if __name__ == "__main__":
    main(tyro.cli(Settings))
