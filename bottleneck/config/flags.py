"""Groups of flags that jobs share: their fields, help, bounds and checks.

A job's configuration inherits the groups it needs and adds its own fields. The functions of the
engine ask for the group that they read, so what a flag reaches can be followed by its type. The
first sentence of a group's docstring is its heading in ``--help``, its ``Attributes`` are the help
of its flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar

from bottleneck.config.checks import AtLeast, Form, Gpus, require_allowed
from bottleneck.config.plain import plain_values
from bottleneck.config.values import actor_range, commit_interval, failure_limit, parse_time
from bottleneck.errors import ConfigError
from bottleneck.images.options import DEFAULT_MAX_PIXELS
from bottleneck.sources.rules import Layout


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Flags of a job."""

    #: Arguments of typical calls, for the top of ``--help``.
    examples: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, value in plain_values(self):
            # The one way to set a field of a frozen dataclass while it is being made.
            object.__setattr__(self, name, value)
        require_allowed(self)
        self.check()

    def check(self) -> None:
        """Checks what a field's type cannot say; each group calls the next one's first.

        Raises:
            ConfigError: A text is not of the form that its flag needs, or flags contradict.
        """


@dataclass(frozen=True, kw_only=True)
class SourceFlags(Flags):
    """Where the images come from.

    Attributes:
        images: Where the images are: a folder, an S3 prefix or any fsspec URL; a list file (.csv,
            .jsonl, .parquet) with a `uri` column and optional `image`, `label`, `split`,
            `fingerprint`; a tar file or a folder of tar files (WebDataset layout). File names
            ending in jpg, jpeg, jpe, jfif, png, webp, gif, bmp, dib, tif, tiff, ppm, pgm or ico
            (any case) are images; hidden and other files are skipped and counted.
        layout: What the folders mean: `label` (label/file), `split-label` (split/label/file),
            `flat` (nothing) or `auto`, which tells them apart by a first folder called train,
            validation, val, valid or test.
    """

    images: str = ""
    layout: Layout = "auto"


@dataclass(frozen=True, kw_only=True)
class ReadFlags(Flags):
    """How image files are read.

    Attributes:
        max_pixels: Images with more pixels are not decoded (`too_large`).
        max_image_mb: Files with more megabytes are not decoded (`too_large`).
        fetch_concurrency: Reads in flight at a time in each fetching task.
        fetch_timeout_s: Seconds without a byte after which a read from an object store is tried
            again.
    """

    max_pixels: Annotated[int, AtLeast(1, "pixels")] = DEFAULT_MAX_PIXELS
    max_image_mb: Annotated[float, AtLeast(0.001, "megabytes")] = 256.0
    fetch_concurrency: Annotated[int, AtLeast(1, "reads")] = 32
    fetch_timeout_s: Annotated[float, AtLeast(0.1, "seconds")] = 30.0


@dataclass(frozen=True, kw_only=True)
class ClusterFlags(Flags):
    """Which Ray cluster does the work.

    Attributes:
        address: Ray cluster to use, such as `auto` or ray://host:10001. When not given, the
            environment variable RAY_ADDRESS (set by `ray job submit`), else an embedded Ray.
    """

    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class ActorFlags(Flags):
    """What the actors that hold the model may use; what is not given follows from the cluster.

    Attributes:
        actors: Number of actors, each holding one model: N, or MIN:MAX to scale with the load.
            When not given, from 1 to as many as the cluster has room for.
        gpus_per_actor: GPUs per actor, may be a fraction; 0 computes on CPUs. When not given, 1 if
            the cluster has GPUs, else 0.
        cpus_per_actor: CPUs per actor. When not given, 0 with a GPU, else those of a node but one,
            8 at most.
        batch_size: Images that a model computes at once. When not given, 32 on CPUs; on GPUs a
            power of two up to 128 whose activations fit 4 GB.
    """

    actors: Annotated[str | None, Form(actor_range, "N|MIN:MAX")] = None
    gpus_per_actor: Annotated[float | None, Gpus()] = None
    cpus_per_actor: Annotated[float | None, AtLeast(0.1, "CPUs")] = None
    batch_size: Annotated[int | None, AtLeast(1, "images")] = None


