"""How training workers find one another: ``TF_CONFIG``, without TensorFlow in the driver.

Ray's own ``TensorflowTrainer`` does the same, but importing it imports TensorFlow into the driver
and the controller as well, five seconds of processor time each and memory on a head node that
trains nothing, and it asks workers for the older Keras.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


@dataclass
class TensorflowCluster(BackendConfig):
    """Tells every worker the addresses of all (``tf.distribute``'s ``TF_CONFIG``)."""

    @property
    def backend_cls(self) -> type[Any]:
        """What Ray Train calls when workers start."""
        return _Addresses


class _Addresses(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        ray.get(
            [
                worker_group.execute_single_async(rank, _set_tf_config, addresses, rank)
                for rank in range(len(worker_group))
            ]
        )


def _free_address() -> str:
    """Returns this worker's address with a port that nothing listens on."""
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _set_tf_config(addresses: list[str], rank: int) -> None:
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
