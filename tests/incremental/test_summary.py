"""The summary: keys that programs rely on, a table that people read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bottleneck.incremental.estimate import Estimate
from bottleneck.incremental.summary import Summary, history_entry


def summary(**more: Any) -> Summary:
    figures: dict[str, Any] = {
        "listed": 4_012,
        "skipped": {"hidden": 2, "not_an_image_extension": 1_005, "sidecar": 0},
        "new": 4_000,
        "changed": 7,
        "reused": 2,
        "removed": 1,
        "unchanged": 3,
        "computed": 4_007,
        "failed": {"truncated": 3, "empty": 1_200},
        "images_per_s": 1_234.567,
        "stage_s": {"list": 0.123456, "inference": 318.0},
        "bytes_read": 1_500_000,
        "bytes_written": 2_000_000_000,
        "commits": 3,
        "version": 12,
        "rows": 4_010,
        "precision": "bfloat16",
        "nodes": 2,
        "seconds": 306.2504,
    }
    options = figures | {"run": "abc", "source_uri": "s3://photos", "table_uri": "s3://lake/t"}
    return Summary(**(options | more))


def test_json_holds_every_attribute_under_its_name() -> None:
    # Written down: programs read these keys.
    keys = [
        "run", "source_uri", "table_uri", "outcome", "signal", "listed", "skipped", "new",
        "changed", "retried", "reused", "removed", "unchanged", "computed", "failed",
        "images_per_s", "stage_s", "bytes_read", "bytes_written", "commits", "version", "rows",
        "precision", "nodes", "seconds", "deleted_files", "max_failed", "estimate",
    ]  # fmt: skip
    assert [field.name for field in dataclasses.fields(Summary)] == keys
    text = summary().to_json()
    assert text.endswith("}\n")
    saved = json.loads(text)
    assert list(saved) == keys
    assert (saved["images_per_s"], saved["seconds"]) == (1_234.57, 306.25)
    assert saved["stage_s"] == {"list": 0.123, "inference": 318.0}
    assert saved["failed"] == {"truncated": 3, "empty": 1_200}
    assert (saved["outcome"], saved["signal"], saved["estimate"]) == ("done", None, None)


def test_json_of_a_plan_holds_the_estimate() -> None:
    estimate = Estimate(10, 20, -30, 4.0, 0.5, 1_800.0, None)
    saved = json.loads(summary(outcome="planned", estimate=estimate, version=None).to_json())
    assert saved["estimate"] == {
        "images": 10,
        "bytes_to_read": 20,
        "growth_bytes": -30,
        "images_per_node_s": 4.0,
        "node_hours": 0.5,
        "seconds": 1_800.0,
        "cost": None,
    }
    assert saved["version"] is None


def test_json_keeps_any_name() -> None:
    saved = summary(source_uri='/fotos/ü"\n').to_json()
    assert json.loads(saved)["source_uri"] == '/fotos/ü"\n'


def test_text_for_a_run() -> None:
    assert summary().to_text() == (
        "Done (run abc)\n"
        "  images      s3://photos\n"
        "  table       s3://lake/t  version 12, 4,010 rows\n"
        "  listed      4,012  (skipped: hidden 2, not_an_image_extension 1,005)\n"
        "  new         4,000\n"
        "  changed     7\n"
        "  retried     0\n"
        "  reused      2\n"
        "  removed     1\n"
        "  unchanged   3\n"
        "  failed      1,203  (empty 1,200, truncated 3)\n"
        "  throughput  1,234.6 images/s\n"
        "  time        5:06  (list 0.12 s, inference 5:18)\n"
        "  read        1.5 MB\n"
        "  written     2.0 GB in 3 commit(s)"
    )


def test_text_for_a_run_that_had_nothing_to_do() -> None:
    text = Summary(
        run="r", source_uri="a", table_uri="b", outcome="unchanged", version=3, rows=5
    ).to_text()
    assert text.splitlines()[0] == "Unchanged (run r)"
    assert "  failed      0\n  throughput  -\n  time        0:00  (-)\n" in text


def test_text_for_a_plan() -> None:
    estimate = Estimate(10, 2_000, 3_000_000, 4.0, 0.5, 1_800.0, 3.456)
    text = summary(outcome="planned", estimate=estimate, version=None, stage_s={}).to_text()
    assert text.splitlines()[0] == "Planned (run abc)"
    assert "s3://lake/t  (no table yet)" in text
    assert text.splitlines()[-5:] == [
        "  to compute     10 images",
        "  to read        2.0 kB",
        "  table growth   about 3.0 MB",
        "  expected time  about 30:00 (4.0 images/s per node, 0.50 node-hours)",
        "  expected cost  about 3.46",
    ]
    for name in ("failed ", "throughput", "written"):
        assert name not in text


def test_text_for_a_plan_of_a_table_without_a_past() -> None:
    estimate = Estimate(10, 2_000, 3_000_000, None, None, None, None)
    last = summary(outcome="planned", estimate=estimate).to_text().splitlines()[-1]
    assert last == (
        "  expected time  unknown: no commit of this table has recorded a throughput yet"
    )


@pytest.mark.parametrize("outcome", ["vacuumed", "compacted"])
def test_text_for_maintenance_tells_nothing_of_images(outcome: str) -> None:
    text = Summary(
        run="r",
        source_uri="",
        table_uri="t",
        outcome=outcome,
        version=3,
        rows=5,
        deleted_files=1_234,
        seconds=1.0,
    ).to_text()
    assert text == (
        f"{outcome.capitalize()} (run r)\n"
        "  table    t  version 3, 5 rows\n"
        "  time     0:01  (-)\n"
        "  written  0 B in 0 commit(s)\n"
        "  deleted  1,234 files"
    )


def test_what_the_history_keeps_suffices_for_estimates() -> None:
    entry = history_entry(summary(), images="s3://photos", statuses={"ok": 3})
    assert entry == {
        "images_per_s": 1_234.57,
        "nodes": 2,
        "precision": "bfloat16",
        "images": "s3://photos",
        "statuses": {"ok": 3},
    }
    json.dumps(entry)


def test_failures_add_up() -> None:
    assert summary().failures == 1_203
    made = summary()
    made.add_seconds("list", 1.0)
    made.add_seconds("write", 2.0)
    assert made.stage_s["list"] == pytest.approx(1.123456)
    assert made.stage_s["write"] == 2.0
