"""Provides a backbone's weights file: Keras's own, a path, or any fsspec URI.

A file is fetched once per node however many actors ask for it: the first holds a lock while it
downloads beside the final name and renames, the others wait and find it. Nothing here loads
Keras unless ImageNet weights are asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottleneck.backbones.config import weights_file_name
from bottleneck.backbones.keras_internals import keras_requests
from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import BackboneError
from bottleneck.storage.files import download, stat_uri
from bottleneck.storage.uris import is_local, local_path

#: Seconds without a byte after which a download is given up.
_DOWNLOAD_TIMEOUT_S = 60


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this node.

    Attributes:
        path: Path of the local file.
        sha256: SHA-256 (hex) of its bytes.
    """

    path: Path
    sha256: str


def cache_dir() -> Path:
    """Returns the cache of weights: ``$BOTTLENECK_CACHE`` or ~/.cache/bottleneck-features."""
    root = os.environ.get("BOTTLENECK_CACHE") or "~/.cache/bottleneck-features"
    return Path(root).expanduser() / "weights"


def keras_models_dir() -> Path:
    """Returns the folder of Keras's weights: ``$KERAS_HOME/models`` or ~/.keras/models."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"


def resolve_weights(uri: str, sha256: str | None = None) -> WeightsFile:
    """Makes a weights file local and computes its digest.

    A local path is used in place; anything else is copied once per node into ``cache_dir()``, under
    a name made of the URI and the file's version in the store (ETag, or size and time).

    Args:
        uri: Path or fsspec URI of the file.
        sha256: SHA-256 (hex) that its bytes must have; None to accept any.

    Raises:
        BackboneError: The file cannot be read, or has another digest.
    """
    try:
        local = local_path(uri) if is_local(uri) else _cached_copy(uri)
        file = WeightsFile(local, file_sha256(local))
    except Exception as e:
        # The stores behind fsspec raise whatever their client libraries do.
        reason = (
            "there is no such file" if isinstance(e, FileNotFoundError) else one_line(e, kind=True)
        )
        raise BackboneError(
            f"cannot read the weights file {redact_uri(uri)!r}: {reason}; give --weights a "
            "readable file or URI, or random:SEED"
        ) from e
    _require_sha256(file, sha256, redact_uri(uri))
    return file


def imagenet_file(
    build: Callable[[], Any], backbone: str, sha256: str | None = None
) -> tuple[WeightsFile, Any]:
    """Builds a Keras application with its ImageNet weights, downloading them once per node.

    Only Keras knows which file an application needs. Its request for the file is answered here, so
    that the download is locked, atomic, bounded in time and silent, none of which Keras's own is.

    Args:
        build: Calls the application's constructor with ``weights="imagenet"``.
        backbone: Name of the backbone, for messages.
        sha256: SHA-256 (hex) that the file must have; None to accept any.

    Returns:
        The file, and what ``build`` returned.

    Raises:
        BackboneError: The file cannot be downloaded (the message says where to put it), or has
            another digest.
    """
    files: list[WeightsFile] = []

    def fetch(fname: str, origin: str, *, file_hash: str | None = None, **_unused: object) -> str:
        path = _keras_file(fname, origin, file_hash, backbone)
        files.append(WeightsFile(path, file_sha256(path)))
        _require_sha256(files[-1], sha256, str(path))
        return str(path)

    with keras_requests(fetch):
        model = build()
    if not files:
        raise BackboneError(
            f"this version of Keras has no ImageNet weights for {backbone} as asked; give "
            "--weights PATH or random:SEED"
        )
    return files[-1], model


@contextlib.contextmanager
def node_lock(path: Path) -> Iterator[None]:
    """Holds the lock that processes of this node use for ``path``; freed even by a SIGKILL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_matches(path: Path, file_hash: str | None) -> bool:
    """Returns whether a file has the hash (SHA-256 or MD5) that Keras states; True without one."""
    if file_hash is None:
        return True
    algorithm = "sha256" if len(file_hash) == 64 else "md5"
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == file_hash


def _cached_copy(uri: str) -> Path:
    found = stat_uri(uri)
    if found is None:
        raise FileNotFoundError
    key = hashlib.sha256(f"{uri} {found.fingerprint}".encode()).hexdigest()[:16]
    target = cache_dir() / f"{key}-{weights_file_name(uri)}"
    _once(target, lambda partial: download(uri, partial))
    return target


def _once(target: Path, write: Callable[[Path], object]) -> None:
    """Lets one process of this node write ``target``, whole or not at all."""
    if target.exists():
        return
    with node_lock(target):
        if target.exists():
            return
        prefix = f".partial-{target.name}-"
        for abandoned in target.parent.glob(f"{prefix}*"):
            # Left by a process that was killed: we hold the lock, so nobody is writing there.
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as folder:
            partial = Path(folder) / target.name
            write(partial)
            partial.replace(target)


def _keras_file(fname: str, origin: str, file_hash: str | None, backbone: str) -> Path:
    target = keras_models_dir() / fname
    if target.exists() and not file_matches(target, file_hash):
        raise BackboneError(
            f"{target} is not Keras's file (its hash is not {file_hash}); remove it to have it "
            f"downloaded again, or give it as --weights {target}"
        )
    try:
        _once(target, lambda partial: _download(origin, partial, file_hash))
    except (OSError, ValueError) as e:
        hashed = (
            f" ({'sha256' if len(file_hash) == 64 else 'md5'} {file_hash})" if file_hash else ""
        )
        raise BackboneError(
            f"cannot get the ImageNet weights of {backbone} from {origin}: "
            f"{one_line(e, kind=True)}; put the file {fname}{hashed} into {target.parent} on every "
            "node, or give --weights PATH (a copy of it, any URI) or --weights random:SEED"
        ) from e
    return target


def _download(origin: str, target: Path, file_hash: str | None) -> None:
    with (
        urllib.request.urlopen(origin, timeout=_DOWNLOAD_TIMEOUT_S) as response,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(response, file, 1 << 20)
    if not file_matches(target, file_hash):
        raise ValueError(f"the bytes received do not have the hash {file_hash}")


def _require_sha256(file: WeightsFile, sha256: str | None, source: str) -> None:
    if sha256 is not None and file.sha256 != sha256:
        raise BackboneError(
            f"the weights {source!r} have sha256 {file.sha256} and weights_sha256 asks for "
            f"{sha256}; correct one of them"
        )
