"""Reports that the head of the cluster is gone; Ray itself ends the process without a message."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

import ray

from bottleneck.console import logs

#: Seconds between attempts to reach the head.
_INTERVAL_S = 2.0

#: Failed attempts in a row after which the head is reported as gone.
_MISSED = 2


@contextlib.contextmanager
def watching_head() -> Iterator[None]:
    """Checks within the block whether the head answers, and reports when it does not.

    Ray waits for the head (``RAY_gcs_rpc_server_reconnect_timeout_s``, a minute by default); then
    native code ends the process at once, without giving Python a chance to react.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    ended = threading.Event()
    threading.Thread(target=_watch, args=(host, int(port), ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(host: str, port: int, ended: threading.Event) -> None:
    missed = 0
    while not ended.wait(_INTERVAL_S):
        if _answers(host, port):
            if missed >= _MISSED:
                logs.say("the head of the cluster answers again", event="notice")
            missed = 0
            continue
        missed += 1
        if missed == _MISSED:
            logs.say(
                f"the head of the cluster at {host}:{port} does not answer; unless it comes back, "
                "Ray ends this run soon. What is finished and committed stays: run again when the "
                "cluster is up",
                event="notice",
                level=logging.ERROR,
            )


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=_INTERVAL_S):
            return True
    except OSError:
        return False
