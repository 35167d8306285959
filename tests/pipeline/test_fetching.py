"""The first stage: what is read at a time, and blocks that do not depend on it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.images import color, png

from bottleneck.images.options import DecodeOptions
from bottleneck.incremental.work import WORK_SCHEMA
from bottleneck.pipeline import fetching
from bottleneck.pipeline.fetching import FETCH_BYTES, ImageReader, fetch_in_order, fetch_ranges
from bottleneck.storage.fetcher import Fetcher

MB = 1_000_000


@pytest.mark.parametrize(
    ("sizes", "most_rows", "wanted"),
    [
        ([], 8, []),
        ([1] * 10, 4, [(0, 4), (4, 4), (8, 2)]),
        ([None] * 10, 8, [(0, 8), (8, 2)]),
        # Large photos: fewer at a time.
        ([20 * MB] * 5, 128, [(0, 3), (3, 2)]),
        # One that is larger than all that should be held is read alone.
        ([1, 200 * MB, 1, 1], 128, [(0, 1), (1, 1), (2, 2)]),
        ([FETCH_BYTES], 128, [(0, 1)]),
        ([None] * 300, 256, [(0, 128), (128, 128), (256, 44)]),
    ],
)
def test_what_is_read_at_a_time_is_bounded_in_bytes(
    sizes: list[int | None], most_rows: int, wanted: list[tuple[int, int]]
) -> None:
    column = pa.chunked_array([pa.array(sizes, pa.int64())])
    assert fetch_ranges(column, most_rows) == wanted


def work_of(folder: Path, count: int) -> pa.Table:
    rows: dict[str, list[object]] = {name: [None] * count for name in WORK_SCHEMA.names}
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(png(color(number), (8, 8)))
        rows["image"][number], rows["uri"][number] = path.name, str(path)
        rows["row"][number], rows["bytes"][number] = number, path.stat().st_size
    return pa.table(rows, WORK_SCHEMA)


def test_blocks_do_not_depend_on_how_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(tmp_path, 21)
    (tmp_path / "3.png").unlink()
    reader = ImageReader(DecodeOptions(8, 8), Fetcher())
    seconds = ["fetch_s", "decode_s"]
    whole = [block.drop_columns(seconds) for block in reader.read(work, block_rows=8)]
    assert [block.num_rows for block in whole] == [8, 8, 5]
    assert pa.concat_tables(whole)["image"].to_pylist() == work["image"].to_pylist()
    assert whole[0]["status"].to_pylist() == ["ok"] * 3 + ["missing"] + ["ok"] * 4
    # Three files at a time: ranges that end within blocks.
    monkeypatch.setattr(fetching, "FETCH_BYTES", 3 * max(work["bytes"].to_pylist()))
    assert len(fetch_ranges(work["bytes"], 8)) == 7
    again = [block.drop_columns(seconds) for block in reader.read(work, block_rows=8)]
    assert again == whole


def test_answers_come_in_order(tmp_path: Path) -> None:
    work = work_of(tmp_path, 10)
    answers = list(fetch_in_order(work, Fetcher(concurrency=3), 4))
    assert [answer.data for answer, _ in answers] == [
        (tmp_path / name).read_bytes() for name in work["image"].to_pylist()
    ]
    assert all(seconds > 0 for _, seconds in answers)
    assert list(fetch_in_order(work.slice(0, 0), Fetcher(), 4)) == []
