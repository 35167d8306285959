"""Rows of a features table as the source of the predict job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SpecMismatchError
from bottleneck.incremental.plan import Plan
from bottleneck.models.classifier import LocatedModel
from bottleneck.prediction.config import PredictConfig
from bottleneck.sources.rows import LISTING_SCHEMA
from bottleneck.storage.fingerprints import row_fingerprints
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable


def open_features(config: PredictConfig, model: LocatedModel) -> Snapshot:
    """Opens the features table whose rows are classified.

    Args:
        config: Names the table and its version.
        model: The model that will classify.

    Raises:
        TableError: There is no such table or version.
        SpecMismatchError: The model was trained on features of another kind.
    """
    features = FeaturesTable.open(normalize_uri(config.features)).snapshot(
        version=config.version, as_of=config.moment
    )
    _require_fitting(model, features)
    return features


def _require_fitting(model: LocatedModel, features: Snapshot) -> None:
    """Refuses features that the head was not trained on."""
    differences = model.spec.differences(features.spec)
    if differences:
        listed = "; ".join(
            f"{name}: {mine} in the model, {theirs} in the table"
            for name, mine, theirs in differences
        )
        raise SpecMismatchError(
            f"the model {redact_uri(model.uri)} was trained on other features than those of "
            f"{redact_uri(features.table_uri)} ({listed}); give the table it was trained on, or "
            "a model of this one"
        )


def rows_of(features: Snapshot) -> pa.Table:
    """Returns a features table's rows as if they were listed images; failed rows keep their status.

    Returns:
        Rows of :data:`~bottleneck.sources.rows.LISTING_SCHEMA`: `uri` is the path of a row's shard
        in the table, `offset` the row's number in it.
    """
    columns = ("image", "label", "split", "fingerprint", "sha256", "status")
    rows = features.read_by_shard(columns)
    paths = pl.Series([shard.path for shard in features.shards], dtype=pl.String)
    listed = rows.select(
        "image",
        uri=paths.gather(rows["shard"]) if len(rows) else pl.lit("", pl.String),
        label="label",
        split="split",
        fingerprint=row_fingerprints(),
        bytes=pl.lit(None, pl.Int64),
        offset=pl.int_range(pl.len(), dtype=pl.Int64).over("shard"),
    )
    table = listed.sort("image").to_arrow()
    return table.select(LISTING_SCHEMA.names).cast(LISTING_SCHEMA)


def in_shard_order(plan: Plan) -> Plan:
    """Returns the plan with its work in the order of the shards' rows: a row group is read once."""
    work = plan.work.sort_by([("uri", "ascending"), ("offset", "ascending")])
    rows = pa.array(np.arange(work.num_rows, dtype=np.int64))
    return replace(plan, work=work.set_column(0, work.schema.field(0), rows).combine_chunks())
