"""Steps that the extract and the predict job share around their plan and their loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from bottleneck import cluster, tasks
from bottleneck.errors import ConflictError
from bottleneck.interruption import Interruption
from bottleneck.pipeline import FetchFlags, fetcher_of
from bottleneck.plan import Plan
from bottleneck.spec import FeatureSpec
from bottleneck.summary import Summary

_log = logging.getLogger(__name__)

#: How often a run plans again because another one committed first.
_CONFLICT_ATTEMPTS = 3


class JobFlags(FetchFlags, Protocol):
    """The flags that these steps look at, of whatever job."""

    @property
    def address(self) -> str | None:
        """Of the cluster."""


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


def connect(config: JobFlags, interruption: Interruption) -> None:
    """Connects to Ray, which takes the signals for itself, unless that is done."""
    cluster.connect(config.address)
    interruption.reinstall()


def hash_images(config: JobFlags, work: pa.Table, interruption: Interruption) -> pa.Table:
    """Runs :func:`bottleneck.tasks.hash_images` on the cluster, connecting to it if need be."""
    connect(config, interruption)
    return tasks.hash_images(work, fetcher_of(config))


def count_plan(plan: Plan, spec: FeatureSpec, summary: Summary) -> None:
    """Notes in the summary what a plan found."""
    summary.new, summary.changed, summary.retried = plan.new, plan.changed, plan.retried
    summary.reused, summary.removed, summary.unchanged = plan.reused, plan.removed, plan.unchanged
    summary.precision = spec.precision
    summary.nodes = len(cluster.nodes()) if cluster.connected() else 0
    if plan.snapshot is not None:
        summary.version, summary.rows = plan.snapshot.version, plan.snapshot.rows
