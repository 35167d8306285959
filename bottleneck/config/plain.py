"""Values of a configuration in the plain types that its fields declare.

Python code may give what is at hand, such as a path, a list or a number of NumPy. What is compared,
printed and stored is always text, a tuple, or a number of Python.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bottleneck.config.checks import flag_of, words_of
from bottleneck.errors import ConfigError

#: What a message asks for where a field is of this type.
_WANTED = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}

#: Maximum number of characters of a refused value in a message.
_SHOWN_CHARS = 100


def plain_values(config: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name of each field and its value in the plain type that the field declares.

    Args:
        config: A configuration: a dataclass instance.

    Raises:
        ConfigError: A value is of another type.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        if value is None and type(None) in get_args(kind):
            yield field.name, None
            continue
        try:
            yield field.name, _plain(value, _required(kind))
        except TypeError as e:
            shown = " ".join(repr(value).split())[:_SHOWN_CHARS]
            raise ConfigError(
                f"{flag_of(field.name)} {shown} is not allowed; give {_wanted(_required(kind))}"
            ) from e


def _required(kind: Any) -> Any:
    """Returns the type of a field without the None of an optional one."""
    alternatives = [each for each in get_args(kind) if each is not type(None)]
    return alternatives[0] if type(None) in get_args(kind) else kind


def _plain(value: Any, kind: Any) -> Any:
    """Returns a value in its plain type.

    Raises:
        TypeError: It is of another type.
    """
    if get_origin(kind) is tuple:
        return _plain_tuple(value, get_args(kind))
    if get_origin(kind) is Literal:
        # Which words are allowed is checked with the bounds.
        kind = str
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    # For Python True is a number.
    if isinstance(value, bool):
        if kind is bool:
            return value
    elif kind is int and isinstance(value, Integral):
        return int(value)
    elif (kind is float and isinstance(value, int | float)) or isinstance(value, kind):
        return value
    raise TypeError(kind)


def _plain_tuple(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(tuple)
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise TypeError(tuple)
    return tuple(_plain(each, kind) for each, kind in zip(value, kinds, strict=True))


def _wanted(kind: Any) -> str:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return "whole numbers" if kinds[-1] is ... else f"{len(kinds)} whole numbers"
    return ", ".join(words_of(kind)) or _WANTED[kind]
