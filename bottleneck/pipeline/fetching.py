"""Images as a pipeline reads them: many files at a time, decoded into blocks of pixels.

One GET per image, many in flight, bounded in bytes however large the files are; the next ones are
read while these are decoded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from bottleneck.config.flags import ReadFlags
from bottleneck.images.decoding import Decoded, decode
from bottleneck.images.options import DecodeOptions
from bottleneck.images.statuses import UNAVAILABLE
from bottleneck.pipeline.blocks import pixel_column, read_block
from bottleneck.storage.fetcher import Fetched, Fetcher, FetchRequest
from bottleneck.table.schemas import FIELDS

#: Maximum bytes of files that a task reads at a time; it reads the next while it decodes these.
FETCH_BYTES = 64_000_000

#: Size that a file of unknown size is taken to have.
_USUAL_FILE_BYTES = 500_000


@dataclass(frozen=True)
class ImageReader:
    """First stage that reads images: files in, blocks of pixels out.

    Attributes:
        decode: How images become arrays.
        fetcher: How files are read.
    """

    decode: DecodeOptions
    fetcher: Fetcher

    @property
    def row_bytes(self) -> int:
        """Size of one decoded image, (H, W, 3) uint8."""
        return self.decode.height * self.decode.width * 3

    def memory_bytes(self, block_rows: int) -> int:
        """Returns what a task holds: files, those read ahead included, and decoded blocks."""
        return 2 * FETCH_BYTES + 2 * block_rows * self.row_bytes

    def read(self, work: pa.Table, *, block_rows: int) -> Iterator[pa.Table]:
        """Reads and decodes the images of one task.

        Args:
            work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
            block_rows: Rows of a block; the last one may have fewer.

        Yields:
            Blocks with `pixels`, H·W·3 bytes per image, RGB, null where there is no image.
        """
        fetched = fetch_in_order(work, self.fetcher, block_rows)
        for start in range(0, work.num_rows, block_rows):
            rows = work.slice(start, block_rows)
            yield _decode_block(rows, islice(fetched, rows.num_rows), self.decode)


def fetcher_of(flags: ReadFlags) -> Fetcher:
    """Returns the fetcher that reads a job's images within its limits."""
    return Fetcher(
        concurrency=flags.fetch_concurrency,
        timeout_s=flags.fetch_timeout_s,
        max_bytes=int(flags.max_image_mb * 1e6),
    )


def fetch_in_order(
    work: pa.Table, fetcher: Fetcher, most_rows: int
) -> Iterator[tuple[Fetched, float]]:
    """Reads images, many at a time, and yields them one by one while the next are read.

    Args:
        work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
        fetcher: How images are read.
        most_rows: Maximum number of images read at a time; fewer if they have more bytes than
            :data:`FETCH_BYTES`, so that memory does not depend on how large images are.

    Yields:
        (answer, seconds it took), in the order of the work.
    """

    def fetch(rows: pa.Table) -> tuple[list[Fetched], float]:
        began = time.perf_counter()
        answers = fetcher.fetch(requests_of(rows))
        return answers, (time.perf_counter() - began) / len(answers)

    with ThreadPoolExecutor(1) as reader:
        coming = None
        for start, count in fetch_ranges(work["bytes"], most_rows):
            before, coming = coming, reader.submit(fetch, work.slice(start, count))
            yield from _answers(before)
        yield from _answers(coming)


def _answers(
    coming: Future[tuple[list[Fetched], float]] | None,
) -> Iterator[tuple[Fetched, float]]:
    if coming is not None:
        answers, seconds = coming.result()
        for answer in answers:
            yield answer, seconds


def fetch_ranges(sizes: pa.ChunkedArray, most_rows: int) -> list[tuple[int, int]]:
    """Cuts rows into ranges whose files are read at a time.

    Args:
        sizes: Bytes of each file, null where unknown.
        most_rows: Maximum number of rows of a range.

    Returns:
        (first row, number of rows) of each range.
    """
    ranges: list[tuple[int, int]] = []
    first, total = 0, 0
    for row, size in enumerate(sizes.fill_null(_USUAL_FILE_BYTES).to_pylist()):
        if row > first and (row - first == most_rows or total + size > FETCH_BYTES):
            ranges.append((first, row - first))
            first, total = row, 0
        total += size
    if len(sizes):
        ranges.append((first, len(sizes) - first))
    return ranges


def _decode_block(
    work: pa.Table, fetched: Iterable[tuple[Fetched, float]], options: DecodeOptions
) -> pa.Table:
    count = work.num_rows
    pixels = np.zeros((count, options.height, options.width, 3), np.uint8)
    valid = np.zeros(count, bool)
    read_bytes = np.zeros(count, np.int64)
    fetch_s, decode_s = np.zeros(count, np.float32), np.zeros(count, np.float32)
    listed = work["fingerprint"].to_pylist()
    rows: list[dict[str, Any]] = []
    for number, (answer, seconds) in enumerate(fetched):
        began = time.perf_counter()
        decoded, sha256 = _decode_answer(answer, options)
        if decoded.pixels is not None:
            pixels[number], valid[number] = decoded.pixels, True
        rows.append(
            {
                # A missing file has no fingerprint of its own; the listed one stands for "seen so".
                "fingerprint": answer.fingerprint or listed[number],
                "sha256": sha256,
                "width": decoded.width,
                "height": decoded.height,
                "status": decoded.status,
                "error": decoded.error,
            }
        )
        read_bytes[number] = len(answer.data or b"")
        fetch_s[number], decode_s[number] = seconds, time.perf_counter() - began
    found: dict[str, Any] = {
        name: pa.array([row[name] for row in rows], FIELDS[name].type) for name in rows[0]
    }
    found["pixels"] = pixel_column(pixels, valid)
    return read_block(work, found, read_bytes=read_bytes, fetch_s=fetch_s, decode_s=decode_s)


def _decode_answer(answer: Fetched, options: DecodeOptions) -> tuple[Decoded, str | None]:
    """Returns the decoded image, and the sha256 of its file if that was read."""
    if answer.data is None:
        # Without data there is a status.
        return Decoded(answer.status or UNAVAILABLE, answer.error), None
    return decode(answer.data, options), hashlib.sha256(answer.data).hexdigest()


def requests_of(rows: pa.Table) -> list[FetchRequest]:
    """Returns the reads of planned rows: whole objects, or tar members."""
    return [
        FetchRequest(uri, offset, size if offset is not None else None, fingerprint)
        for uri, offset, size, fingerprint in zip(
            rows["uri"].to_pylist(),
            rows["offset"].to_pylist(),
            rows["bytes"].to_pylist(),
            rows["fingerprint"].to_pylist(),
            strict=True,
        )
    ]
