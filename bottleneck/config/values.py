"""Values of flags that are written as text: ranges, intervals, limits, times."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from bottleneck.config.checks import flag_of
from bottleneck.errors import ConfigError


def actor_range(text: str | None) -> tuple[int, int] | None:
    """Reads ``--actors``: N or MIN:MAX.

    Returns:
        (min, max), or None when not given.

    Raises:
        ConfigError: It is neither, or not 1 <= MIN <= MAX.
    """
    return None if text is None else _range("actors", text)


def worker_range(text: str) -> tuple[int, int]:
    """Reads ``--workers``: N or MIN:MAX.

    Returns:
        (min, max).

    Raises:
        ConfigError: It is neither, or not 1 <= MIN <= MAX.
    """
    return _range("workers", text)


def _range(name: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    if match:
        low = int(match[1])
        high = int(match[2]) if match[2] else low
        if 1 <= low <= high:
            return low, high
    raise ConfigError(
        f"{flag_of(name)} {text!r} is not allowed; give N or MIN:MAX with 1 <= MIN <= MAX"
    )


@dataclass(frozen=True)
class CommitInterval:
    """Interval between commits: `seconds` or `shards`, whichever is set."""

    seconds: float = math.inf
    shards: float = math.inf


def commit_interval(text: str) -> CommitInterval:
    """Reads ``--commit-every``: a time or a number of shards.

    Raises:
        ConfigError: It is neither, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|shards?)", text.strip())
    if match and float(match[1]) > 0:
        number, unit = float(match[1]), match[2]
        if unit.startswith("shard"):
            if number.is_integer():
                return CommitInterval(shards=number)
        else:
            return CommitInterval(seconds=number * {"s": 1, "m": 60, "h": 3600}[unit])
    raise ConfigError(
        f"--commit-every {text!r} is not allowed; give a time such as 90s, 5m or 1h, "
        "or a number of shards such as '20 shards'"
    )


def failure_limit(text: str, tried: int = 0) -> int:
    """Reads ``--max-failed``: the number of `tried` images that may fail.

    Raises:
        ConfigError: It is neither a count nor a share between 0 and 100 %.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if match:
        # Fractions, since 29 % of 100 must be 29 and not 28.999….
        number = Fraction(match[1])
        if not match[2] and "." not in match[1]:
            return int(number)
        share = number / 100 if match[2] else number
        if share <= 1:
            return math.floor(share * tried)
    raise ConfigError(
        f"--max-failed {text!r} is not allowed; give a number of images such as 100, "
        "or a share such as 10% or 0.1"
    )


def parse_time(text: str) -> datetime:
    """Reads a time of ISO 8601; UTC where it names no zone.

    Raises:
        ConfigError: It is not such a time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        raise ConfigError(
            f"--as-of {text!r} is not a time; give one such as 2026-01-31 or 2026-01-31T06:00+00:00"
        ) from e
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
