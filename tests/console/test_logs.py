"""What the jobs print on the standard error stream: lines for people, or JSON for programs."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import draw, numbered
from support.paths import ROOT

from bottleneck.cli import run_job
from bottleneck.console import logs
from bottleneck.console.progress import Progress
from bottleneck.errors import RunFailedError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental.summary import Summary

LOG = logging.getLogger("bottleneck.somewhere")
FLAGS = ["--images=photos", "--features=table"]


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def as_json() -> Iterator[None]:
    with logs.Console(as_json=True):
        yield


# Lines for people


def test_a_log_line_has_the_run_and_other_lines_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.Console():
        LOG.warning("too early for %s", "a run")
        run = logs.begin_run()
        LOG.warning("lost work: %s", "a node")
        LOG.info("not shown")
        logs.say("epoch 1/2  loss 0.5", event="progress", epoch=1)
        logs.fail("the table is gone", exit_code=2)
    assert capsys.readouterr().err.splitlines() == [
        "WARNING bottleneck.somewhere: too early for a run",
        f"WARNING [run {run}] bottleneck.somewhere: lost work: a node",
        "epoch 1/2  loss 0.5",
        "error: the table is gone",
    ]


def test_runs_have_12_digits_and_never_the_same() -> None:
    runs = {logs.begin_run() for _ in range(100)}
    assert len(runs) == 100
    assert all(len(run) == 12 and int(run, 16) >= 0 for run in runs)


# JSON


@pytest.mark.usefixtures("as_json")
def test_a_record_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    formatter = logs.JsonFormatter()
    record = logging.LogRecord(
        "bottleneck.x", logging.ERROR, __file__, 1, "lost\n%s \udc80 …", ("ä",), None
    )
    record.created = 1_790_000_000.25
    text = formatter.format(record)
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "2026-09-21T14:13:20.250Z",
        "level": "ERROR",
        "logger": "bottleneck.x",
        "run": None,
        "event": "log",
        "message": "lost\nä \udc80 …",
    }
    run = logs.begin_run()
    logs.say("epoch 2/9", event="progress", epoch=2, loss=float("nan"), place=Path("/a"))
    (line,) = json_lines(capsys.readouterr().err)
    assert {name: line[name] for name in line if name != "time"} == {
        "level": "INFO",
        "logger": "bottleneck.console.logs",
        "run": run,
        "event": "progress",
        "message": "epoch 2/9",
        "epoch": 2,
        "loss": None,
        "place": "/a",
    }


@pytest.mark.usefixtures("as_json")
def test_tracebacks_warnings_and_rays_own_lines_are_json_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        raise KeyError("no such thing")
    except KeyError:
        LOG.exception("that went wrong")
    warnings.warn("old ways\nof doing it", UserWarning, stacklevel=1)
    logging.getLogger("ray").error("a node is gone")
    logging.getLogger("ray").info("chatter of no interest")
    failed, warned, *rest = json_lines(capsys.readouterr().err)
    assert failed["message"] == "that went wrong"
    assert failed["exception"].splitlines()[-1] == "KeyError: 'no such thing'"
    assert (warned["level"], warned["logger"]) == ("WARNING", "py.warnings")
    assert "old ways\nof doing it" in warned["message"]
    assert ("ray", "a node is gone") in [(line["logger"], line["message"]) for line in rest]
    assert {line["level"] for line in rest} <= {"INFO", "ERROR"}


def test_everything_is_as_before_afterwards() -> None:
    ray, package = logging.getLogger("ray"), logging.getLogger("bottleneck")
    before = (ray.handlers, ray.propagate, package.level, logging.getLogger().handlers[:])
    with logs.Console(as_json=True):
        assert logs.structured()
        assert package.level == logging.INFO
    assert (ray.handlers, ray.propagate, package.level, logging.getLogger().handlers) == before
    assert not logs.structured()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("as_json")
def test_progress_is_events_with_figures_even_in_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = Terminal()
    shown = Progress(50, stream)
    shown.close()
    shown.say("a node is lost")
    shown.add(10)
    shown.failed, shown.committed = 2, 8
    shown.add(15)
    shown.close()
    assert stream.getvalue() == ""
    first, notice, last = json_lines(capsys.readouterr().err)
    assert (first["event"], first["done"], first["images_per_s"], first["eta_s"]) == (
        "progress", 0, None, None,
    )  # fmt: skip
    assert (notice["event"], notice["level"], notice["message"]) == (
        "notice", "WARNING", "a node is lost",
    )  # fmt: skip
    assert {name: last[name] for name in ("done", "total", "failed", "committed")} == {
        "done": 25, "total": 50, "failed": 2, "committed": 8,
    }  # fmt: skip
    assert last["images_per_s"] > 0
    assert last["eta_s"] >= 0
    assert "25 / 50 images (50.0 %)" in last["message"]


# The command


def job_that_warns(config: ExtractConfig) -> Summary:
    summary = Summary(run=logs.begin_run(), source_uri="photos", table_uri="table")
    LOG.warning("overtaken; planning again")
    return summary


def test_the_flag_changes_the_error_stream_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = {}
    for flags in ([], ["--log-json"], ["--log-json", "--no-log-json"]):
        assert run_job(ExtractConfig, job_that_warns, [*FLAGS, *flags]) == 0
        out, err = capsys.readouterr()
        run = out.split("(run ")[1][:12]
        printed[len(flags)] = out.replace(run, "RUN"), err.replace(run, "RUN")
    plain = "WARNING [run RUN] bottleneck.somewhere: overtaken; planning again\n"
    assert printed[0] == printed[2]
    assert printed[0][1] == plain
    assert printed[1][0] == printed[0][0]
    (line,) = json_lines(printed[1][1])
    assert (line["run"], line["level"], line["message"]) == (
        "RUN", "WARNING", "overtaken; planning again",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "event"),
    [
        (RunFailedError("the cluster is gone"), 1, "error"),
        (KeyboardInterrupt(), 130, "error"),
        (ZeroDivisionError("a defect"), 1, "log"),
    ],
)
def test_a_job_that_fails(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, event: str
) -> None:
    def job(config: ExtractConfig) -> Summary:
        logs.begin_run()
        raise error

    assert run_job(ExtractConfig, job, [*FLAGS, "--log-json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = json_lines(err)
    assert line["event"] == event
    assert len(line["run"]) == 12
    if event == "error":
        assert line["exit_code"] == code
    else:
        assert line["level"] == "CRITICAL"
        assert line["exception"].endswith("ZeroDivisionError: a defect")


@pytest.mark.parametrize(
    ("flags", "file", "said"),
    [
        (["--log-json", "--batch-size=0"], "", "--batch-size 0 is not allowed"),
        (["--batch-size=0"], "log_json: true", "--batch-size 0 is not allowed"),
        (["--log-json", "--imagse=x"], "", "--imagse"),
        (["--log-json"], "imagse: x", "has a key 'imagse' that is not a flag"),
    ],
)
def test_wrong_flags_are_an_event_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], file: str, said: str
) -> None:
    if file:
        (tmp_path / "job.yaml").write_text(file)
        flags = [*flags, f"--config={tmp_path / 'job.yaml'}"]
    assert run_job(ExtractConfig, job_that_warns, [*FLAGS, *flags]) == 2
    (line,) = json_lines(capsys.readouterr().err)
    assert (line["event"], line["level"], line["run"]) == ("error", "ERROR", None)
    assert line["exit_code"] == 2
    assert said in line["message"]
    assert not line["message"].startswith("error")


@pytest.mark.parametrize("job", ["extract", "train", "predict"])
def test_every_job_has_the_flag(job: str, tmp_path: Path) -> None:
    flags = {
        "extract": [f"--images={tmp_path}/none", f"--features={tmp_path}/table"],
        "train": [f"--features={tmp_path}/none", f"--model={tmp_path}/model"],
        "predict": [f"--images={tmp_path}", f"--predictions={tmp_path}/p", f"--model={tmp_path}/m"],
    }[job]
    done = subprocess.run(
        [sys.executable, f"jobs/{job}.py", *flags, "--log-json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = json_lines(done.stderr)
    assert (line["event"], line["exit_code"]) == ("error", 2)
    assert len(line["run"]) == 12


@pytest.mark.usefixtures("ray_session")
def test_an_embedded_runs_lines_are_all_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "photos", numbered(20))
    flags = [f"--images={tmp_path / 'photos'}", f"--features={tmp_path / 'table'}", "--actors=1",
             "--backbone=channel-means", "--weights=none", "--log-json"]  # fmt: skip
    assert run_job(ExtractConfig, extract, flags) == 0
    out, err = capfd.readouterr()
    lines = json_lines(err)
    assert lines[-1]["event"] == "progress"
    assert (lines[-1]["done"], lines[-1]["committed"]) == (20, 20)
    assert {line["run"] for line in lines} == {out.split("(run ")[1][:12]}
