"""The benchmarks run and store what they measured; their figures are not evaluated here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from support.paths import ROOT

from benchmarks.scale import nodes
from benchmarks.support import images, processes, results
from benchmarks.support.paths import RESULTS
from bottleneck.images.decoding import decode
from bottleneck.images.options import DecodeOptions

MACHINE = {
    "date",
    "processor",
    "flags",
    "cores",
    "memory_gb",
    "load_1m",
    "system",
    "python",
    "versions",
}


def bench(name: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Runs a benchmark with next to no work; returns what it stored."""
    module = f"benchmarks.{name.replace('/', '.')}"
    done = subprocess.run(
        [sys.executable, "-m", module, "--smoke", "--results", folder, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stored = stored_by(name, folder)
    assert results.to_markdown(stored) in done.stdout
    return stored


def stored_by(name: str, folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert set(stored) == {"benchmark", "settings", "machine", "tables", "targets"}
    assert stored["benchmark"] == name
    assert stored["settings"]["smoke"] is True
    assert set(stored["machine"]) == MACHINE
    for table in stored["tables"]:
        for row in table["rows"]:
            assert list(row) == list(table["rows"][0])
    return stored


def test_encoding(tmp_path: Path) -> None:
    sizes, expected = bench("encoding", tmp_path)["tables"]
    assert [row["share_of_raw"] > 0 for row in sizes["rows"]] == [True] * 18
    by_values = {
        row["values"]: row["bytes_per_image"]
        for row in sizes["rows"]
        if row["encoding"] == "zstd-3 (ours)" and "pooled" not in row["features"]
    }
    assert by_values["bfloat16"] < by_values["float16"] < by_values["float32"]
    assert len(expected["rows"]) == 6


def test_scale_commits(tmp_path: Path) -> None:
    (table,) = bench("scale/commits", tmp_path)["tables"]
    assert [(row["shards"], row["commits"]) for row in table["rows"]] == [(10, 1), (40, 4)]
    assert [row["log_files"] for row in table["rows"]] == [2, 5]


@pytest.mark.slow
def test_scale_plan(tmp_path: Path) -> None:
    """That the plan finds what was done to the source, the benchmark checks itself."""
    planned, requests = bench("scale/plan", tmp_path)["tables"]
    assert [(row["rows"], row["layout"], row["shards"]) for row in planned["rows"]] == [
        (1000, "maps", 1),
        (1000, "pooled", 1),
    ]
    assert all(row["peak_MB"] > row["listing_MB"] > 50 for row in planned["rows"])
    found = {(row["layout"], row["row_groups"]): row["requests"] for row in requests["rows"]}
    assert found["maps", 3] - found["maps", 1] == 2
    assert found["pooled", 2] - found["pooled", 1] == 2


@pytest.mark.slow
def test_scale_throughput(tmp_path: Path, ray_session: None) -> None:
    address = ray.get_runtime_context().gcs_address
    turns, spent, alone = bench("scale/throughput", tmp_path, "--address", address)["tables"]
    assert [(row["turn"], row["commits"] > 0) for row in turns["rows"]] == [(1, True)]
    stages = {row["what"].partition(",")[0] for row in spent["rows"]}
    assert stages >= {"list", "plan", "fetch", "decode", "inference", "write", "commit"}
    assert set(alone["rows"][0]) == {"list", "plan", "fetch", "decode", "fetch_and_decode", "write"}


def test_steady_state_of_nodes() -> None:
    """Between 3 s, when the second actor begins, and 9 s, when the first has nothing left."""
    first = [(0.0, 2.0, 20), (2.0, 4.0, 20), (5.0, 9.0, 40)]
    second = [(3.0, 6.0, 30), (6.0, 12.0, 60)]
    found = nodes.steady([first, second])
    assert found == nodes.Steady(seconds=6.0, images=110.0, busy=11 / 12, whole_s=12.0)
    with pytest.raises(SystemExit, match="give more --images"):
        nodes.steady([first, [(9.0, 10.0, 10)]])


SCALE = ("plan", "throughput", "nodes", "commits", "needs")


@pytest.mark.parametrize("name", SCALE)
def test_scaling_document_has_the_stored_figures(name: str) -> None:
    stored = results.load_result(RESULTS / "scale" / f"{name}.json")
    document = (ROOT / "docs" / "scaling.md").read_text()
    section = document.partition(f"<!-- result: {name} -->\n\n")[2].partition("\n<!-- end -->")[0]
    assert section == results.to_markdown(stored)


def test_needs_follow_from_the_stored_figures(tmp_path: Path) -> None:
    folder = RESULTS / "scale"
    shutil.copytree(folder, tmp_path / "scale")
    (tmp_path / "scale" / "needs.json").unlink()
    again = bench("scale/needs", tmp_path)
    assert again["tables"] == results.load_result(folder / "needs.json")["tables"]


def test_fetch(tmp_path: Path) -> None:
    stored = bench("fetch", tmp_path)
    clients, listing = stored["tables"]
    assert [row["requests_per_image"] for row in clients["rows"]] == [1, 2, 1]
    assert listing["rows"][0]["objects"] == 16
    assert stored["targets"] == [
        {"target": "requests per image, ours", "value": 1.0, "limit": 1.0, "met": True}
    ]


@pytest.mark.slow
def test_heads(tmp_path: Path) -> None:
    stored = bench("heads", tmp_path)
    (table,) = stored["tables"]
    assert [row["contestant"] for row in table["rows"]] == ["keras", "ours", "ours, windows"]
    assert [row["held_as"] for row in table["rows"]] == ["float32", "float32", "float16"]
    assert all(row["rows_per_s"] > 0 for row in table["rows"])


@pytest.fixture
def cluster_flag(ray_session: None) -> str:
    """Has jobs use the session's Ray: starting one for each would take most of the time."""
    return f"--job-flags=--address {ray.get_runtime_context().gcs_address}"


@pytest.mark.slow
def test_memory(tmp_path: Path, cluster_flag: str) -> None:
    runs, growth = bench("memory", tmp_path, cluster_flag)["tables"]
    found = [(row["rows"], row["run"], row["computed"]) for row in runs["rows"]]
    assert found == [(200, "first", 200), (200, "unchanged", 0), (200, "1 % changed", 4)]
    assert all(50 < row["driver_peak_MB"] < 2000 for row in runs["rows"])
    assert [row["run"] for row in growth["rows"]] == ["first", "unchanged", "1 % changed"]


@pytest.mark.slow
def test_pipeline(tmp_path: Path, cluster_flag: str) -> None:
    rates, stages = bench("pipeline", tmp_path, cluster_flag)["tables"]
    assert [row["contestant"] for row in rates["rows"]] == ["bare", "keras", "job"]
    assert all(row["wall_clock_s"] > 0 for row in rates["rows"])
    assert stages["rows"][0]["inference"] > 0


def test_run_prints_all_tables_and_reports_failures(tmp_path: Path) -> None:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.run", "--smoke", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("--results", str(tmp_path), "--only", "decode")
    assert done.returncode == 0, done.stderr
    stored = stored_by("decode", tmp_path)
    (table,) = stored["tables"]
    assert {row["decode"] for row in table["rows"]} == {"fast", "exact"}
    assert {row["threads"] for row in table["rows"]} == {1, len(os.sched_getaffinity(0))}
    assert all(row["images_per_s"] > 0 for row in table["rows"])
    assert done.stdout.endswith(f"### Decoding\n\n{results.to_markdown(stored)}\n")

    (tmp_path / "file").write_text("in the way")
    done = run("--results", str(tmp_path / "file"), "--only", "decode")
    assert done.returncode == 1
    assert done.stderr.endswith("error: benchmarks.decode failed, see above\n")

    done = run("--only", "speed")
    assert done.returncode == 2
    assert done.stderr == (
        "error: no benchmark 'speed'; there are decode, encoding, fetch, memory, heads, pipeline, "
        "scale/plan, scale/throughput, scale/nodes, scale/commits, scale/needs\n"
    )


def test_markdown_of_a_result() -> None:
    machine = {
        "cores": 2,
        "processor": "Chip",
        "flags": ["avx2"],
        "memory_gb": 8.0,
        "load_1m": 0.1,
        "date": "2026-01-02T03:04:05+00:00",
    }
    result = results.Result("x", {}, machine)
    table = result.table("Speed")
    table.add(client="a", images_per_s=1234.5, MB=None)
    table.add(client="b", images_per_s=12345, MB=0.1234)
    result.target("speed", 3.0, 4.0)
    result.target("size", 3.0, 4.0, at_most=True)
    assert results.to_markdown(vars(result) | {"tables": [vars(table)]}) == (
        "**Speed**\n\n"
        "| client | images per s | MB |\n"
        "| --- | ---: | ---: |\n"
        "| a | 1,234 | – |\n"
        "| b | 12,345 | 0.123 |\n\n"
        "- speed: 3, aim 4: not reached here\n"
        "- size: 3, aim 4: reached\n\n"
        "2 cores of Chip (avx2), 8.0 GB, load 0.1, 2026-01-02\n"
    )


@pytest.mark.parametrize("number", [0, 1, 200_000, 2**24 - 1])
def test_tiny_pngs_have_the_color_of_their_number(number: int) -> None:
    decoded = decode(images.tiny_png(number), DecodeOptions(height=4, width=4))
    assert decoded.status == "ok"
    assert decoded.pixels is not None
    color = [number & 255, number >> 8 & 255, number >> 16]
    assert np.array_equal(decoded.pixels, np.broadcast_to(np.array(color, np.uint8), (4, 4, 3)))


def test_peak_memory_is_that_of_the_process() -> None:
    script = "import time; data = bytearray(200_000_000); del data; print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        peak = processes.peak_bytes(process.pid)
        process.stdin.close()
    assert 200e6 < peak < 250e6
    assert processes.peak_bytes(process.pid) == 0


def test_processor_time_between_two_moments() -> None:
    watched = processes.Watched(
        samples=[processes.CpuSample(10.0 + i, 1.5 * i, 100.0 + 1.75 * i) for i in range(10)]
    )
    assert watched.cpu_between(12.2, 16.1) == (6.0, 0.25)
