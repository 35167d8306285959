"""Counters that a run exports to Prometheus while it computes, served by Ray on each node.

Only the driver counts, from what workers report about finished work. So the figures equal those of
the run's summary, and nothing is counted twice when a lost worker's images are computed again. Ray
passes them to the agent of the driver's node every ten seconds and once more when the driver ends,
and the agent keeps serving them for as long as its node is up. Without an agent they go nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray.util.metrics import Counter

from bottleneck.pipeline.writing import Written


@dataclass(frozen=True)
class Metric:
    """One counter.

    Attributes:
        name: Name of the counter in Ray.
        description: Quantity that is counted, with the unit.
        labels: Names of the labels that distinguish its series.
    """

    name: str
    description: str
    labels: tuple[str, ...] = ("run",)

    @property
    def exported_name(self) -> str:
        """Name in Prometheus: Ray adds the prefix, Prometheus's client library the suffix."""
        return f"ray_{self.name}_total"


IMAGES = Metric("bottleneck_images", "Images done, by status.", ("run", "status"))
BYTES_READ = Metric("bottleneck_bytes_read", "Bytes of image files read.")
BYTES_WRITTEN = Metric("bottleneck_bytes_written", "Bytes of committed shards.")
COMMITS = Metric("bottleneck_commits", "Commits made.")

#: Seconds by stage, added up over workers.
STAGE_SECONDS = {
    stage: Metric(f"bottleneck_{stage}_seconds", f"Seconds workers spent on {stage}.")
    for stage in ("fetch", "decode", "inference")
}

METRICS = (IMAGES, BYTES_READ, BYTES_WRITTEN, COMMITS, *STAGE_SECONDS.values())


class RunMetrics:
    """Counters of one run; Ray must be connected.

    Args:
        run: Identity of the run, the label `run` of every series.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._counters = {
            metric: Counter(metric.name, metric.description, metric.labels) for metric in METRICS
        }

    def count_written(self, written: Written) -> None:
        """Counts the images of a shard that a worker has written, failed ones included."""
        for status, images in written.statuses.items():
            self._add(IMAGES, images, status=status)
        self._add(BYTES_READ, written.read_bytes)
        for stage, metric in STAGE_SECONDS.items():
            self._add(metric, written.stage_s.get(stage, 0.0))

    def count_commit(self, shard_bytes: int) -> None:
        """Counts a commit that added ``shard_bytes`` bytes of shards."""
        self._add(COMMITS, 1)
        self._add(BYTES_WRITTEN, shard_bytes)

    def _add(self, metric: Metric, amount: float, **labels: str) -> None:
        # Ray refuses to count zero.
        if amount > 0:
            self._counters[metric].inc(amount, {"run": self._run, **labels})
