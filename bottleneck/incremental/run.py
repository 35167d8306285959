"""One run that brings a table up to date with its source: the same choreography for every job.

Find the table, make sure that no other run holds it, list the source, plan, stop here if that is
all that was asked for, compute, commit, remember. What is different between jobs is a
:class:`~bottleneck.incremental.job.TableJob`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from bottleneck.cluster import connection, nodes
from bottleneck.console.interruption import Interruption
from bottleneck.errors import ConflictError
from bottleneck.images.statuses import UNAVAILABLE
from bottleneck.incremental.estimate import estimate_run
from bottleneck.incremental.job import C, S, TableJob
from bottleneck.incremental.known_archives import remember_archives
from bottleneck.incremental.loop import RunLoop
from bottleneck.incremental.plan import Plan, make_plan
from bottleneck.incremental.summary import Summary
from bottleneck.spec import FeatureSpec
from bottleneck.table.lease import Lease, require_free
from bottleneck.table.table import ImageTable

_log = logging.getLogger(__name__)

#: Attempts of a run whose plan another run's commit made out of date.
_CONFLICT_ATTEMPTS = 3


def bring_up_to_date(job_type: type[TableJob[C, S]], config: C, summary: S) -> S:
    """Brings a table up to date; plans again when another run commits first.

    Args:
        job_type: What is computed, from what.
        config: Configuration of the run.
        summary: Summary that the run fills.

    Returns:
        The summary. An interrupted run returns too, with outcome ``interrupted``.

    Raises:
        BottleneckError: Something the user can mend, or the run could not finish; everything
            committed before stays.
    """
    began = time.monotonic()
    with Interruption() as interruption:
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                _attempt(job_type, config, summary, interruption)
                break
            except ConflictError as e:
                if attempt + 1 == _CONFLICT_ATTEMPTS:
                    raise
                _log.warning("%s; planning again", e)
                # The run that won may hold the lease now; --take-over was not meant for it.
                config = replace(config, take_over=False)
                # Images that were unavailable are counted again by the next attempt.
                summary.failed.pop(UNAVAILABLE, None)
        if interruption.signal is not None:
            summary.outcome, summary.signal = "interrupted", interruption.signal
    summary.seconds = time.monotonic() - began
    return summary


def _attempt(
    job_type: type[TableJob[C, S]], config: C, summary: S, interruption: Interruption
) -> None:
    table = job_type.table_type.find(config.table_uri)
    if table is not None and not config.dry_run:
        require_free(table.log, take_over=config.take_over)
    snapshot = table.snapshot() if table is not None else None
    job = job_type(config, summary, interruption, snapshot)

    with summary.timing("list"):
        source = job.source()
    summary.listed, summary.skipped = source.images.num_rows, dict(source.skipped)

    spec = job.spec()
    with summary.timing("plan"):
        plan = make_plan(
            source.images,
            snapshot,
            keep_deleted=config.keep_deleted,
            retry_failed=config.retry_failed,
            hasher=job.hash_images if source.files else None,
            rows=source.rows,
        )
        plan = job.arrange(plan)
    layout, archives = source.layout, source.archives
    # Listings of millions of images need not stay in memory while the new ones are computed.
    del source
    _count_plan(plan, spec, summary)
    if config.dry_run:
        summary.outcome = "planned"
        commits = table.commits() if table is not None else []
        summary.estimate = estimate_run(plan, spec, commits, config.node_hour_price)
        return
    if plan.empty:
        summary.outcome = "unchanged"
    else:
        table = _compute(job, table, plan, spec)
        if interruption.signal is not None:
            return
    if table is not None:
        remember_archives(config.table_uri, layout, archives)
        job.finish(table)


def _compute(
    job: TableJob[C, S], table: ImageTable | None, plan: Plan, spec: FeatureSpec
) -> ImageTable:
    """Computes and commits what is planned; makes the table if there is none yet."""
    stages = job.stages()
    start = job.snapshot
    if table is None:
        mark = Lease.first_mark(job.summary.run)
        table = job.table_type.create(job.config.table_uri, spec, mark)
    if start is None:
        start = table.snapshot()
    loop = RunLoop(job.config, table, start, plan, stages, job.summary, job.interruption)
    loop.execute()
    return table


def _count_plan(plan: Plan, spec: FeatureSpec, summary: Summary) -> None:
    """Records in the summary what a plan found."""
    summary.new, summary.changed, summary.retried = plan.new, plan.changed, plan.retried
    summary.reused, summary.removed, summary.unchanged = plan.reused, plan.removed, plan.unchanged
    summary.precision = spec.precision
    summary.nodes = len(nodes.nodes()) if connection.connected() else 0
    if plan.snapshot is not None:
        summary.version, summary.rows = plan.snapshot.version, plan.snapshot.rows
