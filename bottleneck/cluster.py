"""Ray itself: connecting to a cluster or starting an embedded one, and what it has room for."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bottleneck.errors import RunFailedError
from bottleneck.uris import redact_text

_log = logging.getLogger(__name__)

#: Starting a local Ray sometimes exceeds its own time limit on a loaded machine.
_START_ATTEMPTS = 3

#: Label of a node that an autoscaler knows: its type in the cluster's configuration.
_NODE_TYPE = "ray.io/node-group"
_HEAD = "node:__internal_head__"

#: ``AUTOSCALER_DRAIN_IDLE`` in Ray's ``NodeDeathInfo``: nothing was lost with the node.
_DRAINED_IDLE = 4

#: Where `ray up` leaves the cluster's configuration on the head node.
_LAUNCHER_CONFIG = "~/ray_bootstrap_config.yaml"

#: Where Kubernetes tells a pod its namespace.
_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

#: What workers need to know of the driver's environment. Credentials are not passed on: they
#: would stand in the cluster's job records; nodes have their own (an instance role).
_PASSED_ON = ("KERAS_BACKEND", "BOTTLENECK_CACHE", "TF_CPP_MIN_LOG_LEVEL")


def connect(address: str | None) -> None:
    """Connects to Ray, unless this process already is.

    Args:
        address: A cluster's address; None takes ``RAY_ADDRESS`` and without that starts an
            embedded Ray that ends with this process.

    Raises:
        RunFailedError: The cluster does not answer or an embedded Ray does not start.
    """
    if ray.is_initialized():
        return
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
                reason = str(e).strip().splitlines()[0][:300] if str(e).strip() else repr(e)
                raise RunFailedError(
                    f"cannot {what}: {reason}; check --address and that the cluster is up"
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


def nodes() -> list[Mapping[str, float]]:
    """Returns the resources of each node that is alive."""
    return [node["Resources"] for node in _alive()]


def possible_nodes() -> list[Mapping[str, float]]:
    """Returns the resources of each node that is alive and of each that may be added.

    A type of nodes counts as often as the cluster's autoscaler may start it. Without an autoscaler
    those that are alive are all.
    """
    alive = _alive()
    count = Counter(_node_type(node) for node in alive)
    found: list[Mapping[str, float]] = [node["Resources"] for node in alive]
    for name, (resources, most) in _node_types(alive).items():
        found += [resources] * (most - count[name])
    return found


def _node_type(node: Mapping[str, Any]) -> str:
    return str((node.get("Labels") or {}).get(_NODE_TYPE, ""))


def _node_types(alive: Sequence[Mapping[str, Any]]) -> dict[str, tuple[dict[str, float], int]]:
    """Returns, by type, what a node has and how many there may be; none without an autoscaler."""
    head = next((node for node in alive if _HEAD in node["Resources"]), None)
    if head is None or not _node_type(head):
        return {}
    where = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    reading = _read_node_types.options(scheduling_strategy=where).remote(_node_type(head))
    try:
        types: dict[str, tuple[dict[str, float], int]] = ray.get(reading)
    except ray.exceptions.RayError as e:
        reason = redact_text(str(e).strip().splitlines()[-1])[:300]
        _log.warning("nodes that may be added are not known, only those that are up: %s", reason)
        return {}
    return types


@ray.remote(num_cpus=0)
def _read_node_types(head_type: str) -> dict[str, tuple[dict[str, float], int]]:
    """Reads the autoscaler's configuration, on the head node: Ray has no call that tells it.

    The configuration of another cluster, that this machine was the head of before, is ignored.
    """
    launcher = Path(_LAUNCHER_CONFIG).expanduser()
    if launcher.exists():
        config = yaml.safe_load(launcher.read_text())
    elif "RAY_CLUSTER_NAME" in os.environ and Path(_NAMESPACE).exists():
        from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

        namespace = Path(_NAMESPACE).read_text().strip()
        name = os.environ["RAY_CLUSTER_NAME"]
        config = AutoscalingConfigProducer(name, namespace)()  # type: ignore[no-untyped-call]
    else:
        return {}
    if config.get("head_node_type") != head_type:
        return {}
    bound = config["max_workers"]
    return {
        name: (kind["resources"], min(bound, kind.get("max_workers", bound)))
        for name, kind in config["available_node_types"].items()
        if name != head_type
    }


def node_ids() -> frozenset[str]:
    """Returns the identities of the nodes that are alive."""
    return frozenset(node["NodeID"] for node in _alive())


def lost_nodes(before: frozenset[str]) -> int:
    """Returns how many of these nodes are gone, not counting those let go because they were idle.

    Args:
        before: What :func:`node_ids` returned.
    """
    not_lost = {
        node["NodeID"]
        for node in _known()
        if node["Alive"] or node.get("DeathReason") == _DRAINED_IDLE
    }
    return len(before - not_lost)


def _known() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def _alive() -> list[dict[str, Any]]:
    return [node for node in _known() if node["Alive"]]
