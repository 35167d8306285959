"""The loop of a run: keeps workers busy, has finished blocks written, commits at intervals.

It holds references to blocks, never the blocks, so its memory does not grow with the number of
images.
"""

from __future__ import annotations

import logging
import math
import signal
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from bottleneck.cluster import calls, nodes
from bottleneck.cluster.head_watch import watching_head
from bottleneck.cluster.ray_internals import LOST_ARGUMENTS
from bottleneck.cluster.sizing import ActorSizing, size_actors
from bottleneck.config.flags import RunFlags
from bottleneck.config.values import commit_interval
from bottleneck.console.interruption import Interruption
from bottleneck.console.progress import Progress
from bottleneck.console.redaction import one_line
from bottleneck.errors import BottleneckError, ConflictError, RunFailedError, TableBusyError
from bottleneck.images.statuses import OK, UNAVAILABLE
from bottleneck.incremental.capacity import Capacity, StallWatch
from bottleneck.incremental.commits import Committer
from bottleneck.incremental.counters import RunMetrics
from bottleneck.incremental.plan import Plan
from bottleneck.incremental.pump import Pump
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline import writing
from bottleneck.pipeline.stages import Stages, run_stages
from bottleneck.table.lease import Lease
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import ImageTable

_log = logging.getLogger(__name__)

#: Number of consecutive passes without a committed row after which the run gives up.
_PASSES = 3

#: Seconds that the loop waits for a block or a written shard.
_POLL_S = 0.2


@dataclass
class _Group:
    """Finished blocks that will be one shard."""

    blocks: list[Any]
    rows: int = 0


