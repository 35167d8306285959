"""What earlier runs know of tar archives, so that unchanged ones are not read to be listed.

The table's rows hold every member of an archive, but not whether those are all of them: a run may
have died half-way. So a finished run leaves a note of how many images each archive has. It is only
a memory: without it archives are read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from bottleneck.incremental.plan import COMPARED
from bottleneck.sources.archives import KnownArchives
from bottleneck.storage.fingerprints import archives_of, are_members
from bottleneck.table.notes import read_note, write_note
from bottleneck.table.snapshot import Snapshot

_NOTE = "archives"


def remember_archives(table_uri: str, layout: str, archives: Mapping[str, tuple[str, int]]) -> None:
    """Notes archives that the table now holds completely.

    Args:
        table_uri: The table.
        layout: Layout that the members' labels were told by.
        archives: Image prefix → (fingerprint, number of images).
    """
    if archives:
        note = {
            "layout": layout,
            "archives": {name: list(known) for name, known in archives.items()},
        }
        write_note(table_uri, _NOTE, note)


@dataclass(frozen=True)
class Recalled:
    """What the table knows of the archives of its source.

    Attributes:
        archives: Those that need no reading.
        rows: Rows of the table as :meth:`~bottleneck.table.snapshot.Snapshot.read_by_shard` returns
            :data:`~bottleneck.incremental.plan.COMPARED`, so that they are not read again; None if
            they were not needed.
    """

    archives: KnownArchives = field(default_factory=dict)
    rows: pl.DataFrame | None = None


def recall_archives(snapshot: Snapshot, layout: str) -> Recalled:
    """Finds the archives whose images are all in the table.

    Args:
        snapshot: The table.
        layout: Layout that labels are told by now; archives read under another one are not known.

    Raises:
        TableError: A shard cannot be read.
    """
    note = read_note(snapshot.table_uri, _NOTE)
    if note is None:
        return Recalled()
    try:
        if note["layout"] != layout:
            return Recalled()
        noted = pl.DataFrame(
            [(name, known[0], known[1]) for name, known in note["archives"].items()],
            schema={"archive": pl.String, "noted": pl.String, "images": pl.Int64},
            orient="row",
        )
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        pl.exceptions.PolarsError,
    ):
        # A damaged note is as good as none.
        return Recalled()
    rows = snapshot.read_by_shard(COMPARED)
    members = (
        rows.filter(are_members())
        .with_columns(
            noted=archives_of(),
            archive=pl.col("image").str.extract(r"(?i)^(.*?\.tar)/", 1),
        )
        .join(noted, on=["archive", "noted"])
    )
    found: dict[str, tuple[str, pl.DataFrame]] = {}
    for (archive,), group in members.group_by(["archive"]):
        if len(group) == group["images"][0]:
            told = group.select("image", "label", "split", "fingerprint")
            found[str(archive)] = (group["noted"][0], told)
    return Recalled(found, rows)
