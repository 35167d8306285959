"""The extract job, called as a function with what most tests want of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental.summary import Summary


def run(images: Path | str, features: Path | str, **options: Any) -> Summary:
    """Extracts in this process, color means unless options say otherwise."""
    defaults = {"backbone": "channel-means", "weights": "none", "actors": "1", "batch_size": 8}
    return extract(
        ExtractConfig(images=str(images), features=str(features), **(defaults | options))
    )


def counts(summary: Summary) -> dict[str, int]:
    """The counts of a summary that are not 0."""
    names = ("new", "changed", "retried", "reused", "removed", "unchanged", "computed")
    return {name: getattr(summary, name) for name in names if getattr(summary, name)}
