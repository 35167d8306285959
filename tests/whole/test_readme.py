"""The start in the README is followed, and prints what stands there; so does its Python.

Not compared is what differs from run to run or with the processor: the folder (``/…`` in the
README), run ids, times, throughput, sizes in bytes, the line of the epochs, log loss and
calibration error. All other words and figures are compared, above all counts and accuracy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from support.paths import ROOT

README = (ROOT / "README.md").read_text()

#: What varies, and what stands for it on both sides of the comparison.
VARYING = (
    (r"\(run [0-9a-f]{12}\)", "(run ID)"),
    (r"(?m)^(  time +).+$", r"\1TIME"),
    (r"(?m)^(  throughput +).+$", r"\1RATE"),
    (r"\b[\d.]+ [kMG]?B\b", "SIZE"),
    (r"(?m)^(  epochs +).+$", r"\1NUMBERS"),
    (r"(?m)^(  (?:log loss|calibration error) +).+$", r"\1NUMBER"),
)


def block(pattern: str) -> str:
    found = re.findall(pattern, README, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


def comparable(text: str) -> str:
    for pattern, stand_in in VARYING:
        text = re.sub(pattern, stand_in, text)
    return text


def follow(session: str, folder: Path) -> str:
    """Types the commands of a session (lines that begin with ``$``); returns it as it went."""
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", session, re.MULTILINE)
    (folder / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        ["bash", "-ec", "\n".join(f"printf '\\0'\n{command}" for command in commands)],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.replace(str(folder.resolve()), "/…").split("\0")[1:]
    return "".join(f"$ {command}\n{out}" for command, out in zip(commands, printed, strict=True))


@pytest.mark.slow
@pytest.mark.ray
def test_the_start_prints_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    session = block(r"^```console\n(.*?)^```$")
    assert comparable(follow(session, tmp_path)) == comparable(session)

    # The same in Python, beside what the start left.
    monkeypatch.chdir(tmp_path / "quickstart")
    names: dict[str, Any] = {}
    code = block(r"^<!-- start: .+? -->\n^```python\n(.*?)^```$")
    exec(compile(code, "README.md", "exec"), names)
    assert names["snapshot"].version == 1
    shapes = [len(names["images"]), len(names["labels"]), names["vectors"].shape]
    assert shapes == [95, 95, (95, 512)]
    assert names["trained"].evaluated_on == "test"
    assert names["classify"].labels == ("circles", "squares", "stars", "triangles")
    assert names["probabilities"].shape == (1, 4)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
