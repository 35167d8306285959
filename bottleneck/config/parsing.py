"""Flags and configuration files to a configuration."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml

from bottleneck.config.checks import field_names, flag_of
from bottleneck.config.flag_groups import description_of, parser_of, values_of
from bottleneck.console.redaction import one_line
from bottleneck.errors import ConfigError
from bottleneck.storage import files, uris

C = TypeVar("C")


def parse(config_type: type[C], argv: Sequence[str], prog: str | None = None) -> C:
    """Reads flags, over the values of a ``--config`` file (YAML) if one is given.

    Args:
        config_type: A configuration: a dataclass that inherits groups of flags.
        argv: Arguments without the program's name.
        prog: How the program is called, for ``--help``; derived from ``sys.argv`` when None.

    Raises:
        ConfigError: A flag, a key or a value is not allowed.
        SystemExit: ``--help`` was asked for.
    """
    return parse_flags(config_type, with_config_file(config_type, argv), prog)


def with_config_file(config_type: type[Any], argv: Sequence[str]) -> list[str]:
    """Puts the values of a ``--config`` file, as flags, before those that were given.

    Raises:
        ConfigError: The file cannot be read, or has a key that is not a flag of this job.
    """
    arguments, given = _split_off_config(config_type, argv)
    # Values of the file are read by the same parser as flags, so that both allow the same.
    return _without_negations(config_type, [*_as_flags(config_type, given or {}), *arguments])


def parse_flags(config_type: type[C], arguments: Sequence[str], prog: str | None = None) -> C:
    """Reads flags that :func:`with_config_file` returned.

    Raises:
        ConfigError: A flag or a value is not allowed.
        SystemExit: ``--help`` was asked for.
    """
    prog = prog or _program()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), _unwrapped(arguments):
            parsed = tyro.cli(
                parser_of(config_type),
                prog=prog,
                args=arguments,
                description=description_of(config_type, prog),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as e:
        if e.code in (0, None):
            raise
        raise ConfigError(_one_line(printed.getvalue())) from e
    return config_type(**values_of(parsed))


def _program() -> str:
    """Returns what a user typed to start this program."""
    path = sys.argv[0]
    return f"python {path}" if path.endswith(".py") else Path(path).name


@contextlib.contextmanager
def _unwrapped(arguments: Sequence[str]) -> Iterator[None]:
    """Keeps the parser from wrapping its messages, which become one line; help stays wrapped."""
    before = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(arguments):
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


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
        values = yaml.load(files.read_bytes(uris.normalize_uri(path)), _Yaml)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path} is not a YAML file: {one_line(e)}; mend it") from e
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no flags; it must consist of lines such as 'images: DIR'")
    allowed = field_names(config_type)
    result = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(allowed)}"
            raise ConfigError(f"{path} has a key {key!r} that is not a flag of this job; {hint}")
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
    """Refuses values that no flag can have: they would be read as something else."""
    default = {field.name: field.default for field in fields(config_type)}[name]
    kind = get_type_hints(config_type)[name]
    flag = flag_of(name)
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{flag} is {value!r} in the file; give true or false")
    if isinstance(value, bool) and kind not in (bool, bool | None):
        raise ConfigError(f"{flag} is {value!r} in the file but is not a switch; give it a value")
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
        if isinstance(value, bool) and types[name] is bool:
            flags += [flag] if value else []
        elif value is None:
            continue
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            # A switch with a third state is given as a word too.
            flags.append(f"{flag}={value}")
    return flags


def _without_negations(config_type: type[Any], arguments: Sequence[str]) -> list[str]:
    """Resolves ``--no-SWITCH``, which turns a switch of the file off; the last one given counts."""
    types = get_type_hints(config_type)
    switches = {flag_of(name) for name, kind in types.items() if kind is bool}
    kept: list[str] = []
    for argument in arguments:
        switch = argument.replace("_", "-").replace("--no-", "--", 1)
        if argument.startswith("--no") and switch in switches:
            kept = [other for other in kept if other.replace("_", "-") != switch]
        else:
            kept.append(argument)
    return kept


def _one_line(printed: str) -> str:
    """Turns the parser's framed message into one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", printed)
    # The frame's first line is only its title.
    lines = [line.strip("│╰╯─ ") for line in plain.splitlines() if not line.startswith("╭")]
    text = " ".join(line for line in lines if line)
    # A flag that may also be left out: the parser tells what became of trying each of its types.
    text = re.sub(
        r"no type matching (?:\{None\}\|)?(\{[^}]*\}|\w+) could be instantiated from \[(.*?)\]\. "
        r"Got errors: .*",
        lambda found: f"{found[2]} is not allowed; give {found[1].strip('{}')}",
        text,
    )
    text = re.split(r"─* ?(?:Argument helptext|For full helptext)", text)[0].strip(" ─")
    return f"{text[:500]}; see --help"
