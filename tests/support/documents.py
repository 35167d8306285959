"""What docstrings say of the fields of a configuration."""

from __future__ import annotations

import re
from typing import Any


def documents_of(config_type: type[Any]) -> dict[str, str]:
    """Returns what the docstrings of a configuration and its groups say of each field."""
    documents: dict[str, str] = {}
    for cls in config_type.__mro__:
        _, _, attributes = (cls.__doc__ or "").partition("Attributes:")
        found = re.findall(r"(?ms)^        (\w+): (.*?)(?=^        \w|\Z)", attributes)
        documents = dict(found) | documents
    return documents
