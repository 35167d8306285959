"""Calls of Ray tasks, a bounded number at a time, and the errors that they end with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import ray

from bottleneck.cluster import nodes
from bottleneck.console.redaction import one_line
from bottleneck.errors import BottleneckError, RunFailedError

_log = logging.getLogger(__name__)

#: Seconds that tasks may wait before a warning that there is no node for them.
_PATIENCE_S = 10.0


def get_bounded(calls: Iterable[Any], most: int) -> list[Any]:
    """Runs tasks, a bounded number at a time.

    Args:
        calls: References of the tasks; iterating starts them.
        most: Maximum number of tasks in flight.

    Returns:
        The results, in order.

    Raises:
        BottleneckError: As :func:`get_all`.
    """
    references: list[Any] = []
    running: list[Any] = []
    for reference in calls:
        references.append(reference)
        running.append(reference)
        if len(running) >= most:
            _, running = ray.wait(running)
    return get_all(references)


def get_all(references: Iterable[Any]) -> list[Any]:
    """Waits for tasks, with a warning if no node is up that could run them.

    Args:
        references: References of the tasks.

    Returns:
        The results, in order.

    Raises:
        BottleneckError: An error of this package that a task raised, without Ray's traceback.
        RunFailedError: A task failed for another reason.
    """
    wanted = list(references)
    if wanted:
        _, waiting = ray.wait(wanted, num_returns=len(wanted), timeout=_PATIENCE_S)
        if waiting and not any(node.get("CPU", 0) >= 1 for node in nodes.nodes()):
            _log.warning("no node that computes is up; waiting for the cluster to start one")
    try:
        return list(ray.get(wanted))
    except ray.exceptions.RayError as e:
        raise task_error(e) from e


def task_error(error: BaseException) -> BottleneckError:
    """Returns the error of this package that a Ray error wraps, or one that describes it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ray.exceptions.RayTaskError) and isinstance(seen.cause, BaseException):
            seen = seen.cause
            continue
        if isinstance(seen, BottleneckError):
            return seen
        # Ray Data chains errors of its own that have no message.
        error, seen = seen if str(seen).strip() else error, seen.__cause__
    return RunFailedError(
        f"a worker failed: {one_line(error, 'last', kind=True)}; what was committed before stays, "
        "run again to continue"
    )
