"""The job as users of a cluster start it: `ray job submit` against `ray start --head`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.images import colors_of, draw, numbered, read
from support.paths import ROOT
from support.ray_head import RAY, Head, free_port, running


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of a head that was started as the documentation says, in its own processes."""
    address = ""

    def head() -> Head:
        nonlocal address
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        made = Head(
            "--num-cpus=2",
            f"--dashboard-port={port}",
            "--include-dashboard=true",
            is_up=lambda _: answers(f"{address}/api/version"),
        )
        # As in an activated environment: jobs find `python` on the head's path.
        path = made.environment["PATH"]
        made.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
        return made

    with running(head):
        yield address


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


def submit(address: str, *arguments: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [RAY, "job", "submit", f"--address={address}", "--working-dir=.", "--", *arguments]
    deadline = time.monotonic() + 240
    while True:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        # A head answers before its agent is ready to take jobs.
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            break
        time.sleep(3)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_submitted_job_runs_reports_and_fails_like_a_local_one(
    dashboard: str, tmp_path: Path
) -> None:
    wanted = draw(tmp_path / "photos", numbered(40))
    job = [
        "python", "jobs/extract.py", f"--images={tmp_path / 'photos'}",
        f"--features={tmp_path / 'table'}", "--backbone=channel-means", "--weights=none",
        "--batch-size=8",
    ]  # fmt: skip
    code, output = submit(dashboard, *job)
    assert code == 0, output
    assert "Done (run " in output
    assert "  new         40\n" in output
    own = output[output.index("Done (run ") : output.index("  written ")]
    assert "\x1b" not in own
    assert "\r" not in output
    assert colors_of(read(str(tmp_path / "table"))) == sorted(wanted.items())

    code, output = submit(dashboard, *job, "--preprocessing=rescale")
    assert code == 1
    assert "error: the features table" in output
    assert "Traceback" not in output
