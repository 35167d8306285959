"""What earlier runs know of tar archives, so that unchanged ones are not read to be listed.

The table's rows hold every member of an archive, but not whether those are all of them: a run may
have died half-way. So a finished run leaves a note of how many images each archive has. It is only
a memory: without it archives are read again.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

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


def recall_archives(snapshot: Snapshot, layout: str) -> dict[str, tuple[str, pl.DataFrame]]:
    """Returns image prefix → (fingerprint, rows) of the archives that need no reading."""
    note = read_note(snapshot.table_uri, _NOTE)
    if note is None:
        return {}
    try:
        if note["layout"] != layout:
            return {}
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
        return {}
    columns = ("image", "label", "split", "fingerprint")
    rows = snapshot.read_by_shard(columns).filter(are_members())
    rows = rows.with_columns(
        noted=archives_of(),
        archive=pl.col("image").str.extract(r"(?i)^(.*?\.tar)/", 1),
    ).join(noted, on=["archive", "noted"])
    found: dict[str, tuple[str, pl.DataFrame]] = {}
    for (archive,), group in rows.group_by(["archive"]):
        if len(group) == group["images"][0]:
            found[str(archive)] = (group["noted"][0], group.select(columns))
    return found
