"""Maintenance apart from the nightly run: deleting files no version needs, merging small shards."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bottleneck.cluster import connection
from bottleneck.config.flags import MaintenanceFlags
from bottleneck.console import logs
from bottleneck.console.interruption import Interruption
from bottleneck.console.redaction import redact_uri
from bottleneck.incremental.counters import RunMetrics
from bottleneck.incremental.summary import Summary, history_entry
from bottleneck.pipeline import writing
from bottleneck.table.lease import Lease, require_free
from bottleneck.table.merging import ShardMerge
from bottleneck.table.shards import Shard
from bottleneck.table.table import FeaturesTable, ImageTable

#: Share of the target size below which a shard is merged.
_SMALL_SHARE = 0.5

#: Number of merges per commit; a conflict with a nightly run costs at most these.
_MERGES_PER_COMMIT = 16


def maintain(config: MaintenanceFlags) -> Summary:
    """Runs the step that the configuration asks for, ``vacuum`` or ``compact``.

    Raises:
        BottleneckError: There is no table, or storage refuses.
    """
    with Interruption() as interruption:
        return _maintain(config, interruption)


def _maintain(config: MaintenanceFlags, interruption: Interruption) -> Summary:
    began, run = time.monotonic(), logs.begin_run()
    table = FeaturesTable.open(config.table_uri)
    summary = Summary(run=run, source_uri="", table_uri=redact_uri(table.uri))
    require_free(table.log, take_over=config.take_over)
    if config.vacuum is not None:
        summary.deleted_files = table.vacuum(config.vacuum)
        summary.outcome = "vacuumed"
    else:
        groups = small_neighbors(table.snapshot().shards, config.shard_mb * 1e6)
        if groups:
            connection.connect(config.address, interruption)
            with Lease(table.log, summary.run, take_over=config.take_over) as lease:
                compact(table, groups, summary, lease)
        summary.outcome = "compacted"
    snapshot = table.snapshot()
    summary.version, summary.rows = snapshot.version, snapshot.rows
    summary.seconds = time.monotonic() - began
    return summary


def compact(
    table: ImageTable, groups: Sequence[Sequence[Shard]], summary: Summary, lease: Lease
) -> None:
    """Merges each group of shards into one.

    Rows and their features stay exactly as they are; readers of older versions keep their files
    until a vacuum.

    Args:
        table: The table.
        groups: Groups that :func:`small_neighbors` found in its newest version.
        summary: Summary that counts commits and bytes.
        lease: Lease of the run, which every commit renews.

    Raises:
        ConflictError: Another run committed first; earlier merges stay.
    """
    snapshot = table.snapshot()
    metrics = RunMetrics(summary.run)
    for start in range(0, len(groups), _MERGES_PER_COMMIT):
        some = groups[start : start + _MERGES_PER_COMMIT]
        merged = writing.merge_all(
            table.uri,
            snapshot.row_format,
            [ShardMerge([shard.path for shard in group]) for group in some],
        )
        added = [shard for shard in merged if shard is not None]
        written = sum(shard.size_bytes for shard in added)
        mark = lease.next_mark(last=start + _MERGES_PER_COMMIT >= len(groups))
        snapshot = table.commit(
            base=snapshot,
            add=added,
            remove=[shard for group in some for shard in group],
            run=summary.run,
            stats=history_entry(summary, compacted=sum(map(len, some)), bytes_written=written),
            mark=mark,
        )
        lease.record(mark)
        metrics.count_commit(written)
        summary.commits += 1
        summary.bytes_written += written


def small_neighbors(shards: Sequence[Shard], target_bytes: float) -> list[list[Shard]]:
    """Groups small shards, in image order, so that each group makes about one full shard.

    Groups of one are left out: copying them would change nothing.
    """
    groups: list[list[Shard]] = [[]]
    size = 0.0
    for shard in shards:
        if shard.size_bytes >= _SMALL_SHARE * target_bytes:
            continue
        if size + shard.size_bytes > target_bytes:
            groups.append([])
            size = 0.0
        groups[-1].append(shard)
        size += shard.size_bytes
    return [group for group in groups if len(group) > 1]
