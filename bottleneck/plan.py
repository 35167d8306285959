"""The plan of a run: a listing compared with the table's snapshot.

Nothing is read but the listing and the table's small columns; completion is keyed by an image's
identity and content fingerprint, never by position. Polars does the joins (10 million against
10 million images: 12 s, 3 GB). No Ray here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pyarrow as pa

from bottleneck import shards
from bottleneck.features import Snapshot
from bottleneck.table_location import filesystem_of, reading

#: What workers are given of an image, in the order of the work: `row` is its place in the plan,
#: `old_shard` the number (in the snapshot) of the shard that holds the row it replaces.
WORK_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("image", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("old_shard", pa.int32()),
    ]
)

_READ_THREADS = 16

#: Reads in flight below these threads. In an object store the small columns of a row group are one
#: request, of VGG16's maps 16 a thousand images: Arrow's own 8 would leave a driver waiting.
_IO_THREADS = 64

Identity = Mapping[str, str | None]


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        snapshot: The version it was made from; None when there is no table yet.
        work: :data:`WORK_SCHEMA`, images to compute: those that replace a row first, by the shard
            that holds it (so that few shards are rewritten at a time), then new ones; each in
            `image` order.
        drops: Shard path → images whose rows disappear.
        replacements: Shard path → image → new identity of a row whose features stay.
        listed: Number of images in the source.
        new: Of these, computed because the table does not have them.
        changed: Computed because their content changed.
        retried: Computed again because they failed before and ``retry_failed`` asks for it.
        reused: Kept features although name, label or modification time changed.
        removed: Rows that disappear.
        unchanged: Images that cost nothing.
        failed_before: Of the unchanged, those that failed in an earlier run.
    """

    snapshot: Snapshot | None
    work: pa.Table
    drops: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replacements: Mapping[str, Mapping[str, Identity]] = field(default_factory=dict)
    listed: int = 0
    new: int = 0
    changed: int = 0
    retried: int = 0
    reused: int = 0
    removed: int = 0
    unchanged: int = 0
    failed_before: int = 0

    @property
    def empty(self) -> bool:
        """Whether the table already says what the source says."""
        return not (self.work.num_rows or self.drops or self.replacements)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the images to compute, as far as the listing knows their sizes."""
        sizes = pl.from_arrow(self.work.select(["bytes"]))
        assert isinstance(sizes, pl.DataFrame)
        return int(sizes["bytes"].sum() or 0)


#: Given rows of :data:`WORK_SCHEMA`, returns (image, sha256) of those that could be read.
Hasher = Callable[[pa.Table], pa.Table]


def read_identities(snapshot: Snapshot, columns: Iterable[str]) -> pl.DataFrame:
    """Reads small columns of all rows, with the number of each row's shard as `shard`.

    Raises:
        TableError: A shard cannot be read.
    """
    # Before there is a file system, which takes its number of connections from it.
    pa.set_io_thread_count(max(_IO_THREADS, pa.io_thread_count()))
    filesystem, root = filesystem_of(snapshot.table_uri)
    names = list(columns)

    def read(number: int) -> pl.DataFrame:
        table = shards.read_columns(filesystem, root, snapshot.shards[number].path, names)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame.with_columns(pl.lit(number, pl.Int32).alias("shard"))

    schema = dict.fromkeys(names, pl.String) | {"shard": pl.Int32}
    with reading(snapshot.table_uri), ThreadPoolExecutor(_READ_THREADS) as pool:
        frames = list(pool.map(read, range(len(snapshot.shards))))
    return pl.concat(frames, rechunk=False) if frames else pl.DataFrame(schema=schema)


def make_plan(
    listing: pa.Table,
    snapshot: Snapshot | None,
    *,
    keep_deleted: bool = False,
    retry_failed: bool = False,
    hasher: Hasher | None = None,
) -> Plan:
    """Compares a listing with a snapshot.

    Args:
        listing: The source's images (`bottleneck.sources.LISTING_SCHEMA`).
        snapshot: The table as it is, or None.
        keep_deleted: Keep rows whose image is not in the source any more.
        retry_failed: Compute failed images again although they did not change.
        hasher: Reads images that may be old content under a new name or time, to compare their
            sha256; without one only ETags are compared.

    Returns:
        The plan.
    """
    listed = pl.from_arrow(listing)
    assert isinstance(listed, pl.DataFrame)
    if snapshot is None or not snapshot.shards:
        work = _work(listed.with_columns(pl.lit(None, pl.Int32).alias("shard")))
        return Plan(snapshot, work, listed=len(listed), new=len(listed))

    columns = ("image", "label", "split", "fingerprint", "status")
    known = read_identities(snapshot, columns)
    place = _places(listed, known)
    there = place.is_not_null()
    before = {name: known[name].gather(place) for name in ("label", "split", "fingerprint")}
    kept = {name: listed[name].eq_missing(values) for name, values in before.items()}
    del before
    same = there & kept["fingerprint"]
    failed = there & (known["status"].gather(place) != "ok").fill_null(False)
    moved = same & ~(kept["label"] & kept["split"])
    retry = same & failed & retry_failed

    def matched(chosen: pl.Series) -> pl.DataFrame:
        old = known[place.filter(chosen)].drop("image")
        old = old.rename({name: f"{name}_old" for name in ("label", "split", "fingerprint")})
        return pl.concat([listed.filter(chosen), old], how="horizontal")

    changed = matched(there & ~same)
    retried = matched(retry)
    relabelled = matched(moved & ~retry)
    new = listed.filter(~there)
    gone = _without(known, place)
    reusable = gone if not keep_deleted else gone.clear()

    renamed = _same_etag(new, reusable)
    if hasher is not None:
        renamed, touched = _same_content(snapshot, new, changed, reusable, renamed, hasher)
    else:
        touched = changed.clear()
    new = new.join(renamed.select("image"), on="image", how="anti")
    changed = changed.join(touched.select("image"), on="image", how="anti")
    dropped = reusable.join(renamed.select(image="image_old"), on="image", how="anti")

    relabels = pl.concat([relabelled, touched]).with_columns(image_old=pl.col("image"))
    replacing = pl.concat([changed, retried]).select([*listed.columns, "shard"])
    adding = new.with_columns(pl.lit(None, pl.Int32).alias("shard"))
    reused = len(renamed) + len(relabels)
    return Plan(
        snapshot=snapshot,
        work=_work(pl.concat([replacing, adding])),
        drops=_by_shard(snapshot, dropped),
        replacements=_replacements(snapshot, pl.concat([_identity(renamed), _identity(relabels)])),
        listed=len(listed),
        new=len(new),
        changed=len(changed),
        retried=len(retried),
        reused=reused,
        removed=len(dropped),
        unchanged=len(listed) - len(new) - len(changed) - len(retried) - reused,
        failed_before=int((failed & same & ~moved & ~retry).sum()),
    )


def _places(listed: pl.DataFrame, known: pl.DataFrame) -> pl.Series:
    """Finds for each listed image the number of its row in `known`; null where it has none.

    Only names are joined: that takes 200 bytes a row, a join with all columns 530.
    """
    rows = known.select("image", place=pl.int_range(pl.len(), dtype=pl.UInt32))
    joined = listed.select("image").join(rows, on="image", how="left", maintain_order="left")
    return joined["place"]


def _without(known: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    """Returns the rows that no listed image has."""
    seen = np.zeros(len(known), dtype=bool)
    seen[places.drop_nulls().to_numpy()] = True
    return known.filter(pl.Series(~seen))


def _work(rows: pl.DataFrame) -> pa.Table:
    ordered = rows.sort("shard", "image", nulls_last=True).with_row_index("row")
    columns = [name if name != "old_shard" else "shard" for name in WORK_SCHEMA.names]
    return ordered.select(columns).to_arrow().rename_columns(WORK_SCHEMA.names).cast(WORK_SCHEMA)


def _same_etag(new: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
    """Pairs new images with gone ones of equal ETag: the same bytes, without reading them.

    Only ETags of whole objects say so: a tar member's fingerprint names its archive.
    """
    old = gone.filter((pl.col("status") == "ok") & _is_etag("fingerprint"))
    return _pair(new.filter(_is_etag("fingerprint")), old, "fingerprint")


def _is_etag(column: str) -> pl.Expr:
    return pl.col(column).str.starts_with("etag:") & ~pl.col(column).str.contains("@", literal=True)


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


def _same_content(
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
    """
    size = _size("fingerprint")
    gone = gone.join(renamed.select(image="image_old"), on="image", how="anti").filter(
        (pl.col("status") == "ok") & ~_is_etag("fingerprint")
    )
    new = new.join(renamed.select("image"), on="image", how="anti").filter(~_is_etag("fingerprint"))
    rename_candidates = new.with_columns(size=size).join(
        gone.select(size=size).drop_nulls().unique(), on="size", how="semi"
    )
    touch_candidates = changed.filter(
        (pl.col("status") == "ok") & ~_is_etag("fingerprint") & (size == _size("fingerprint_old"))
    )
    if rename_candidates.is_empty() and touch_candidates.is_empty():
        return renamed, changed.clear()
    candidates = pl.concat(
        [frame.select(new.columns) for frame in (rename_candidates, touch_candidates)]
    )
    hashes = pl.from_arrow(
        hasher(_work(candidates.with_columns(pl.lit(None, pl.Int32).alias("shard"))))
    )
    assert isinstance(hashes, pl.DataFrame)
    touched_shards = pl.concat([gone["shard"], touch_candidates["shard"]]).unique().to_list()
    part = replace(snapshot, shards=tuple(snapshot.shards[number] for number in touched_shards))
    old_hashes = read_identities(part, ("image", "sha256")).drop("shard")
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


def _size(column: str) -> pl.Expr:
    """Size in bytes that a fingerprint carries (`size+mtime:B-T`, `…@offset+B`), else null."""
    text = pl.col(column)
    return pl.coalesce(
        text.str.extract(r"@\d+\+(\d+)$", 1), text.str.extract(r"^size\+mtime:(\d+)-", 1)
    ).cast(pl.Int64)


def _identity(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("shard", "image_old", "image", "label", "split", "fingerprint")


def _by_shard(snapshot: Snapshot, rows: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    grouped = rows.group_by("shard", maintain_order=True).agg("image")
    return {
        snapshot.shards[number].path: tuple(images)
        for number, images in zip(
            grouped["shard"].to_list(), grouped["image"].to_list(), strict=True
        )
    }


def _replacements(
    snapshot: Snapshot, rows: pl.DataFrame
) -> dict[str, dict[str, dict[str, str | None]]]:
    result: dict[str, dict[str, dict[str, str | None]]] = {}
    for shard, old, *identity in rows.iter_rows():
        names = ("image", "label", "split", "fingerprint")
        result.setdefault(snapshot.shards[shard].path, {})[old] = dict(
            zip(names, identity, strict=True)
        )
    return result
