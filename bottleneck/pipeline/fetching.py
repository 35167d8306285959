"""The pipeline's first stage: image files in, blocks of decoded pixels out.

One GET an image, many in flight, bounded in bytes however large the files are; the next ones are
read while these are decoded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from bottleneck.config.flags import ReadFlags
from bottleneck.images import decoding
from bottleneck.images.options import DecodeOptions
from bottleneck.images.statuses import OK, UNAVAILABLE
from bottleneck.pipeline.blocks import _pixel_column
from bottleneck.storage.fetcher import Fetched, Fetcher, FetchRequest
from bottleneck.table.columns import SCHEMA

#: Files that a task reads at a time; it reads the next ones while it decodes these.
FETCH_BYTES = 64_000_000
_USUAL_FILE_BYTES = 500_000


class FetchConfig(Protocol):
    """What the stage needs to know, of whatever pipeline."""

    @property
    def decode(self) -> DecodeOptions:
        """How images become arrays."""

    @property
    def fetcher(self) -> Fetcher:
        """How they are read."""

    @property
    def block_rows(self) -> int:
        """Rows of a block."""


def fetcher_of(flags: ReadFlags) -> Fetcher:
    """Returns what reads a job's images."""
    return Fetcher(
        concurrency=flags.fetch_concurrency,
        timeout_s=flags.fetch_timeout_s,
        max_bytes=int(flags.max_image_mb * 1e6),
    )


def fetch_in_order(
    work: pa.Table, fetcher: Fetcher, most_rows: int
) -> Iterator[tuple[Fetched, float]]:
    """Reads images, many at a time, and gives them out one by one; the next are read meanwhile.

    Args:
        work: Rows of :data:`bottleneck.incremental.work.WORK_SCHEMA`.
        fetcher: How to read.
        most_rows: Images that are read at a time; fewer if they are more than
            :data:`FETCH_BYTES`, so that memory does not depend on how large images are.

    Yields:
        (answer, seconds that it took), in the order of the work.
    """

    def fetch(rows: pa.Table) -> tuple[list[Fetched], float]:
        began = time.perf_counter()
        answers = fetcher.fetch(requests_of(rows))
        return answers, (time.perf_counter() - began) / len(answers)

    with ThreadPoolExecutor(1) as ahead:
        coming = None
        for start, count in fetch_ranges(work["bytes"], most_rows):
            before, coming = coming, ahead.submit(fetch, work.slice(start, count))
            yield from _give_out(before)
        yield from _give_out(coming)


def _give_out(
    coming: Future[tuple[list[Fetched], float]] | None,
) -> Iterator[tuple[Fetched, float]]:
    if coming is not None:
        answers, seconds = coming.result()
        for answer in answers:
            yield answer, seconds


def fetch_ranges(sizes: pa.ChunkedArray, most_rows: int) -> list[tuple[int, int]]:
    """Cuts rows into (first, number) of those whose files are read at a time.

    Args:
        sizes: Bytes of each file, null where that is not known.
        most_rows: In one range.
    """
    ranges: list[tuple[int, int]] = []
    first, held = 0, 0
    for row, size in enumerate(sizes.fill_null(_USUAL_FILE_BYTES).to_pylist()):
        if row > first and (row - first == most_rows or held + size > FETCH_BYTES):
            ranges.append((first, row - first))
            first, held = row, 0
        held += size
    if len(sizes):
        ranges.append((first, len(sizes) - first))
    return ranges


def fetch_and_decode(work: pa.Table, *, config: FetchConfig) -> Iterator[pa.Table]:
    """First stage: reads and decodes the images of one task.

    Yields:
        Blocks with all columns but `features`, and `pixels`: H·W·3 bytes an image, RGB, null
        where there is no image.
    """
    fetched = fetch_in_order(work, config.fetcher, config.block_rows)
    for start in range(0, work.num_rows, config.block_rows):
        rows = work.slice(start, config.block_rows)
        yield _decode_block(rows, islice(fetched, rows.num_rows), config.decode)


def _decode_block(
    rows: pa.Table, fetched: Iterable[tuple[Fetched, float]], options: DecodeOptions
) -> pa.Table:
    count = rows.num_rows
    pixels = np.zeros((count, options.height, options.width, 3), np.uint8)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("fingerprint", "sha256", "width", "height", "status", "error")
    }
    sizes = np.zeros(count, np.int64)
    fetch_s, decode_s = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for number, (answer, seconds) in enumerate(fetched):
        began = time.perf_counter()
        if answer.data is None:
            # Without data there is a status.
            result = decoding.Decoded(answer.status or UNAVAILABLE, answer.error, None, None, None)
            digest = None
        else:
            sizes[number] = len(answer.data)
            digest = hashlib.sha256(answer.data).hexdigest()
            result = decoding.decode(answer.data, options)
            if result.pixels is not None:
                pixels[number] = result.pixels
        # A missing file has no fingerprint of its own; the listed one stands for "seen so".
        columns["fingerprint"].append(answer.fingerprint or rows["fingerprint"][number].as_py())
        columns["sha256"].append(digest)
        columns["width"].append(result.width)
        columns["height"].append(result.height)
        columns["status"].append(result.status)
        columns["error"].append(result.error)
        fetch_s[number], decode_s[number] = seconds, time.perf_counter() - began
    ok = np.array([status == OK for status in columns["status"]], dtype=bool)
    block = {name: rows[name] for name in ("image", "label", "split")}
    block |= {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
    block |= {
        "row": rows["row"],
        "read_bytes": pa.array(sizes),
        "fetch_s": pa.array(fetch_s),
        "decode_s": pa.array(decode_s),
        "pixels": _pixel_column(pixels, ok),
    }
    return pa.table(block)


def requests_of(rows: pa.Table) -> list[FetchRequest]:
    """Returns what to read for rows of a plan: whole objects, or tar members."""
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
