"""The images of the quickstart: the same ones wherever and whenever they are drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import draw_images


def test_drawn_images_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    here = draw_images.image_set()
    for seed, written in (("1", len(here)), ("2", 0)):
        done = subprocess.run(
            [sys.executable, draw_images.__file__, tmp_path],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{tmp_path}: {written} files written\n"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files} == here
    assert len(set(here.values())) == len(here) == 97
