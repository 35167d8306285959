"""Single files anywhere: size and fingerprint, reading, writing, deleting.

For list files, weights and summaries, not for images: those are read by
``storage.fetcher.Fetcher``.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import SourceError
from bottleneck.storage.fingerprints import etag_fingerprint, mtime_fingerprint, object_fingerprint
from bottleneck.storage.object_errors import source_error
from bottleneck.storage.object_stores import StoreOptions, open_store
from bottleneck.storage.uris import is_local, is_object_store, local_path, split_object_uri

_WHOLE_FILES = StoreOptions(whole_files=True)
_PIECE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a file without reading it.

    Attributes:
        size_bytes: Its size.
        fingerprint: In the listing's form.
    """

    size_bytes: int
    fingerprint: str


def fsspec_filesystem(uri: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URI, and the path within it."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, path


def stat_of_info(info: dict[str, Any]) -> Stat:
    """The Stat in fsspec's answer, whose keys differ from one file system to the next."""
    if info.get("type") == "directory":
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    size = int(info.get("size") or 0)
    if etag := info.get("ETag") or info.get("etag"):
        return Stat(size, etag_fingerprint(str(etag)))
    names = ("mtime", "LastModified", "last_modified", "Last-Modified", "modified", "created")
    when = next((info[name] for name in names if info.get(name) is not None), 0)
    if isinstance(when, str):
        with contextlib.suppress(ValueError):
            when = parsedate_to_datetime(when)
    if isinstance(when, datetime):
        when = when.timestamp()
    mtime_ns = int(when * 1_000_000_000) if isinstance(when, int | float) else 0
    return Stat(size, mtime_fingerprint(size, mtime_ns))


def stat_uri(uri: str) -> Stat | None:
    """Size and fingerprint of one file, or None if there is no such file; at most one request.

    Raises:
        SourceError: whether it exists cannot be told.
    """
    try:
        if is_object_store(uri):
            import obstore

            root, key = split_object_uri(uri)
            meta = obstore.head(open_store(root, _WHOLE_FILES), key)
            return Stat(meta["size"], object_fingerprint(meta))
        if is_local(uri):
            status = local_path(uri).stat()
            return Stat(status.st_size, mtime_fingerprint(status.st_size, status.st_mtime_ns))
        filesystem, path = fsspec_filesystem(uri)
        return stat_of_info(filesystem.info(path))
    except Exception as e:
        if isinstance(root_cause(e), FileNotFoundError | NotADirectoryError):
            return None
        raise file_error(uri, e) from e


def exists(uri: str) -> bool:
    """Whether there is a file (locally also a folder) at ``uri``.

    Raises:
        SourceError: that cannot be told.
    """
    return stat_uri(uri) is not None


def read_bytes(uri: str) -> bytes:
    """All bytes of one file (a list file, weights).

    Raises:
        SourceError: it is missing or cannot be read.
    """
    try:
        if is_object_store(uri):
            import obstore

            root, key = split_object_uri(uri)
            return bytes(obstore.get(open_store(root, _WHOLE_FILES), key).bytes())
        if is_local(uri):
            return local_path(uri).read_bytes()
        filesystem, path = fsspec_filesystem(uri)
        return bytes(filesystem.cat_file(path))
    except Exception as e:
        raise file_error(uri, e) from e


def download(uri: str, target: Path) -> None:
    """Copies one remote file to a local one, in pieces.

    Raises:
        Exception: whatever the client of the storage raises; ``file_error`` words it.
    """
    if not is_object_store(uri):
        filesystem, path = fsspec_filesystem(uri)
        filesystem.get_file(path, str(target))
        return
    import obstore

    root, key = split_object_uri(uri)
    answer = obstore.get(open_store(root, _WHOLE_FILES), key)
    with target.open("wb") as file:
        for piece in answer.stream(_PIECE_BYTES):
            file.write(piece)


def open_input(uri: str) -> BinaryIO:
    """A seekable binary file to read; remote ones are read into memory first.

    Raises:
        SourceError: it is missing or cannot be read.
    """
    if not is_local(uri):
        return io.BytesIO(read_bytes(uri))
    try:
        return local_path(uri).open("rb")
    except OSError as e:
        raise file_error(uri, e) from e


def write_bytes(uri: str, data: bytes) -> None:
    """Writes one file whole: readers see the old one or the new one. Folders are made as needed.

    Raises:
        SourceError: it cannot be written.
    """
    try:
        if is_object_store(uri):
            import obstore

            root, key = split_object_uri(uri)
            obstore.put(open_store(root, _WHOLE_FILES), key, data)
        elif is_local(uri):
            path = local_path(uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        else:
            filesystem, path_text = fsspec_filesystem(uri)
            filesystem.makedirs(filesystem._parent(path_text), exist_ok=True)
            filesystem.pipe_file(path_text, data)
    except Exception as e:
        raise file_error(uri, e) from e


def delete(uri: str) -> None:
    """Deletes one file; one that does not exist is no error.

    Raises:
        SourceError: it exists and cannot be deleted.
    """
    try:
        if is_object_store(uri):
            import obstore

            root, key = split_object_uri(uri)
            obstore.delete(open_store(root, _WHOLE_FILES), key)
        elif is_local(uri):
            local_path(uri).unlink(missing_ok=True)
        else:
            filesystem, path = fsspec_filesystem(uri)
            filesystem.rm_file(path)
    except FileNotFoundError:
        return
    except Exception as e:
        raise file_error(uri, e) from e


def file_error(uri: str, error: Exception) -> SourceError:
    """The one line a user reads when a whole file or folder cannot be used; ``raise … from``."""
    if isinstance(error, SourceError):
        return error
    shown = redact_uri(uri)
    error = root_cause(error)
    if is_object_store(uri):
        return source_error(uri, error)
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{shown} does not exist; check the path")
    if isinstance(error, PermissionError):
        return SourceError(f"{shown} may not be accessed: permission denied")
    if isinstance(error, IsADirectoryError):
        return SourceError(f"{shown} is a folder where a file is expected")
    return SourceError(f"{shown} cannot be used ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """Returns in one line why a file could not be used: the system's words, where it gave any."""
    told = getattr(error, "strerror", None)
    return one_line(str(told), "first") if told else one_line(error, "first", kind=True)


def root_cause(error: Exception) -> Exception:
    """What a file that is "not found" really met: fsspec's http says so of a 503 as well."""
    while isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        if getattr(error.__cause__, "status", None) in {404, 410}:
            break
        error = error.__cause__
    return error
