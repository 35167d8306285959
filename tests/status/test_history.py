"""The status job on a real table: what it prints, what it draws, what it never needs."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.paths import ROOT

from benchmarks.support.specs import make_spec
from bottleneck.cli import run_job
from bottleneck.config.parsing import parse
from bottleneck.console.formatting import format_bytes
from bottleneck.errors import ConfigError, TableError
from bottleneck.status.charts import draw, page
from bottleneck.status.config import StatusConfig
from bottleneck.status.history import Run, Size, Status, table_status
from bottleneck.status.job import show_status
from bottleneck.table.columns import SCHEMA, features_array
from bottleneck.table.files import TableFiles
from bottleneck.table.schemas import RowFormat
from bottleneck.table.shards import Shard, write_shard
from bottleneck.table.table import FeaturesTable

SPEC = make_spec(backbone="channel-means", layer="means")


def put(uri: str, **statuses: str) -> Shard:
    """Writes a shard of images named by keyword with the statuses given."""
    ok = np.array([status == "ok" for status in statuses.values()])
    columns: dict[str, list[Any]] = {name: [None] * len(ok) for name in SCHEMA.names[:-1]}
    columns |= {"image": list(statuses), "status": list(statuses.values())}
    arrays = [pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()]
    features = features_array(np.ones((int(ok.sum()), 3), np.float32), ok)
    files = TableFiles.at(uri, RowFormat(SCHEMA, 3))
    shard = write_shard(files, [pa.table([*arrays, features], schema=SCHEMA)])
    assert shard is not None
    return shard


def stats(rate: float, read: int, written: int, **statuses: int) -> dict[str, Any]:
    return {
        "images_per_s": rate,
        "nodes": 2,
        "precision": "float32",
        "images": "s3://photos/",
        "statuses": statuses,
        "bytes_read": read,
        "bytes_written": written,
        "shards_rewritten": 0,
    }


def set_times(uri: str, *times: datetime) -> None:
    """Sets when versions 1, 2, … were committed, which otherwise is now."""
    for version, time in enumerate(times, start=1):
        log = Path(uri) / f"_delta_log/{version:020d}.json"
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = int(time.timestamp() * 1000)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))


def at(day: int, hour: int, minute: int) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


@pytest.fixture
def three_runs(uri: str) -> list[Shard]:
    """A run of two commits, one that computes an image again, a compaction; returns the shards."""
    table = FeaturesTable.create(uri, SPEC)
    one, two = put(uri, a="ok", b="truncated"), put(uri, c="ok", d="ok")
    again, merged = put(uri, c="ok", d="empty"), put(uri, a="ok", b="truncated", c="ok", d="empty")
    base = table.commit(
        base=table.snapshot(),
        add=[one],
        run="aaaaaaaaaaaa",
        stats=stats(0.0, 2_000, 700, ok=1, truncated=1),
    )
    base = table.commit(
        base=base,
        add=[two],
        run="aaaaaaaaaaaa",
        stats=stats(12.34, 1_500, 800, ok=2, unavailable=3),
    )
    base = table.commit(
        base=base,
        add=[again],
        remove=[two],
        run="bbbbbbbbbbbb",
        stats=stats(1_234.5, 900, 600, empty=1),
    )
    table.commit(
        base=base,
        add=[merged],
        remove=[one, again],
        run="cccccccccccc",
        stats={"images_per_s": 0.0, "nodes": 0, "precision": "", "compacted": 2,
               "bytes_written": 1_300},
    )  # fmt: skip
    set_times(uri, at(30, 2, 0), at(30, 2, 5), at(31, 2, 0), at(31, 9, 30))
    return [one, two, again, merged]


def test_text(uri: str, three_runs: list[Shard]) -> None:
    one, two, again, merged = three_runs
    after = [
        format_bytes(size)
        for size in (one.size_bytes + two.size_bytes, one.size_bytes + again.size_bytes)
    ]
    after.append(format_bytes(merged.size_bytes))
    width = max(len("size after"), *map(len, after))
    after = [text.rjust(width) for text in after]
    assert table_status(StatusConfig(features=uri)).to_text().splitlines() == [
        f"{uri}  version 4, 4 rows, {format_bytes(merged.size_bytes)} in 1 shard(s)",
        "",
        "Specification",
        "  backbone       channel-means",
        "  weights        none",
        "  layer          means",
        "  shape          3",
        "  pooling        none",
        "  image_size     8,8",
        "  resize         squash",
        "  interpolation  bilinear",
        "  decode         fast",
        "  preprocessing  own",
        "  precision      float32",
        "",
        "Rows by status",
        "  ok         2",
        "  empty      1",
        "  truncated  1",
        "",
        "Runs (3 of 3, times in UTC)",
        "  run           step     first commit      last commit       commits  versions  rows"
        f"  images/s    read  written  rows after  {'size after'.rjust(width)}  failed",
        "  aaaaaaaaaaaa  extract  2026-01-30 02:00  2026-01-30 02:05        2       1-2     4"
        f"      12.3  3.5 kB   1.5 kB           4  {after[0]}  truncated 1, unavailable 3",
        "  bbbbbbbbbbbb  extract  2026-01-31 02:00  2026-01-31 02:00        1         3     1"
        f"   1,234.5   900 B    600 B           4  {after[1]}  empty 1",
        "  cccccccccccc  compact  2026-01-31 09:30  2026-01-31 09:30        1         4     0"
        f"         -     0 B   1.3 kB           4  {after[2]}  -",
    ]


def test_json(uri: str, three_runs: list[Shard]) -> None:
    one, _, again, merged = three_runs
    status = json.loads(table_status(StatusConfig(features=uri, limit=2)).to_json())
    assert list(status) == [
        "table_uri", "version", "rows", "bytes", "shards", "statuses", "spec", "runs",
        "runs_known", "growth",
    ]  # fmt: skip
    assert status["statuses"] == {"empty": 1, "ok": 2, "truncated": 1}
    assert status["spec"]["shape"] == "3"
    assert (status["bytes"], status["shards"], status["runs_known"]) == (merged.size_bytes, 1, 3)
    assert [run["run"] for run in status["runs"]] == ["bbbbbbbbbbbb", "cccccccccccc"]
    assert status["runs"][0] == {
        "run": "bbbbbbbbbbbb",
        "step": "extract",
        "source_uri": "s3://photos/",
        "first": "2026-01-31T02:00:00+00:00",
        "last": "2026-01-31T02:00:00+00:00",
        "commits": 1,
        "first_version": 3,
        "last_version": 3,
        "rows": 1,
        "failed": {"empty": 1},
        "images_per_s": 1234.5,
        "nodes": 2,
        "precision": "float32",
        "bytes_read": 900,
        "bytes_written": 600,
        "size": status["growth"][0],
    }
    assert status["growth"] == [
        {"version": 3, "time": "2026-01-31T02:00:00+00:00", "rows": 4,
         "bytes": one.size_bytes + again.size_bytes},
        {"version": 4, "time": "2026-01-31T09:30:00+00:00", "rows": 4, "bytes": merged.size_bytes},
    ]  # fmt: skip


def test_an_empty_table(uri: str) -> None:
    FeaturesTable.create(uri, SPEC)
    status = table_status(StatusConfig(features=uri))
    text = status.to_text()
    assert text.startswith(f"{uri}  version 0, 0 rows, 0 B in 0 shard(s)\n")
    assert text.endswith("Rows by status\n  ok  0\n\nNo run has committed to this table yet")
    assert draw(status).startswith(b"\x89PNG")


def test_runs_that_overlapped_are_told_apart(uri: str) -> None:
    """The figures of each come from its own commits, in whatever order those landed."""
    table = FeaturesTable.create(uri, SPEC)
    base = table.snapshot()
    for number, run in enumerate(["first", "second", "first", "second"]):
        base = table.commit(
            base=base,
            add=[put(uri, **{f"image{number}": "ok"})],
            run=run,
            stats=stats(number + 1, 10**number, 1, ok=1),
        )
    found = table_status(StatusConfig(features=uri)).runs
    assert [(r.run, r.first_version, r.last_version, r.bytes_read) for r in found] == [
        ("first", 1, 3, 101),
        ("second", 2, 4, 1_010),
    ]
    assert [run.images_per_s for run in found] == [3.0, 4.0]


def test_versions_that_the_log_forgot_are_left_out(
    uri: str, three_runs: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = FeaturesTable.snapshot

    def forgetful(self: FeaturesTable, *, version: int | None = None, **more: Any) -> Any:
        if version is not None and version < 3:
            raise TableError("has no such version")
        return snapshot(self, version=version, **more)

    monkeypatch.setattr(FeaturesTable, "snapshot", forgetful)
    status = table_status(StatusConfig(features=uri))
    assert [size.version for size in status.growth] == [3, 4]
    assert [run.size is None for run in status.runs] == [True, False, False]
    assert "           -           -  truncated 1" in status.to_text()


def test_a_shard_that_is_gone_is_one_line(uri: str, three_runs: list[Shard]) -> None:
    (Path(uri) / three_runs[-1].path).unlink()
    with pytest.raises(TableError) as caught:
        table_status(StatusConfig(features=uri))
    assert str(caught.value).startswith(f"cannot read version 4 of {uri}: ")
    assert str(caught.value).endswith("or run again if a vacuum was under way")
    assert "\n" not in str(caught.value)


def status_of(runs: int, uri: str = "s3://lake/table") -> Status:
    sizes = [
        Size(n, at(1, 2, 0) + timedelta(days=n), 1_000 * (n + 1), 17_208_000 * (n + 1))
        for n in range(runs)
    ]
    return Status(
        table_uri=uri,
        version=runs,
        rows=1_000 * runs,
        bytes=17_208_000 * runs,
        shards=runs,
        statuses={"ok": 1_000 * runs},
        spec={"backbone": "vgg16"},
        runs=[
            Run(f"{n:012x}", "extract", "", s.time, s.time, 1, n, n, 1_000, {}, 10.0 + n, 1,
                "float32", 1, 1, s)
            for n, s in enumerate(sizes)
        ],
        runs_known=runs,
        growth=sizes,
    )  # fmt: skip


@pytest.mark.parametrize("runs", [1, 3, 60])
def test_pictures_show_three_panels(runs: int, tmp_path: Path) -> None:
    path = tmp_path / "status.png"
    path.write_bytes(draw(status_of(runs)))
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape == (990, 1210, 3)
    for color in ((0x1F, 0x6F, 0xB2), (0xC8, 0x64, 0x1E), (0x4A, 0x8A, 0x5A)):
        assert (np.abs(pixels - color).max(axis=2) < 8).sum() > 10


def test_the_page_escapes_every_name() -> None:
    text = page(status_of(1, "s3://lake/<script>alert('&')</script>")).decode()
    assert "<script" not in text
    assert text.count("s3://lake/&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") == 3
    assert text.count("data:image/png;base64,") == 1
    assert "http:" not in text and "https:" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--limit=0"], "--limit 0 is not allowed; give 1 run or more"),
        (["--plot=x.pdf"], "--plot 'x.pdf' is not allowed; give a name ending in .png or .html"),
    ],
)
def test_flags_that_are_not_allowed(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(StatusConfig, ["--features=lake", *flags])
    assert str(caught.value) == message


def test_the_job(
    uri: str,
    three_runs: list[Shard],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = StatusConfig(features=uri)
    png, html = tmp_path / "new" / "s.PNG", tmp_path / "s.html"
    assert run_job(StatusConfig, show_status, [f"--features={uri}", f"--plot={png}"]) == 0
    assert capsys.readouterr().out == table_status(config).to_text() + "\n"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert (
        run_job(StatusConfig, show_status, [f"--features={uri}", "--json", f"--plot={html}"]) == 0
    )
    assert capsys.readouterr().out == table_status(config).to_json()
    assert "truncated  1" in html.read_text()
    saved = tmp_path / "status.json"
    assert run_job(StatusConfig, show_status, [f"--features={uri}", f"--summary={saved}"]) == 0
    assert saved.read_text() == table_status(config).to_json()
    capsys.readouterr()

    assert run_job(StatusConfig, show_status, [f"--features={tmp_path / 'none'}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: there is no features table at {tmp_path / 'none'}; ")


def test_the_command_needs_neither_ray_nor_a_display(uri: str, three_runs: list[Shard]) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['status.py', '--features', {uri!r}]\n"
        "try:\n    runpy.run_path('jobs/status.py', run_name='__main__')\n"
        "except SystemExit as e:\n    assert not e.code, e.code\n"
        "loaded = {'ray', 'keras', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{uri}  version 4, 4 rows, ")
