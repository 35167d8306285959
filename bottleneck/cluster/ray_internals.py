"""What this package uses of Ray although Ray's documentation does not promise it.

Nobody else imports Ray's private modules, so that this is the page to read before Ray is upgraded.
Everything here was verified with Ray 2.60.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Ray Data has no public way to stop a dataset that makes no progress. Classes in
# `DataContext.custom_execution_callback_classes` derive from this one; Ray Data calls their
# `on_execution_step` at each step of its scheduling loop, which runs in a thread of the driver,
# and ends the dataset's tasks and actors when the call raises.
from ray.data._internal.execution.execution_callback import ExecutionCallback

__all__ = ["ExecutionCallback"]

#: Resource that only the head node has (`ray._common.constants.HEAD_NODE_RESOURCE_NAME`).
HEAD_RESOURCE = "node:__internal_head__"

#: Label of a node that an autoscaler started: its type in the cluster's configuration.
NODE_TYPE_LABEL = "ray.io/node-group"

#: ``AUTOSCALER_DRAIN_IDLE`` in Ray's ``NodeDeathInfo``: nothing was lost with the node.
#: ``ray.nodes()`` has it as ``DeathReason`` and gives it no name.
DRAINED_IDLE = 4

#: Where `ray up` leaves the cluster's configuration on the head node.
LAUNCHER_CONFIG = "~/ray_bootstrap_config.yaml"

#: Ray's message for an actor whose constructor arguments were lost; the exception tells no cause.
LOST_ARGUMENTS = "arguments for this task could not be computed"


def block_references(dataset: Any) -> Iterator[tuple[Any, int]]:
    """Runs a dataset and yields (reference to a block, its number of rows) as blocks are finished.

    ``Dataset.iter_batches`` would fetch every block to the driver, where nobody needs it;
    ``iter_internal_ref_bundles`` is a developer API that may change with a minor release.
    """
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.num_rows


def data_parallel_trainer() -> type[Any]:
    """Returns the second version of Ray Train's framework-independent trainer.

    ``ray.train.data_parallel_trainer`` has the first version, and the public
    ``ray.train.tensorflow.TensorflowTrainer`` imports TensorFlow into the driver.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    trainer: type[Any] = DataParallelTrainer
    return trainer


def kuberay_autoscaling_config(cluster: str, namespace: str) -> dict[str, Any]:
    """Returns the configuration of a KubeRay cluster's autoscaler, from the Kubernetes API.

    No call of Ray tells what nodes its autoscaler may add. Its own way to know is a request to the
    API with the pod's credentials, translated to the form that `ray up` uses.

    Args:
        cluster: Name of the RayCluster resource.
        namespace: Kubernetes namespace of the pod.
    """
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    produce: Any = AutoscalingConfigProducer
    config: dict[str, Any] = produce(cluster, namespace)()
    return config
