"""The extract job: source → plan → pipeline → commits.

:func:`extract` reads like the run itself; the loop that does the work is
:mod:`bottleneck.incremental.loop`.
"""

from __future__ import annotations

import time
from dataclasses import replace

from bottleneck.backbones.config import BackboneConfig
from bottleneck.cluster import calls, nodes
from bottleneck.cluster.sizing import size_actors, size_batch
from bottleneck.console import logs
from bottleneck.console.interruption import Interruption
from bottleneck.console.redaction import redact_uri
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.known_backbone import knows_backbone, remember_backbone, settings_digest
from bottleneck.extraction.maintenance import maintain
from bottleneck.extraction.stages import BackbonePipeline
from bottleneck.images.options import DecodeOptions
from bottleneck.incremental.estimate import estimate_run
from bottleneck.incremental.known_archives import recall_archives, remember_archives
from bottleneck.incremental.loop import RunLoop
from bottleneck.incremental.plan import make_plan
from bottleneck.incremental.run import connect, count_plan, hash_images, settle
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline import probe
from bottleneck.pipeline.fetching import fetcher_of
from bottleneck.sources.listing import list_images
from bottleneck.spec import FeatureSpec, require_equal
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.lease import Lease, require_free
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable


def extract(config: ExtractConfig) -> Summary:
    """Brings the features table up to date with the source; or vacuums or compacts it, if asked to.

    Args:
        config: What to do.

    Returns:
        What was done. An interrupted run returns too, with outcome ``interrupted``.

    Raises:
        BottleneckError: Something the user can mend, or the run could not finish; everything
            committed before stays.
    """
    if config.maintenance:
        return maintain(config)
    summary = Summary(
        run=logs.begin_run(),
        source_uri=redact_uri(normalize_uri(config.images)),
        table_uri=redact_uri(normalize_uri(config.features)),
    )
    settle(config, lambda *attempt: _extract_once(summary, *attempt), summary)
    return summary


def _extract_once(summary: Summary, config: ExtractConfig, interruption: Interruption) -> None:
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

    backbone = configured_backbone(config, snapshot)
    stages: BackbonePipeline | None = None
    if snapshot is not None and knows_backbone(snapshot, _settings(config, backbone)):
        # What there is to do can be told without a cluster, and often that is nothing.
        spec = snapshot.spec
    else:
        spec, stages = prepare(config, backbone, snapshot, interruption)

    began = time.perf_counter()
    plan = make_plan(
        listing.images,
        snapshot,
        keep_deleted=config.keep_deleted,
        retry_failed=config.retry_failed,
        hasher=lambda work: hash_images(config, work, summary, interruption),
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
    else:
        if stages is None:
            spec, stages = prepare(config, backbone, snapshot, interruption)
        if table is None:
            table = FeaturesTable.create(table_uri, spec, Lease.first_mark(summary.run))
        start = table.snapshot() if snapshot is None else snapshot
        RunLoop(config, table, start, plan, stages, summary, interruption).execute()
        if interruption.signal is not None:
            return
    if table is not None:
        remember_archives(table_uri, config.layout, listing.archives)
    if stages is not None and table is not None:
        remember_backbone(table_uri, _settings(config, stages.backbone), spec)


def configured_backbone(config: ExtractConfig, snapshot: Snapshot | None) -> BackboneConfig:
    """Turns flags into a backbone; `auto` precision is that of the table, if there is one."""
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
    if backbone.precision != "auto" or snapshot is None:
        return backbone
    return replace(backbone, precision=snapshot.spec.precision)


def decode_options(config: ExtractConfig, backbone: BackboneConfig) -> DecodeOptions:
    """Turns flags into the options that decode images for a backbone."""
    return backbone.decode_options(
        resize=config.resize,
        decode=config.decode,
        interpolation=config.interpolation,
        max_pixels=config.max_pixels,
    )


def prepare(
    config: ExtractConfig,
    backbone: BackboneConfig,
    snapshot: Snapshot | None,
    interruption: Interruption,
) -> tuple[FeatureSpec, BackbonePipeline]:
    """Builds the backbone once, on a worker, to learn what it makes and needs.

    Returns:
        The specification of its features, and the stages that make them.

    Raises:
        BackboneError: It cannot be built.
        SpecMismatchError: Its features are not of the table's kind.
    """
    connect(config, interruption)
    actors = size_actors(config, nodes.possible_nodes())
    where = {"num_cpus": 1.0}
    if backbone.precision == "auto":
        # What that means is up to the hardware that actors will have.
        where = {"num_cpus": actors.cpus, "num_gpus": actors.gpus}
    task = probe.describe.options(**where)
    decode = decode_options(config, backbone)
    described: probe.Description = calls.get_all([task.remote(backbone, decode)])[0]
    spec = described.spec
    if snapshot is not None:
        require_equal(spec, snapshot.spec, redact_uri(snapshot.table_uri))
    return spec, BackbonePipeline(
        backbone=replace(backbone, precision=spec.precision),
        decode=decode,
        batch_size=size_batch(config.batch_size, actors.gpus, spec.image_size),
        fetcher=fetcher_of(config),
        row_length=spec.length,
        weights_bytes=described.weights_bytes,
    )


def _settings(config: ExtractConfig, backbone: BackboneConfig) -> str:
    return settings_digest(backbone, decode_options(config, backbone))
