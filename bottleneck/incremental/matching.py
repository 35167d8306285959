"""Which listed images are the ones that the table already has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa

from bottleneck.images.statuses import OK
from bottleneck.incremental.work import work_of
from bottleneck.storage.fingerprints import are_etags, sizes_of
from bottleneck.table.snapshot import Snapshot

#: Given rows of :data:`~bottleneck.incremental.work.WORK_SCHEMA`, returns (image, sha256) of those
#: that could be read.
Hasher = Callable[[pa.Table], pa.Table]


def find_rows(listed: pl.DataFrame, known: pl.DataFrame) -> pl.Series:
    """Finds for each listed image the number of its row in `known`; null where it has none.

    Only names are joined: that takes 200 bytes per row, a join with all columns 530.
    """
    rows = known.select("image", row=pl.int_range(pl.len(), dtype=pl.UInt32))
    joined = listed.select("image").join(rows, on="image", how="left", maintain_order="left")
    return joined["row"]


def unlisted(known: pl.DataFrame, row: pl.Series) -> pl.DataFrame:
    """Returns the rows that no listed image has, given :func:`find_rows`."""
    seen = np.zeros(len(known), dtype=bool)
    seen[row.drop_nulls().to_numpy()] = True
    return known.filter(pl.Series(~seen))


def pair_by_etag(new: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
    """Pairs new images with gone ones of equal ETag: the same bytes, without reading them.

    Only ETags of whole objects say so: a tar member's fingerprint names its archive.
    """
    old = gone.filter((pl.col("status") == OK) & are_etags())
    return _pair(new.filter(are_etags()), old, "fingerprint")


def _pair(new: pl.DataFrame, old: pl.DataFrame, key: str) -> pl.DataFrame:
    """Pairs rows of equal key one to one: (new row…, image_old, shard)."""
    rank = pl.int_range(pl.len()).over(key).alias("_rank")
    left = new.sort("image").with_columns(rank)
    right = (
        old.sort("image")
        .with_columns(rank)
        .select(key, "_rank", "shard", image_old=pl.col("image"))
    )
    return left.join(right, on=[key, "_rank"], how="inner").drop("_rank")


def pair_by_content(
    snapshot: Snapshot,
    new: pl.DataFrame,
    changed: pl.DataFrame,
    gone: pl.DataFrame,
    renamed: pl.DataFrame,
    hasher: Hasher,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Finds renamed and merely touched files by their sha256, reading as few as possible.

    ETags already decided where both sides have one. Of the others a new image is a candidate
    when a gone one has its size, a changed one when its size stayed; sizes stand in the
    fingerprints of files and tar members.

    Args:
        snapshot: The table.
        new: Listing rows of images that the table does not have.
        changed: Listing rows of another fingerprint than the table's, with the columns `status`,
            `shard` and `fingerprint_old` of the table.
        gone: Rows of the table that no listed image has.
        renamed: Pairs of new and gone images that :func:`pair_by_etag` found.
        hasher: Reads the candidates.

    Returns:
        All pairs of new and gone images, and the changed ones whose content is the same.
    """
    size = sizes_of()
    gone = gone.join(renamed.select(image="image_old"), on="image", how="anti").filter(
        (pl.col("status") == OK) & ~are_etags()
    )
    new = new.join(renamed.select("image"), on="image", how="anti").filter(~are_etags())
    rename_candidates = new.with_columns(size=size).join(
        gone.select(size=size).drop_nulls().unique(), on="size", how="semi"
    )
    touch_candidates = changed.filter(
        (pl.col("status") == OK) & ~are_etags() & (size == sizes_of("fingerprint_old"))
    )
    if rename_candidates.is_empty() and touch_candidates.is_empty():
        return renamed, changed.clear()
    candidates = pl.concat(
        [frame.select(new.columns) for frame in (rename_candidates, touch_candidates)]
    )
    hashes = pl.DataFrame(hasher(work_of(candidates)))
    touched_shards = pl.concat([gone["shard"], touch_candidates["shard"]]).unique().to_list()
    old_hashes = snapshot.part(touched_shards).read_by_shard(("image", "sha256")).drop("shard")
    more = _pair(
        rename_candidates.drop("size").join(hashes, on="image"),
        gone.join(old_hashes, on="image"),
        "sha256",
    ).drop("sha256")
    touched = (
        touch_candidates.join(hashes, on="image")
        .join(old_hashes, on="image", suffix="_before")
        .filter(pl.col("sha256") == pl.col("sha256_before"))
        .select(changed.columns)
    )
    return pl.concat([renamed, more.select(renamed.columns)]), touched
