"""The folder of real images and weights beside the project, which only some machines have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.paths import SHARED


def needs(path: Path) -> pytest.MarkDecorator:
    """Skips a test without its file; where all files have to be, as in CI, it fails instead."""
    return pytest.mark.skipif(
        not path.exists() and not os.environ.get("BOTTLENECK_REQUIRE_SHARED"),
        reason=f"needs {Path('../shared') / path.relative_to(SHARED)}, which is not here",
    )
