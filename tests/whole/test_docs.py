"""Runs what the documentation tells people to type, and checks its links and flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.paths import ROOT

from benchmarks.support.specs import make_spec
from bottleneck.config.checks import field_names, flag_of
from bottleneck.extraction.config import ExtractConfig
from bottleneck.prediction.config import PredictConfig
from bottleneck.status.config import StatusConfig
from bottleneck.table.columns import SCHEMA, features_array
from bottleneck.table.shards import write_shard
from bottleneck.table.table import FeaturesTable
from bottleneck.training.config import TrainConfig

DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
LENGTH = 7 * 7 * 512

_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>snippet|start|not run): (?P<what>.+?) -->\n)?"
    r"^```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    document: str
    kind: str | None
    what: str | None
    code: str


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        for match in _BLOCK.finditer((ROOT / document).read_text()):
            yield Block(document, match["kind"], match["what"], match["code"])


SNIPPETS = {block.what: block for block in blocks() if block.kind == "snippet"}


def values_of(image: str) -> np.ndarray:
    """(25088,) float32, sparse, different for each image; small integers, so sums are exact."""
    values = np.zeros(LENGTH, np.float32)
    values[:: 1 + len(image)] = sum(image.encode()) % 97 + 1
    return values


TRAIN = sorted(f"train/{label}/{n:02}.jpg" for label in ("cats", "dogs") for n in range(10))
TEST = sorted(f"test/{label}/{n:02}.jpg" for label in ("cats", "dogs") for n in range(5))
BROKEN = "train/dogs/09.jpg"
OK = [image for image in TEST + TRAIN if image != BROKEN]
COUNTS = [
    ("test", "cats", "ok", 5, LENGTH),
    ("test", "dogs", "ok", 5, LENGTH),
    ("train", "cats", "ok", 10, LENGTH),
    ("train", "dogs", "ok", 9, LENGTH),
    ("train", "dogs", "truncated", 1, None),
]


def rows_of(images: list[str]) -> pa.Table:
    ok = np.array([image != BROKEN for image in images])
    values = np.stack([values_of(image) for image in images if image != BROKEN])
    columns: dict[str, Any] = {
        "image": images,
        "label": [image.split("/")[1] for image in images],
        "split": [image.split("/")[0] for image in images],
        "fingerprint": ["size+mtime:5-1"] * len(images),
        "sha256": ["0" * 64] * len(images),
        "width": [320] * len(images),
        "height": [240] * len(images),
        "status": ["ok" if good else "truncated" for good in ok],
        "error": [None if good else "JPEG: image file is truncated" for good in ok],
    }
    arrays = [pa.array(column, SCHEMA.field(name).type) for name, column in columns.items()]
    return pa.table([*arrays, features_array(values, ok)], schema=SCHEMA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table `photo-features`: 20 training rows in version 1, 30 rows in 2."""
    folder = tmp_path_factory.mktemp("docs")
    uri = str(folder / "photo-features")
    spec = make_spec((7, 7, 512), weights="random:0 sha256:" + "0" * 64, image_size=(224, 224))
    table = FeaturesTable.create(uri, spec)
    snapshot = table.snapshot()
    for images in (TRAIN, TEST):
        shard = write_shard(snapshot.files, [rows_of(images)])
        assert shard is not None
        snapshot = table.commit(
            base=snapshot, add=[shard], run=f"run-{len(images)}", stats={"images_per_s": 5.0}
        )
    # An orphan, as a killed run leaves it: whoever reads the folder as Parquet counts it.
    assert write_shard(snapshot.files, [rows_of(TEST)]) is not None
    return folder


def check_spec(names: dict[str, Any], printed: str) -> None:
    size = names["snapshot"].size_bytes
    assert printed.splitlines() == [f"2 30 {size}", "vgg16 (7, 7, 512) float32"]


def check_package(names: dict[str, Any], printed: str) -> None:
    test, train = ([image for image in OK if image.startswith(to)] for to in ("test/", "train/"))
    assert printed.splitlines() == [f"{test} (10, 7, 7, 512)", f"{train} (19, 7, 7, 512)"]
    expected = np.stack([values_of(image) for image in train]).reshape(-1, 7, 7, 512)
    np.testing.assert_array_equal(names["batch"].features, expected)


def check_arrays(names: dict[str, Any], printed: str) -> None:
    train = [image for image in OK if image.startswith("train/")]
    assert names["images"].tolist() == train
    assert names["labels"].tolist() == [image.split("/")[1] for image in train]
    maps = np.stack([values_of(image) for image in train]).reshape(-1, 49, 512)
    np.testing.assert_array_equal(names["X"], maps.mean(axis=1))
    assert names["failed"].to_pylist() == [
        {"image": BROKEN, "status": "truncated", "error": "JPEG: image file is truncated"}
    ]


def check_pyarrow(names: dict[str, Any], printed: str) -> None:
    assert sum(shape[0] for shape in names["shapes"]) == len(OK)
    assert {shape[1:] for shape in names["shapes"]} == {(7, 7, 512)}
    assert names["dataset"].count_rows() == 30


def check_duckdb(names: dict[str, Any], printed: str) -> None:
    assert names["counts"] == COUNTS


