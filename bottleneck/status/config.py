"""Configuration of the status job: a frozen dataclass, validated when made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from bottleneck.config.checks import AtLeast
from bottleneck.config.flags import OutputFlags
from bottleneck.errors import ConfigError

#: Endings of the files that a picture can be drawn into.
PLOT_SUFFIXES = (".png", ".html")


@dataclass(frozen=True, kw_only=True)
class StatusConfig(OutputFlags):
    """Prints what a features table holds and what its runs did.

    Attributes:
        features: Where the features table is: a folder, s3://, gs:// or abfs://.
        limit: Newest runs to show.
        plot: Draw the table's growth and the runs' throughput into this file or URI: a picture
            (.png), or a page with the picture and the printed text (.html).
    """

    features: str
    limit: Annotated[int, AtLeast(1, "run")] = 20
    plot: str | None = None

    examples: ClassVar[tuple[str, ...]] = (
        "--features photo-features",
        "--features s3://lake/photo-features --plot growth.html",
    )

    def check(self) -> None:
        """Checks that a table is given, and that a picture can be drawn into the file."""
        super().check()
        if not self.features:
            raise ConfigError("--features is empty; give the address of the features table")
        if self.plot is not None and self.plot_suffix not in PLOT_SUFFIXES:
            raise ConfigError(
                f"--plot {self.plot!r} is not allowed; give a name ending in "
                f"{' or '.join(PLOT_SUFFIXES)}"
            )

    @property
    def plot_suffix(self) -> str:
        """Ending of ``plot`` in lower case, empty without one."""
        return PurePosixPath(self.plot or "").suffix.lower()
