"""What a job that keeps a table up to date says of itself; the rest is shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import polars as pl
import pyarrow as pa

from bottleneck.cluster import connection
from bottleneck.config.flags import RunFlags, SourceFlags
from bottleneck.console.interruption import Interruption
from bottleneck.incremental.known_archives import Recalled, recall_archives
from bottleneck.incremental.plan import Plan
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline import hashing
from bottleneck.pipeline.fetching import fetcher_of
from bottleneck.pipeline.stages import Stages
from bottleneck.sources.listing import list_images
from bottleneck.spec import FeatureSpec
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import ImageTable

C = TypeVar("C", bound=RunFlags)
S = TypeVar("S", bound=Summary)


@dataclass(frozen=True)
class Source:
    """What a run compares the table with.

    Attributes:
        images: Rows of :data:`~bottleneck.sources.rows.LISTING_SCHEMA`.
        skipped: Files that are no images, by reason.
        layout: Layout by which labels and splits were told.
        archives: What the listing learned of tar archives, for the next run: image prefix →
            (fingerprint, number of images).
        files: Whether the images are files, so that their content can be compared by hashing it.
        rows: Rows of the table, where listing had to read them, for the plan.
    """

    images: pa.Table
    skipped: Mapping[str, int] = field(default_factory=dict)
    layout: str = "auto"
    archives: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    files: bool = True
    rows: pl.DataFrame | None = None


class TableJob(ABC, Generic[C, S]):
    """One attempt of a job to bring its table up to date; its methods are called in this order.

    Attributes:
        table_type: Kind of the table.
        config: Configuration of the run.
        summary: What the run did so far.
        interruption: Signals that the run got.
        snapshot: The table before the run; None when there is none yet.
    """

    table_type: ClassVar[type[ImageTable]]

    def __init__(
        self, config: C, summary: S, interruption: Interruption, snapshot: Snapshot | None
    ) -> None:
        self.config = config
        self.summary = summary
        self.interruption = interruption
        self.snapshot = snapshot

    @abstractmethod
    def source(self) -> Source:
        """Lists what the table should hold.

        Raises:
            BottleneckError: The source cannot be listed, or what is asked for cannot be computed.
        """

    @abstractmethod
    def spec(self) -> FeatureSpec:
        """Returns the specification of what this run would compute.

        Raises:
            SpecMismatchError: It is not the table's.
            BottleneckError: It cannot be told.
        """

    def arrange(self, plan: Plan) -> Plan:
        """Returns the plan with its work in the order in which it is best computed."""
        return plan

    @abstractmethod
    def stages(self) -> Stages:
        """Returns the stages that compute the work; called only where there is some."""

    def finish(self, table: ImageTable) -> None:
        """Does what is left once the table is up to date."""

    def connect(self) -> None:
        """Connects to Ray, unless that is done."""
        connection.connect(self.config.address, self.interruption)

    def hash_images(self, work: pa.Table) -> pa.Table:
        """Reads images on the cluster where only their content tells whether the table has them.

        Args:
            work: Rows of :data:`~bottleneck.incremental.work.WORK_SCHEMA`.

        Returns:
            `image`, `sha256` of those that could be read.
        """
        self.connect()
        hashes, read_bytes = hashing.hash_images(work, fetcher_of(self.config))
        self.summary.bytes_read += read_bytes
        return hashes


def list_source(flags: SourceFlags, snapshot: Snapshot | None) -> Source:
    """Lists the images of a source; archives that the table holds completely are not read.

    Args:
        flags: Which source.
        snapshot: The table before the run.

    Raises:
        SourceError: It cannot be listed.
    """
    known = recall_archives(snapshot, flags.layout) if snapshot is not None else Recalled()
    listing = list_images(flags.images, layout=flags.layout, known_archives=known.archives)
    return Source(
        listing.images, dict(listing.skipped), flags.layout, listing.archives, rows=known.rows
    )
