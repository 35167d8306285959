"""Sizes of actors: CPUs, GPUs, memory and batch, for the nodes that are up or may be added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bottleneck.config.flags import ActorFlags
from bottleneck.config.values import actor_range
from bottleneck.console.formatting import format_bytes
from bottleneck.errors import ConfigError

#: Maximum CPUs of an actor where the user names no number: more threads do not make a backbone
#: proportionally faster, several actors do.
_MAX_CPUS_PER_ACTOR = 8

#: Images that a backbone computes at once on CPUs; VGG16 on two cores was measured with it.
_CPU_BATCH = 32

#: Maximum number of images that a backbone computes at once on a GPU, which gains little beyond.
_MAX_GPU_BATCH = 128

#: Memory for the activations of a batch that every GPU surely has.
_GPU_ACTIVATION_BYTES = 4e9

#: Channels of the largest activation in keras.applications, VGG's first, at full resolution. One
#: activation is read while the next is written.
_WIDEST_CHANNELS = 64

#: Memory of a process with Keras and TensorFlow before it has weights; 0.65 GB were measured.
_RUNTIME_BYTES = int(0.9e9)

#: Memory of such a process with a GPU, whose driver and libraries take more.
_GPU_RUNTIME_BYTES = int(3e9)


@dataclass(frozen=True)
class ActorSizing:
    """Number of actors, and the resources of each.

    Attributes:
        low: Minimum number.
        high: Maximum number, reached under load.
        gpus: GPUs per actor, may be a fraction.
        cpus: CPUs per actor, as Ray counts them.
        threads: Threads per actor to compute with; 0 leaves their number to the Keras backend.
        memory_bytes: Memory per actor; 0 requests none.
    """

    low: int
    high: int
    gpus: float
    cpus: float
    threads: int
    memory_bytes: int = 0

    def fits(self, node: Mapping[str, float]) -> bool:
        """Returns whether an idle node with these resources has room for an actor."""
        return (
            node.get("CPU", 0) >= self.cpus
            and node.get("GPU", 0) >= self.gpus
            and _memory(node) >= self.memory_bytes
        )


def size_actors(
    config: ActorFlags,
    node_resources: Sequence[Mapping[str, float]],
    memory: ActorMemory | None = None,
) -> ActorSizing:
    """Decides how many actors of what size fit the cluster.

    Args:
        config: What the user asked for; the rest follows from the nodes.
        node_resources: Resources of the cluster's nodes, those that may be added included; never
            those of the machine that submits the job.
        memory: What each actor has in memory; None while that is not known.

    Raises:
        ConfigError: An actor of the size asked for fits no node.
    """
    gpus = gpus_each(config.gpus_per_actor, node_resources)
    if gpus and not any(node.get("GPU", 0) for node in node_resources):
        raise ConfigError(
            f"each actor should have {gpus:g} GPUs, but no node of this cluster has one and none "
            "that its autoscaler may start does; give --gpus-per-actor 0 to compute on CPUs"
        )
    cpu_counts = [node["CPU"] for node in node_resources if node.get("CPU", 0) >= 1]
    cpus = config.cpus_per_actor
    if cpus is None:
        # On CPU nodes one CPU is left for fetching and decoding, which feed the backbone. With a
        # GPU an actor requests no CPU: decoding may take all of them first, and the GPU would wait.
        cpus = 0.0 if gpus else _default_cpus(min(cpu_counts, default=1))
    memory_bytes = memory.bytes_with(gpus) if memory is not None else 0
    wanted = ActorSizing(1, 1, gpus, cpus, 0)
    fitting = [node for node in node_resources if wanted.fits(node)]
    if not fitting:
        raise ConfigError(
            f"no node has the {cpus:g} CPUs and {gpus:g} GPUs that each actor should have; "
            f"nodes have {_describe(node_resources)}; lower --cpus-per-actor or --gpus-per-actor"
        )
    largest = max(map(_memory, fitting))
    if memory is not None and memory_bytes > largest:
        raise ConfigError(
            f"each actor needs about {format_bytes(memory_bytes)} of memory for batches of "
            f"{memory.batch_size}, and the largest node has {format_bytes(largest)} for them; "
            "lower --batch-size, or take larger nodes"
        )
    fitting = [node for node in fitting if _memory(node) >= memory_bytes]
    room = sum(_room(node, cpus, gpus, memory_bytes) for node in fitting)
    low, high = actor_range(config.actors) or (1, max(1, room))
    # More actors than fit now would take the CPUs that feed them and wait forever; up to `high`
    # they are started as nodes are added.
    low = min(low, max(1, room))
    # Decoding leaves most of its CPU idle while the backbone is the slower side, so the backbone
    # may use that one too (benchmarks/pipeline.py measures the gain).
    smallest = min(node.get("CPU", 0) for node in fitting)
    threads = 0 if gpus else max(1, min(int(smallest), math.floor(cpus) + 1))
    return ActorSizing(low, high, gpus, cpus, threads, memory_bytes)


def gpus_each(wish: float | None, node_resources: Sequence[Mapping[str, float]]) -> float:
    """Returns the GPUs of each actor or worker: those asked for, else 1 if a node has any."""
    if wish is not None:
        return wish
    return 1.0 if any(node.get("GPU", 0) for node in node_resources) else 0.0


def size_batch(wish: int | None, gpus: float, image_size: tuple[int, int]) -> int:
    """Decides how many images a backbone computes at once.

    Args:
        wish: The number that the user asked for, or None.
        gpus: GPUs per actor; actors that share a GPU share its memory.
        image_size: (height, width) in pixels.

    Returns:
        The wish; else 32 on CPUs, and on GPUs a power of two up to 128 whose activations take no
        more than 4 GB.
    """
    if wish is not None:
        return wish
    if not gpus:
        return _CPU_BATCH
    fitting = _GPU_ACTIVATION_BYTES * min(1.0, gpus) / activation_bytes(1, image_size)
    return min(_MAX_GPU_BATCH, 1 << math.floor(math.log2(max(1.0, fitting))))


def activation_bytes(batch_size: int, image_size: tuple[int, int]) -> int:
    """Returns the maximum size of a batch's activations in float32."""
    height, width = image_size
    return 2 * batch_size * height * width * _WIDEST_CHANNELS * 4


