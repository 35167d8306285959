"""A configuration as the command line shows it: its flags by group, each group under a heading.

The command line's parser (tyro) prints a heading for each nested structure. Configurations are flat
and inherit their groups, so the parser is given a structure made from the classes that declare the
fields. It holds the texts of their docstrings and the values as they were typed: what is allowed is
checked once, by the configuration itself, for flags, YAML and Python alike.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

from bottleneck.config.checks import Bound, field_groups, words_of

_NAMES = {str: "STR", int: "INT", float: "FLOAT"}

_CONFIG_HELP = (
    "YAML file of flags without their dashes. Flags on the command line win over it: --FLAG None "
    "and, for a switch, --no-FLAG take back what the file says."
)


def description_of(config_type: type[Any], prog: str) -> str:
    """Returns the text at the top of ``--help``: what the job does, and examples.

    Args:
        config_type: The configuration; its ``examples`` are arguments of the program.
        prog: How the program is called.
    """
    text = docstring_parser.parse(config_type.__doc__ or "").short_description or ""
    examples = [f"  {prog} {example}" for example in config_type.examples]
    return "\n".join([text, *(["", "Examples:", *examples] if examples else [])])


def parser_of(config_type: type[Any]) -> type[Any]:
    """Returns the structure whose fields the command line parses: one nested one per group.

    The configuration's own fields come first, then its groups in the order of inheritance.
    """
    own, *groups = field_groups(config_type).items()
    top = [_parser_field(config_type, name) for name in own[1]]
    top.append(("config", Annotated[str | None, _argument(_CONFIG_HELP, "FILE", None)], None))
    for group, names in groups:
        nested = dataclasses.make_dataclass(
            group.__name__,
            [_parser_field(config_type, name) for name in names],
            kw_only=True,
        )
        nested.__doc__ = docstring_parser.parse(group.__doc__ or "").short_description
        title = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", group.__name__.removesuffix("Flags")).lower()
        top.append((title, nested, dataclasses.MISSING))
    made = [
        (name, kind, dataclasses.field() if default is dataclasses.MISSING else default)
        for name, kind, default in top
    ]
    return dataclasses.make_dataclass(config_type.__name__, made, kw_only=True)


def values_of(parsed: Any) -> dict[str, Any]:
    """Returns the fields of a configuration from what :func:`parser_of` parsed."""
    return {name: value for name, value in _flat(parsed) if name != "config"}


def _flat(parsed: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(parsed):
        value = getattr(parsed, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat(value)
        else:
            yield field.name, value


def _parser_field(config_type: type[Any], name: str) -> tuple[str, Any, Any]:
    """Returns a field of the parser: name, annotated type, default."""
    hint = get_type_hints(config_type, include_extras=True)[name]
    kind, *bounds = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    field = next(each for each in dataclasses.fields(config_type) if each.name == name)
    metavar = _metavar(kind, bounds)
    if words_of(kind):
        # Checked by the configuration, whose message is the same for YAML and Python.
        kind = str if field.default is not None else str | None
    extras = [_argument(_help_of(config_type, name), metavar, field.default)]
    if kind == bool | None:
        extras.append(tyro.conf.FlagConversionOff)
    return name, Annotated[kind, *extras], field.default


def _argument(text: str, metavar: str | None, default: Any) -> Any:
    told = default is not dataclasses.MISSING and default not in (None, "", False)
    hint = f"(default: {default})" if told else None if default is dataclasses.MISSING else ""
    return tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=hint)


def _metavar(kind: Any, bounds: Sequence[Bound]) -> str | None:
    """Returns the placeholder of a flag's value, without the None of an optional one."""
    named = [bound.metavar for bound in bounds if bound.metavar]
    words = ("True", "False") if kind == bool | None else words_of(kind)
    if named or words:
        return named[0] if named else "{" + ",".join(words) + "}"
    if kind is bool:
        return None
    if type(None) in get_args(kind):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is not tuple:
        return _NAMES[kind]
    first, *rest = get_args(kind)
    if rest == [...]:
        return f"{_NAMES[first]} [{_NAMES[first]} ...]"
    return " ".join(_NAMES[each] for each in (first, *rest))


def _help_of(config_type: type[Any], name: str) -> str:
    """Returns the documentation of a field by the most derived class that has one."""
    for cls in config_type.__mro__:
        for parameter in docstring_parser.parse(cls.__doc__ or "").params:
            if parameter.arg_name == name and parameter.description:
                return " ".join(parameter.description.split())
    raise TypeError(f"{config_type.__name__}.{name} has no documentation")
