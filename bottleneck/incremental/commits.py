"""The committer: turns what workers wrote into commits, and old shards into rewritten ones.

Only the driver commits. A commit holds new shards, rewritten old ones without the rows that the
new ones replace, and the removal of the originals, so that readers see each image exactly once at
every version.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bottleneck.images.statuses import OK
from bottleneck.incremental.counters import RunMetrics
from bottleneck.incremental.plan import Identity, Plan
from bottleneck.incremental.summary import Summary, history_entry
from bottleneck.pipeline.writing import Written, merge_all
from bottleneck.table.lease import Lease
from bottleneck.table.merging import ShardMerge
from bottleneck.table.shards import Shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import ImageTable

#: Maximum number of old shards rewritten per commit when nothing else bounds it.
_REWRITES_PER_COMMIT = 64


class Committer:
    """Commits the work of one run.

    Args:
        table: The table.
        snapshot: The version that the plan was made from.
        plan: The plan of the run.
        summary: Summary that counts commits, bytes and rows.
        lease: Lease of the run, which every commit renews.
        metrics: Counters of commits and bytes for monitoring.
    """

    def __init__(
        self,
        table: ImageTable,
        snapshot: Snapshot,
        plan: Plan,
        summary: Summary,
        lease: Lease,
        metrics: RunMetrics,
    ) -> None:
        self.snapshot = snapshot
        self._table = table
        self._lease = lease
        self._summary = summary
        self._metrics = metrics
        self._images = plan.work["image"]
        old = plan.work["old_shard"].fill_null(-1)
        self._old_shard = old.to_numpy().astype(np.int64)
        # Shards of the plan's snapshot, as later rewrites left them; None when nothing is left.
        self._current: dict[str, Shard | None] = {shard.path: shard for shard in snapshot.shards}
        self._shard_paths = [shard.path for shard in snapshot.shards]
        self._drops: dict[str, tuple[str, ...]] = dict(plan.drops)
        self._replacements: dict[str, Mapping[str, Identity]] = dict(plan.replacements)
        self._pending: list[Written] = []
        self.done = np.zeros(plan.work.num_rows, dtype=bool)
        self._last_commit = time.monotonic()

    @property
    def pending_shards(self) -> int:
        """Number of written shards that wait for a commit."""
        return len(self._pending)

    @property
    def left(self) -> int:
        """Number of planned images that are neither committed nor waiting for a commit."""
        waiting = sum(len(written.plan_rows) for written in self._pending)
        return int((~self.done).sum()) - waiting

    @property
    def seconds_since_commit(self) -> float:
        """Seconds since the newest commit, or since the run began if it has none."""
        return time.monotonic() - self._last_commit

    def add(self, written: Written) -> None:
        """Adds a shard that a worker wrote; it stays invisible until :meth:`commit`."""
        self._pending.append(written)

    def commit(self, *, last: bool = False) -> None:
        """Commits the added shards, together with the removal of the rows they replace.

        Args:
            last: Whether this is the run's last commit, with which its lease ends.

        Raises:
            ConflictError: Another run committed first.
            TableError: Storage refuses.
        """
        self._last_commit = time.monotonic()
        pending, self._pending = self._pending, []
        rows = np.concatenate([np.empty(0, np.int64), *(written.plan_rows for written in pending)])
        if not len(rows):
            self._count_failures(pending)
            return
        drops: dict[str, list[str]] = {}
        replacing = rows[self._old_shard[rows] >= 0]
        for row in replacing.tolist():
            path = self._shard_paths[int(self._old_shard[row])]
            drops.setdefault(path, []).append(self._images[row].as_py())
        self._apply(
            [written.shard for written in pending if written.shard is not None],
            drops,
            statuses=_add_up(written.statuses for written in pending),
            read_bytes=sum(written.read_bytes for written in pending),
            last=last and not self._waiting() - drops.keys(),
        )
        self.done[rows] = True
        self._summary.computed += len(rows)
        self._count_failures(pending)

    def _count_failures(self, pending: Iterable[Written]) -> None:
        for status, number in _add_up(written.statuses for written in pending).items():
            if status != OK:
                self._summary.failed[status] = self._summary.failed.get(status, 0) + number

    def finish(self) -> None:
        """Commits the rest and drops or renames the rows that no new shard replaced."""
        self.commit(last=True)
        waiting = sorted(self._waiting())
        for start in range(0, len(waiting), _REWRITES_PER_COMMIT):
            end = start + _REWRITES_PER_COMMIT
            self._apply([], {path: [] for path in waiting[start:end]}, last=end >= len(waiting))

    def _waiting(self) -> set[str]:
        """Returns the shards with rows to drop or rename that no commit has rewritten yet."""
        return {*self._drops, *self._replacements}

    def _apply(
        self,
        add: Sequence[Shard],
        drops: Mapping[str, list[str]],
        *,
        statuses: Mapping[str, int] | None = None,
        read_bytes: int = 0,
        last: bool = False,
    ) -> None:
        """Rewrites shards without the rows that disappear, and commits them with new ones.

        Args:
            add: New shards.
            drops: Shards to rewrite, by their paths in the plan's snapshot → images that new
                shards replace.
            statuses: Number of images by status, for the history.
            read_bytes: Bytes of image files read, for the history.
            last: Whether the lease ends with this commit.
        """
        began = time.perf_counter()
        rewritten = self._rewritten(drops)
        rewrite_s = time.perf_counter() - began
        began = time.perf_counter()
        self._commit(
            [*add, *(shard for shard in rewritten.values() if shard is not None)],
            [shard for path in rewritten if (shard := self._current[path]) is not None],
            statuses=statuses or {},
            read_bytes=read_bytes,
            last=last,
        )
        for path, shard in rewritten.items():
            self._current[path] = shard
            self._drops.pop(path, None)
            self._replacements.pop(path, None)
        self._summary.add_seconds("rewrite", rewrite_s)
        self._summary.add_seconds("commit", time.perf_counter() - began)

    def _rewritten(self, drops: Mapping[str, Sequence[str]]) -> dict[str, Shard | None]:
        """Rewrites shards, by their paths in the plan's snapshot; None where no row is left."""
        merges: dict[str, ShardMerge] = {}
        for path, images in drops.items():
            shard = self._current[path]
            if shard is not None:
                merges[path] = ShardMerge(
                    [shard.path],
                    drop={shard.path: [*images, *self._drops.get(path, ())]},
                    replace={shard.path: self._replacements.get(path, {})},
                )
        shards = merge_all(self._table.uri, self.snapshot.row_format, merges.values())
        return dict(zip(merges, shards, strict=True))

    def _commit(
        self,
        add: Sequence[Shard],
        remove: Sequence[Shard],
        *,
        statuses: Mapping[str, int],
        read_bytes: int,
        last: bool,
    ) -> None:
        """Makes one commit and counts it."""
        written = sum(shard.size_bytes for shard in add)
        mark = self._lease.next_mark(last=last)
        self.snapshot = self._table.commit(
            base=self.snapshot,
            add=add,
            remove=remove,
            run=self._summary.run,
            stats=history_entry(
                self._summary,
                images=self._summary.source_uri,
                statuses=dict(statuses),
                bytes_read=read_bytes,
                bytes_written=written,
                shards_rewritten=len(remove),
            ),
            mark=mark,
        )
        self._lease.record(mark)
        self._metrics.count_commit(written)
        self._summary.commits += 1
        self._summary.bytes_written += written
        self._summary.version = self.snapshot.version
        self._summary.rows = self.snapshot.rows


def _add_up(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return total
