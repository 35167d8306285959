"""The predict job: source and model → plan → pipeline → commits → report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from PIL import Image

from bottleneck import cluster, logs, plots, report, storage
from bottleneck.classifiers import LocatedModel, PredictionSpec, locate_model
from bottleneck.errors import SpecMismatchError
from bottleneck.estimate import estimate_run
from bottleneck.features import FeaturesTable, Snapshot
from bottleneck.fetch_stage import fetcher_of, requests_of
from bottleneck.images import DecodeOptions, decode
from bottleneck.interruption import Interruption
from bottleneck.job_steps import connect, count_plan, hash_images, settle
from bottleneck.known_archives import recall_archives, remember_archives
from bottleneck.lease import Lease, require_free
from bottleneck.metrics import Evaluation
from bottleneck.pipeline import PipelineConfig
from bottleneck.placement import size_actors, size_batch
from bottleneck.plan import Plan, make_plan, read_identities
from bottleneck.predict_config import PredictConfig
from bottleneck.prediction_pipeline import FeaturePredictions, ImagePredictions
from bottleneck.predictions import Judgement, PredictionsTable, judge_predictions
from bottleneck.report import Mistake
from bottleneck.run_loop import RunLoop
from bottleneck.sources import LISTING_SCHEMA, list_images
from bottleneck.spec import FeatureSpec, require_equal
from bottleneck.storage import Fetcher, normalize_uri, redact_uri
from bottleneck.summary import Summary
from bottleneck.train_config import parse_time

_MISTAKES = 24
_THUMBNAIL_PIXELS = 160


@dataclass(kw_only=True)
class PredictSummary(Summary):
    """What a prediction run did; beside a run's figures what the table now says.

    Attributes:
        evaluation: Figures over all rows whose label the model knows; None without any.
        unknown_labels: Rows whose label the model does not know.
        report_uri: Where the report is, or empty.
    """

    evaluation: Evaluation | None = None
    unknown_labels: int = 0
    report_uri: str = ""

    def to_json(self) -> str:
        """Returns the summary as a JSON object, the attributes its keys."""
        figures = None if self.evaluation is None else self.evaluation.to_json()
        return self.json_with(evaluation=figures)

    def to_text(self) -> str:
        """Returns the summary as a table of two columns, and the figures."""
        lines = [super().to_text()]
        if self.report_uri:
            lines.append(f"  report      {self.report_uri}")
        if self.unknown_labels:
            lines.append(f"  note        {self.unknown_labels:,} rows have a label that the model "
                         "does not know and take no part in the figures")  # fmt: skip
        if self.evaluation is not None:
            lines += ["", "Against the labels of the source", self.evaluation.to_text()]
        return "\n".join(lines)


def predict(config: PredictConfig) -> PredictSummary:
    """Brings the predictions table up to date with the source.

    Args:
        config: What to do.

    Returns:
        What was done.

    Raises:
        BottleneckError: Something the user can mend, or the run could not finish; everything
            committed before stays.
    """
    summary = PredictSummary(
        run=logs.begin_run(),
        images_uri=redact_uri(normalize_uri(config.images or config.features)),
        features_uri=redact_uri(normalize_uri(config.predictions)),
    )
    settle(config, lambda *attempt: _predict_once(summary, *attempt), summary)
    return summary


@dataclass(frozen=True)
class _Source:
    """What is to be classified.

    Attributes:
        images: Rows of :data:`LISTING_SCHEMA`.
        skipped: Files that are no images, by reason.
        archives: What was learned of tar files.
        table: The features table, when that is the source.
    """

    images: pa.Table
    skipped: Mapping[str, int]
    archives: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    table: Snapshot | None = None


def _predict_once(
    summary: PredictSummary, config: PredictConfig, interruption: Interruption
) -> None:
    uri = normalize_uri(config.predictions)
    table = PredictionsTable.find(uri)
    if table is not None and not config.dry_run:
        require_free(table.log, take_over=config.take_over)
    snapshot = table.snapshot() if table else None
    model = locate_model(config.model, config.weights)
    spec = PredictionSpec.of(model.spec, model.digest, min(config.top, len(model.labels)))
    if snapshot is not None:
        require_equal(spec, snapshot.spec, redact_uri(uri))
    source = _source(config, snapshot, model)
    summary.listed, summary.skipped = source.images.num_rows, dict(source.skipped)

    plan = make_plan(
        source.images,
        snapshot,
        keep_deleted=config.keep_deleted,
        retry_failed=config.retry_failed,
        hasher=None
        if source.table
        else lambda work: hash_images(config, work, summary, interruption),
    )
    if source.table is not None:
        plan = _by_shard(plan)
    count_plan(plan, spec, summary)
    if config.dry_run:
        summary.outcome = "planned"
        commits = table.commits() if table else []
        summary.estimate = estimate_run(plan, spec, commits, config.node_hour_price)
        return
    if plan.empty:
        summary.outcome = "unchanged"
    else:
        connect(config, interruption)
        actors = size_actors(config, cluster.possible_nodes())
        stages = _stages(config, model, spec, source, actors.gpus)
        if table is None:
            table = PredictionsTable.create(uri, spec, Lease.first_mark(summary.run))
        start = table.snapshot() if snapshot is None else snapshot
        RunLoop(config, table, start, plan, stages, summary, interruption).execute()
        if interruption.signal is not None:
            return
    if table is not None:
        remember_archives(uri, config.layout, source.archives)
        _judge(config, table.snapshot(), model, source, summary)


def _source(config: PredictConfig, snapshot: Snapshot | None, model: LocatedModel) -> _Source:
    if config.images:
        known = recall_archives(snapshot, config.layout) if snapshot else None
        listing = list_images(config.images, layout=config.layout, known_archives=known)
        return _Source(listing.images, listing.skipped, archives=listing.archives)
    as_of = None if config.as_of is None else parse_time(config.as_of)
    features = FeaturesTable.open(normalize_uri(config.features)).snapshot(
        version=config.version, as_of=as_of
    )
    _require_fitting(model, features)
    return _Source(_rows_of(features), {}, table=features)


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


def _rows_of(features: Snapshot) -> pa.Table:
    """Lists a features table's rows as if they were images; failed rows keep their status."""
    columns = ("image", "label", "split", "fingerprint", "sha256", "status")
    rows = read_identities(features, columns)
    paths = pl.Series([shard.path for shard in features.shards], dtype=pl.String)
    listed = rows.select(
        "image",
        uri=paths.gather(rows["shard"]) if len(rows) else pl.lit("", pl.String),
        label="label",
        split="split",
        # Says of what content the features are, so that new features give new predictions.
        fingerprint=pl.concat_str(
            "status", pl.coalesce("sha256", "fingerprint", pl.lit("")), separator=":"
        ),
        bytes=pl.lit(None, pl.Int64),
        offset=pl.int_range(pl.len(), dtype=pl.Int64).over("shard"),
    )
    table = listed.sort("image").to_arrow()
    return table.select(LISTING_SCHEMA.names).cast(LISTING_SCHEMA)


