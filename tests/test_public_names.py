"""The package as a whole: its public names, what importing it does, that it lives beside pandas."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

import bottleneck

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


def heavy_modules_after(code: str) -> str:
    return python(
        "-c",
        f"{code}\nimport sys\n"
        "print(sorted({'ray', 'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))",
    )


def test_importing_the_package_loads_neither_ray_nor_keras() -> None:
    modules = ", ".join(f"bottleneck.{name}" for name in WITHOUT_RAY)
    assert heavy_modules_after(f"import bottleneck, {modules}") == "[]\n"


@pytest.mark.parametrize(
    "use",
    [
        "bottleneck.__all__, dir(bottleneck), bottleneck.__version__",
        "bottleneck.FeaturesTable, bottleneck.PredictionsTable, bottleneck.Snapshot",
        "bottleneck.decode(b'', bottleneck.DecodeOptions(8, 8))",
        "bottleneck.ExtractConfig, bottleneck.TrainConfig, bottleneck.PredictConfig",
        "bottleneck.Backbone, bottleneck.list_images, bottleneck.evaluate, bottleneck.load_model",
        "bottleneck.table_status, bottleneck.StatusConfig, bottleneck.errors",
    ],
)
def test_public_names_load_only_what_they_need(use: str) -> None:
    assert heavy_modules_after(f"import bottleneck\n{use}") == "[]\n"


def test_a_public_name_is_loaded_when_it_is_used_and_no_module_before() -> None:
    code = (
        "import sys, bottleneck\n"
        "loaded = lambda: sorted(n for n in sys.modules if n.startswith('bottleneck.'))\n"
        "print(loaded()); bottleneck.BottleneckError; print(loaded())"
    )
    version = "bottleneck.version"
    assert python("-c", code) == f"{[version]}\n{['bottleneck.errors', version]}\n"


def test_public_names_are_sorted_load_and_are_documented() -> None:
    assert bottleneck.__all__ == sorted(bottleneck.__all__)
    assert set(bottleneck.__all__) <= set(dir(bottleneck))
    for name in set(bottleneck.__all__) - {"__version__"}:
        value = getattr(bottleneck, name)
        assert inspect.getdoc(value), name
        assert name == "errors" or (value.__name__, value.__module__) == (
            name,
            f"bottleneck.{bottleneck._MODULES[name]}",
        )
    assert bottleneck.errors is sys.modules["bottleneck.errors"]


def test_a_name_without_a_home_does_not_exist() -> None:
    with pytest.raises(AttributeError, match=r"^module 'bottleneck' has no attribute 'nansum'$"):
        _ = bottleneck.nansum
    assert not hasattr(bottleneck, "move_mean")


def test_type_checkers_and_editors_see_the_same_names_as_programs() -> None:
    tree = ast.parse(Path(bottleneck.__file__).read_text())
    guarded = next(
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    seen = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        for alias in node.names:
            assert alias.asname is None
            # A module's own home: `from bottleneck import errors`.
            seen[alias.name] = node.module.partition(".")[2] or alias.name
    assert seen == bottleneck._MODULES
    assert {*seen, "__version__"} == set(bottleneck.__all__)


def test_the_types_are_shipped() -> None:
    assert Path(bottleneck.__file__).with_name("py.typed").read_bytes() == b""


def test_version_is_below_the_one_that_pandas_would_use() -> None:
    major, minor = bottleneck.__version__.split(".")[:2]
    assert (int(major), int(minor)) < (1, 5)
