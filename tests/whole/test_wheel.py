"""The wheel that `pip install` puts on nodes: complete, and running without a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import bottleneck
from bottleneck.__main__ import JOBS

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel in it, and a folder to work in that is no checkout."""

    python: Path
    packages: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False
        )

    def output(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def checked(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a registry.

    From a copy: setuptools takes whatever it finds in the `build` folder of an earlier one.
    """
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "copy", ignore=unwanted)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    checked(sys.executable, "-c", build, cwd=folder / "copy")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A new environment with the wheel alone; what it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    checked(str(python), "-m", "pip", *install, cwd=folder)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    # Folders named here are searched last, and files in them that lead on to others (the one of an
    # editable installation, which leads to the checkout) are not followed.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(here)))
    (folder / "work").mkdir()
    return Installed(python, packages, folder / "work")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "bottleneck"
    wanted = {
        f"bottleneck/{path.relative_to(source)}"
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    found = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert found == wanted
    assert "bottleneck/py.typed" in found
    assert {name.split("/")[1] for name in found if name.endswith(".j2")} == {"evaluation"}
    assert {name.split("/")[1] for name in found if name.count("/") > 1} == {
        path.name for path in source.iterdir() if path.is_dir() and path.name != "__pycache__"
    }


def test_it_is_the_installed_package_that_runs(installed: Installed) -> None:
    code = (
        "import bottleneck, importlib.metadata as metadata\n"
        "from bottleneck.evaluation import pages\n"
        "import jinja2\n"
        "print(bottleneck.__file__, metadata.version('bottleneck-features'))\n"
        "print(*jinja2.PackageLoader('bottleneck.evaluation').list_templates())\n"
    )
    first, second = installed.output(str(installed.python), "-c", code).splitlines()
    home = installed.packages / "bottleneck" / "__init__.py"
    assert first == f"{home} {bottleneck.__version__}"
    templates = (ROOT / "bottleneck" / "evaluation" / "templates").glob("*.j2")
    assert second.split() == sorted(path.name for path in templates)


def test_its_commands_answer(installed: Installed) -> None:
    python, script = str(installed.python), str(installed.python.with_name("bottleneck-features"))
    for prefix, name in (
        ([python, "-m", "bottleneck"], "python -m bottleneck"),
        ([script], "bottleneck-features"),
    ):
        shown = installed.output(*prefix, "extract", "--help")
        assert shown.startswith(f"usage: {name} extract [-h]")
        assert "--images" in shown
        assert installed.output(*prefix, "--version") == (
            f"bottleneck-features {bottleneck.__version__}\n"
        )
    done = installed.run(script, "extrakt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 'extrakt' is not a job; did you mean 'extract'?; see --help\n"
    assert all(job in installed.output(script, "--help") for job in JOBS)


READ = """
import bottleneck

snapshot = bottleneck.FeaturesTable.open("features").snapshot()
assert bottleneck.__file__.startswith(PACKAGES), bottleneck.__file__
print(snapshot.rows, snapshot.spec.backbone, snapshot.spec.alpha, snapshot.spec.shape)
for batch in snapshot.batches():
    print(*batch.images, batch.features.shape, batch.features.dtype)
"""


def test_it_extracts_features_and_reads_them_through_the_public_names(
    installed: Installed,
) -> None:
    photos = installed.folder / "photos"
    photos.mkdir()
    for color in ("red", "green", "blue"):
        Image.new("RGB", (40, 30), color).save(photos / f"{color}.png")
    flags = ["--images=photos", "--features=features", "--backbone=mobilenet", "--alpha=0.25",
             "--weights=random:1", "--image-size", "32", "32", "--actors=1"]  # fmt: skip
    printed = installed.output(str(installed.python), "-m", "bottleneck", "extract", *flags)
    assert printed.startswith("Done (run ")
    assert "  new         3\n" in printed
    read = f"PACKAGES = {str(installed.packages)!r}\n{READ}"
    assert installed.output(str(installed.python), "-c", read).splitlines() == [
        "3 mobilenet 0.25 (1, 1, 256)",
        "blue.png green.png red.png (3, 1, 1, 256) float32",
    ]
