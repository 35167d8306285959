"""Configuration of the status job; every field is a flag of ``jobs/status.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from bottleneck.errors import ConfigError

#: What a picture may be called.
PLOT_SUFFIXES = (".png", ".html")


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Prints what a features table holds and what its runs did.

    Attributes:
        features: Where the features table is: a folder, s3://, gs:// or abfs://.
        limit: Newest runs to show.
        plot: Draw the table's growth and the runs' throughput into this file or URI: a picture
            (.png), or a page with the picture and the printed text (.html).
        json: Print JSON instead of text.
    """

    features: str
    limit: int = 20
    plot: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if not self.features:
            raise ConfigError("--features is empty; give the address of the features table")
        if self.limit < 1:
            raise ConfigError(f"--limit {self.limit} is not allowed; give 1 run or more")
        if self.plot is not None and self.plot_suffix not in PLOT_SUFFIXES:
            raise ConfigError(
                f"--plot {self.plot!r} is not allowed; give a name ending in "
                f"{' or '.join(PLOT_SUFFIXES)}"
            )

    @property
    def plot_suffix(self) -> str:
        """The ending of `plot` in lower case, empty without one."""
        return PurePosixPath(self.plot or "").suffix.lower()
