"""The four layers of docs/architecture.md, held against every import of the package.

The page is the specification: its tables are parsed here, so that page and code cannot differ.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "bottleneck"
PAGE = (ROOT / "docs" / "architecture.md").read_text()

#: Maximum number of lines of a file of the package.
MAX_LINES = 300

KERAS = {"keras", "tensorflow", "jax", "torch"}


def table(header: str) -> list[list[str]]:
    """Returns the cells of the page's table whose first column has this heading."""
    lines = PAGE.split(f"\n| {header} |", 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def places(cell: str) -> list[str]:
    """Returns the folders (`table/`) and files (`spec.py`) that a cell names."""
    return re.findall(r"`([\w/]+(?:/|\.py))`", cell)


#: Name of each layer, top layer first → its folders and files; and → the layers it stands on.
LAYERS = {row[0]: [place.rstrip("/") for place in places(row[1])] for row in table("Layer")}
STANDS_ON = {
    row[0]: [] if row[3] == "nothing" else re.split(", ", row[3]) for row in table("Layer")
}
LAYER_OF = {place: layer for layer, found in LAYERS.items() for place in found}
IMPORTED_IN = {row[0]: places(row[1]) for row in table("Library")}
#: Files that the page allows to be longer.
LONGER = dict(re.findall(r"^- `([\w/]+\.py)` may be longer: (.+)", PAGE, re.MULTILINE))


@dataclass(frozen=True)
class Import:
    """One import of one file of the package.

    Attributes:
        file: Path below the package, as the page writes it.
        module: What is imported; for a module of the package its path.
        always: Whether importing the file imports it: not in a function, not for types only.
    """

    file: str
    module: str
    always: bool

    def __str__(self) -> str:
        return f"{self.file} imports {self.module}"


FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("bottleneck", *Path(file).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in FILES
}


def imported(node: ast.Import | ast.ImportFrom, file: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"{file} has a relative import"
    assert node.module is not None
    for alias in node.names:
        full = f"{node.module}.{alias.name}"
        outside = not node.module.startswith("bottleneck")
        yield full if full in MODULES or outside else node.module


def imports_of(file: str) -> Iterator[Import]:
    def walk(node: ast.AST, always: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for module in imported(child, file):
                    yield Import(file, MODULES.get(module, module), always)
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from walk(child, always and not lazy)

    yield from walk(ast.parse((PACKAGE / file).read_text()), True)


IMPORTS = [found for file in FILES for found in imports_of(file)]
ARROWS = [found for found in IMPORTS if found.module in FILES]


def place_of(file: str) -> str:
    """Returns the folder of a file, or the file itself if it lies beside the folders."""
    return file.split("/", 1)[0]


def is_in(file: str, allowed: list[str]) -> bool:
    return any(file == place or file.startswith(place) for place in allowed)


def outsiders(libraries: set[str], title: str) -> list[str]:
    """Returns imports of libraries outside the places that the page gives for them."""
    return [
        str(found)
        for found in IMPORTS
        if found.module.split(".")[0] in libraries and not is_in(found.file, IMPORTED_IN[title])
    ]


def test_every_folder_and_file_has_one_layer() -> None:
    listed = [place for found in LAYERS.values() for place in found]
    assert sorted(listed) == sorted({place_of(file) for file in FILES})
    assert list(LAYERS) == ["Jobs", "Engine", "Parts", "Ground"]
    names = list(LAYERS)
    assert {name: names[number + 1 :] for number, name in enumerate(names)} == STANDS_ON


def test_imports_lead_down_or_stay_in_their_layer() -> None:
    upward = [
        str(found)
        for found in ARROWS
        if (here := LAYER_OF[place_of(found.file)]) != (there := LAYER_OF[place_of(found.module)])
        and there not in STANDS_ON[here]
    ]
    assert upward == []


def test_no_job_imports_another() -> None:
    jobs = {place for place in LAYERS["Jobs"] if not place.endswith(".py")}
    assert [
        str(found)
        for found in ARROWS
        if place_of(found.file) in jobs
        and LAYER_OF[place_of(found.module)] == "Jobs"
        and place_of(found.module) != place_of(found.file)
    ] == []


@pytest.mark.parametrize("level", ["files", "folders"])
def test_no_imports_go_in_a_circle(level: str) -> None:
    graph: dict[str, set[str]] = {}
    for found in ARROWS:
        here, there = found.file, found.module
        if level == "folders":
            here, there = place_of(here), place_of(there)
        if here != there or level == "files":
            graph.setdefault(here, set()).add(there)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"a circle of {level}: {' <- '.join(e.args[1])}")


def test_ray_is_imported_only_where_work_is_distributed() -> None:
    assert outsiders({"ray"}, "Ray") == []


def test_keras_is_imported_only_where_networks_are_and_only_when_used() -> None:
    assert outsiders(KERAS, "Keras and its backends") == []
    assert [str(i) for i in IMPORTS if i.always and i.module.split(".")[0] in KERAS] == []


@pytest.mark.parametrize(
    ("library", "title"), [("ray", "Ray's private modules"), ("keras", "Keras's private modules")]
)
def test_private_modules_of_others_are_imported_by_one_file(library: str, title: str) -> None:
    private = re.compile(rf"{library}\.(.*\.)?(_|src\b|v2\b|core\.generated\b)")
    users = {found.file for found in IMPORTS if private.match(found.module)}
    assert sorted(users) == IMPORTED_IN[title]
    # The version that the file was verified with is the pinned one: whoever upgrades, reads it.
    (pinned,) = re.findall(rf"^{library}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    (path,) = IMPORTED_IN[title]
    docstring = ast.get_docstring(ast.parse((PACKAGE / path).read_text()))
    assert f"verified with {library.title()} {pinned}." in str(docstring)


def test_a_folders_init_holds_only_its_description() -> None:
    for file in FILES:
        if file.endswith("/__init__.py"):
            tree = ast.parse((PACKAGE / file).read_text())
            assert ast.get_docstring(tree), file
            assert len(tree.body) == 1, file


def test_no_file_is_long() -> None:
    lines = {file: len((PACKAGE / file).read_text().splitlines()) for file in FILES}
    assert {file for file, count in lines.items() if count > MAX_LINES} == set(LONGER)
    assert f"A file has at most {MAX_LINES} lines" in PAGE


def paragraphs() -> list[str]:
    return PAGE.split("\n## The folders\n", 1)[1].split("\n## ", 1)[0].strip().split("\n\n")


def test_the_page_describes_every_folder_once() -> None:
    described = [
        folder
        for paragraph in paragraphs()
        for folder in re.findall(r"\*\*`(\w+)/`\*\*", paragraph)
    ]
    assert sorted(described) == sorted({place_of(f) for f in FILES if "/" in f})


def test_files_that_the_page_names_exist() -> None:
    for paragraph in paragraphs():
        folders = re.findall(r"\*\*`(\w+)/`\*\*", paragraph)
        for name in re.findall(r"`([\w/]+\.py)`", paragraph):
            assert any((PACKAGE / folder / name).exists() for folder in (*folders, ".")), name
    for name in re.findall(r"`([\w/]+/\w+\.py)`", PAGE):
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
    for name in re.findall(r"`(\w+/)`", PAGE):
        assert list(PACKAGE.glob(f"**/{name}")), name
