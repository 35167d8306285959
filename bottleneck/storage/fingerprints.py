"""Fingerprints of files, which tell whether a file changed without reading it.

One rule makes them, whoever asks (listing, HEAD or GET), so that fingerprints from all of them can
be compared.
"""

from __future__ import annotations

from typing import Any

import polars as pl

#: Fingerprint of an image that the list names and that does not exist.
MISSING_FINGERPRINT = "missing"

#: Prefix of fingerprints that the user's list file gives.
LIST_FINGERPRINT = "list:"


def etag_fingerprint(etag: str) -> str:
    """``etag:`` and the bare ETag: listings, HEAD and GET quote it differently."""
    return "etag:" + etag.removeprefix("W/").strip('"')


def mtime_fingerprint(size: int, mtime_ns: int) -> str:
    """``size+mtime:<bytes>-<nanoseconds since 1970>``."""
    return f"size+mtime:{size}-{mtime_ns}"


def member_fingerprint(archive_fingerprint: str, offset: int, length: int) -> str:
    """A tar member's fingerprint: its archive's, and the member's place in it in bytes."""
    return f"{archive_fingerprint}@{offset}+{length}"


def fingerprint_of_meta(meta: Any) -> str:
    """The fingerprint in an obstore answer's ``meta``."""
    if meta["e_tag"]:
        return etag_fingerprint(meta["e_tag"])
    # Listings tell milliseconds, the Last-Modified header whole seconds.
    seconds = int(meta["last_modified"].timestamp())
    return mtime_fingerprint(meta["size"], seconds * 1_000_000_000)


def _is_etag(column: str) -> pl.Expr:
    return pl.col(column).str.starts_with("etag:") & ~pl.col(column).str.contains("@", literal=True)


def _size(column: str) -> pl.Expr:
    """Size in bytes that a fingerprint carries (`size+mtime:B-T`, `…@offset+B`), else null."""
    text = pl.col(column)
    return pl.coalesce(
        text.str.extract(r"@\d+\+(\d+)$", 1), text.str.extract(r"^size\+mtime:(\d+)-", 1)
    ).cast(pl.Int64)