def check_polars(names: dict[str, Any], printed: str) -> None:
    assert names["failed"].rows() == [(BROKEN, "truncated", "JPEG: image file is truncated")]
    cats = names["cats"]["image"].to_list()
    assert sorted(cats) == [image for image in OK if "/cats/" in image]
    expected = np.stack([values_of(image) for image in cats]).reshape(-1, 7, 7, 512)
    np.testing.assert_array_equal(names["maps"], expected)
    assert names["maps"].dtype == np.float32


def check_pandas(names: dict[str, Any], printed: str) -> None:
    assert names["counts"].to_dict() == {
        ("cats", "ok"): 15,
        ("dogs", "ok"): 14,
        ("dogs", "truncated"): 1,
    }


def check_ray(names: dict[str, Any], printed: str) -> None:
    means = dict(names["means"].itertuples(index=False))
    assert sorted(means) == OK
    for image, mean in means.items():
        assert mean == pytest.approx(float(values_of(image).mean()), rel=1e-5)


def check_versions(names: dict[str, Any], printed: str) -> None:
    lines = [line.split(maxsplit=2) for line in printed.splitlines()]
    assert [(line[0], line[2]) for line in lines] == [
        ("2", "run-10 {'images_per_s': 5.0}"),
        ("1", "run-20 {'images_per_s': 5.0}"),
    ]
    assert names["before"].rows == names["rows_before"] == 20
    assert len(names["files_before"]) == 1


def check_notebook(names: dict[str, Any], printed: str) -> None:
    assert names["features"].shape == (1, 7, 7, 256)
    assert names["features"].dtype == np.float32
    assert names["decoded"].status == "ok"


def check_few(names: dict[str, Any], printed: str) -> None:
    assert names["features"].shape == (2, 7, 7, 256)
    assert names["features"].dtype == np.float32


CHECKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "spec": check_spec,
    "package": check_package,
    "arrays": check_arrays,
    "pyarrow": check_pyarrow,
    "duckdb": check_duckdb,
    "polars": check_polars,
    "pandas": check_pandas,
    "ray": check_ray,
    "versions": check_versions,
    "notebook": check_notebook,
    "few": check_few,
}


def test_every_python_block_is_run_or_says_why_not() -> None:
    found = list(blocks())
    fences = sum((ROOT / name).read_text().count("```python\n") for name in DOCUMENTS)
    assert len(found) == fences
    assert [block.code for block in found if block.kind is None] == []
    assert set(SNIPPETS) == set(CHECKS)


def snippet(name: str) -> Any:
    """A snippet as a parameter, marked if it needs the session's Ray."""
    marks = [pytest.mark.ray, pytest.mark.s3] if "import ray" in SNIPPETS[name].code else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [snippet(name) for name in CHECKS])
def test_snippet(
    name: str,
    folder: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "import ray" in SNIPPETS[name].code:
        request.getfixturevalue("ray_session")
    for image in re.findall(r"\b(?:cat|dog)\.jpg", SNIPPETS[name].code):
        Image.new("RGB", (320, 240), "red").save(folder / image)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": name}
    capsys.readouterr()
    exec(compile(SNIPPETS[name].code, f"{SNIPPETS[name].document}:{name}", "exec"), names)
    CHECKS[name](names, capsys.readouterr().out)


def test_plain_parquet_counts_orphans_as_documented(folder: Path) -> None:
    import pyarrow.parquet as pq

    assert pq.read_table(folder / "photo-features", columns=["status"]).num_rows == 40


CONFIGS = {
    "extract": ExtractConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "status": StatusConfig,
}


#: A command, also where a line of it ends with a backslash: the job, and what follows it.
_COMMAND = re.compile(
    r"(?:jobs/|(?:bottleneck-features|-m bottleneck) )(extract|train|predict|status)(?:\.py)?"
    r"(?=\s)((?:\\\n|[^\n`#])*)"
)

#: Flags of `ray job submit` and of Ray's nodes.
_FLAGS_OF_OTHERS = {"--working-dir", "--address", "--object-store-memory"}


def commands_of(document: str) -> list[tuple[str, str]]:
    return _COMMAND.findall((ROOT / document).read_text())


def test_every_job_is_shown() -> None:
    assert {job for document in DOCUMENTS for job, _ in commands_of(document)} == set(CONFIGS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_exist(document: str) -> None:
    known = {
        job: {flag_of(name) for name in field_names(config)} | {"--config", "--help"}
        for job, config in CONFIGS.items()
    }
    for job, arguments in commands_of(document):
        used = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", arguments))
        assert used <= known[job], f"of {job}: {used - known[job]}"
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", (ROOT / document).read_text()))
    assert named - set().union(*known.values()) - _FLAGS_OF_OTHERS == set()


def anchors_of(markdown: str) -> set[str]:
    """Returns the anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", path.read_text())
    targets = [((path.parent / link) if link else path, anchor) for link, anchor in links]
    assert [target for target, _ in targets if not target.exists()] == []
    assert [
        (target, anchor)
        for target, anchor in targets
        if anchor and anchor not in anchors_of(target.read_text())
    ] == []
