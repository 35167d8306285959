"""Reading the checkpoint of a training."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.console.redaction import one_line
from bottleneck.errors import ModelError

_STATE = "state.npz"


def load_state(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Reads a checkpoint: arrays of :meth:`~bottleneck.training.fitting.HeadFitter.state`.

    Raises:
        ModelError: It is none, or holds pickled objects.
    """
    try:
        with np.load(folder / _STATE, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as e:
        raise ModelError(
            f"the checkpoint of the stopped training cannot be read: {one_line(e)}; start anew "
            "with --overwrite"
        ) from e
    # NumPy returns what is no array in the archive as it is.
    if not all(isinstance(value, np.ndarray) for value in found.values()):
        raise ModelError(
            "the checkpoint of the stopped training cannot be read: it holds other things than "
            "arrays; start anew with --overwrite"
        )
    return found


def best_weights(state: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Returns the weights of the best epoch of a checkpoint."""
    kind = "best" if "best.0" in state else "head"
    count = sum(name.startswith(f"{kind}.") for name in state)
    return [state[f"{kind}.{number}"] for number in range(count)]
