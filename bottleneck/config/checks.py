"""Checks that the configurations of the jobs share."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bottleneck.errors import ConfigError


def require_choices(config: Any) -> None:
    """Refuses words that a flag does not know; the command line does so by itself.

    Raises:
        ConfigError: A field has a value that is none of its type's.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        kinds = [hints[field.name], *get_args(hints[field.name])]
        allowed = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        value = getattr(config, field.name)
        if allowed and value is not None and value not in allowed:
            raise ConfigError(
                f"{flag_of(field.name)} {value!r} is not allowed; give {', '.join(allowed)}"
            )


def require_at_least(name: str, value: Any, lowest: float, unit: str) -> None:
    """Refuses a number below what a flag allows; None passes.

    Raises:
        ConfigError: It is lower, or not finite.
    """
    if value is not None and not (math.isfinite(value) and value >= lowest):
        raise ConfigError(f"{flag_of(name)} {value} is not allowed; give {lowest:g} {unit} or more")


def require_gpus(name: str, gpus: float | None) -> None:
    """Refuses a number of GPUs that Ray does not give: more than one, and not whole.

    Raises:
        ConfigError: It is.
    """
    if gpus is not None and gpus > 1 and not float(gpus).is_integer():
        raise ConfigError(
            f"{flag_of(name)} {gpus} is not allowed; give a whole number, or a fraction of one GPU "
            "such as 0.5"
        )


def flag_of(name: str) -> str:
    """Returns the flag of a field, such as ``--batch-size``."""
    return "--" + name.replace("_", "-")


def field_names(config_type: type[Any]) -> tuple[str, ...]:
    """Returns the names that a configuration file for this type may hold."""
    return tuple(field.name for field in fields(config_type))
