"""The checkpoint of a training: one NumPy archive, ``state.npz``, in a folder of Ray Train's.

The archive holds ``progress``, the history and the best epoch as JSON in bytes, and the weights as
``head.0``, ``head.1``, …; in the same way ``best`` and ``optimizer``. Nothing is pickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.console.redaction import one_line
from bottleneck.errors import ModelError

_FILE = "state.npz"
_KINDS = ("head", "best", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """All that an interrupted training needs to go on.

    Attributes:
        history: Losses and accuracies by epoch.
        best_epoch: The epoch whose weights the model gets, counted from 1.
        head: Weights after the last epoch, in the order of ``Model.get_weights``.
        best: Weights after the best epoch; empty where the last epoch's are kept.
        optimizer: Variables of the optimizer.
    """

    history: Sequence[dict[str, float]]
    best_epoch: int
    head: Sequence[npt.NDArray[Any]]
    best: Sequence[npt.NDArray[Any]]
    optimizer: Sequence[npt.NDArray[Any]]

    @property
    def best_weights(self) -> Sequence[npt.NDArray[Any]]:
        """Weights that the model gets, in the order of ``Model.get_weights``."""
        return self.best or self.head

    def save(self, folder: Path) -> None:
        """Writes the checkpoint into a folder."""
        progress = json.dumps({"history": list(self.history), "best_epoch": self.best_epoch})
        arrays: dict[str, Any] = {"progress": np.frombuffer(progress.encode(), np.uint8)}
        for kind in _KINDS:
            values = getattr(self, kind)
            arrays |= {f"{kind}.{number}": value for number, value in enumerate(values)}
        np.savez(folder / _FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Reads the checkpoint in a folder.

        Raises:
            ModelError: There is none, it is damaged, or it holds pickled objects.
        """
        try:
            with np.load(folder / _FILE, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            _require_arrays(found)
            progress = json.loads(found["progress"].tobytes())
            return cls(
                history=list(progress["history"]),
                best_epoch=int(progress["best_epoch"]),
                **{kind: _numbered(found, kind) for kind in _KINDS},
            )
        except (
            OSError, ValueError, EOFError, AttributeError, LookupError, TypeError,
            zipfile.BadZipFile,
        ) as e:  # fmt: skip
            raise ModelError(
                "the checkpoint of the stopped training cannot be read: "
                f"{one_line(e, kind=True)}; start anew with --overwrite"
            ) from e


def _require_arrays(found: Mapping[str, Any]) -> None:
    # NumPy returns members of the archive that are no arrays as bytes.
    if not all(isinstance(value, np.ndarray) for value in found.values()):
        raise ValueError("it holds other things than arrays")


def _numbered(arrays: Mapping[str, npt.NDArray[Any]], kind: str) -> list[npt.NDArray[Any]]:
    count = sum(name.startswith(f"{kind}.") for name in arrays)
    return [arrays[f"{kind}.{number}"] for number in range(count)]
