"""The jobs as commands: ``python -m bottleneck extract …`` or ``bottleneck-features extract …``.

``jobs/*.py`` start the same commands, as files that ``ray job submit`` can run from a checkout.
Only the job that is asked for is imported, and what it needs for its work (Ray, above all) only
when its flags are in order.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottleneck.console import logs
from bottleneck.console.printing import printing
from bottleneck.errors import ConfigError
from bottleneck.version import __version__

#: Name of the console script, and of the distribution that installs it.
_SCRIPT = "bottleneck-features"

_USAGE = f"""\
usage: {{program}} JOB [FLAGS]

Bottleneck features of image collections, as a batch job on Ray {__version__}

{{jobs}}

  {{program}} JOB --help   lists the flags of a job
  {{program}} --version    prints the version
"""


@dataclass(frozen=True)
class Job:
    """Where a job is, as ``module:name`` below this package.

    Attributes:
        config: Dataclass whose fields are the job's flags.
        function: Takes the configuration; returns a :class:`~bottleneck.console.outcome.Outcome`.
        purpose: What the job does, for the list of jobs.
    """

    config: str
    function: str
    purpose: str


JOBS = {
    "extract": Job(
        "extraction.config:ExtractConfig",
        "extraction.job:extract",
        "images to a features table",
    ),
    "train": Job(
        "training.config:TrainConfig",
        "training.job:train",
        "a features table to a model",
    ),
    "predict": Job(
        "prediction.config:PredictConfig",
        "prediction.job:predict",
        "images or features and a model to a predictions table",
    ),
    "status": Job(
        "status.config:StatusConfig",
        "status.job:show_status",
        "what a features table holds and what its runs did",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job that the first argument names.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit code of :func:`bottleneck.cli.run_job`; 2 when no job or an unknown one is named.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = arguments[0] if arguments else ""
    if name in JOBS:
        return run(name, arguments[1:], f"{_program()} {name}")
    if name in ("-h", "--help"):
        with printing():
            print(_help(), end="")
        return 0
    if name == "--version":
        with printing():
            print(f"{_SCRIPT} {__version__}")
        return 0
    with logs.Console(as_json="--log-json" in arguments):
        logs.fail(_refusal(name), exit_code=ConfigError.exit_code)
    return ConfigError.exit_code


def run(job: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs a job as a command.

    Args:
        job: Its name in :data:`JOBS`.
        argv: The job's flags; those of the process when None.
        prog: What the user typed, for ``--help``; derived from ``sys.argv`` when None.

    Returns:
        The exit code of :func:`bottleneck.cli.run_job`.
    """
    from bottleneck.cli import run_job

    where = JOBS[job]

    def run_when_configured(config: Any) -> Any:
        return _load(where.function)(config)

    return run_job(_load(where.config), run_when_configured, argv, prog)


def _load(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(f"bottleneck.{module}"), name)


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "python -m bottleneck" if name == "__main__.py" else name


def _help() -> str:
    width = max(map(len, JOBS))
    jobs = "\n".join(f"  {name:{width}}   {job.purpose}" for name, job in JOBS.items())
    return _USAGE.format(program=_program(), jobs=jobs)


def _refusal(name: str) -> str:
    allowed = ", ".join(JOBS)
    if not name:
        return f"no job is named; give one of {allowed}; see --help"
    if name.startswith("-"):
        return f"{name!r} comes before the job; give one of {allowed} first; see --help"
    near = difflib.get_close_matches(name, JOBS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"give one of {allowed}"
    return f"{name!r} is not a job; {hint}; see --help"


if __name__ == "__main__":
    sys.exit(main())
