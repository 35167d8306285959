"""The extract job: source → plan → pipeline → commits.

:func:`extract` reads like the run itself; the loop that does the work is
:mod:`bottleneck.run_loop`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from bottleneck import cluster, logs, tasks
from bottleneck.backbone_registry import BackboneConfig
from bottleneck.config import ExtractConfig
from bottleneck.errors import ConflictError
from bottleneck.estimate import estimate_run
from bottleneck.features import FeaturesTable, Snapshot
from bottleneck.images import DecodeOptions
from bottleneck.interruption import Interruption
from bottleneck.known_archives import recall_archives, remember_archives
from bottleneck.lease import Lease, require_free
from bottleneck.pipeline import BackbonePipeline
from bottleneck.placement import ActorSizing, size_actors, size_batch
from bottleneck.plan import Plan, make_plan
from bottleneck.run_loop import RunLoop
from bottleneck.sources import list_images
from bottleneck.spec import FeatureSpec, require_equal
from bottleneck.storage import normalize_uri, redact_uri
from bottleneck.summary import Summary

_log = logging.getLogger(__name__)

#: How often a run plans again because another one committed first.
_CONFLICT_ATTEMPTS = 3


def extract(config: ExtractConfig) -> Summary:
    """Brings the features table up to date with the source.

    Args:
        config: What to do.

    Returns:
        What was done. An interrupted run returns too, with outcome ``interrupted``.

    Raises:
        BottleneckError: Something the user can mend, or the run could not finish; everything
            committed before stays.
    """
    summary = Summary(
        run=logs.begin_run(),
        images_uri=redact_uri(normalize_uri(config.images)),
        features_uri=redact_uri(normalize_uri(config.features)),
    )
    settle(lambda interruption: _extract_once(config, summary, interruption), summary)
    return summary


def settle(attempt_once: Callable[[Interruption], None], summary: Summary) -> None:
    """Runs a job to its end: again when another run committed first, and interruptible.

    Args:
        attempt_once: Plans and runs; raises :class:`ConflictError` when it was overtaken.
        summary: Where time and a signal are noted.
    """
    began = time.monotonic()
    with Interruption() as interruption:
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                attempt_once(interruption)
                break
            except ConflictError as e:
                if attempt + 1 == _CONFLICT_ATTEMPTS:
                    raise
                _log.warning("%s; planning again", e)
        if interruption.signal is not None:
            summary.outcome, summary.signal = "interrupted", interruption.signal
    summary.seconds = time.monotonic() - began


def _extract_once(config: ExtractConfig, summary: Summary, interruption: Interruption) -> None:
    table_uri = normalize_uri(config.features)
    table = FeaturesTable.find(table_uri)
    if table is not None and not config.dry_run:
        require_free(table.log, take_over=config.take_over)
    snapshot = table.snapshot() if table else None
    began = time.perf_counter()
    known = recall_archives(snapshot, config.layout) if snapshot else None
    listing = list_images(config.images, layout=config.layout, known_archives=known)
    summary.add_seconds("list", time.perf_counter() - began)
    summary.listed, summary.skipped = listing.images.num_rows, dict(listing.skipped)

    cluster.connect(config.address)
    interruption.reinstall()
    actors = size_actors(config, cluster.possible_nodes())
    backbone = resolve_backbone(config, snapshot, actors)
    described = tasks.get_all(
        [tasks.describe.remote(backbone, config.resize, config.interpolation, config.decode)]
    )[0]
    spec = described.spec
    if snapshot is not None:
        require_equal(spec, snapshot.spec, redact_uri(table_uri))
    stages = pipeline_config(config, backbone, described, actors.gpus)

    began = time.perf_counter()
    plan = make_plan(
        listing.images,
        snapshot,
        keep_deleted=config.keep_deleted,
        retry_failed=config.retry_failed,
        hasher=lambda work: tasks.hash_images(work, stages),
    )
    summary.add_seconds("plan", time.perf_counter() - began)
    count_plan(plan, spec, summary)
    if config.dry_run:
        summary.outcome = "planned"
        summary.estimate = estimate_run(
            plan, spec, table.commits() if table else [], config.node_hour_price
        )
        return
    if plan.empty:
        summary.outcome = "unchanged"
        return
    if table is None:
        table = FeaturesTable.create(table_uri, spec, Lease.first_mark(summary.run))
    start = table.snapshot() if snapshot is None else snapshot
    run = RunLoop(config, table, start, plan, stages, summary, interruption)
    run.execute()
    if interruption.signal is None:
        remember_archives(table_uri, config.layout, listing.archives)


def count_plan(plan: Plan, spec: FeatureSpec, summary: Summary) -> None:
    """Notes in the summary what a plan found."""
    summary.new, summary.changed, summary.retried = plan.new, plan.changed, plan.retried
    summary.reused, summary.removed, summary.unchanged = plan.reused, plan.removed, plan.unchanged
    summary.precision = spec.precision
    summary.nodes = len(cluster.nodes())
    if plan.snapshot is not None:
        summary.version, summary.rows = plan.snapshot.version, plan.snapshot.rows


def resolve_backbone(
    config: ExtractConfig, snapshot: Snapshot | None, actors: ActorSizing
) -> BackboneConfig:
    """Turns flags into a backbone, `auto` precision into the table's or the workers' own."""
    backbone = BackboneConfig(
        name=config.backbone,
        alpha=config.alpha,
        layer=config.layer,
        pooling=config.pooling,
        image_size=config.image_size,
        preprocessing=config.preprocessing,
        precision=config.precision,
        weights=config.weights,
        weights_sha256=config.weights_sha256,
    )
    if backbone.precision != "auto":
        return backbone
    if snapshot is not None:
        return replace(backbone, precision=snapshot.spec.precision)
    probe = tasks.native_precision.options(num_cpus=actors.cpus, num_gpus=actors.gpus)
    return replace(backbone, precision=tasks.get_all([probe.remote()])[0])


def pipeline_config(
    config: ExtractConfig, backbone: BackboneConfig, described: tasks.Description, gpus: float
) -> BackbonePipeline:
    """Collects what the pipeline's stages need.

    Args:
        config: The job's.
        backbone: Without anything left to be decided.
        described: What it is.
        gpus: GPUs of an actor.
    """
    spec = described.spec
    height, width = spec.image_size
    return BackbonePipeline(
        backbone=backbone,
        decode=DecodeOptions(
            height=height,
            width=width,
            resize=config.resize,
            mode=config.decode,
            interpolation=config.interpolation,
            max_pixels=config.max_pixels,
        ),
        batch_size=size_batch(config.batch_size, gpus, spec.image_size),
        fetch_concurrency=config.fetch_concurrency,
        fetch_timeout_s=config.fetch_timeout_s,
        max_image_bytes=int(config.max_image_mb * 1e6),
        row_length=spec.length,
        weights_bytes=described.weights_bytes,
    )
