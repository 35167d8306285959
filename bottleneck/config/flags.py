"""Flags that several jobs share, as the steps that read them see them."""

from __future__ import annotations

from typing import Any, Protocol

from bottleneck.config.checks import require_at_least
from bottleneck.errors import ConfigError

#: (field, smallest value allowed, unit); None values are not checked.
_LOWER_BOUNDS: tuple[tuple[str, float, str], ...] = (
    ("max_pixels", 1, "pixels"),
    ("max_image_mb", 0.001, "megabytes"),
    ("gpus_per_actor", 0, "GPUs"),
    ("cpus_per_actor", 0.1, "CPUs"),
    ("batch_size", 1, "images"),
    ("fetch_concurrency", 1, "reads"),
    ("fetch_timeout_s", 0.1, "seconds"),
    ("shard_mb", 0.001, "megabytes"),
    ("node_hour_price", 0, "per hour"),
    ("vacuum", 1, "days"),
)


def require_bounds(config: Any) -> None:
    """Refuses numbers below what the flags that jobs share allow.

    Raises:
        ConfigError: One is lower, or not finite.
    """
    for name, lowest, unit in _LOWER_BOUNDS:
        require_at_least(name, getattr(config, name, None), lowest, unit)


def require_sense_of_dry_run(config: Any) -> None:
    """Refuses flags that mean nothing with or without ``--dry-run``.

    Raises:
        ConfigError: One is given.
    """
    if config.node_hour_price is not None and not config.dry_run:
        raise ConfigError("--node-hour-price only matters to --dry-run; add it or drop this")
    if config.take_over and config.dry_run:
        raise ConfigError("--dry-run takes nothing over, it writes nothing; drop --take-over")


class FetchFlags(Protocol):
    """The flags of a job that say how images are read."""

    @property
    def fetch_concurrency(self) -> int:
        """Reads in flight in a fetching task."""

    @property
    def fetch_timeout_s(self) -> float:
        """Seconds without progress after which a read is tried again."""

    @property
    def max_image_mb(self) -> float:
        """Megabytes; larger files are not read."""


class JobFlags(FetchFlags, Protocol):
    """The flags that these steps look at, of whatever job."""

    @property
    def address(self) -> str | None:
        """Of the cluster."""


class Placement(Protocol):
    """The flags that say what each actor gets, of whatever job; None leaves it to the cluster."""

    @property
    def actors(self) -> str | None:
        """N or MIN:MAX, see :func:`~bottleneck.config.values.actor_range`."""

    @property
    def gpus_per_actor(self) -> float | None:
        """GPUs of an actor."""

    @property
    def cpus_per_actor(self) -> float | None:
        """CPUs of an actor."""


class RunFlags(Placement, Protocol):
    """The flags that the loop looks at, of whatever job."""

    @property
    def commit_every(self) -> str:
        """How often work is committed, see :func:`~bottleneck.config.values.commit_interval`."""

    @property
    def shard_mb(self) -> float:
        """Aimed size of a shard in megabytes."""

    @property
    def take_over(self) -> bool:
        """Whether another run's lease is disregarded."""
