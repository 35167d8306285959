"""The two kinds of table: features and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tables import write_table

from benchmarks.support.specs import make_spec
from bottleneck.errors import TableError
from bottleneck.spec import PredictionSpec
from bottleneck.table import table as tables
from bottleneck.table.table import FeaturesTable, ImageTable, PredictionsTable


def test_neither_kind_is_the_other(tmp_path: Path) -> None:
    features = FeaturesTable.create(str(tmp_path / "features"), make_spec((3,)))
    said = PredictionSpec.of(make_spec((3,)), model="m", top=2)
    predictions = PredictionsTable.create(str(tmp_path / "predictions"), said)
    assert isinstance(features, ImageTable) and isinstance(predictions, ImageTable)
    assert not isinstance(predictions, FeaturesTable)
    for kind, uri in ((FeaturesTable, predictions.uri), (PredictionsTable, features.uri)):
        with pytest.raises(TableError, match="table is needed"):
            kind.find(uri)


def test_finding_a_table_does_not_list_its_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of millions of images that takes a while, and whoever finds a table asks for a snapshot."""

    uri = write_table(tmp_path / "table", np.zeros((4, 3), np.float32), shards=[4]).table_uri
    listed: list[object] = []
    shards_of = tables.shards_of
    monkeypatch.setattr(tables, "shards_of", lambda delta: listed.append(delta) or shards_of(delta))
    table = FeaturesTable.find(uri)
    assert table is not None
    assert not listed
    assert table.snapshot().rows == 4
    assert len(listed) == 1
