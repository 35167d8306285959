"""Shards as the Delta log knows them: listed by a version, added and removed by a commit."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import TableError
from bottleneck.table.location import arrow_filesystem, unreachable
from bottleneck.table.shards import Shard


def shards_of(delta: DeltaTable) -> tuple[Shard, ...]:
    """Returns the shards of an opened version, ordered by their smallest image."""
    actions = pa.table(delta.get_add_actions(flatten=True))
    names = actions.column_names
    none = [None] * actions.num_rows
    shards = [
        Shard(path, size, rows or 0, low or "", high or "")
        for path, size, rows, low, high in zip(
            actions["path"].to_pylist(),
            actions["size_bytes"].to_pylist(),
            actions["num_records"].to_pylist() if "num_records" in names else none,
            actions["min.image"].to_pylist() if "min.image" in names else none,
            actions["max.image"].to_pylist() if "max.image" in names else none,
            strict=True,
        )
    ]
    return tuple(sorted(shards, key=lambda shard: (shard.min_image, shard.path)))


def changes(
    add: Sequence[Shard], remove: Sequence[Shard], now_ms: int
) -> list[AddAction | RemoveAction]:
    """Returns the actions of a commit.

    Args:
        add: Shards that become visible.
        remove: Shards that disappear.
        now_ms: Time of the commit, in milliseconds since the epoch.
    """
    return [
        *(
            AddAction(shard.path, shard.size_bytes, {}, now_ms, True, _delta_stats(shard))
            for shard in add
        ),
        *(RemoveAction(shard.path, True, now_ms, shard.size_bytes, {}) for shard in remove),
    ]


def _delta_stats(shard: Shard) -> str:
    return json.dumps(
        {
            "numRecords": shard.rows,
            "minValues": {"image": shard.min_image},
            "maxValues": {"image": shard.max_image},
            "nullCount": {"image": 0},
        }
    )


def require_written(table_uri: str, shards: Sequence[Shard]) -> None:
    """Refuses shards that are not in storage as their writers reported them.

    Delta does not check that an added file exists; readers of the commit would fail.

    Raises:
        TableError: A shard is missing or has another size, or storage refuses.
    """
    if not shards:
        return
    filesystem, root = arrow_filesystem(table_uri)
    try:
        infos = filesystem.get_file_info([f"{root}/{shard.path}" for shard in shards])
    except OSError as e:
        raise TableError(unreachable(table_uri, e)) from e
    for info, shard in zip(infos, shards, strict=True):
        if info.type != pafs.FileType.File or info.size != shard.size_bytes:
            found = f"{info.size} bytes" if info.type == pafs.FileType.File else "nothing"
            raise TableError(
                f"shard {shard.path} of {redact_uri(table_uri)} should have {shard.size_bytes} "
                f"bytes but storage has {found}; it was not committed, run again"
            )
