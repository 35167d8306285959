"""The jobs by their words: `python -m bottleneck`, the console script and `jobs/*.py`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

import bottleneck
from bottleneck.__main__ import JOBS, main, run

ALLOWED = ", ".join(JOBS)


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)


def test_every_job_has_a_configuration_a_function_and_a_file_of_its_own() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(JOBS)
    for name, job in JOBS.items():
        for address in (job.config, job.function):
            module, _, attribute = address.partition(":")
            found = getattr(importlib.import_module(f"bottleneck.{module}"), attribute)
            assert found.__module__ == f"bottleneck.{module}"
        assert f'run("{name}")' in (ROOT / "jobs" / f"{name}.py").read_text()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_jobs(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for name, job in JOBS.items():
        assert f"  {name:8}  {job.purpose}\n" in printed.out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bottleneck-features {bottleneck.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], f"no job is named; give one of {ALLOWED}; see --help"),
        (["exrtact"], "'exrtact' is not a job; did you mean 'extract'?; see --help"),
        (["Train", "--epochs=3"], "'Train' is not a job; did you mean 'train'?; see --help"),
        (["search"], f"'search' is not a job; give one of {ALLOWED}; see --help"),
        (
            ["--images=photos", "extract"],
            f"'--images=photos' comes before the job; give one of {ALLOWED} first; see --help",
        ),
    ],
)
def test_a_word_that_is_no_job_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert main([*(arguments or ["--json"]), "--log-json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    line = json.loads(printed.err)
    assert (line["event"], line["exit_code"]) == ("error", 2)
    assert not arguments or line["message"] == message


def test_a_jobs_flags_follow_its_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "--features=table"]) == 2
    said = capsys.readouterr()
    assert run("extract", ["--features=table"]) == 2
    assert capsys.readouterr() == said
    assert said.err.startswith("error: --images is ")


@pytest.mark.parametrize("name", JOBS)
def test_help_of_a_job_says_how_it_was_started_and_loads_no_ray(name: str) -> None:
    code = (
        "import sys\n"
        "from bottleneck.__main__ import main\n"
        "sys.argv[0] = '/somewhere/bin/bottleneck-features'\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "loaded = {'ray', 'keras', 'tensorflow'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = command(sys.executable, "-c", code, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bottleneck-features {name} [-h]")
    assert "--features" in done.stdout


def test_all_ways_in_are_the_same(tmp_path: Path) -> None:
    script = str(Path(sys.executable).with_name("bottleneck-features"))
    flags = ["--images=none", f"--features={tmp_path}/table", "--batch-size=0"]
    ways = [
        command(sys.executable, "-m", "bottleneck", "extract", *flags),
        command(script, "extract", *flags),
        command(sys.executable, "jobs/extract.py", *flags),
    ]
    assert {(way.returncode, way.stdout, way.stderr) for way in ways} == {
        (2, "", "error: --batch-size 0 is not allowed; give 1 images or more\n")
    }
    names = {"python -m bottleneck": [sys.executable, "-m", "bottleneck"], script: [script]}
    for name, prefix in names.items():
        usage = f"usage: {Path(name).name} JOB [FLAGS]"
        assert command(*prefix, "--help").stdout.splitlines()[0] == usage


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["extract", "--help"]])
def test_a_reader_that_is_gone_ends_it_as_other_commands(arguments: list[str]) -> None:
    """As in ``bottleneck-features extract --help | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bottleneck", *arguments],
            cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
