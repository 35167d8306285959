"""The nodes of a Ray cluster: those that are alive and those that may be added."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bottleneck.cluster.ray_internals import (
    DRAINED_IDLE,
    HEAD_RESOURCE,
    LAUNCHER_CONFIG,
    NODE_TYPE_LABEL,
    kuberay_autoscaling_config,
)
from bottleneck.console.redaction import one_line

_log = logging.getLogger(__name__)

#: File in which Kubernetes tells a pod its namespace.
_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


def nodes() -> list[Mapping[str, float]]:
    """Returns the resources of each node that is alive."""
    return [node["Resources"] for node in _alive()]


def possible_nodes() -> list[Mapping[str, float]]:
    """Returns the resources of each node that is alive and of each that may be added.

    A node type counts as often as the cluster's autoscaler may start it. Without an autoscaler no
    node may be added.
    """
    alive = _alive()
    count = Counter(_node_type(node) for node in alive)
    found: list[Mapping[str, float]] = [node["Resources"] for node in alive]
    for name, (resources, most) in _node_types(alive).items():
        found += [resources] * (most - count[name])
    return found


def _node_type(node: Mapping[str, Any]) -> str:
    return str((node.get("Labels") or {}).get(NODE_TYPE_LABEL, ""))


def _node_types(alive: Sequence[Mapping[str, Any]]) -> dict[str, tuple[dict[str, float], int]]:
    """Returns (resources, maximum number) by node type; nothing without an autoscaler."""
    head = next((node for node in alive if HEAD_RESOURCE in node["Resources"]), None)
    if head is None or not _node_type(head):
        return {}
    where = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    reading = _read_node_types.options(scheduling_strategy=where).remote(_node_type(head))
    try:
        types: dict[str, tuple[dict[str, float], int]] = ray.get(reading)
    except ray.exceptions.RayError as e:
        _log.warning(
            "nodes that may be added are not known, only those that are up: %s", one_line(e, "last")
        )
        return {}
    return types


@ray.remote(num_cpus=0)
def _read_node_types(head_type: str) -> dict[str, tuple[dict[str, float], int]]:
    """Reads the autoscaler's configuration on the head node; Ray has no API for it.

    A configuration of another cluster, whose head this machine was before, is ignored.
    """
    launcher = Path(LAUNCHER_CONFIG).expanduser()
    if launcher.exists():
        config = yaml.safe_load(launcher.read_text())
    elif "RAY_CLUSTER_NAME" in os.environ and Path(_NAMESPACE).exists():
        namespace = Path(_NAMESPACE).read_text().strip()
        config = kuberay_autoscaling_config(os.environ["RAY_CLUSTER_NAME"], namespace)
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
    """Returns the IDs of the nodes that are alive."""
    return frozenset(node["NodeID"] for node in _alive())


def lost_nodes(before: frozenset[str]) -> int:
    """Returns how many of these nodes are gone, except those removed because they were idle.

    Args:
        before: IDs of nodes, from :func:`node_ids`.
    """
    not_lost = {
        node["NodeID"]
        for node in _known()
        if node["Alive"] or node.get("DeathReason") == DRAINED_IDLE
    }
    return len(before - not_lost)


def _known() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def _alive() -> list[dict[str, Any]]:
    return [node for node in _known() if node["Alive"]]
