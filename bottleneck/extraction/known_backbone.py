"""Notes of earlier runs about the backbone, so that a night without work needs no cluster.

A backbone's feature specification is known only after building it, with its weights, on a worker.
A finished run leaves a note beside the table's log: under these settings the backbone made features
of the table's own specification. While the settings stay the same, images are compared without
building it again. The note is only a cache: without it, and whenever there is work, the backbone is
built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version

from bottleneck.backbones.config import BackboneConfig
from bottleneck.errors import SourceError
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec
from bottleneck.storage.files import stat_uri
from bottleneck.table.notes import read_note, write_note
from bottleneck.table.snapshot import Snapshot
from bottleneck.version import __version__

_NOTE = "backbone"


def settings_digest(backbone: BackboneConfig, decoded: DecodeOptions) -> str:
    """Returns a digest of everything that decides a backbone's feature specification.

    Args:
        backbone: The backbone, its precision decided.
        decoded: How its images are decoded.

    Returns:
        SHA-256 (hex), which reveals no address or secret; empty if the weights file cannot be
        looked up from here.
    """
    weights = "by name"
    if backbone.weights_file is not None:
        try:
            found = stat_uri(backbone.weights_file)
        except SourceError:
            return ""
        if found is None:
            return ""
        weights = found.fingerprint
    settings = {
        **asdict(backbone),
        "weights file": weights,
        "read": [decoded.resize, decoded.interpolation, decoded.decode],
        "versions": [__version__, version("keras")],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def remember_backbone(table_uri: str, settings: str, spec: FeatureSpec) -> None:
    """Writes a note that these settings make features of the table's specification."""
    if settings:
        write_note(table_uri, _NOTE, _content(settings, spec))


def knows_backbone(snapshot: Snapshot, settings: str) -> bool:
    """Returns whether a note says that these settings make the table's own features."""
    if not settings:
        return False
    return bool(read_note(snapshot.table_uri, _NOTE) == _content(settings, snapshot.spec))


def _content(settings: str, spec: FeatureSpec) -> dict[str, str]:
    return {"settings": settings, "spec": spec.fingerprint}
