"""Connecting to a Ray cluster, or starting an embedded one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray

from bottleneck.console.interruption import Interruption
from bottleneck.console.redaction import one_line
from bottleneck.errors import RunFailedError

#: Starting a local Ray sometimes exceeds its own time limit on a loaded machine.
_START_ATTEMPTS = 3

#: What workers need to know of the driver's environment. Credentials are not passed on: they
#: would stand in the cluster's job records; nodes have their own (an instance role).
_PASSED_ON = ("KERAS_BACKEND", "BOTTLENECK_CACHE", "TF_CPP_MIN_LOG_LEVEL")


def connect(address: str | None, interruption: Interruption | None = None) -> None:
    """Connects to Ray, unless this process is connected already.

    Args:
        address: A cluster's address; None takes ``RAY_ADDRESS`` and without that starts an
            embedded Ray that ends with this process.
        interruption: The job's, whose signal handlers are installed again: Ray replaces them.

    Raises:
        RunFailedError: The cluster does not answer or an embedded Ray does not start.
    """
    if not ray.is_initialized():
        _connect(address)
    if interruption is not None:
        interruption.reinstall()


def _connect(address: str | None) -> None:
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    # Ray's core warns on stderr, for each actor pool, that its arguments are in the object store;
    # Ray Data keeps them alive. What matters arrives as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # TensorFlow's start-up notes would be repeated by every worker.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Ray Data would start a process only to count which of its features are used.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    for attempt in range(_START_ATTEMPTS):
        try:
            with _silent_stderr():
                _init(target)
        except Exception as e:  # a slow start is a bare Exception
            ray.shutdown()
            if target != "local" or attempt + 1 == _START_ATTEMPTS:
                what = "start an embedded Ray" if target == "local" else f"reach Ray at {target}"
                raise RunFailedError(
                    f"cannot {what}: {one_line(e, 'first')}; check --address and that the cluster "
                    "is up"
                ) from e
            time.sleep(2**attempt)
        else:
            return


def _init(target: str) -> None:
    options: dict[str, Any]
    if target == "local":
        # The pipeline needs two slots: one decodes while the other computes.
        cpus = max(2, len(os.sched_getaffinity(0)))
        # Its processes have this one's environment. Naming it again as a runtime environment would
        # have each worker started anew, beside those that Ray starts in advance.
        options = {"num_cpus": cpus, "include_dashboard": False}
    else:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        options = {"runtime_env": {"env_vars": environment}}
    ray.init(
        address=target,
        # Workers' output stays in Ray's session logs; what a run has to say, the driver says.
        log_to_driver=False,
        logging_level=logging.ERROR,
        **options,
    )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hides what Ray's native code prints while it starts (which log level it was given)."""
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def connected() -> bool:
    """Returns whether this process is connected to Ray."""
    return bool(ray.is_initialized())
