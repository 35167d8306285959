"""The number format in which a backbone computes, decided from facts about the machine.

bfloat16 pays where the processor multiplies it in hardware (AMX or AVX-512 BF16; NVIDIA from
Ampere on); elsewhere it is emulated and slower than float32. Measured for VGG16 on two cores with
AMX: float32 5 images/s, bfloat16 21.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bottleneck.errors import BackboneError

#: Number formats of a computation; ``auto`` is decided by :func:`resolve_precision`.
Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

#: Names in /proc/cpuinfo of the instruction sets with bfloat16 dot products.
_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
#: NVIDIA compute capabilities: 8.0 (Ampere) has bfloat16 tensor cores, 7.0 (Volta) float16 ones.
_BFLOAT16_CAPABILITY = (8, 0)
_FLOAT16_CAPABILITY = (7, 0)


@dataclass(frozen=True)
class Hardware:
    """Facts about the device of a backbone that decide its precision.

    Attributes:
        cpu_flags: Instruction sets as /proc/cpuinfo names them; empty where there is no such file.
        gpu_capability: Lowest CUDA compute capability (major, minor) of the GPUs that this
            process sees; None without a GPU.
    """

    cpu_flags: frozenset[str] = frozenset()
    gpu_capability: tuple[int, int] | None = None


def resolve_precision(precision: str, hardware: Hardware) -> str:
    """Returns the precision to compute in: the given one, or what ``auto`` means on ``hardware``.

    Returns:
        ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        BackboneError: ``precision`` is not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise BackboneError(
            f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}"
        )
    if precision != "auto":
        return precision
    if hardware.gpu_capability is not None:
        if hardware.gpu_capability >= _BFLOAT16_CAPABILITY:
            return "bfloat16"
        return "float16" if hardware.gpu_capability >= _FLOAT16_CAPABILITY else "float32"
    return "bfloat16" if hardware.cpu_flags & _BFLOAT16_FLAGS else "float32"


def detect_hardware() -> Hardware:
    """Returns facts about this process's own device; loads Keras's backend to ask for GPUs."""
    capabilities = [c for c in _gpu_capabilities() if c is not None]
    return Hardware(cpu_flags(), min(capabilities) if capabilities else None)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Returns the instruction sets of the first processor in ``cpuinfo``; empty if unreadable."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _gpu_capabilities() -> Iterable[tuple[int, int] | None]:
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        details = [
            tf.config.experimental.get_device_details(gpu)
            for gpu in tf.config.list_physical_devices("GPU")
        ]
        return [detail.get("compute_capability") for detail in details]
    if backend == "torch":
        import torch

        return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    if backend == "jax":
        import jax

        texts = [d.compute_capability for d in jax.devices() if d.platform == "gpu"]
        return [_parse_capability(text) for text in texts]
    return []


def _parse_capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)
