"""State of an interrupted training, kept next to the model for ``--resume``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow.fs as pafs

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import ConfigError, ModelError
from bottleneck.models import files
from bottleneck.storage.files import exists, read_bytes, write_bytes
from bottleneck.storage.uris import join_uri
from bottleneck.table.location import arrow_filesystem
from bottleneck.table.snapshot import Snapshot
from bottleneck.training.config import TrainConfig
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.splits import LabelledRows

#: Folder under ``--model`` with the checkpoints and the settings.
UNFINISHED = "unfinished"
_SETTINGS = "settings.json"


def earlier_settings(model_uri: str) -> dict[str, Any] | None:
    """Returns the settings of the training that was stopped there; None without one.

    Raises:
        ModelError: The file does not hold settings.
    """
    place = _unfinished(model_uri, _SETTINGS)
    if not exists(place):
        return None
    try:
        found: dict[str, Any] = json.loads(read_bytes(place))
        int(found["version"])
        # Trainings stopped before `--storage` became `--dtype` left the older name.
        if "storage" in found:
            found["dtype"] = found.pop("storage")
    except (ValueError, TypeError, LookupError) as e:
        raise ModelError(
            f"{redact_uri(place)} does not hold the settings of a training; delete its folder and "
            "train again without --resume"
        ) from e
    return found


def write_settings(model_uri: str, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a training that begins."""
    write_bytes(_unfinished(model_uri, _SETTINGS), json.dumps(settings).encode())


def require_room(config: TrainConfig, uri: str, earlier: Mapping[str, Any] | None) -> None:
    """Refuses to overwrite a model or a stopped training, or to resume where there is none.

    Args:
        config: What to do.
        uri: Where the model will be.
        earlier: Settings of the training that was stopped there; None without one.

    Raises:
        ConfigError: There is nothing to resume.
        ModelError: A model or a stopped training is there.
    """
    shown = redact_uri(uri)
    if config.resume:
        if earlier is None:
            raise ConfigError(
                f"--resume: no stopped training is at {shown}; drop --resume to start one"
            )
        return
    if config.overwrite:
        return
    if files.model_exists(uri):
        raise ModelError(f"there is a model at {shown}; give --overwrite, or another --model")
    if earlier is not None:
        raise ModelError(
            f"a training at {shown} was stopped before its end; go on with --resume, or start "
            "anew with --overwrite"
        )


def require_same(earlier: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Refuses to go on with a training under other settings than it was begun with.

    Raises:
        ConfigError: They differ; the message names each with both values.
    """
    before = dict(earlier or {})
    after = json.loads(json.dumps(now))
    different = [name for name in after if before.get(name) != after[name]]
    if different:
        listed = "; ".join(
            f"{name}: {after[name]} now, {before.get(name)} before" for name in different
        )
        raise ConfigError(
            f"--resume: the stopped training had other settings ({listed}); give the same flags, "
            "or start anew with --overwrite"
        )


def settings_of(snapshot: Snapshot, rows: LabelledRows, fit: FitConfig) -> dict[str, Any]:
    """Returns what must not change between a training's start and its continuation."""
    flat = asdict(fit)
    head = flat.pop("head")
    return {
        "table": redact_uri(snapshot.table_uri),
        "version": snapshot.version,
        "splits": hashlib.sha256(rows.split.tobytes() + rows.label.tobytes()).hexdigest()[:16],
        **head,
        **flat,
    }


def discard(model_uri: str) -> None:
    """Deletes the checkpoints of an unfinished training."""
    filesystem, root = arrow_filesystem(_unfinished(model_uri))
    if isinstance(filesystem, pafs.LocalFileSystem):
        shutil.rmtree(root, ignore_errors=True)
        return
    try:
        if filesystem.get_file_info(root).type != pafs.FileType.NotFound:
            filesystem.delete_dir(root)
    except OSError as e:
        raise ModelError(
            f"cannot delete the checkpoints at {redact_uri(_unfinished(model_uri))}: "
            f"{one_line(e, 'first')}; delete that folder"
        ) from e


def _unfinished(model_uri: str, *parts: str) -> str:
    return join_uri(model_uri, UNFINISHED, *parts)
