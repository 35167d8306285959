"""Where the checkout is, and what lies in it and beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Folder of the stored results.
RESULTS = ROOT / "benchmarks" / "results"
#: Folder of real photos and weights beside the project, which only some machines have.
SHARED = ROOT.parent / "shared"
