"""Flags and configuration files → configuration → a job → its summary and exit code."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any, Protocol, TypeVar, get_type_hints

import tyro
import yaml

from bottleneck import logs, storage
from bottleneck.config import failure_limit, field_names, flag_of
from bottleneck.errors import BottleneckError, ConfigError, TooManyFailuresError
from bottleneck.interruption import InterruptedRunError
from bottleneck.summary import Summary

C = TypeVar("C")


class Outcome(Protocol):
    """What a job returns: a summary for people and for programs.

    Attributes:
        signal: Number of the signal that interrupted the job, or None.
    """

    signal: int | None

    def to_text(self) -> str:
        """Returns what is printed."""

    def to_json(self) -> str:
        """Returns what ``--summary`` keeps."""


_log = logging.getLogger(__name__)


def run_job(
    config_type: type[C], job: Callable[[C], Outcome], argv: Sequence[str] | None = None
) -> int:
    """Runs a job as a command.

    Args:
        config_type: The job's configuration, whose fields are its flags.
        job: What to run.
        argv: Arguments without the program's name; ``sys.argv`` when None.

    Returns:
        The exit code: 0; 1 when too many images failed or the run could not finish; 2 for
        something the user can mend; 75 when another run is at work on the table; 130 or 143 after
        SIGINT or SIGTERM. Errors are one line on the standard error stream, with ``--log-json`` a
        JSON object.
    """
    with logs.Console() as console:
        try:
            return _run(config_type, job, sys.argv[1:] if argv is None else argv, console)
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
    config_type: type[C], job: Callable[[C], Outcome], argv: Sequence[str], console: logs.Console
) -> int:
    # Errors of the flags themselves have the form that the flags ask for.
    console.as_json = _asks_for_json(argv)
    arguments = _with_config_file(config_type, argv)
    console.as_json = _asks_for_json(arguments)
    config = _parse_flags(config_type, arguments)
    with contextlib.redirect_stdout(_RayMessages()):
        summary = job(config)
    print(summary.to_text(), flush=True)
    target = getattr(config, "summary", None)
    if target:
        storage.write_bytes(storage.normalize_uri(target), summary.to_json().encode())
    if summary.signal is not None:
        return 128 + summary.signal
    if isinstance(summary, Summary):
        _require_few_failures(summary, getattr(config, "max_failed", "100%"))
    return 0


def _asks_for_json(arguments: Sequence[str]) -> bool:
    given = [argument.replace("_", "-") for argument in arguments]
    said = [argument for argument in given if argument in ("--log-json", "--no-log-json")]
    return said[-1:] == ["--log-json"]


class _RayMessages(io.TextIOBase):
    """Where Ray prints, in colour, what it notices of its nodes while a job runs.

    The jobs say themselves what that means for the run; the rest is for debugging.
    """

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
            if line.strip():
                _log.debug("%s", line)
        return len(text)


def parse(config_type: type[C], argv: Sequence[str]) -> C:
    """Reads flags, over the values of a ``--config`` file (YAML) if one is given.

    Raises:
        ConfigError: A flag, a key or a value is not allowed.
        SystemExit: ``--help`` was asked for.
    """
    return _parse_flags(config_type, _with_config_file(config_type, argv))


def _with_config_file(config_type: type[Any], argv: Sequence[str]) -> list[str]:
    """Puts the values of a ``--config`` file, as flags, before those that were given."""
    arguments, given = _split_off_config(config_type, argv)
    # Values of the file are read by the same parser as flags, so that both allow the same.
    return [*_as_flags(config_type, given or {}), *arguments]


def _parse_flags(config_type: type[C], arguments: Sequence[str]) -> C:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), _unwrapped(arguments):
            config: C = tyro.cli(
                config_type,
                args=arguments,
                description=_description(config_type),
                config=(tyro.conf.OmitSubcommandPrefixes,),
            )
    except SystemExit as e:
        if e.code in (0, None):
            raise
        raise ConfigError(_one_line(printed.getvalue())) from e
    return config


@contextlib.contextmanager
def _unwrapped(arguments: Sequence[str]) -> Iterator[None]:
    """Keeps the parser from wrapping its messages, which become one line; help is for the eye."""
    before = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def _description(config_type: type[Any]) -> str:
    text = (config_type.__doc__ or "").split("Attributes:")[0].strip()
    return f"{text} Flags may also stand in a YAML file, given as --config FILE; flags win."


def _split_off_config(
    config_type: type[Any], argv: Sequence[str]
) -> tuple[list[str], dict[str, Any] | None]:
    arguments = list(argv)
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != "--config":
            continue
        if not equals:
            if index + 1 == len(arguments):
                raise ConfigError("--config needs a file; give a YAML file of the job's flags")
            value = arguments[index + 1]
        rest = arguments[:index] + arguments[index + (1 if equals else 2) :]
        return rest, _read_config(config_type, value)
    return arguments, None


def _read_config(config_type: type[Any], path: str) -> dict[str, Any]:
    try:
        values = yaml.load(storage.read_bytes(storage.normalize_uri(path)), _Yaml)
    except yaml.YAMLError as e:
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"{path} is not a YAML file: {reason}; mend it") from e
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no flags; it must consist of lines such as 'images: DIR'")
    allowed = field_names(config_type)
    result = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(allowed)}"
            raise ConfigError(f"{path} has a key {key!r} that is no flag of this job; {hint}")
        result[name] = value
    return result


class _Yaml(yaml.SafeLoader):
    """YAML without base-60 numbers: ``1:4`` is a range of actors, not 64."""


_Yaml.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(r"[-+]?[0-9]+$") if tag == "tag:yaml.org,2002:int" else pattern)
        for tag, pattern in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _require_kind(config_type: type[Any], name: str, value: Any) -> None:
    """Refuses values that no flag could have: they would be read as something else."""
    default = {field.name: field.default for field in fields(config_type)}[name]
    flag = flag_of(name)
    if isinstance(default, bool) and not isinstance(value, bool):
        raise ConfigError(f"{flag} is {value!r} in the file; give true or false")
    if value is None and (default is MISSING or isinstance(default, str)):
        raise ConfigError(f"{flag} has no value in the file; give one or leave the line out")
    if isinstance(value, dict):
        raise ConfigError(f"{flag} is {value!r} in the file; give a single value")


def _as_flags(config_type: type[Any], values: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    types = get_type_hints(config_type)
    for name, value in values.items():
        _require_kind(config_type, name, value)
        flag = flag_of(name)
        if isinstance(value, bool) and types[name] == bool | None:
            # A switch with a third state is given as a word.
            flags.append(f"{flag}={value}")
        elif value is True:
            flags.append(flag)
        elif value is False:
            flags.append(flag.replace("--", "--no-", 1))
        elif value is None:
            continue
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={value}")
    return flags


def _one_line(printed: str) -> str:
    """Turns the parser's framed message into one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", printed)
    # The frame's first line is only its title.
    lines = [line.strip("│╰╯─ ") for line in plain.splitlines() if not line.startswith("╭")]
    text = " ".join(line for line in lines if line)
    # A flag that may also be left out: the parser tells what became of trying each of its types.
    text = re.sub(
        r"no type matching \{None\}\|(\{[^}]*\}|\w+) could be instantiated from \[(.*?)\]\. "
        r"Got errors: .*",
        lambda found: f"{found[2]} is not allowed; give {found[1].strip('{}')}",
        text,
    )
    text = re.split(r"─* ?(?:Argument helptext|For full helptext)", text)[0].strip(" ─")
    return f"{text[:500]}; see --help"


def _require_few_failures(summary: Summary, max_failed: str) -> None:
    limit = failure_limit(max_failed, summary.tried)
    if summary.failures > limit:
        raise TooManyFailuresError(
            f"{summary.failures:,} images failed and --max-failed {max_failed} allows {limit:,}; "
            "the others are committed, see the statuses above and the table's `error` column"
        )
