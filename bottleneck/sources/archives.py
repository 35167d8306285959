"""Tar shards in the WebDataset layout: the place of each image in them, and its label.

Archives are read as streams of headers and are never extracted: an image is fetched later by its
byte range, with one request. ``key.cls``, ``key.json`` (``{"label": …}`` or ``{"cls": …}``) or
``key.txt``, in this order, beside ``key.jpg`` hold its label; otherwise the folders of
``<folder of the archive>/<member>`` give label and split as for files (see
``sources.rules.Rules``).
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import obstore
import polars as pl

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.sources.rows import Tally, sift
from bottleneck.sources.rules import Rules, canonical_split, with_layout
from bottleneck.storage.files import file_error, fsspec_filesystem
from bottleneck.storage.fingerprints import (
    etag_of,
    first_bytes_of,
    member_fingerprints,
    sizes_of,
)
from bottleneck.storage.object_stores import StoreOptions, open_store
from bottleneck.storage.uris import is_local, is_object_store, local_path, split_object_uri

#: Bytes read ahead in a remote archive: headers and labels of smaller members cost a share of a
#: request, larger members are skipped without being read.
READ_AHEAD_BYTES = 4 * 1024 * 1024

_LABEL_EXTENSIONS = ("cls", "json", "txt")
_MAX_LABEL_BYTES = 1024 * 1024
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_MEMBER_SCHEMA = {
    "path": pl.String,
    "bytes": pl.Int64,
    "offset": pl.Int64,
    "label": pl.String,
}

#: Archives that were read before: image prefix → (their fingerprint, their rows with the columns
#: image, label, split, fingerprint).
KnownArchives = Mapping[str, tuple[str, pl.DataFrame]]


@dataclass(frozen=True)
class Archive:
    """A tar file of the source.

    Attributes:
        image: Path relative to the source, the prefix of its images' identities.
        uri: Normalized URI.
        size_bytes: Size in bytes.
        fingerprint: Fingerprint of the whole archive.
    """

    image: str
    uri: str
    size_bytes: int
    fingerprint: str


def list_archives(
    archives: list[Archive],
    rules: Rules,
    tally: Tally,
    known: KnownArchives | None,
    concurrency: int,
) -> Iterator[tuple[Archive, pl.DataFrame]]:
    """Returns listing rows of each archive's images; reads several archives at a time.

    Args:
        archives: Tar files.
        rules: Extensions and layout.
        tally: Counters of requests and skipped members.
        known: Archives that were read before; see ``sources.listing.list_images``.
        concurrency: Number of archives read in parallel.

    Raises:
        SourceError: An archive is compressed, damaged, truncated or cannot be read.
    """

    def rows_of(archive: Archive) -> pl.DataFrame:
        fingerprint, rows = (known or {}).get(archive.image, ("", None))
        if rows is not None and fingerprint == archive.fingerprint:
            return _known_rows(archive, rows)
        return _read_rows(archive, rules, tally)

    with ThreadPoolExecutor(concurrency, thread_name_prefix="tar") as pool:
        yield from zip(archives, pool.map(rows_of, archives), strict=True)


def _known_rows(archive: Archive, rows: pl.DataFrame) -> pl.DataFrame:
    """Turns rows of a table back into listing rows; their fingerprints hold offset and size."""
    return rows.select(
        "image",
        pl.lit(archive.uri).alias("uri"),
        "label",
        "split",
        "fingerprint",
        sizes_of().alias("bytes"),
        first_bytes_of().alias("offset"),
    )


def _read_rows(archive: Archive, rules: Rules, tally: Tally) -> pl.DataFrame:
    try:
        with contextlib.closing(_open_archive(archive, tally)) as file:
            members, labels = _read_members(archive, file, tally)
    except tarfile.TarError as e:
        raise _damaged(archive, str(e)) from e
    except SourceError:
        raise
    except Exception as e:
        raise file_error(archive.uri, e) from e
    images, _ = sift(members, rules, tally, archives=False)
    folder = archive.image.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    labeled = with_layout(
        images.with_columns(in_source=pl.concat_str(pl.lit(prefix), pl.col("path"))),
        rules.layout,
        "in_source",
    )
    own = pl.Series("own", _labels_of(images.get_column("path"), labels), dtype=pl.String)
    return labeled.with_columns(own).select(
        pl.concat_str(pl.lit(archive.image + "/"), pl.col("path")).alias("image"),
        pl.lit(archive.uri).alias("uri"),
        pl.coalesce("own", "label").alias("label"),
        canonical_split().alias("split"),
        member_fingerprints(archive.fingerprint, "offset", "bytes").alias("fingerprint"),
        "bytes",
        "offset",
    )


def _read_members(
    archive: Archive, file: BinaryIO, tally: Tally
) -> tuple[pl.DataFrame, dict[str, dict[str, str]]]:
    """Returns name, size and offset of all files in an archive but labels, and the labels."""
    start = file.read(8)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise SourceError(
                f"{redact_uri(archive.uri)} is compressed ({name}): members of a compressed "
                "archive cannot be read one by one; store it as plain tar (images are compressed "
                "already)"
            )
    file.seek(0)
    columns: dict[str, list[Any]] = {"path": [], "bytes": [], "offset": []}
    labels: dict[str, dict[str, str]] = {}
    tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
    while (member := tar.next()) is not None:
        # tarfile keeps every member it has seen.
        tar.members.clear()  # type: ignore[attr-defined]
        if not member.isfile() or member.issparse():
            if not member.isdir():
                tally.skip("not_a_file")
            continue
        path = member.name.removeprefix("./").lstrip("/")
        stem, _, extension = path.rpartition(".")
        if extension.lower() in _LABEL_EXTENSIONS and member.size <= _MAX_LABEL_BYTES:
            file.seek(member.offset_data)
            text = file.read(member.size)
            label = _parse_label(archive, member.name, extension.lower(), text)
            if label is not None:
                labels.setdefault(stem, {})[extension.lower()] = label
            tally.skip("sidecar")
            continue
        columns["path"].append(path)
        columns["bytes"].append(member.size)
        columns["offset"].append(member.offset_data)
    _check_end(archive, file, tar.offset)
    members = pl.DataFrame(
        columns, schema={name: _MEMBER_SCHEMA[name] for name in columns}, orient="col"
    )
    return members, labels


def _check_end(archive: Archive, file: BinaryIO, offset: int) -> None:
    """Refuses an archive without its end mark, whose damage ``tarfile`` takes for the end."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise _damaged(archive, f"it ends at byte {offset} without the end-of-archive mark")
    if block.strip(b"\0"):
        raise _damaged(archive, f"there is no member header at byte {offset}")


