"""Steps that the extract and the predict job share around their plan and their loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import pyarrow as pa

from bottleneck import cluster, tasks
from bottleneck.config import ExtractConfig
from bottleneck.errors import ConflictError
from bottleneck.fetch_stage import FetchFlags, fetcher_of
from bottleneck.interruption import Interruption
from bottleneck.plan import Plan
from bottleneck.predict_config import PredictConfig
from bottleneck.schemas import UNAVAILABLE
from bottleneck.spec import FeatureSpec
from bottleneck.summary import Summary

_log = logging.getLogger(__name__)

#: How often a run plans again because another one committed first.
_CONFLICT_ATTEMPTS = 3


C = TypeVar("C", ExtractConfig, PredictConfig)


class JobFlags(FetchFlags, Protocol):
    """The flags that these steps look at, of whatever job."""

    @property
    def address(self) -> str | None:
        """Of the cluster."""


def settle(config: C, attempt_once: Callable[[C, Interruption], None], summary: Summary) -> None:
    """Runs a job to its end: again when another run committed first, and interruptible.

    Args:
        config: What to do.
        attempt_once: Plans and runs; raises :class:`ConflictError` when it was overtaken.
        summary: Where time and a signal are noted.
    """
    began = time.monotonic()
    with Interruption() as interruption:
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                attempt_once(config, interruption)
                break
            except ConflictError as e:
                if attempt + 1 == _CONFLICT_ATTEMPTS:
                    raise
                _log.warning("%s; planning again", e)
                # Who was first may hold the table now, and is not whom we were to take it from.
                config = replace(config, take_over=False)
                # Those are computed now, or counted again.
                summary.failed.pop(UNAVAILABLE, None)
        if interruption.signal is not None:
            summary.outcome, summary.signal = "interrupted", interruption.signal
    summary.seconds = time.monotonic() - began


def connect(config: JobFlags, interruption: Interruption) -> None:
    """Connects to Ray, which takes the signals for itself, unless that is done."""
    cluster.connect(config.address)
    interruption.reinstall()


def hash_images(
    config: JobFlags, work: pa.Table, summary: Summary, interruption: Interruption
) -> pa.Table:
    """Runs :func:`bottleneck.tasks.hash_images` on the cluster, connecting to it if need be."""
    connect(config, interruption)
    hashes, read_bytes = tasks.hash_images(work, fetcher_of(config))
    summary.bytes_read += read_bytes
    return hashes


def count_plan(plan: Plan, spec: FeatureSpec, summary: Summary) -> None:
    """Notes in the summary what a plan found."""
    summary.new, summary.changed, summary.retried = plan.new, plan.changed, plan.retried
    summary.reused, summary.removed, summary.unchanged = plan.reused, plan.removed, plan.unchanged
    summary.precision = spec.precision
    summary.nodes = len(cluster.nodes()) if cluster.connected() else 0
    if plan.snapshot is not None:
        summary.version, summary.rows = plan.snapshot.version, plan.snapshot.rows
