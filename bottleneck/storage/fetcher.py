"""Reads images from anywhere: many at a time, with one request each.

``s3://``, ``gs://`` and ``az://`` are read through obstore, local paths with ``open``, any other
scheme (``memory://``, ``http://``, …) through fsspec, which takes two requests where it is remote.
Nothing here knows Ray or Keras.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.images.statuses import MISSING, TOO_LARGE, TRUNCATED, UNAVAILABLE, UNREADABLE
from bottleneck.storage.files import fsspec_filesystem, reason_of, root_cause, stat_of_info
from bottleneck.storage.fingerprints import (
    is_from_list,
    member_fingerprint,
    mtime_fingerprint,
    object_fingerprint,
)
from bottleneck.storage.object_errors import explain
from bottleneck.storage.object_stores import StoreOptions, open_store
from bottleneck.storage.uris import is_local, is_object_store, local_path, split_object_uri

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_TRANSIENT_ERRNO = frozenset(
    {
        errno.EACCES,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One image to read, from a row of a listing.

    Attributes:
        uri: Normalized URI of the image, or of the archive that holds it.
        offset: First byte of a tar member; None for a whole object.
        length: Size of the tar member in bytes; None for a whole object.
        fingerprint: Fingerprint in the listing. One from the user's list file (``list:…``) is
            returned unchanged; any other is replaced by that of the answer.
    """

    uri: str
    offset: int | None = None
    length: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """Bytes of an image, or the reason why there are none.

    Attributes:
        data: Bytes of the file; None if ``status`` is set.
        fingerprint: Fingerprint of the answer that carried the bytes, in the form of listings;
            None without an answer.
        status: None, or ``missing``, ``too_large``, ``truncated``, ``unreadable`` (until the image
            changes), or ``unavailable`` (storage, network, credentials or permission: try again).
        error: Reason in one line; None if ``status`` is None.
    """

    data: bytes | None = None
    fingerprint: str | None = None
    status: str | None = None
    error: str | None = None


_STATUS_OF_KIND = {
    "missing": MISSING,
    "missing_bucket": MISSING,
    "bad_name": UNREADABLE,
    "range": TRUNCATED,
    "other": UNREADABLE,
}


