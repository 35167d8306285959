"""Pictures: that they are drawn at any size and with any name, and always alike."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from bottleneck.errors import ConfigError
from bottleneck.evaluation import charts
from bottleneck.evaluation.charts import confusion_matrix, learning_curves, reliability_diagram
from bottleneck.evaluation.evaluate import evaluate

ODD = [
    "$x^2$ costs $5",
    "$\\frac{1}{",
    "under_score_{x}",
    "<script>alert(1)</script>",
    "line\nbreak\ttab",
    "猫 🐈 Ünïcødé",
    "broken \udcff\x00",
    "",
    "an endless name " * 20,
]

HISTORY = [
    {"epoch": 1.0, "loss": 1.2, "accuracy": 0.4, "val_loss": 1.0, "val_accuracy": 0.5},
    {"epoch": 2.0, "loss": 0.8, "accuracy": 0.6, "val_loss": 0.7, "val_accuracy": 0.7},
    {"epoch": 3.0, "loss": 0.5, "accuracy": 0.8, "val_loss": 0.9, "val_accuracy": 0.6},
]


DPI = 40


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes files small: what is looked at here does not depend on it."""
    monkeypatch.setattr(charts, "_DPI", DPI)


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def matrix(classes: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 4, (classes, classes)) + 30 * np.eye(classes, dtype=np.int64)


def colors(image: Image.Image) -> int:
    return len(image.convert("RGB").getcolors(1 << 24) or [])


def test_matrices_grow_with_their_classes() -> None:
    sizes = {
        classes: opened(
            confusion_matrix([f"class {n}" for n in range(classes)], matrix(classes))
        ).size
        for classes in (1, 2, 7, 100)
    }
    for fewer, more in ((2, 7), (7, 100)):
        assert sizes[fewer][0] < sizes[more][0]
        assert sizes[fewer][1] < sizes[more][1]
    # 13 hundredths of an inch each: room for a name of 7 points in every row.
    assert sizes[100][1] > 100 * 0.13 * DPI


def test_of_too_many_classes_those_with_mistakes_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(charts, "_CLASSES_SHOWN", 6)
    monkeypatch.setattr(charts, "_CLASSES_CHOSEN", 3)
    labels = [f"class {number}" for number in range(7)]
    counts = 10 * np.eye(7, dtype=np.int64)
    counts[2, 5] = counts[5, 6] = 3
    chosen = confusion_matrix(labels, counts)
    # What happens among the others does not show.
    other = counts.copy()
    other[0] *= 7
    other[1, 0] = 1
    assert confusion_matrix(labels, other) == chosen
    other[2, 6] = 1
    assert confusion_matrix(labels, other) != chosen
    assert opened(chosen).width < opened(confusion_matrix(labels[:6], counts[:6, :6])).width


def test_names_do_not_matter_to_matplotlib() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = opened(confusion_matrix(ODD, matrix(len(ODD))))
    assert colors(image) > 10
    # A formula would be drawn without its dollar signs, hence alike.
    formula = confusion_matrix(["$x$", "b"], matrix(2))
    assert formula != confusion_matrix(["x", "b"], matrix(2))


def test_endless_names_are_shortened() -> None:
    long, longer = (confusion_matrix(["W" * length, "b"], matrix(2)) for length in (60, 600))
    assert long == longer
    assert opened(long).width < 10 * DPI


def test_classes_without_rows_and_large_counts() -> None:
    counts = np.array([[0, 0, 0], [1, 12_345, 0], [0, 999_999, 7_654_321]])
    assert colors(opened(confusion_matrix(["a", "b", "c"], counts))) > 10
    opened(confusion_matrix(["a"], np.zeros((1, 1), np.int64)))


@pytest.mark.parametrize(("labels", "shape"), [(["a"], (2, 2)), (["a", "b"], (2,)), ([], (0, 0))])
def test_a_matrix_must_fit_its_labels(labels: list[str], shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="pass the labels that it was counted with"):
        confusion_matrix(labels, np.zeros(shape, np.int64))


@pytest.mark.parametrize(
    "history",
    [
        HISTORY[:1],
        [{"loss": row["loss"], "accuracy": row["accuracy"]} for row in HISTORY],
        [{"loss": 1.0}],
        [{"loss": float("nan"), "accuracy": 0.1, "val_loss": float("inf")}],
        [{"epoch": float(number), "loss": 1 / number} for number in range(1, 200)],
    ],
)
def test_learning_curves(history: list[dict[str, float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert colors(opened(learning_curves(history))) > 10


@pytest.mark.parametrize(
    ("keys", "best"), [(("loss", "val_loss", "val_accuracy"), 2), (("loss", "accuracy"), 3)]
)
def test_the_best_epoch_is_that_of_the_lowest_loss(keys: tuple[str, ...], best: int) -> None:
    history = [{key: row[key] for key in keys} for row in HISTORY]
    drawn = learning_curves(history)
    assert drawn == learning_curves(history, best_epoch=best)
    assert drawn != learning_curves(history, best_epoch=1)


def test_no_epochs_make_no_curve() -> None:
    with pytest.raises(ConfigError, match="at least one row"):
        learning_curves([])


def test_reliability_diagram() -> None:
    one = evaluate(["a", "b"], [0, 1, 1], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    drawn = reliability_diagram(one)
    image = opened(drawn)
    assert min(image.size) > 4 * DPI
    assert drawn == reliability_diagram(one)
    # A file that names its maker would change with matplotlib's version.
    assert b"Software" not in drawn
    opened(reliability_diagram(evaluate(["only"], [0], [[1.0]])))


def test_drawing_leaves_the_state_of_matplotlib_alone() -> None:
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams);"
        "from bottleneck.evaluation.charts import confusion_matrix; confusion_matrix(['a'], [[1]]);"
        "unchanged = dict(matplotlib.rcParams) == before; from matplotlib import pyplot;"
        "print(pyplot.get_fignums(), unchanged, sorted({'ray', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True []\n"