def _damaged(archive: Archive, why: str) -> SourceError:
    return SourceError(
        f"{redact_uri(archive.uri)} is not a whole tar archive ({why}); it may be truncated or "
        "still being written: write it again or take it out of the source"
    )


def _parse_label(archive: Archive, member: str, extension: str, data: bytes) -> str | None:
    try:
        text = data.decode().strip()
        if extension != "json":
            return text or None
        value = json.loads(text)
    except ValueError as e:
        raise SourceError(
            f"{redact_uri(archive.uri)}: label file {member!r} cannot be read ({e}); it must be "
            + ("JSON" if extension == "json" else "UTF-8 text")
        ) from e
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _labels_of(paths: pl.Series, labels: dict[str, dict[str, str]]) -> list[str | None]:
    """Returns each path's label: of its name without extension, else of its WebDataset key."""
    if not labels:
        return [None] * len(paths)
    found: list[str | None] = []
    for path in paths:
        folder, slash, name = path.rpartition("/")
        of_stem = labels.get(path.rpartition(".")[0])
        of_key = labels.get(f"{folder}{slash}{name.split('.', 1)[0]}")
        texts = of_stem or of_key or {}
        found.append(next((texts[e] for e in _LABEL_EXTENSIONS if e in texts), None))
    return found


def _open_archive(archive: Archive, tally: Tally) -> BinaryIO:
    if is_local(archive.uri):
        return local_path(archive.uri).open("rb")
    return cast(BinaryIO, io.BufferedReader(_RemoteArchive(archive, tally), READ_AHEAD_BYTES))


class _RemoteArchive(io.RawIOBase):
    """Bytes of a remote archive by range; every read is a request."""

    def __init__(self, archive: Archive, tally: Tally) -> None:
        self._archive = archive
        self._tally = tally
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._archive.size_bytes}
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._archive.size_bytes)
        if end <= self._position:
            return 0
        self._tally.add_requests()
        data = _read_range(self._archive, self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _read_range(archive: Archive, start: int, end: int) -> bytes:
    if not is_object_store(archive.uri):
        filesystem, path = fsspec_filesystem(archive.uri)
        return bytes(filesystem.cat_file(path, start=start, end=end))
    root, key = split_object_uri(archive.uri)
    options: Any = {"range": (start, end)}
    etag = etag_of(archive.fingerprint)
    if etag is not None:
        # Offsets of one version and a fingerprint of another would pair images with wrong bytes.
        options["if_match"] = f'"{etag}"'
    try:
        answer = obstore.get(open_store(root, StoreOptions()), key, options=options)
        return bytes(answer.bytes())
    except obstore.exceptions.PreconditionError as e:
        raise SourceError(
            f"{redact_uri(archive.uri)} was replaced while it was being listed; run again"
        ) from e