@dataclass
class Fetcher:
    """Reader of images, concurrent, one request each; can be pickled and used in Ray workers.

    When storage stops answering, the first images wait for ``retry_s``. After ``concurrency`` of
    them in a row the rest of the call is ``unavailable`` at once, so that an outage costs about
    ``retry_s`` per call, not per image.

    Attributes:
        concurrency: Maximum number of requests in flight.
        timeout_s: Seconds without a byte after which a request to an object store is given up.
        max_bytes: Size above which an image is ``too_large`` and is not downloaded.
        retry_s: Seconds during which one image's transient failures are retried.
    """

    concurrency: int = 32
    timeout_s: float = 30.0
    max_bytes: int = 256 * 1024 * 1024
    retry_s: float = 120.0
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def fetch(self, requests: Sequence[FetchRequest]) -> list[Fetched]:
        """Reads all requests.

        Returns:
            One answer per request, in their order; a failure is an answer, never an exception.
        """
        if not requests:
            return []
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="fetch")
        call = _Call(self)
        answers: list[Fetched] = [Fetched()] * len(requests)
        coming = iter(range(len(requests)))

        def fetch_the_next() -> None:
            # Threads share the iterator: one future per image would cost more than a local read.
            for number in coming:
                answers[number] = call.fetch_one(requests[number])

        threads = min(self.concurrency, len(requests))
        for thread in [self._pool.submit(fetch_the_next) for _ in range(threads)]:
            thread.result()
        return answers

    def close(self) -> None:
        """Ends the threads; the next ``fetch`` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class _Call:
    """State of one ``Fetcher.fetch``: its clients, and its requests in a row without an answer."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._options = StoreOptions(timeout_s=fetcher.timeout_s, retry_s=fetcher.retry_s)
        self._lock = threading.Lock()
        self._stores: dict[str, ObjectStore] = {}
        self._silent: dict[str, int] = {}

    def fetch_one(self, request: FetchRequest) -> Fetched:
        root = split_object_uri(request.uri)[0]
        if self._silent.get(root, 0) >= self._fetcher.concurrency:
            return Fetched(
                status=UNAVAILABLE,
                error=f"not tried: {redact_uri(root)} did not answer the requests before",
            )
        answered = True
        try:
            if request.length is not None and request.length > self._fetcher.max_bytes:
                fetched = self._too_large(request.length, None)
            elif is_object_store(request.uri):
                fetched = self._fetch_object(request)
            elif is_local(request.uri):
                fetched = self._fetch_local(request)
            else:
                fetched = self._fetch_other(request)
        except Exception as e:
            # Any exception of a storage client is the failure of this one image.
            fetched = _failed(request.uri, e)
            answered = _is_denied(request.uri, e)
        with self._lock:
            silent = fetched.status == UNAVAILABLE and not answered
            self._silent[root] = self._silent.get(root, 0) + 1 if silent else 0
        if fetched.fingerprint and is_from_list(request.fingerprint):
            return Fetched(fetched.data, request.fingerprint, fetched.status, fetched.error)
        return fetched

    def _fetch_object(self, request: FetchRequest) -> Fetched:
        import obstore

        root, key = split_object_uri(request.uri)
        with self._lock:
            store = self._stores.get(root)
            if store is None:
                store = self._stores[root] = open_store(root, self._options)
        if request.offset is None or request.length is None:
            answer = obstore.get(store, key)
        elif request.length == 0:
            # HTTP has no empty range.
            answer = obstore.get(store, key, options={"head": True})
        else:
            span = (request.offset, request.offset + request.length)
            answer = obstore.get(store, key, options={"range": span})
        meta = answer.meta
        fingerprint = object_fingerprint(meta)
        if request.length is None and meta["size"] > self._fetcher.max_bytes:
            return self._too_large(meta["size"], fingerprint)
        data = b"" if request.length == 0 else bytes(answer.bytes())
        return _complete(request, data, fingerprint)

    def _fetch_local(self, request: FetchRequest) -> Fetched:
        # Non-blocking: opening a named pipe must not wait for its writer.
        descriptor = os.open(local_path(request.uri), os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Fetched(status=UNREADABLE, error="is not a regular file")
            # The fingerprint is older than the bytes: a file that changes now is read again.
            fingerprint = mtime_fingerprint(status.st_size, status.st_mtime_ns)
            if request.length is None and status.st_size > self._fetcher.max_bytes:
                return self._too_large(status.st_size, fingerprint)
            with open(descriptor, "rb", closefd=False) as file:
                file.seek(request.offset or 0)
                data = file.read(request.length)
        finally:
            os.close(descriptor)
        return _complete(request, data, fingerprint)

    def _fetch_other(self, request: FetchRequest) -> Fetched:
        filesystem, path = fsspec_filesystem(request.uri)
        found = stat_of_info(filesystem.info(path))
        if request.length is None and found.size_bytes > self._fetcher.max_bytes:
            return self._too_large(found.size_bytes, found.fingerprint)
        end = None if request.length is None else (request.offset or 0) + request.length
        data = filesystem.cat_file(path, start=request.offset, end=end)
        return _complete(request, bytes(data), found.fingerprint)

    def _too_large(self, size: int, fingerprint: str | None) -> Fetched:
        return Fetched(
            None, fingerprint, TOO_LARGE, f"{size} bytes; the limit is {self._fetcher.max_bytes}"
        )


def _complete(request: FetchRequest, data: bytes, fingerprint: str) -> Fetched:
    if request.offset is None or request.length is None:
        return Fetched(data, fingerprint)
    fingerprint = member_fingerprint(fingerprint, request.offset, request.length)
    if len(data) < request.length:
        error = f"the archive ends after {len(data)} of the member's {request.length} bytes"
        return Fetched(None, fingerprint, TRUNCATED, error)
    return Fetched(data, fingerprint)


def _failed(uri: str, error: Exception) -> Fetched:
    """Turns an exception into a status; an unknown error is transient, so that it is retried."""
    if isinstance(error, SourceError):
        return Fetched(status=UNAVAILABLE, error=str(error))
    if is_object_store(uri):
        problem = explain(error)
        return Fetched(status=_STATUS_OF_KIND.get(problem.kind, UNAVAILABLE), error=problem.detail)
    error = root_cause(error)
    http_status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Fetched(status=MISSING, error="No such file")
    if isinstance(http_status, int):
        transient = http_status >= 500 or http_status in {401, 403, 408, 425, 429}
        return Fetched(status=UNAVAILABLE if transient else UNREADABLE, error=f"HTTP {http_status}")
    permanent = isinstance(error, IsADirectoryError | ValueError | ImportError)
    if is_local(uri) and isinstance(error, OSError):
        permanent = error.errno not in _TRANSIENT_ERRNO
    return Fetched(status=UNREADABLE if permanent else UNAVAILABLE, error=reason_of(error))


def _is_denied(uri: str, error: Exception) -> bool:
    """Returns whether storage answered that this one image may not be read."""
    if is_object_store(uri):
        return explain(error).kind == "denied"
    error = root_cause(error)
    return isinstance(error, PermissionError) or getattr(error, "status", None) == 403
