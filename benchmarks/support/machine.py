"""What a benchmark ran on: figures mean little without it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

#: Instruction sets that decide how fast a backbone computes.
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")

_PACKAGES = (
    "ray",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "pillow",
    "pyarrow",
    "deltalake",
    "polars",
    "obstore",
    "s3fs",
)


def describe_machine() -> dict[str, Any]:
    """Returns processor, memory, versions, load and date, JSON serializable.

    `load_1m` is the load average as the benchmark begins: above about 0.3 others are computing
    too, and only figures measured side by side can be compared.
    """
    model, flags = _processor()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": model,
        "flags": [flag for flag in _TELLING_FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _processor() -> tuple[str, frozenset[str]]:
    """Returns model and instruction sets of the first processor."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    model = facts.get("model name", platform.machine())
    return model, frozenset(facts.get("flags", "").split())


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
