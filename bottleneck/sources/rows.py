"""A listing: its columns, and how paths become images, labels and splits.

All of it is vectorized (Polars): there is no Python object per image, because a driver must hold
listings of 10 million images.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import polars as pl
import pyarrow as pa

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.sources.rules import ARCHIVE_EXTENSION, Rules, extension_of, with_layout

#: Columns of a listing. image: identity, the path relative to the source (``archive.tar/member``
#: in archives). uri: where the bytes are, of the archive for a tar member. label, split: null if
#: unknown. fingerprint: tells a changed image without reading it. bytes: size in bytes; offset:
#: first byte of a tar member within its archive, null for whole files.
LISTING_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("fingerprint", pa.string()),
        ("bytes", pa.int64()),
        ("offset", pa.int64()),
    ]
)

_PAGE_SCHEMA = {"path": pl.String, "bytes": pl.Int64, "fingerprint": pl.String}
#: Maximum rows per chunk: int32 offsets bound an Arrow string array to 2 GiB.
_CHUNK_ROWS = 1_000_000


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    Attributes:
        images: One row per image in ``LISTING_SCHEMA``, sorted by ``image`` (UTF-8 byte order),
            which is unique.
        skipped: Number of files that are not images, by reason: ``hidden`` (a path part starts
            with a dot; a local hidden folder counts once), ``not_an_image_extension``,
            ``empty_directory_marker``, ``sidecar`` (label files in archives), ``not_a_file``,
            ``broken_link``, ``link_loop``, ``name_not_utf8``.
        requests: Number of requests to the storage service, retries not counted.
        archives: Fingerprint and number of images of each tar archive, by image prefix.
    """

    images: pa.Table
    skipped: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    archives: dict[str, tuple[str, int]] = field(default_factory=dict)


class Tally:
    """Counters for several threads: requests, and skipped files by reason."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.skipped: Counter[str] = Counter()

    def add_requests(self, n: int = 1) -> None:
        """Counts requests to the storage service."""
        with self._lock:
            self.requests += n

    def skip(self, reason: str, n: int = 1) -> None:
        """Counts files that are left out."""
        if n:
            with self._lock:
                self.skipped[reason] += n


def page_frame(
    paths: Sequence[str], sizes: Sequence[int], fingerprints: Sequence[str]
) -> pl.DataFrame:
    """Makes a page of files: path relative to the source, bytes, fingerprint."""
    columns = {"path": paths, "bytes": sizes, "fingerprint": fingerprints}
    return pl.DataFrame(columns, schema=_PAGE_SCHEMA)


def sift(
    page: pl.DataFrame, rules: Rules, tally: Tally, *, archives: bool = True
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Divides a page into its images and its tar archives, counting everything else.

    Args:
        page: Columns path, bytes, fingerprint and any others, which are kept.
        rules: Accepted extensions.
        tally: Counters of skipped files.
        archives: Whether tar files count as archives, or are skipped (those inside archives).
    """
    extension = extension_of()
    kind = (
        pl.when(pl.col("path").str.contains(r"(?:^|/)\."))
        .then(pl.lit("hidden"))
        .when(extension.is_in(list(rules.extensions)))
        .then(pl.lit("image"))
        .when((extension == ARCHIVE_EXTENSION) & archives)
        .then(pl.lit("archive"))
        .when((pl.col("bytes") == 0) & (extension.is_null() | (pl.col("path") == "")))
        .then(pl.lit("empty_directory_marker"))
        .otherwise(pl.lit("not_an_image_extension"))
    )
    page = page.with_columns(kind=kind)
    for reason, n in page.get_column("kind").value_counts().iter_rows():
        if reason not in {"image", "archive"}:
            tally.skip(reason, n)
    images = page.filter(pl.col("kind") == "image").drop("kind")
    return images, page.filter(pl.col("kind") == "archive").drop("kind")


def file_rows(page: pl.DataFrame, root: str, layout: str) -> pl.DataFrame:
    """Returns listing rows of files under ``root``: image is the path, uri is ``root/path``."""
    prefix = root if root.endswith("/") else root + "/"
    return with_layout(page, layout).select(
        pl.col("path").alias("image"),
        pl.concat_str(pl.lit(prefix), pl.col("path")).alias("uri"),
        "label",
        "split",
        "fingerprint",
        "bytes",
        pl.lit(None, dtype=pl.Int64).alias("offset"),
    )


def build_listing(
    frames: Iterable[pl.DataFrame],
    uri: str,
    rules: Rules,
    tally: Tally,
    archives: Mapping[str, tuple[str, int]] | None = None,
) -> Listing:
    """Sorts and checks listing rows.

    Raises:
        SourceError: There is no image, or two images have one identity.
    """
    kept = [frame for frame in frames if frame.height]
    if not kept:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(tally.skipped.items()))
        raise SourceError(
            f"{redact_uri(uri)} holds no image: {tally.skipped.total()} files skipped"
            f"{f' ({reasons})' if reasons else ''}; accepted extensions: {rules.accepted()}"
        )
    parts = _in_order(kept)
    del kept
    again = _repeated(parts)
    if again:
        raise SourceError(
            f"{redact_uri(uri)} lists image {redact_uri(again[0])!r} more than once ({len(again)} "
            "such rows); each image must have an identity of its own: remove the repetition or "
            "give the list an image column"
        )
    chunks = []
    while parts:
        # One at a time, so that a listing is never in memory twice.
        chunks += to_arrow(parts.pop(0)).to_batches()
    return Listing(
        pa.Table.from_batches(chunks, LISTING_SCHEMA),
        dict(sorted(tally.skipped.items())),
        tally.requests,
        dict(archives or {}),
    )


def _in_order(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Returns the rows sorted by image, as frames that follow one another.

    Object stores list in order, so the frames of different prefixes usually only have to be put
    in order; only what overlaps is sorted as a whole.
    """
    frames = sorted(
        (f if f.get_column("image").is_sorted() else f.sort("image") for f in frames),
        key=lambda frame: str(frame.item(0, "image")),
    )
    follow = all(a.item(-1, "image") <= b.item(0, "image") for a, b in pairwise(frames))
    return frames if follow else [pl.concat(frames).sort("image")]


def _repeated(frames: list[pl.DataFrame]) -> list[str]:
    """Returns the identities that rows of ordered frames share with the row before them."""
    again = [
        b.item(0, "image") for a, b in pairwise(frames) if a.item(-1, "image") == b.item(0, "image")
    ]
    for frame in frames:
        image = frame.get_column("image")
        again += image.tail(-1).filter(image.head(-1) == image.tail(-1)).to_list()
    return again


def to_arrow(rows: pl.DataFrame) -> pa.Table:
    """Converts listing rows to Arrow in ``LISTING_SCHEMA``, in chunks of at most a million rows."""
    names = LISTING_SCHEMA.names
    chunks = [
        rows.slice(start, _CHUNK_ROWS)
        .select(names)
        .to_arrow(compat_level=pl.CompatLevel.oldest())
        .cast(LISTING_SCHEMA)
        for start in range(0, rows.height, _CHUNK_ROWS)
    ]
    return pa.concat_tables(chunks) if chunks else LISTING_SCHEMA.empty_table()
