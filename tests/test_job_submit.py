"""The job as users of a cluster start it: `ray job submit` against `ray start --head`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from coloured import colours_of, draw, numbered, read

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head that was started as the documentation says, in its own processes."""
    port = free_port()
    log_path = tmp_path_factory.mktemp("head") / "log"
    log = log_path.open("wb")
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}",
         f"--dashboard-port={port}", "--include-dashboard=true", "--disable-usage-stats",
         # Its default is taken where another Ray runs: the head would then never take a job.
         f"--dashboard-agent-listen-port={free_port()}"],
        stdout=log,
        stderr=subprocess.STDOUT,
        # As in an activated environment: jobs find `python` on the head's path.
        env={
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert head.poll() is None, log_path.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield address
    finally:
        # `--block` ends what it started when it is told to; what is left after that is ended here.
        started = [head, *psutil.Process(head.pid).children(recursive=True)]
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(3)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        log.close()


def submit(address: str, *arguments: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [RAY, "job", "submit", f"--address={address}", "--working-dir=.", "--", *arguments]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        # A head answers before its agent is ready to take jobs.
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            break
        time.sleep(3)
    return done.returncode, done.stdout + done.stderr


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
    assert colours_of(read(str(tmp_path / "table"))) == sorted(wanted.items())

    code, output = submit(dashboard, *job, "--preprocessing=rescale")
    assert code == 1
    assert "error: the features table" in output
    assert "Traceback" not in output
