"""Rows of a features table as the first stage of a pipeline: the planned ones, in blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.labeled import labeled_colors, write_labeled

from bottleneck.incremental.work import WORK_SCHEMA
from bottleneck.pipeline.blocks import COST_SCHEMA, block_features
from bottleneck.prediction.stages import FeatureReader
from bottleneck.table.schemas import FEATURES


@pytest.mark.parametrize("block_rows", [4, 256])
def test_planned_rows_come_with_their_features_in_blocks(tmp_path: Path, block_rows: int) -> None:
    images = labeled_colors(15)
    snapshot = write_labeled(str(tmp_path / "table"), images)
    names = sorted(images)
    # Every other row of each shard is planned.
    wanted: dict[str, list[object]] = {name: [] for name in WORK_SCHEMA.names}
    first = 0
    for shard in snapshot.shards:
        for offset in range(0, shard.rows, 2):
            row = {"row": len(wanted["row"]), "image": names[first + offset], "uri": shard.path,
                   "label": "planned", "split": "planned", "fingerprint": "planned",
                   "bytes": None, "offset": offset, "old_shard": None}  # fmt: skip
            for name, value in row.items():
                wanted[name].append(value)
        first += shard.rows
    assert first == 30
    work = pa.table(wanted, WORK_SCHEMA)

    reader = FeatureReader(snapshot.table_uri, 3)
    blocks = list(reader.read(work, block_rows=block_rows))
    assert max(block.num_rows for block in blocks) <= block_rows
    if block_rows == 256:
        assert len(blocks) == len(snapshot.shards)
    for block in blocks:
        assert set(block.column_names) == {*FEATURES.names, *COST_SCHEMA.names} - {"inference_s"}
    read = pa.concat_tables(blocks)
    assert read["row"].to_pylist() == list(range(work.num_rows))
    assert read["image"].to_pylist() == wanted["image"]
    for name in ("label", "split", "fingerprint"):
        assert set(read[name].to_pylist()) == {"planned"}
    features, valid = block_features(read, (3,))
    assert valid.all()
    np.testing.assert_array_equal(
        features, np.array([images[str(name)] for name in wanted["image"]], np.float32)
    )
    assert all(size > 0 for size in read["read_bytes"].to_pylist())
    assert set(read["decode_s"].to_pylist()) == {0.0}
