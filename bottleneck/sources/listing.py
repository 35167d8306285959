"""Lists the images of a source: folders, object-store prefixes, list files and tar shards.

The listing has one row per image: identity, URI, label, split, fingerprint (see
:mod:`bottleneck.sources.rows`). No image is opened; labels in tar shards and list files are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.sources.archives import Archive, KnownArchives, list_archives
from bottleneck.sources.folders import list_files
from bottleneck.sources.lists import LIST_EXTENSIONS, is_list_uri, read_list
from bottleneck.sources.rows import Listing, Tally, build_listing, file_rows, sift
from bottleneck.sources.rules import ARCHIVE_EXTENSION, DEFAULT_EXTENSIONS, Rules
from bottleneck.storage.files import Stat, stat_uri
from bottleneck.storage.uris import is_local, join_uri, local_path, normalize_uri


def list_images(
    uri: str,
    *,
    layout: str = "auto",
    extensions: Sequence[str] = DEFAULT_EXTENSIONS,
    known_archives: KnownArchives | None = None,
    concurrency: int = 32,
) -> Listing:
    """Lists the images of a source.

    Args:
        uri: Folder or object-store prefix, which may hold tar shards; a list file (a file whose
            name ends in one of ``LIST_EXTENSIONS``); or one tar shard. Any fsspec scheme.
        layout: Meaning of the folders, one of ``LAYOUTS``; see ``sources.rules.Rules``. A list
            file, whose columns hold label and split, needs ``auto``.
        extensions: Accepted extensions, in any case, with or without dot. List files are not
            filtered.
        known_archives: By image prefix (``shards/000.tar``, without final slash): fingerprint under
            which an archive was read before, and *all* its rows (columns image, label, split,
            fingerprint). An archive with the same fingerprint is not read again. They must have
            been read with the same layout and extensions.
        concurrency: Maximum number of requests in flight.

    Returns:
        The listing; see its attributes.

    Raises:
        SourceError: The source is missing, empty, unreadable or malformed, the layout is not
            allowed, or two images have one identity.
    """
    rules = Rules(layout, tuple(extensions))
    uri = normalize_uri(uri)
    tally = Tally()
    found = _stat_file(uri, tally)
    if found is not None and is_list_uri(uri):
        if layout != "auto":
            raise SourceError(
                f"layout {layout!r} is not allowed for the list file {redact_uri(uri)}: it holds "
                "label and split in columns; leave the layout at auto"
            )
        return build_listing([read_list(uri, tally, concurrency)], uri, rules, tally)
    if found is not None:
        name = uri.rpartition("/")[2]
        archives = [Archive(name, uri, found.size_bytes, found.fingerprint)]
        frames: list[pl.DataFrame] = []
    else:
        frames, archives = _list_folder(uri, rules, tally, concurrency)
    counted: dict[str, tuple[str, int]] = {}
    for archive, rows in list_archives(archives, rules, tally, known_archives, concurrency):
        counted[archive.image] = (archive.fingerprint, rows.height)
        frames.append(rows)
    return build_listing(frames, uri, rules, tally, counted)


def _stat_file(uri: str, tally: Tally) -> Stat | None:
    """Returns size and fingerprint of a source that is one file, None for a folder or prefix.

    Raises:
        SourceError: It is a local file that is not a source.
    """
    name = uri.rpartition("/")[2]
    is_source = is_list_uri(uri) or name.lower().endswith(f".{ARCHIVE_EXTENSION}")
    if is_local(uri):
        path = local_path(uri)
        if not path.exists():
            raise SourceError(f"{redact_uri(uri)} does not exist; check the path")
        if path.is_dir():
            return None
        if not is_source:
            raise _not_a_source(uri)
        return stat_uri(uri)
    if not is_source:
        return None
    tally.add_requests()
    try:
        return stat_uri(uri)
    except SourceError as e:
        if isinstance(e.__cause__, IsADirectoryError):
            return None
        raise


def _not_a_source(uri: str) -> SourceError:
    lists = ", ".join(f".{e}" for e in LIST_EXTENSIONS)
    return SourceError(
        f"{redact_uri(uri)} is a single file; give a folder or prefix, a list file ({lists}) or a "
        ".tar file"
    )


def _list_folder(
    uri: str, rules: Rules, tally: Tally, concurrency: int
) -> tuple[list[pl.DataFrame], list[Archive]]:
    """Returns listing rows of the plain files below ``uri``, and the tar archives there."""
    frames, archives = sift_pages(list_files(uri, tally, concurrency), uri, rules, tally)
    if not frames and not archives and not tally.skipped and not is_local(uri):
        if stat_uri(uri) is not None:
            raise _not_a_source(uri)
        raise SourceError(
            f"{redact_uri(uri)}/ does not exist or is empty: there is no object under it; "
            "check the path"
        )
    return frames, archives


def sift_pages(
    pages: Iterable[pl.DataFrame], uri: str, rules: Rules, tally: Tally
) -> tuple[list[pl.DataFrame], list[Archive]]:
    """Turns pages of files (path, bytes, fingerprint) into listing rows and archives.

    With ``sources.folders.object_page`` before and ``sources.rows.build_listing`` after, this is
    all that a listing costs besides the requests; benchmarks time the three on made-up pages.
    """
    frames: list[pl.DataFrame] = []
    archives: list[Archive] = []
    for page in pages:
        images, tars = sift(page, rules, tally)
        if images.height:
            frames.append(file_rows(images, uri, rules.layout))
        archives += [
            Archive(path, join_uri(uri, path), size, fingerprint)
            for path, size, fingerprint in tars.select("path", "bytes", "fingerprint").iter_rows()
        ]
    return frames, sorted(archives, key=lambda archive: archive.image)
