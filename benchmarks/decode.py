"""Decoding alone: bytes in memory → pixels, no reading, no backbone.

.venv/bin/python -m benchmarks.decode
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import get_args

import tyro

from benchmarks.support.images import drawn_jpeg, small_photos
from benchmarks.support.results import CommonSettings, Result
from bottleneck.images.decoding import decode
from bottleneck.images.options import Decode, DecodeOptions

_SIDE = 224


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures decoding, fast and exact, small photos and 12 megapixels.

    Attributes:
        images: Small photos to decode, each once.
        large_images: JPEGs of 12 megapixels to decode.
        repeat: Times that all cases are measured, in turn; the best of each counts.
    """

    images: int = 400
    large_images: int = 8
    repeat: int = 3


@dataclass
class _Case:
    kind: str
    contents: Sequence[bytes]
    mode: Decode
    threads: int
    rate: float = 0.0


def main(settings: Settings) -> None:
    few = settings.smoke
    small_kind, small = small_photos(8 if few else settings.images)
    large = [drawn_jpeg(400, 300, 0)] if few else _large(settings.large_images)
    cases = [
        _Case(kind, contents, mode, threads)
        for kind, contents in ((small_kind, small), ("drawn, 12 megapixels", large))
        for threads in sorted({1, len(os.sched_getaffinity(0))})
        for mode in get_args(Decode)
    ]
    result = Result("decode", settings.to_json())
    for _ in range(1 if few else settings.repeat):
        for case in cases:
            case.rate = max(case.rate, _rate(case))
    table = result.table(f"Decoding alone, to {_SIDE}×{_SIDE}")
    for case in cases:
        table.add(
            images=case.kind,
            kB_per_image=round(sum(map(len, case.contents)) / len(case.contents) / 1000, 1),
            decode=case.mode,
            threads=case.threads,
            images_per_s=round(case.rate, 1),
            ms_an_image_and_thread=round(1000 * case.threads / case.rate, 2),
        )
    result.finish(settings.results)


def _large(count: int) -> list[bytes]:
    drawn = [drawn_jpeg(4000, 3000, seed) for seed in range(min(count, 2))]
    return [drawn[number % len(drawn)] for number in range(count)]


def _rate(case: _Case) -> float:
    options = DecodeOptions(height=_SIDE, width=_SIDE, decode=case.mode)
    with ThreadPoolExecutor(case.threads) as pool:
        began = time.perf_counter()
        statuses = set(pool.map(lambda data: decode(data, options).status, case.contents))
        seconds = time.perf_counter() - began
    if statuses != {"ok"}:
        raise SystemExit(f"some images could not be decoded: {sorted(statuses)}")
    return len(case.contents) / seconds


if __name__ == "__main__":
    main(tyro.cli(Settings))
