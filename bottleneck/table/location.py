"""Where tables are: addresses as delta-rs and pyarrow read them, and whether a place is free."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import TableError
from bottleneck.storage.object_stores import unsafe
from bottleneck.storage.uris import is_local, local_path, split_object_uri


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """Returns the pyarrow file system of a table and the table's path in it.

    Raises:
        TableError: No table can have this address, or it may not be asked.
    """
    if is_local(uri):
        return pafs.LocalFileSystem(), str(local_path(uri))
    _require_safe(uri)
    # Keys may hold characters that a URI may not: only the bucket goes through the parser.
    root, key = split_object_uri(uri)
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (OSError, ValueError, pa.ArrowException) as e:
        raise TableError(
            f"{redact_uri(uri)} is not an address that a table can have ({one_line(e, 'ends')}); "
            "allowed: a local folder, s3://, gs:// or abfs://"
        ) from e
    return filesystem, f"{path.rstrip('/')}/{key}".rstrip("/")


def delta_uri(uri: str) -> str:
    """Returns the table's address for delta-rs, which takes ``%20`` in a path for a space.

    Raises:
        TableError: The address may not be asked.
    """
    _require_safe(uri)
    return Path(local_path(uri)).as_uri() if is_local(uri) else uri


def _require_safe(uri: str) -> None:
    if problem := unsafe(uri):
        raise TableError(problem)


def require_readable_name(uri: str) -> None:
    """Refuses a local path with ``%20``: delta-rs takes it for a space and loses the table."""
    escape = re.search(r"%[0-9A-Fa-f]{2}", uri) if is_local(uri) else None
    if escape:
        raise TableError(
            f"{uri} holds {escape[0]}, which Delta takes for another character; "
            "choose a folder without it for the table"
        )


def table_exists(uri: str) -> bool:
    """Returns whether a Delta table is there, as far as storage answers."""
    try:
        return DeltaTable.is_deltatable(delta_uri(uri))
    except (DeltaError, OSError, ValueError):
        return False


def require_empty(uri: str) -> None:
    """Refuses a place that holds something else than a table.

    Raises:
        TableError: It does, or cannot be looked at.
    """
    filesystem, root = arrow_filesystem(uri)
    try:
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            return
        if info.type == pafs.FileType.File:
            raise TableError(f"{redact_uri(uri)} is a file; a table needs a folder")
        held = filesystem.get_file_info(pafs.FileSelector(root, recursive=False))
    except OSError as e:
        raise TableError(unreachable(uri, e)) from e
    names = sorted(info.base_name for info in held)
    # Shards without a log are what a run leaves that was killed before its first commit.
    if any(not (name.startswith("shard-") or name == "_delta_log") for name in names):
        raise TableError(
            f"{redact_uri(uri)} holds other things ({', '.join(names[:3])}, …) and no "
            "such table; give an empty or a new folder"
        )


def unreachable(uri: str, error: Exception) -> str:
    """Returns the one line for storage that refused, in words of ours."""
    return (
        f"cannot use the table at {redact_uri(uri)}: {one_line(error, 'ends')}; "
        "check the address, the credentials and that the place may be written"
    )
