"""Ray heads in processes of their own, started again where a loaded machine is too slow for one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

RAY = str(Path(sys.executable).with_name("ray"))

#: On a loaded machine Ray exceeds its own time limit for a start.
_ATTEMPTS = 3
_START_S = 180.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


class Head:
    """A head as `ray start --head` makes it, with a folder of its own; not started yet.

    Everything of it descends from one process: a `ray stop` would end any other Ray of the machine,
    and the end of Ray's `Cluster` removes that one's address file.

    Args:
        flags: More flags of `ray start`.
        is_up: Tells whether a head that was started can be used; default what it prints.
    """

    def __init__(self, *flags: str, is_up: Callable[[Head], bool] | None = None) -> None:
        # Short: the names of its sockets may have 107 characters.
        self.home = Path(tempfile.mkdtemp(prefix="bn-"))
        port = free_port()
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | {"RAY_AUTH_MODE": "disabled"}
        self._is_up = is_up or (lambda head: "Ray runtime started" in head.log)
        # The agent's default port is taken where another Ray runs: it would then take no job.
        self._command = [
            RAY, "start", "--head", "--block", f"--port={port}", f"--temp-dir={self.home}",
            f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats", *flags,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def starts(self) -> bool:
        """Starts it and waits until it is up; False when it gave up."""
        with (self.home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while not self._is_up(self):
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def processes(self, name: str) -> list[psutil.Process]:
        """Its processes of this name, as `gcs_server`."""
        assert self._process is not None
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.name() == name:
                    found.append(process)
        return found

    def end(self) -> None:
        if self._process is not None:
            children: list[psutil.Process] = []
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._process.pid).children(recursive=True)
            # `--block` ends what it started when it is told to; what is left is ended here.
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(3)
            for each in [*children, self._process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def running(make: Callable[[], Head]) -> Iterator[Head]:
    """A head that is up, of the first start that succeeds."""
    for attempt in range(_ATTEMPTS):
        head = make()
        try:
            if head.starts():
                yield head
                return
            assert attempt + 1 < _ATTEMPTS, head.log
        finally:
            head.end()


@contextlib.contextmanager
def cluster_of(**head: Any) -> Iterator[Cluster]:
    """Ray's own cluster for tests, that nodes can be added to and removed from."""
    cluster = Cluster()
    try:
        add_node(cluster, include_dashboard=False, **head)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster, **node: Any) -> Any:
    """Adds a node; its first one is the head."""
    for attempt in range(_ATTEMPTS):
        before = set(cluster.list_all_nodes())
        try:
            return cluster.add_node(**node)
        except Exception:  # a slow start is a bare one
            for half_started in set(cluster.list_all_nodes()) - before:
                cluster.remove_node(half_started, allow_graceful=False)
            if attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")
