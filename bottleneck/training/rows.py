"""The rows of a split, and how many fit in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bottleneck.errors import ConfigError
from bottleneck.spec import FeatureSpec
from bottleneck.table.columns import row_group_rows
from bottleneck.table.snapshot import Snapshot

#: How features are held, by the name of ``--dtype``.
DTYPES: dict[str, Any] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

#: Windows in memory: one that is worked on, the next that is being read, and one that holds all
#: validation rows and stays.
_WINDOWS_HELD = 3


@dataclass(frozen=True)
class FeatureRows:
    """The rows of one split and where their features are.

    Attributes:
        snapshot: The table.
        shard: (N,) int32, index of each row's shard, ascending.
        row: (N,) int64, index in the shard, ascending within it.
        label: (N,) int32, class.
        pool: ``none``, ``avg`` or ``max``: how maps are reduced when read.
    """

    snapshot: Snapshot
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    pool: str = "none"

    def __len__(self) -> int:
        return len(self.row)

    @property
    def length(self) -> int:
        """Number of values per row as held."""
        return row_length(self.snapshot.spec, self.pool)


def row_length(spec: FeatureSpec, pool: str) -> int:
    """Returns how many values a row has as held: those of the map, or of its channels if pooled."""
    return spec.length if pool == "none" else spec.shape[-1]


def window_rows(length: int, dtype: str, memory_bytes: float, workers: int, total: int) -> int:
    """Returns how many rows a window has.

    Args:
        length: Values per row.
        dtype: Key of :data:`DTYPES`.
        memory_bytes: Memory of each worker for features.
        workers: Smallest number of workers there may be.
        total: Rows of all splits that are held at once.

    Raises:
        ConfigError: Not even a row group per window fits.
    """
    fit = int(memory_bytes * workers // (length * DTYPES[dtype].itemsize))
    if fit >= total:
        return total
    rows = fit // _WINDOWS_HELD
    if rows < row_group_rows(length):
        needed = _WINDOWS_HELD * row_group_rows(length) * length * DTYPES[dtype].itemsize / workers
        raise ConfigError(
            f"--memory-gb {memory_bytes / 1e9:g} holds {fit:,} rows of {length:,} values; "
            f"give {math.ceil(needed / 1e6) / 1e3:g} or more"
        )
    return rows
