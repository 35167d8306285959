"""Steps that the extract and the predict job share around their plan and their loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from bottleneck.cluster import connection, nodes
from bottleneck.config.flags import JobFlags
from bottleneck.console.interruption import Interruption
from bottleneck.errors import ConflictError
from bottleneck.images.statuses import UNAVAILABLE
from bottleneck.incremental.plan import Plan
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline import hashing
from bottleneck.pipeline.fetching import fetcher_of
from bottleneck.spec import FeatureSpec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_log = logging.getLogger(__name__)

#: How often a run plans again because another one committed first.
_CONFLICT_ATTEMPTS = 3


C = TypeVar("C", bound="DataclassInstance")


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
    connection.connect(config.address)
    interruption.reinstall()


def hash_images(
    config: JobFlags, work: pa.Table, summary: Summary, interruption: Interruption
) -> pa.Table:
    """Runs :func:`bottleneck.pipeline.hashing.hash_images`, connecting to Ray if need be."""
    connect(config, interruption)
    hashes, read_bytes = hashing.hash_images(work, fetcher_of(config))
    summary.bytes_read += read_bytes
    return hashes


def count_plan(plan: Plan, spec: FeatureSpec, summary: Summary) -> None:
    """Notes in the summary what a plan found."""
    summary.new, summary.changed, summary.retried = plan.new, plan.changed, plan.retried
    summary.reused, summary.removed, summary.unchanged = plan.reused, plan.removed, plan.unchanged
    summary.precision = spec.precision
    summary.nodes = len(nodes.nodes()) if connection.connected() else 0
    if plan.snapshot is not None:
        summary.version, summary.rows = plan.snapshot.version, plan.snapshot.rows
