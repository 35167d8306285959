"""Single files anywhere: size and fingerprint, reading, writing, deleting.

These functions are for list files, weights and summaries. Images are read by
:class:`bottleneck.storage.fetcher.Fetcher`.
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
    """Size and fingerprint of a file, known without reading it.

    Attributes:
        size_bytes: Size in bytes.
        fingerprint: Fingerprint, in the form of listings.
    """

    size_bytes: int
    fingerprint: str


def fsspec_filesystem(uri: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URI, and the path within it."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, path


def stat_of_info(info: dict[str, Any]) -> Stat:
    """Returns the Stat in fsspec's answer, whose keys differ between file systems."""
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
    """Returns size and fingerprint of a file, None if there is none; takes at most one request.

    Raises:
        SourceError: Storage does not say whether it exists.
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
    """Returns whether there is a file (locally also a folder) at ``uri``.

    Raises:
        SourceError: Storage does not say.
    """
    return stat_uri(uri) is not None


def read_bytes(uri: str) -> bytes:
    """Reads all bytes of one file (a list file, weights).

    Raises:
        SourceError: It is missing or cannot be read.
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
        Exception: Any error of the storage client; :func:`file_error` turns it into a message.
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
    """Opens a seekable binary file for reading; a remote file is read into memory first.

    Raises:
        SourceError: It is missing or cannot be read.
    """
    if not is_local(uri):
        return io.BytesIO(read_bytes(uri))
    try:
        return local_path(uri).open("rb")
    except OSError as e:
        raise file_error(uri, e) from e


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a file atomically: readers see the old or the new one. Folders are made as needed.

    Raises:
        SourceError: It cannot be written.
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
    """Deletes a file; a file that does not exist is not an error.

    Raises:
        SourceError: It exists and cannot be deleted.
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
    """Returns the error for a file or folder that cannot be used, to ``raise … from``."""
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
    """Returns the reason why a file cannot be used in one line, in the system's words if any."""
    told = getattr(error, "strerror", None)
    return one_line(str(told), "first") if told else one_line(error, "first", kind=True)


def root_cause(error: Exception) -> Exception:
    """Returns the cause of a "not found" error: fsspec's http raises it for a 503 as well."""
    while isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        if getattr(error.__cause__, "status", None) in {404, 410}:
            break
        error = error.__cause__
    return error
