"""Checks of single values, declared beside the fields of a configuration.

A field states what it allows in its type: ``batch_size: Annotated[int, AtLeast(1, "images")]``.
:class:`bottleneck.config.flags.Flags` applies all of them when a configuration is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Protocol, get_args, get_origin, get_type_hints

from bottleneck.errors import ConfigError


class Bound(Protocol):
    """A limit on the values of a field.

    Attributes:
        metavar: Placeholder of the value in ``--help``; empty for the name of its type.
    """

    @property
    def metavar(self) -> str:
        """Placeholder of the value in ``--help``; empty for the name of its type."""

    def require(self, name: str, value: Any) -> None:
        """Raises :class:`ConfigError` if the field `name` must not have this value."""


@dataclass(frozen=True)
class AtLeast:
    """A lower bound of a number, or of each number of a tuple; only finite numbers are allowed.

    Attributes:
        lowest: Smallest value that is allowed.
        unit: Unit of the number, for the message.
        metavar: As in :class:`Bound`.
    """

    lowest: float
    unit: str
    metavar: str = ""

    def require(self, name: str, value: Any) -> None:
        """Refuses smaller, infinite and undefined numbers.

        Raises:
            ConfigError: The value is one of these.
        """
        for number in value if isinstance(value, tuple) else (value,):
            if not (math.isfinite(number) and number >= self.lowest):
                raise ConfigError(
                    f"{flag_of(name)} {number} is not allowed; give {self.lowest:g} {self.unit} or "
                    "more"
                )


@dataclass(frozen=True)
class Gpus(AtLeast):
    """A number of GPUs that Ray can assign: a whole number, or a fraction of one GPU."""

    lowest: float = 0
    unit: str = "GPUs"

    def require(self, name: str, value: Any) -> None:
        """Refuses negative numbers, and fractions above 1.

        Raises:
            ConfigError: The value is one of these.
        """
        super().require(name, value)
        if value > 1 and not float(value).is_integer():
            raise ConfigError(
                f"{flag_of(name)} {value} is not allowed; give a whole number, or a fraction of "
                "one GPU such as 0.5"
            )


@dataclass(frozen=True)
class Share:
    """A share of a whole: from 0, below 1.

    Attributes:
        metavar: As in :class:`Bound`.
    """

    metavar: str = ""

    def require(self, name: str, value: Any) -> None:
        """Refuses other numbers.

        Raises:
            ConfigError: The value is one of these.
        """
        if not 0 <= value < 1:
            raise ConfigError(f"{flag_of(name)} {value} is not allowed; give 0 or more, below 1")


@dataclass(frozen=True)
class Form:
    """A text that a function of :mod:`bottleneck.config.values` can read.

    Attributes:
        read: Reads the text; raises ConfigError for another one.
        metavar: As in :class:`Bound`.
    """

    read: Callable[[str], object]
    metavar: str

    def require(self, name: str, value: Any) -> None:
        """Refuses texts that cannot be read.

        Raises:
            ConfigError: The value is one of these.
        """
        self.read(value)


def require_allowed(config: Any) -> None:
    """Checks each field against the words and bounds that its type declares; None passes.

    Args:
        config: A configuration: a dataclass instance.

    Raises:
        ConfigError: A field has a value that its type does not allow.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if value is None:
            continue
        kind, *bounds = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        allowed = words_of(kind)
        if allowed and value not in allowed:
            raise ConfigError(
                f"{flag_of(field.name)} {value!r} is not allowed; give {', '.join(allowed)}"
            )
        for bound in bounds:
            bound.require(field.name, value)


def words_of(kind: Any) -> tuple[str, ...]:
    """Returns the words that a type allows: those of a Literal, also of an optional one."""
    kinds = [kind, *get_args(kind)]
    return tuple(word for each in kinds if get_origin(each) is Literal for word in get_args(each))


def flag_of(name: str) -> str:
    """Returns the flag of a field, such as ``--batch-size``."""
    return "--" + name.replace("_", "-")


def field_groups(config_type: type[Any]) -> dict[type[Any], list[str]]:
    """Returns the names of the fields by the class that introduced them, in their order."""
    groups: dict[type[Any], list[str]] = {config_type: []}
    owner: dict[str, type[Any]] = {}
    for cls in config_type.__mro__:
        owner |= dict.fromkeys(vars(cls).get("__annotations__", ()), cls)
    every = [field.name for field in fields(config_type)]
    for cls in config_type.__mro__:
        names = [name for name in every if owner[name] is cls]
        if names:
            groups[cls] = names
    return groups


def field_names(config_type: type[Any]) -> tuple[str, ...]:
    """Returns the names that a configuration file for this type may hold, as in ``--help``."""
    return tuple(name for names in field_groups(config_type).values() for name in names)
