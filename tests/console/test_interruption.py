"""SIGINT and SIGTERM, sent to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.s3_server import S3Server
from bottleneck.console.interruption import InterruptedRunError, Interruption

# Processes are started and stopped: a second for each.
pytestmark = pytest.mark.slow

_RUN = """
import os, sys, time
from dataclasses import dataclass
from bottleneck.cli import run_job
from bottleneck.config.flags import OutputFlags
from bottleneck.console.interruption import Interruption
from bottleneck.incremental.summary import Summary

@dataclass(frozen=True, kw_only=True)
class Config(OutputFlags):
    '''A job that waits.

    Attributes:
        mode: When signals end it.
    '''

    mode: str = ""

def job(config):
    summary = Summary(run="r", source_uri="i", table_uri="f")
    with Interruption() as interruption:
        if config.mode == "deferred":
            interruption.defer()
        os.write(1, b"ready\\n")
        end = time.monotonic() + 300
        while time.monotonic() < end:
            time.sleep(0.02)
            if interruption.signal is not None and config.mode == "deferred":
                os.write(1, b"saving\\n")
                sys.stdin.readline()
                summary.outcome, summary.signal = "interrupted", interruption.signal
                return summary
    return summary

sys.exit(run_job(Config, job))
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    return process


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_there_is_anything_to_save_a_signal_ends_the_run(
    started: list[subprocess.Popen[str]], signum: signal.Signals, code: int
) -> None:
    process = start(started, "-c", _RUN)
    wait_for(process, "ready")
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert errors == f"error: stopped by {signum.name}; what was committed before stays\n"
    assert process.returncode == code


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_later_it_saves_its_work_first(
    started: list[subprocess.Popen[str]], signum: signal.Signals, code: int
) -> None:
    process = start(started, "-c", _RUN, "--mode=deferred")
    wait_for(process, "ready")
    process.send_signal(signum)
    wait_for(process, "saving")
    printed, errors = process.communicate("\n", timeout=60)
    assert process.returncode == code
    assert printed.startswith("Interrupted (run r)\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(
    started: list[subprocess.Popen[str]], first: signal.Signals, second: signal.Signals
) -> None:
    process = start(started, "-c", _RUN, "--mode=deferred")
    wait_for(process, "ready")
    process.send_signal(first)
    wait_for(process, "saving")
    process.send_signal(second)
    assert process.wait(timeout=60) == -second


def test_a_listing_that_is_stopped_is_no_broken_source(
    started: list[subprocess.Popen[str]], s3: S3Server
) -> None:
    """What a signal raises must pass through code that turns exceptions into messages."""
    s3.create_bucket("slow-photos", {"a.jpg": b"x"})
    code = (
        "import os, sys\n"
        "from bottleneck.cli import run_job\n"
        "from bottleneck.extraction.config import ExtractConfig\n"
        "from bottleneck.console.interruption import Interruption\n"
        "from bottleneck.sources.listing import list_images\n"
        "def job(config):\n"
        "    with Interruption():\n"
        "        os.write(1, b'ready\\n')\n"
        "        list_images(config.images)\n"
        "sys.exit(run_job(ExtractConfig, job))\n"
    )
    s3.delay_s = 3.0
    process = start(started, "-c", code, "--images=s3://slow-photos", "--features=x")
    wait_for(process, "ready")
    threading.Event().wait(1.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert errors == "error: stopped by SIGTERM; what was committed before stays\n"
    assert process.returncode == 143


@pytest.mark.parametrize("flag", ["--vacuum=7", "--compact"])
def test_maintenance_is_stopped_with_a_message_too(
    started: list[subprocess.Popen[str]], tmp_path: Path, flag: str
) -> None:
    code = (
        "import os, sys, time\n"
        "from bottleneck.incremental import maintenance\n"
        "from bottleneck.cli import run_job\n"
        "from bottleneck.extraction.config import ExtractConfig\n"
        "def wait(uri):\n"
        "    os.write(1, b'ready\\n')\n"
        "    time.sleep(300)\n"
        "maintenance.FeaturesTable.open = wait\n"
        "sys.exit(run_job(ExtractConfig, maintenance.maintain))\n"
    )
    process = start(started, "-c", code, f"--features={tmp_path}", flag)
    wait_for(process, "ready")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert errors.count("\n") == 1
    assert process.returncode == 130


def test_handlers_are_put_back() -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does when it starts
        interruption.reinstall()
        with pytest.raises(InterruptedRunError) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.exit_code == 143
        interruption.defer()
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal == signal.SIGINT
    assert {s: signal.getsignal(s) for s in before} == before


def test_in_another_thread_nothing_changes() -> None:
    seen: list[Any] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with Interruption() as interruption:
            interruption.reinstall()
            interruption.defer()
            seen.append((interruption.signal, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
