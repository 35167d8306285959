"""Where the checkout is; nothing else computes it from a path of its own."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
#: Folder of real images and weights beside the project, which only some machines have.
SHARED = ROOT.parent / "shared"


def environment_with_support(**changes: str) -> dict[str, str]:
    """Returns the environment of a Python process that imports ``support`` as the tests do."""
    return {**os.environ, "PYTHONPATH": str(TESTS), **changes}
