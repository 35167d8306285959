"""The checkpoint's file: what stands in it, and what is said when it cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottleneck.errors import ModelError
from bottleneck.training.checkpoint import Checkpoint

HISTORY = [{"epoch": 1.0, "loss": 0.7, "val_loss": 0.1 + 0.2}, {"epoch": 2.0, "loss": 0.5}]

#: A checkpoint with what is not alike: shapes, types, more than ten arrays of a kind.
HEAD = [np.full((2, 3), number, np.float32) for number in range(12)]
BEST = [np.full((2, 3), -number, np.float32) for number in range(12)]
OPTIMIZER = [np.asarray(7, np.int64), np.asarray(0.25, np.float32), *HEAD]


def write_archive(folder: Path, **changes: Any) -> None:
    """Writes the archive as trainings have written it since the first version."""
    progress = json.dumps({"history": HISTORY, "best_epoch": 1}).encode()
    arrays: dict[str, Any] = {"progress": np.frombuffer(progress, np.uint8)}
    arrays |= {f"head.{number}": value for number, value in enumerate(HEAD)}
    arrays |= {f"best.{number}": value for number, value in enumerate(BEST)}
    arrays |= {f"optimizer.{number}": value for number, value in enumerate(OPTIMIZER)}
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(folder / "state.npz", **arrays)


def require_equal(found: Any, wanted: Any) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def test_a_stopped_training_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    write_archive(tmp_path)
    found = Checkpoint.load(tmp_path)
    assert (found.history, found.best_epoch) == (HISTORY, 1)
    require_equal(found.head, HEAD)
    require_equal(found.best, BEST)
    require_equal(found.optimizer, OPTIMIZER)
    require_equal(found.best_weights, BEST)


def test_what_is_saved_is_what_earlier_versions_read(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_archive(tmp_path)
    Checkpoint(HISTORY, 1, HEAD, BEST, OPTIMIZER).save(tmp_path / "new")
    with np.load(tmp_path / "state.npz") as wanted, np.load(tmp_path / "new/state.npz") as found:
        assert found.files == wanted.files
        require_equal([found[name] for name in found.files], [wanted[name] for name in found.files])


def test_without_weights_of_a_best_epoch_the_last_ones_are_kept(tmp_path: Path) -> None:
    Checkpoint(HISTORY, 2, HEAD, [], OPTIMIZER).save(tmp_path)
    found = Checkpoint.load(tmp_path)
    assert found.best == []
    require_equal(found.best_weights, HEAD)


@pytest.mark.parametrize(
    "changes",
    [
        {"progress": None},
        {"progress": np.frombuffer(b"{", np.uint8)},
        {"progress": np.frombuffer(b"[]", np.uint8)},
        {"progress": np.frombuffer(b'{"history": null, "best_epoch": 1}', np.uint8)},
        {"progress": np.frombuffer(b'{"history": [], "best_epoch": "x"}', np.uint8)},
        {"head.3": None},
    ],
    ids=["no-progress", "no-json", "no-object", "no-history", "no-epoch", "a-gap"],
)
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_archive(tmp_path, **changes)
    with pytest.raises(ModelError) as caught:
        Checkpoint.load(tmp_path)
    message = str(caught.value)
    assert message.startswith("the checkpoint of the stopped training cannot be read: ")
    assert message.endswith("; start anew with --overwrite")
    assert "\n" not in message


def test_a_folder_without_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read: .*state\.npz"):
        Checkpoint.load(tmp_path)
