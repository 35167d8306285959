"""What earlier runs know of the backbone, so that a night without work needs no cluster.

Of what specification a backbone's features are is only certain once it is built, on a worker, with
its weights. A finished run leaves a note, beside the table's log, of the settings under which that
gave the table's own specification; while they are the same, it need not be found out again to
compare images. It is only a memory: without it, and whenever there is work, the backbone is built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version

from bottleneck import __version__
from bottleneck.backbones.config import BackboneConfig
from bottleneck.errors import SourceError
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec
from bottleneck.storage.files import stat_uri
from bottleneck.table.notes import read_note, write_note
from bottleneck.table.snapshot import Snapshot

_NOTE = "backbone"


def settings_digest(backbone: BackboneConfig, decoded: DecodeOptions) -> str:
    """Returns a digest of all that decides what a backbone's features are.

    Args:
        backbone: Which, in a precision that is decided.
        decoded: How its images are decoded.

    Returns:
        Sha256 (hex), in which addresses and their secrets cannot be read; or an empty text when
        the state of the weights file cannot be told from here.
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
    """Notes that these settings make features of this specification, the table's."""
    if settings:
        write_note(table_uri, _NOTE, _content(settings, spec))


def knows_backbone(snapshot: Snapshot, settings: str) -> bool:
    """Returns whether these settings are known to make features of the table's specification."""
    if not settings:
        return False
    return bool(read_note(snapshot.table_uri, _NOTE) == _content(settings, snapshot.spec))


def _content(settings: str, spec: FeatureSpec) -> dict[str, str]:
    return {"settings": settings, "spec": spec.fingerprint}