def _by_shard(plan: Plan) -> Plan:
    """Orders the work as the features lie, so that each row group is read about once."""
    work = plan.work.sort_by([("uri", "ascending"), ("offset", "ascending")])
    rows = pa.array(np.arange(work.num_rows, dtype=np.int64))
    return replace(plan, work=work.set_column(0, work.schema.field(0), rows).combine_chunks())


def _stages(
    config: PredictConfig, model: LocatedModel, spec: FeatureSpec, source: _Source, gpus: float
) -> PipelineConfig:
    height, width = model.spec.image_size
    # The specification's words were checked when its table was made.
    reading: dict[str, Any] = {
        "resize": model.spec.resize,
        "mode": model.spec.decode,
        "interpolation": model.spec.interpolation,
    }
    common: dict[str, Any] = {
        "decode": DecodeOptions(
            height=height, width=width, max_pixels=config.max_pixels, **reading
        ),
        "batch_size": size_batch(config.batch_size, gpus, model.spec.image_size),
        "fetcher": fetcher_of(config),
        "row_length": spec.length,
        "weights_bytes": model.weights_bytes,
        "model": model,
        "top": spec.length,
    }
    if source.table is not None:
        return FeaturePredictions(table_uri=source.table.table_uri, **common)
    return ImagePredictions(**common)


def _judge(
    config: PredictConfig,
    snapshot: Snapshot,
    model: LocatedModel,
    source: _Source,
    summary: PredictSummary,
) -> None:
    judgement = judge_predictions(snapshot, model.labels, _MISTAKES if config.report else 0)
    summary.evaluation, summary.unknown_labels = judgement.evaluation, judgement.unknown
    if not config.report:
        return
    place = normalize_uri(config.report)
    page = _page(config, snapshot, model, judgement, _thumbnails(judgement, source))
    storage.write_bytes(place, page.encode())
    summary.report_uri = redact_uri(place)


def _page(
    config: PredictConfig,
    snapshot: Snapshot,
    model: LocatedModel,
    judgement: Judgement,
    thumbnails: Mapping[str, bytes],
) -> str:
    evaluation = judgement.evaluation
    facts = {
        "model": redact_uri(model.uri),
        "backbone": model.spec.backbone,
        "labels": f"{len(model.labels):,}",
        "source": redact_uri(normalize_uri(config.images or config.features)),
        "table": f"{redact_uri(snapshot.table_uri)} version {snapshot.version}",
    }
    if judgement.unknown:
        facts["labels unknown to the model"] = f"{judgement.unknown:,} rows, not in the figures"
    if judgement.judged < judgement.known:
        facts["figures from"] = f"{judgement.judged:,} of {judgement.known:,} rows, drawn"
    return report.prediction_report(
        title="Predictions of " + redact_uri(model.uri).rstrip("/").rpartition("/")[2],
        model=facts,
        statuses=judgement.statuses,
        predicted=judgement.predicted,
        evaluation=evaluation,
        mistakes=[
            Mistake(image, label, predicted, probability, thumbnails.get(image))
            for image, label, predicted, probability in judgement.mistakes
        ],
        confusion_matrix=plots.confusion_matrix(evaluation.labels, evaluation.confusion)
        if evaluation is not None
        else None,
        reliability_diagram=plots.reliability_diagram(evaluation)
        if evaluation is not None
        else None,
    )


def _thumbnails(judgement: Judgement, source: _Source) -> dict[str, bytes]:
    """Reads the mistaken images again; those that cannot be read have no picture."""
    wanted = [image for image, *_ in judgement.mistakes]
    if source.table is not None or not wanted:
        return {}
    chosen = source.images.filter(pa.compute.is_in(source.images["image"], pa.array(wanted)))
    fetcher = Fetcher(concurrency=8, timeout_s=30.0, max_bytes=64_000_000)
    side = _THUMBNAIL_PIXELS
    options = DecodeOptions(height=side, width=side, resize="pad")
    found = {}
    for image, answer in zip(
        chosen["image"].to_pylist(), fetcher.fetch(requests_of(chosen)), strict=True
    ):
        pixels = decode(answer.data, options).pixels if answer.data is not None else None
        if pixels is not None:
            found[image] = _jpeg(pixels)
    return found


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