@dataclass(frozen=True, kw_only=True)
class CommitFlags(Flags):
    """How results are committed to the table.

    Attributes:
        commit_every: How often finished work is committed: a time (`90s`, `5m`, `1h`) or a number
            of shards (`20 shards`). A killed run loses at most this much.
        shard_mb: Target size of a shard, in megabytes as written.
        take_over: Take the table over from a run that is known to be dead. If it is alive after
            all, it stops at its next commit.
    """

    commit_every: Annotated[str, Form(commit_interval, "TIME|SHARDS")] = "5m"
    shard_mb: Annotated[float, AtLeast(0.001, "megabytes")] = 256.0
    take_over: bool = False

    @property
    def table_uri(self) -> str:
        """Normalized URI of the table that the job writes; each job says which flag holds it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PlanFlags(Flags):
    """What a run computes again, removes, or only plans.

    Attributes:
        keep_deleted: Keep rows whose image is no longer in the source.
        retry_failed: Compute images again that failed before, although they did not change.
        max_failed: Failures from which the run exits with 1, after committing the good images:
            a number, or a share of the images that the run tries, such as `10%`.
        dry_run: Only print the plan: counts, bytes, expected time, growth and cost. Files are read
            where only their content tells whether they are new.
        node_hour_price: Price per node and hour, for the cost in the plan.
    """

    keep_deleted: bool = False
    retry_failed: bool = False
    max_failed: Annotated[str, Form(failure_limit, "N|SHARE")] = "10%"
    dry_run: bool = False
    node_hour_price: Annotated[float | None, AtLeast(0, "per hour")] = None

    def check(self) -> None:
        """Checks that a price has a plan to belong to."""
        super().check()
        if self.node_hour_price is not None and not self.dry_run:
            raise ConfigError("--node-hour-price only matters to --dry-run; add it or drop this")


@dataclass(frozen=True, kw_only=True)
class OutputFlags(Flags):
    """What is printed and where the summary goes.

    Attributes:
        json: Print the summary as JSON instead of text.
        summary: Write the summary to this file or URI as JSON.
        log_json: Print log, progress and errors as JSON, one object per line, on the standard
            error stream. The summary stays as it is on the standard output.
    """

    json: bool = False
    summary: str | None = None
    log_json: bool = False


@dataclass(frozen=True, kw_only=True)
class VersionFlags(Flags):
    """Which version of the features table is read.

    Attributes:
        version: Version of the features table; the newest when not given.
        as_of: The features table as it was at this time (ISO 8601, such as
            2026-01-31T06:00+00:00).
    """

    version: Annotated[int | None, AtLeast(0, "(a version)")] = None
    as_of: Annotated[str | None, Form(parse_time, "TIME")] = None

    def check(self) -> None:
        """Checks that only one version is named."""
        super().check()
        if self.version is not None and self.as_of is not None:
            raise ConfigError("--version and --as-of name two versions; give one of them")

    @property
    def moment(self) -> datetime | None:
        """``as_of`` as a moment."""
        return None if self.as_of is None else parse_time(self.as_of)


@dataclass(frozen=True, kw_only=True)
class MaintenanceFlags(CommitFlags, ClusterFlags):
    """Steps apart from the nightly run: nothing is computed.

    Attributes:
        vacuum: Only delete files that no version of the last DAYS days needs, then stop. Keep it
            longer than the longest run.
        compact: Only merge small shards into full ones, then stop.
    """

    vacuum: Annotated[float | None, AtLeast(1, "days", "DAYS")] = None
    compact: bool = False

    def check(self) -> None:
        """Checks that only one step is asked for."""
        super().check()
        if self.vacuum is not None and self.compact:
            raise ConfigError("--vacuum and --compact are separate steps; give one at a time")

    @property
    def maintenance(self) -> bool:
        """Whether the run is a vacuum or a compaction, which look at no image."""
        return self.compact or self.vacuum is not None


@dataclass(frozen=True, kw_only=True)
class RunFlags(ReadFlags, ActorFlags, CommitFlags, PlanFlags, ClusterFlags):
    """What a run that brings a table up to date with a source reads of its configuration."""

    def check(self) -> None:
        """Checks that a dry run, which writes nothing, takes nothing over."""
        super().check()
        if self.take_over and self.dry_run:
            raise ConfigError("--dry-run takes nothing over, it writes nothing; drop --take-over")

    @property
    def source_uri(self) -> str:
        """Normalized URI of the source; each job says which flag holds it."""
        raise NotImplementedError
