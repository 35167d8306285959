"""Notes beside a table's log: what one run learned and spares the next, never needed for truth.

A note that is missing, damaged or could not be written costs time, nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from bottleneck.errors import SourceError
from bottleneck.storage.files import exists, read_bytes, write_bytes
from bottleneck.storage.uris import join_uri

_log = logging.getLogger(__name__)


def write_note(table_uri: str, name: str, note: Mapping[str, Any]) -> None:
    """Writes a note unless an identical one exists; a failed write is only logged.

    Args:
        table_uri: The table.
        name: Of the note.
        note: What to remember, of what JSON knows.
    """
    if read_note(table_uri, name) == note:
        return
    try:
        write_bytes(_note_uri(table_uri, name), json.dumps(note, ensure_ascii=False).encode())
    except SourceError as e:
        _log.warning("the table is complete, but a note for the next run is not: %s", e)


def read_note(table_uri: str, name: str) -> Any:
    """Returns a note's content; None when there is none that can be read."""
    uri = _note_uri(table_uri, name)
    try:
        return json.loads(read_bytes(uri)) if exists(uri) else None
    except (SourceError, ValueError):
        return None


def _note_uri(table_uri: str, name: str) -> str:
    # Vacuums and readers of Delta tables leave names with an underscore alone.
    return join_uri(table_uri, f"_bottleneck/{name}.json")