@dataclass(frozen=True)
class ActorMemory:
    """What an actor has in memory.

    Attributes:
        batch_size: Images computed at once.
        image_size: (height, width) of the images in pixels; (0, 0) if there are none.
        weights_bytes: Size of the weights.
    """

    batch_size: int
    image_size: tuple[int, int]
    weights_bytes: int

    def bytes_with(self, gpus: float) -> int:
        """Returns the memory that an actor requests from Ray.

        Five networks took 0.6 to 1.0 of this (docs/cluster.md). Weights count twice, since they are
        read before they are in place; with a GPU the activations are in its own memory.

        Args:
            gpus: GPUs per actor.
        """
        if gpus:
            return _GPU_RUNTIME_BYTES + 2 * self.weights_bytes
        activations = activation_bytes(self.batch_size, self.image_size)
        return _RUNTIME_BYTES + 2 * self.weights_bytes + activations


def _default_cpus(node_cpus: float) -> float:
    return float(min(_MAX_CPUS_PER_ACTOR, max(1, node_cpus - 1)))


def _room(node: Mapping[str, float], cpus: float, gpus: float, memory_bytes: int) -> int:
    """Returns how many actors fit a node; one CPU of several stays free for decoding."""
    bounds = [max(1, whole((node["CPU"] - 1) / cpus))] if cpus else []
    if gpus:
        bounds.append(whole(node["GPU"] / gpus))
    if memory_bytes and not math.isinf(_memory(node)):
        bounds.append(whole(_memory(node) / memory_bytes))
    return min(bounds, default=1)


def _memory(node: Mapping[str, float]) -> float:
    # A node type that states no memory is not limited by it.
    return node.get("memory", math.inf)


def whole(quotient: float) -> int:
    """Rounds a quotient of resources down."""
    # 1 / 0.1 is ten, whatever binary fractions make of it.
    return math.floor(quotient + 1e-9)


def _describe(node_resources: Sequence[Mapping[str, float]]) -> str:
    kinds = sorted({(node.get("CPU", 0), node.get("GPU", 0)) for node in node_resources})
    return ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in kinds)
