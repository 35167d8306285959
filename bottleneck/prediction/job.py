"""The predict job: source and model → plan → pipeline → commits → report."""

from __future__ import annotations

from typing import Any

from bottleneck.cluster import nodes
from bottleneck.cluster.sizing import size_actors, size_batch
from bottleneck.console import logs
from bottleneck.console.interruption import Interruption
from bottleneck.console.redaction import redact_uri
from bottleneck.images.options import DecodeOptions
from bottleneck.incremental.estimate import estimate_run
from bottleneck.incremental.known_archives import remember_archives
from bottleneck.incremental.loop import RunLoop
from bottleneck.incremental.plan import make_plan
from bottleneck.incremental.run import connect, count_plan, hash_images, settle
from bottleneck.models.classifier import LocatedModel, locate_model
from bottleneck.pipeline.fetching import fetcher_of
from bottleneck.pipeline.stages import PipelineConfig
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.report import evaluate_table
from bottleneck.prediction.source import PredictionSource, find_source, in_shard_order
from bottleneck.prediction.stages import FeaturePredictions, ImagePredictions
from bottleneck.prediction.summary import PredictSummary
from bottleneck.spec import FeatureSpec, PredictionSpec, require_equal
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.lease import Lease, require_free
from bottleneck.table.table import PredictionsTable


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
        source_uri=redact_uri(normalize_uri(config.images or config.features)),
        table_uri=redact_uri(normalize_uri(config.predictions)),
    )
    settle(config, lambda *attempt: _predict_once(summary, *attempt), summary)
    return summary


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
    source = find_source(config, snapshot, model)
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
        plan = in_shard_order(plan)
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
        actors = size_actors(config, nodes.possible_nodes())
        stages = _stages(config, model, spec, source, actors.gpus)
        if table is None:
            table = PredictionsTable.create(uri, spec, Lease.first_mark(summary.run))
        start = table.snapshot() if snapshot is None else snapshot
        RunLoop(config, table, start, plan, stages, summary, interruption).execute()
        if interruption.signal is not None:
            return
    if table is not None:
        remember_archives(uri, config.layout, source.archives)
        evaluate_table(config, table.snapshot(), model, source, summary)


def _stages(
    config: PredictConfig,
    model: LocatedModel,
    spec: FeatureSpec,
    source: PredictionSource,
    gpus: float,
) -> PipelineConfig:
    common: dict[str, Any] = {
        "decode": DecodeOptions.of_spec(model.spec, config.max_pixels),
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