class RunLoop:
    """The loop of one run: pulls blocks, has them written, commits."""

    def __init__(
        self,
        config: RunFlags,
        table: ImageTable,
        snapshot: Snapshot,
        plan: Plan,
        stages: Stages,
        summary: Summary,
        interruption: Interruption,
    ) -> None:
        self._config = config
        self._table = table
        self._plan = plan
        self._stages = stages
        self._summary = summary
        self._interruption = interruption
        self._interval = commit_interval(config.commit_every)
        self._lease = Lease(table.log, summary.run, take_over=config.take_over)
        self._metrics = RunMetrics(summary.run)
        self._committer = Committer(table, snapshot, plan, summary, self._lease, self._metrics)
        self._progress = Progress(plan.work.num_rows)
        self._group = _Group([])
        self._writing: list[Any] = []
        # Writes that the next commit waits for, once its time has come.
        self._closing: set[Any] | None = None
        self._row_bytes = snapshot.row_bytes
        self._row_format = snapshot.row_format
        self._unavailable = 0
        self._capacity = Capacity(stages)

    def execute(self) -> None:
        """Runs the pipeline until every planned image is committed, or says why not.

        Raises:
            ConflictError: Another run committed first.
            BottleneckError: The run cannot go on; what is finished was committed.
        """
        with watching_head(), self._lease:
            self._execute()

    def _execute(self) -> None:
        work = self._plan.work
        self._interruption.defer()
        try:
            fruitless = 0
            while True:
                before = self._summary.computed
                if work.num_rows:
                    self._pass(work)
                self._drain()
                if self._interruption.signal is not None:
                    self._commit()
                    return
                left = self._committer.left - self._unavailable
                if left <= 0:
                    break
                self._commit()
                fruitless = 0 if self._summary.computed > before else fruitless + 1
                if fruitless == _PASSES:
                    raise RunFailedError(
                        f"{left:,} of {self._plan.work.num_rows:,} images were lost with their "
                        f"workers {_PASSES} times in a row; the others are committed, run again "
                        "to continue"
                    )
                _log.info("computing %s images that were lost with their workers", left)
                work = self._plan.work.filter(pa.array(~self._committer.done))
                self._unavailable = 0
                self._summary.failed.pop(UNAVAILABLE, None)
                self._progress.done = self._summary.computed
            self._note_state()
            self._committer.finish()
            self._progress.committed = self._summary.computed
        except (ConflictError, TableBusyError):
            raise
        except BottleneckError:
            self._save_what_is_written()
            raise
        finally:
            self._progress.close()

    def _pass(self, work: pa.Table) -> None:
        """Pulls blocks until the pipeline ends, is interrupted or fails for a transient reason."""
        actors = size_actors(self._config, nodes.possible_nodes(), self._stages.actor_memory)
        pump = Pump(partial(run_stages, work, self._stages, actors))
        watch = StallWatch()
        try:
            while self._interruption.signal is None:
                block = pump.next(_POLL_S) if self._may_pull() else None
                if block is not None:
                    watch.saw_block()
                    self._hold(*block)
                elif pump.ended:
                    break
                elif lost := watch.nodes_lost():
                    self._progress.say(
                        f"{lost} node(s) were lost and nothing came since; starting the pipeline "
                        "again on those that are left"
                    )
                    return
                self._collect(timeout_s=0 if block is not None or not self._writing else _POLL_S)
                self._commit_if_due()
                self._lease.renew_if_due()
                self._progress.print_if_due(self._waiting_for(actors))
            if self._interruption.signal is not None:
                name = signal.Signals(self._interruption.signal).name
                self._progress.say(f"stopping after {name}: committing what is finished")
            elif pump.error is not None:
                self._raise_unless_transient(pump.error)
        finally:
            pump.stop()

    def _waiting_for(self, actors: ActorSizing) -> str:
        if not self._capacity.has_room_for(actors):
            return "waiting for nodes"
        return "" if self._progress.done else "waiting for workers"

    def _may_pull(self) -> bool:
        return len(self._writing) < self._capacity.writes

    def _hold(self, reference: Any, rows: int) -> None:
        self._group.blocks.append(reference)
        self._group.rows += rows
        self._progress.add(rows)
        if self._group.rows >= self._shard_rows():
            self._write_group()

    def _shard_rows(self) -> int:
        """Returns the rows of a full shard: the target size, bounded by the object store."""
        wanted = math.ceil(self._config.shard_mb * 1e6 / self._row_bytes)
        return max(1, min(self._capacity.held_rows, wanted))

    def _write_group(self) -> None:
        group, self._group = self._group, _Group([])
        if group.blocks:
            self._writing.append(
                writing.write_blocks.remote(self._table.uri, self._row_format, *group.blocks)
            )

    def _collect(self, timeout_s: float) -> None:
        """Collects the shards that workers have written by now."""
        if not self._writing:
            return
        done, self._writing = ray.wait(
            self._writing, num_returns=len(self._writing), timeout=timeout_s
        )
        for reference in done:
            try:
                written: writing.Written = ray.get(reference)
            except ray.exceptions.RayError as e:
                self._raise_unless_transient(e)
                continue
            self._count(written)
            self._committer.add(written)

    def _count(self, written: writing.Written) -> None:
        summary = self._summary
        self._metrics.count_written(written)
        self._progress.failed += sum(written.statuses.values()) - written.statuses.get(OK, 0)
        self._unavailable += written.statuses.get(UNAVAILABLE, 0)
        summary.bytes_read += written.read_bytes
        for stage, seconds in written.stage_s.items():
            summary.add_seconds(stage, seconds)
        if written.shard is not None:
            self._row_bytes = written.shard.size_bytes / written.shard.rows

    def _commit_if_due(self) -> None:
        committer = self._committer
        due = committer.pending_shards >= self._interval.shards
        if self._closing is None and committer.seconds_since_commit >= self._interval.seconds:
            self._write_group()
            self._closing = set(self._writing)
        # Writes begun since then belong to the next commit: in a pipeline that is faster than its
        # storage there is no moment without one.
        if self._closing is not None and self._closing.isdisjoint(self._writing):
            due = True
        if due:
            self._commit()

    def _commit(self) -> None:
        self._closing = None
        self._note_state()
        self._committer.commit()
        self._progress.committed = self._summary.computed

    def _note_state(self) -> None:
        self._summary.images_per_s = self._progress.rate
        self._summary.nodes = max(self._summary.nodes, self._capacity.most_nodes)

    def _drain(self) -> None:
        """Has all finished blocks written, and waits until they are."""
        self._write_group()
        while self._writing:
            self._collect(timeout_s=_POLL_S)
            self._lease.renew_if_due()
            self._progress.print_if_due()

    def _save_what_is_written(self) -> None:
        try:
            self._collect(timeout_s=0)
            self._commit()
        except BottleneckError as e:
            _log.warning("could not commit the last finished shards: %s", e)

    def _raise_unless_transient(self, error: BaseException) -> None:
        """Logs lost workers and objects, whose work is repeated; raises any other error."""
        transient = (
            ray.exceptions.ObjectLostError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.RayActorError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.LocalRayletDiedError,
        )
        seen: BaseException | None = error
        while seen is not None:
            if getattr(seen, "actor_init_failed", False) and LOST_ARGUMENTS not in str(seen):
                # The next one would fail for the same reason, which its last line says.
                raise calls.task_error(seen) from error
            if isinstance(seen, transient):
                # What was lost stands at the beginning, why at the end.
                what, why = one_line(seen, "first"), one_line(seen, "last")
                _log.warning("lost work: %s%s", what, f" {why}" if why != what else "")
                return
            seen = seen.__cause__
        raise calls.task_error(error) from error
