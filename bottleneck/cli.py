"""Runs a job as a command: flags to configuration, outcome to summary and exit code."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from bottleneck.config.flags import OutputFlags
from bottleneck.config.parsing import parse_flags, with_config_file
from bottleneck.console import logs
from bottleneck.console.interruption import InterruptedRunError
from bottleneck.console.outcome import Outcome
from bottleneck.console.printing import printing
from bottleneck.errors import BottleneckError
from bottleneck.storage import files, uris

C = TypeVar("C", bound=OutputFlags)

_log = logging.getLogger(__name__)


def run_job(
    config_type: type[C],
    job: Callable[[C], Outcome],
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Runs a job as a command.

    Args:
        config_type: The job's configuration, whose fields are its flags.
        job: What to run.
        argv: Arguments without the program's name; ``sys.argv`` when None.
        prog: How the program is called, for ``--help``; derived from ``sys.argv`` when None.

    Returns:
        The exit code: 0; 1 when too many images failed or the run could not finish; 2 for
        something the user can mend; 75 when another run is at work on the table; 130 or 143 after
        SIGINT or SIGTERM. Errors are one line on the standard error stream, with ``--log-json`` a
        JSON object.
    """
    with logs.Console() as console:
        try:
            arguments = sys.argv[1:] if argv is None else argv
            return _run(config_type, job, arguments, prog, console)
        except (BottleneckError, InterruptedRunError) as e:
            logs.fail(str(e), exit_code=e.exit_code)
            return e.exit_code
        except KeyboardInterrupt:
            # Ctrl-C where no handler is set: before the job sets its own, or in a step without one.
            code = 128 + signal.SIGINT
            logs.fail("interrupted; nothing was left half done, run again", exit_code=code)
            return code
        except Exception:
            # A defect: Python prints its traceback, in many lines, unless lines must be JSON.
            if not console.as_json:
                raise
            _log.critical("the job failed unexpectedly", exc_info=True)
            return 1


def _run(
    config_type: type[C],
    job: Callable[[C], Outcome],
    argv: Sequence[str],
    prog: str | None,
    console: logs.Console,
) -> int:
    # Errors of the flags themselves have the form that the flags ask for.
    console.as_json = _asks_for_json(argv)
    arguments = with_config_file(config_type, argv)
    console.as_json = _asks_for_json(arguments)
    with printing():
        config = parse_flags(config_type, arguments, prog)
    with contextlib.redirect_stdout(_RayMessages()):
        outcome = job(config)
    with printing():
        print(outcome.to_json().rstrip() if config.json else outcome.to_text())
    if config.summary:
        files.write_bytes(uris.normalize_uri(config.summary), outcome.to_json().encode())
    if outcome.error is not None:
        logs.fail(str(outcome.error), exit_code=outcome.exit_code)
    return outcome.exit_code


def _asks_for_json(arguments: Sequence[str]) -> bool:
    given = [argument.replace("_", "-") for argument in arguments]
    said = [argument for argument in given if argument in ("--log-json", "--no-log-json")]
    return said[-1:] == ["--log-json"]


class _RayMessages(io.TextIOBase):
    """Stream for the colored messages about nodes that Ray prints while a job runs.

    The jobs report what such an event means for the run; the messages are for debugging.
    """

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
            if line.strip():
                _log.debug("%s", line)
        return len(text)
