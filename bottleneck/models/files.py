"""Models at rest: the files of a trained model, written so that half of one is never taken for one.

``model.json`` is written last and names every other file with its size and SHA-256; without it
there is no model. ``head.keras`` maps features to probabilities, ``model.keras`` images to
probabilities; both are Keras's own format, which holds no code. No Ray here.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import ModelError, SourceError
from bottleneck.spec import FeatureSpec
from bottleneck.storage.files import delete, exists, read_bytes, write_bytes
from bottleneck.storage.uris import join_uri

MANIFEST = "model.json"
HEAD = "head.keras"
FUSED = "model.keras"
LABELS = "labels.json"

_FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of a file: its SHA-256 in hex and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelManifest:
    """What ``model.json`` says.

    Attributes:
        uri: Where the model is.
        spec: Specification of the features that the head takes.
        labels: Names of the classes, in the order of the outputs.
        binary: Whether the one output is the probability of the second label.
        files: The other files by name.
        facts: The rest: table, configuration, metrics, versions of libraries.
    """

    uri: str
    spec: FeatureSpec
    labels: tuple[str, ...]
    binary: bool
    files: Mapping[str, FileRecord]
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the head: predictions of equal digests may be mixed."""
        return self.files[HEAD].sha256


def write_file(uri: str, name: str, data: bytes) -> FileRecord:
    """Writes one file of a model that is not finished yet.

    Raises:
        ModelError: Storage refuses.
    """
    try:
        write_bytes(join_uri(uri, name), data)
    except SourceError as e:
        raise ModelError(f"cannot write {name} of the model: {e}") from e
    return FileRecord(hashlib.sha256(data).hexdigest(), len(data))


def finish_model(manifest: ModelManifest) -> None:
    """Writes the manifest, which makes the files around it a model."""
    values = {
        "format": _FORMAT,
        "labels": list(manifest.labels),
        "binary": manifest.binary,
        "specification": asdict(manifest.spec),
        **manifest.facts,
        "files": {name: asdict(record) for name, record in sorted(manifest.files.items())},
    }
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(manifest.uri, MANIFEST, text.encode())


def model_exists(uri: str) -> bool:
    """Returns whether a finished model is there."""
    return exists(join_uri(uri, MANIFEST))


def withdraw_model(uri: str) -> None:
    """Deletes the manifest first, so that a half-replaced model is never read as complete."""
    if model_exists(uri):
        delete(join_uri(uri, MANIFEST))


def read_manifest(uri: str) -> ModelManifest:
    """Reads ``model.json``.

    Raises:
        ModelError: There is no finished model, or it is of another version of this project.
    """
    place = join_uri(uri, MANIFEST)
    try:
        values = json.loads(read_bytes(place))
    except SourceError as e:
        raise ModelError(
            f"there is no model at {redact_uri(uri)} ({MANIFEST}, which is written last, cannot "
            f"be read: {e}); train one with the train job (--model), or check the address"
        ) from e
    except ValueError as e:
        raise ModelError(f"{redact_uri(place)} is no JSON: {e}; train the model again") from e
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise ModelError(
            f"{redact_uri(place)} has format {found!r} and this version reads {_FORMAT}; "
            "train the model again, or update bottleneck-features"
        )
    try:
        known = ("format", "labels", "binary", "specification", "files")
        return ModelManifest(
            uri=uri,
            spec=_spec(values["specification"]),
            labels=tuple(map(str, values["labels"])),
            binary=bool(values["binary"]),
            files={name: FileRecord(**record) for name, record in values["files"].items()},
            facts={name: value for name, value in values.items() if name not in known},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ModelError(f"{redact_uri(place)} is incomplete: {e}; train the model again") from e


def _spec(values: Mapping[str, Any]) -> FeatureSpec:
    height, width = values["image_size"]
    return FeatureSpec(**{**values, "shape": tuple(values["shape"]), "image_size": (height, width)})


def read_file(manifest: ModelManifest, name: str) -> bytes:
    """Reads a file of a model and makes sure that it is the one that was written.

    Raises:
        ModelError: It is missing or was changed.
    """
    record = manifest.files.get(name)
    if record is None:
        raise ModelError(f"the model at {redact_uri(manifest.uri)} has no {name}; train it again")
    try:
        data = read_bytes(join_uri(manifest.uri, name))
    except SourceError as e:
        raise ModelError(f"cannot read {name} of the model: {e}") from e
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ModelError(
            f"{name} at {redact_uri(manifest.uri)} is not the file that {MANIFEST} names "
            f"({len(data):,} bytes, {record.bytes:,} expected); train the model again"
        )
    return data


def load_keras(data: bytes) -> Any:
    """Loads a ``.keras`` file from memory; a file that holds code is refused.

    Raises:
        ModelError: Keras cannot read it.
    """
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loaded.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as e:
            raise ModelError(f"Keras cannot load the model: {one_line(e)}") from e


def keras_bytes(model: Any) -> bytes:
    """Returns a model as a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.keras"
        model.save(path)
        return path.read_bytes()
