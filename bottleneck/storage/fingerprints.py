"""Fingerprints of images, which tell without reading whether an image changed: their grammar.

======================== =========================================================================
``etag:TAG``             an object's ETag, bare: listings, HEAD and GET quote it differently
``size+mtime:BYTES-NS``  a file without ETag: its size, and when it changed in ns since 1970
``ARCHIVE@FIRST+BYTES``  a tar member: its archive's fingerprint, its first byte and its size
``list:TEXT``            the text that the user's list file gives
``missing``              an image that the list file names and that does not exist
``STATUS:SHA256``        a row of a features table, for predictions made from it
======================== =========================================================================

Tables hold these texts: a changed form would make every image of its kind new. One rule makes them
for listings, HEAD and GET alike, for one file (functions in the singular, returning text) and for a
column (functions in the plural, returning Polars expressions).
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl

#: Fingerprint of an image that the list file names and that does not exist.
MISSING_FINGERPRINT = "missing"

_ETAG = "etag:"
_SIZE_AND_MTIME = "size+mtime:"
_LIST = "list:"

#: Place of a tar member within its archive.
_PLACE = r"@(\d+)\+(\d+)$"

_NS_PER_S = 1_000_000_000


def etag_fingerprint(etag: str) -> str:
    """Returns the fingerprint of an object with this ETag, quoted and weak or not."""
    return _ETAG + etag.removeprefix("W/").strip('"')


def mtime_fingerprint(size: int, mtime_ns: int) -> str:
    """Returns the fingerprint of a file of this size in bytes and time in ns since 1970."""
    return f"{_SIZE_AND_MTIME}{size}-{mtime_ns}"


def object_fingerprint(meta: Any) -> str:
    """Returns the fingerprint of an object.

    Args:
        meta: Metadata from obstore: ``e_tag``, ``size`` in bytes, ``last_modified``, a datetime.
    """
    if meta["e_tag"]:
        return etag_fingerprint(meta["e_tag"])
    # Listings tell milliseconds, the Last-Modified header of a HEAD or GET whole seconds.
    seconds = math.floor(meta["last_modified"].timestamp())
    return mtime_fingerprint(meta["size"], seconds * _NS_PER_S)


def object_fingerprints() -> pl.Expr:
    """Returns :func:`object_fingerprint` of the columns ``e_tag``, ``size``, ``last_modified``."""
    etag = pl.col("e_tag")
    mtime_ns = pl.col("last_modified").dt.epoch("s") * _NS_PER_S
    bare = etag.str.strip_prefix("W/").str.strip_chars('"')
    return (
        pl.when(etag.is_not_null() & (etag != ""))
        .then(pl.concat_str(pl.lit(_ETAG), bare))
        .otherwise(pl.concat_str(pl.lit(_SIZE_AND_MTIME), "size", pl.lit("-"), mtime_ns))
    )


def member_fingerprint(archive: str, first_byte: int, size: int) -> str:
    """Returns the fingerprint of a tar member.

    Args:
        archive: Fingerprint of its archive.
        first_byte: Offset of its content within the archive, in bytes.
        size: Size of its content in bytes.
    """
    return f"{archive}@{first_byte}+{size}"


def member_fingerprints(archive: str, first_byte: str, size: str) -> pl.Expr:
    """Returns :func:`member_fingerprint` of two columns, for members of one archive."""
    return pl.format("{}@{}+{}", pl.lit(archive), pl.col(first_byte), pl.col(size))


def list_fingerprints(given: str) -> pl.Expr:
    """Returns fingerprints of texts that the user's list gives in a column; null without a text."""
    return pl.concat_str(pl.lit(_LIST), pl.col(given))


def row_fingerprints() -> pl.Expr:
    """Returns fingerprints of a features table's rows by their content.

    They are made of the columns ``status``, ``sha256`` and, where nothing was read,
    ``fingerprint``: new features give new predictions.
    """
    content = pl.coalesce("sha256", "fingerprint", pl.lit(""))
    return pl.concat_str("status", content, separator=":")


def is_from_list(fingerprint: str | None) -> bool:
    """Returns whether the user's list gave this fingerprint."""
    return fingerprint is not None and fingerprint.startswith(_LIST)


def etag_of(fingerprint: str) -> str | None:
    """Returns the bare ETag of a whole object, None for a fingerprint of another kind."""
    return fingerprint.removeprefix(_ETAG) if fingerprint.startswith(_ETAG) else None


def are_etags(column: str = "fingerprint") -> pl.Expr:
    """Returns whether fingerprints are ETags of whole objects: equal ones mean equal bytes."""
    text = pl.col(column)
    return text.str.starts_with(_ETAG) & ~text.str.contains("@", literal=True)


def are_members(column: str = "fingerprint") -> pl.Expr:
    """Returns whether fingerprints are of tar members."""
    return pl.col(column).str.contains(_PLACE)


def archives_of(column: str = "fingerprint") -> pl.Expr:
    """Returns the fingerprints of tar members' archives."""
    return pl.col(column).str.replace(_PLACE, "")


def first_bytes_of(column: str = "fingerprint") -> pl.Expr:
    """Returns the offsets of tar members within their archive, in bytes; null for other files."""
    return pl.col(column).str.extract(_PLACE, 1).cast(pl.Int64)


def sizes_of(column: str = "fingerprint") -> pl.Expr:
    """Returns the sizes in bytes that fingerprints carry; null for those that carry none."""
    text = pl.col(column)
    whole_file = text.str.extract(rf"^{_SIZE_AND_MTIME.replace('+', '[+]')}(\d+)-", 1)
    return pl.coalesce(text.str.extract(_PLACE, 2), whole_file).cast(pl.Int64)
