"""Files below a folder or prefix, page by page: local folders, object stores, fsspec.

A page is a Polars frame with the columns ``path`` (relative to the source), ``bytes`` and
``fingerprint``. No image is opened.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import obstore
import polars as pl
import pyarrow as pa

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.sources.rows import Tally, page_frame
from bottleneck.storage.files import file_error, fsspec_filesystem, stat_of_info
from bottleneck.storage.fingerprints import mtime_fingerprint, object_fingerprints
from bottleneck.storage.object_errors import source_error
from bottleneck.storage.object_stores import StoreOptions, open_store
from bottleneck.storage.uris import is_local, is_object_store, local_path, split_object_uri

if TYPE_CHECKING:
    from obstore.store import ObjectStore

#: Maximum number of keys in S3's answer to a list request.
KEYS_PER_REQUEST = 1_000
_PAGES_PER_FRAME = 64
_LOCAL_PAGE = 50_000
#: Maximum depth at which a prefix is divided; deeper ones are listed in sequence.
_MAX_PROBED_DEPTH = 3


def list_files(uri: str, tally: Tally, concurrency: int) -> Iterator[pl.DataFrame]:
    """Lists all files below ``uri``, in pages, in no particular order.

    Args:
        uri: Normalized URI of a folder or prefix.
        tally: Counters of requests and skipped files.
        concurrency: Number of prefixes of an object store that are listed in parallel.

    Raises:
        SourceError: The folder is missing or any part of it cannot be listed. A listing is
            complete or it fails: images missing from it would be taken for deleted ones.
    """
    if is_object_store(uri):
        return _list_objects(uri, tally, concurrency)
    if is_local(uri):
        return _list_local(uri, tally)
    return _list_other(uri, tally)


def _list_local(uri: str, tally: Tally) -> Iterator[pl.DataFrame]:
    root = str(local_path(uri))
    page = _Page([], [], [])
    # Folders still to read: path, path relative to the root with a final slash, and the (device,
    # inode) of it and the folders above, by which a symlink that leads back up is recognized.
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = []
    try:
        status = os.stat(root)  # noqa: PTH116
    except OSError as e:
        raise file_error(root, e) from e
    pending.append((root, "", frozenset({(status.st_dev, status.st_ino)})))
    while pending:
        folder, prefix, lineage = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    found = _look_at(entry, tally)
                    if found is None:
                        continue
                    if not stat.S_ISDIR(found.st_mode):
                        page.add(prefix + entry.name, found)
                    elif (identity := (found.st_dev, found.st_ino)) in lineage:
                        tally.skip("link_loop")
                    else:
                        pending.append((entry.path, f"{prefix}{entry.name}/", lineage | {identity}))
        except OSError as e:
            raise file_error(folder, e) from e
        if len(page.paths) >= _LOCAL_PAGE:
            yield page_frame(page.paths, page.sizes, page.fingerprints)
            page = _Page([], [], [])
    yield page_frame(page.paths, page.sizes, page.fingerprints)


@dataclass(frozen=True, slots=True)
class _Page:
    paths: list[str]
    sizes: list[int]
    fingerprints: list[str]

    def add(self, path: str, status: os.stat_result) -> None:
        self.paths.append(path)
        self.sizes.append(status.st_size)
        self.fingerprints.append(mtime_fingerprint(status.st_size, status.st_mtime_ns))


def _look_at(entry: os.DirEntry[str], tally: Tally) -> os.stat_result | None:
    """Returns the status of a folder or file, symlinks followed; counts anything else, as None."""
    if entry.name.startswith("."):
        tally.skip("hidden")
        return None
    try:
        entry.name.encode()
        status = entry.stat()
    except UnicodeEncodeError:
        tally.skip("name_not_utf8")
        return None
    except OSError as e:
        if e.errno not in {errno.ENOENT, errno.ELOOP}:
            raise
        tally.skip("broken_link")
        return None
    if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        return status
    tally.skip("not_a_file")
    return None


def _list_other(uri: str, tally: Tally) -> Iterator[pl.DataFrame]:
    try:
        filesystem, root = fsspec_filesystem(uri)
        found: dict[str, dict[str, Any]] = filesystem.find(root, detail=True)
        exists = bool(found) or filesystem.exists(root)
    except Exception as e:
        raise file_error(uri, e) from e
    if not exists:
        raise SourceError(f"{redact_uri(uri)} does not exist; check the path")
    tally.add_requests()
    stats = [stat_of_info(info) for info in found.values()]
    yield page_frame(
        [name[len(root.rstrip("/")) :].lstrip("/") for name in found],
        [each.size_bytes for each in stats],
        [each.fingerprint for each in stats],
    )


def _list_objects(uri: str, tally: Tally, concurrency: int) -> Iterator[pl.DataFrame]:
    """Lists prefixes in parallel where that pays, in pages straight from Arrow.

    The first request of a prefix is an ordinary one: up to 1,000 keys end there. If more follow
    and the first page lies in few folders, one more request asks for the folders, and they are
    listed in parallel; if it lies in none or in many small ones, continuing in sequence takes fewer
    requests. So n keys in f folders cost at most n/1,000 + f + 2 requests (and two more per folder
    that is itself divided).
    """
    root, key = split_object_uri(uri)
    store = open_store(root, StoreOptions())
    walk = _Walk(store, key, concurrency, tally)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="list")
    running: set[Future[tuple[list[pl.DataFrame], list[tuple[str, int]]]]] = set()
    try:
        running.add(pool.submit(walk.list_prefix, key, 0))
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                frames, folders = future.result()
                running |= {pool.submit(walk.list_prefix, *folder) for folder in folders}
                yield from frames
    except SourceError:
        raise
    except Exception as e:
        raise source_error(uri, e) from e
    finally:
        walk.stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _Walk:
    """Walk over the prefixes of one object-store source."""

    def __init__(self, store: ObjectStore, root_key: str, concurrency: int, tally: Tally) -> None:
        self._store = store
        self._root_key = root_key
        self._concurrency = concurrency
        self._tally = tally
        # Python waits for its threads before it ends, and a long prefix has many pages.
        self.stopped = threading.Event()

    def list_prefix(
        self, prefix: str, depth: int
    ) -> tuple[list[pl.DataFrame], list[tuple[str, int]]]:
        """Returns pages of a prefix, and prefixes in it (with depth) that remain to be listed."""
        stream = iter(
            obstore.list(
                self._store, prefix or None, chunk_size=KEYS_PER_REQUEST, return_arrow=True
            )
        )
        self._tally.add_requests()
        first = next(stream, None)
        if first is None:
            return [], []
        pages = [pa.record_batch(first)]
        full = pages[0].num_rows == KEYS_PER_REQUEST
        if full and depth < _MAX_PROBED_DEPTH and self._lies_in_few_folders(pages[0], prefix):
            return self._probe(prefix, depth)
        frames = []
        for page in stream:
            if self.stopped.is_set():
                return [], []
            self._tally.add_requests()
            pages.append(pa.record_batch(page))
            if len(pages) == _PAGES_PER_FRAME:
                frames.append(object_page(pages, self._root_key))
                pages = []
        if pages:
            frames.append(object_page(pages, self._root_key))
        return frames, []

    def _probe(self, prefix: str, depth: int) -> tuple[list[pl.DataFrame], list[tuple[str, int]]]:
        """Returns the files directly in a prefix, and its folders."""
        answer = obstore.list_with_delimiter(self._store, prefix or None, return_arrow=True)
        folders = list(answer["common_prefixes"])
        files = pa.RecordBatchReader.from_stream(answer["objects"]).read_all()
        self._tally.add_requests(max(1, math.ceil((len(folders) + len(files)) / KEYS_PER_REQUEST)))
        # Enough folders to keep all threads busy are not divided further.
        depth = depth + 1 if len(folders) < self._concurrency else _MAX_PROBED_DEPTH
        frames = [object_page(files.to_batches(), self._root_key)] if len(files) else []
        return frames, [(folder, depth) for folder in folders]

    def _lies_in_few_folders(self, page: pa.RecordBatch, prefix: str) -> bool:
        below = prefix + "/" if prefix else ""
        rest = pl.Series(page.column("path")).str.strip_prefix(below)
        folders = rest.filter(rest.str.contains("/", literal=True)).str.splitn("/", 2)
        return 0 < folders.struct.field("field_0").n_unique() <= self._concurrency


def object_page(batches: list[pa.RecordBatch], root_key: str) -> pl.DataFrame:
    """Makes a page of files from obstore's listing.

    Args:
        batches: Columns path (the whole key), size, e_tag, last_modified.
        root_key: The source's own key, without a final slash; stripped from the paths. Its own
            directory marker gets the path ``""``.
    """
    frame = pl.DataFrame(
        pa.Table.from_batches(batches).select(["path", "size", "e_tag", "last_modified"])
    )
    path = pl.col("path")
    if root_key:
        path = (
            pl.when(path == root_key)
            .then(pl.lit(""))
            .otherwise(path.str.strip_prefix(root_key + "/"))
        )
    return frame.select(
        path.alias("path"),
        pl.col("size").cast(pl.Int64).alias("bytes"),
        object_fingerprints().alias("fingerprint"),
    )
