"""The package as a whole: what importing it does, and that it lives beside pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PANDAS = """
import pandas as pd

numbers = pd.DataFrame({"a": [1.5, None, 4.0], "b": [3, -7, 2]})
print(numbers.sum().tolist(), numbers.max().tolist(), numbers.mean(axis=1).tolist())
import bottleneck
print(bottleneck.__file__)
"""

PANDAS_SAYS = "[5.5, -2.0] [4.0, 3.0] [2.25, -7.0, 3.0]"


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["", "import bottleneck\n"])
def test_pandas_imports_without_a_warning_and_computes(first: str) -> None:
    lines = python("-W", "error", "-c", first + PANDAS).splitlines()
    assert lines == [PANDAS_SAYS, str(ROOT / "bottleneck" / "__init__.py")]


def test_pandas_computes_in_workers(ray_session: None) -> None:
    import ray

    @ray.remote
    def compute() -> tuple[str, str]:
        import pandas as pd

        import bottleneck

        numbers = pd.DataFrame({"a": [1.5, None, 4.0], "b": [3, -7, 2]})
        computed = (numbers.sum(), numbers.max(), numbers.mean(axis=1))
        return " ".join(str(series.tolist()) for series in computed), bottleneck.__file__

    assert ray.get(compute.remote()) == (PANDAS_SAYS, str(ROOT / "bottleneck" / "__init__.py"))


WITHOUT_RAY = (
    "errors",
    "spec",
    "extraction.config",
    "images.decoding",
    "sources.listing",
    "storage.fetcher",
    "table.table",
    "table.shards",
    "incremental.plan",
    "backbones.backbone",
)


def test_importing_the_package_loads_neither_ray_nor_keras() -> None:
    modules = ", ".join(f"bottleneck.{name}" for name in WITHOUT_RAY)
    code = (
        f"import sys, bottleneck, {modules}\n"
        "print(sorted({'ray', 'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    assert python("-c", code) == "[]\n"


def test_version_is_below_the_one_that_pandas_would_use() -> None:
    import bottleneck

    major, minor = bottleneck.__version__.split(".")[:2]
    assert (int(major), int(minor)) < (1, 5)
