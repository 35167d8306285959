"""Reports: complete, self-contained, and safe whatever images and classes are called."""

from __future__ import annotations

import base64
import html
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from bottleneck.evaluation.charts import confusion_matrix, learning_curves, reliability_diagram
from bottleneck.evaluation.evaluate import evaluate
from bottleneck.evaluation.figures import Evaluation
from bottleneck.evaluation.pages import Mistake, PredictionReport, StatusReport, TrainingReport

EVIL = "<script>alert('1')</script>"
QUOTES = '"\' onerror=alert(2) x="'
LABELS = (EVIL, QUOTES, "{{ 7 * 7 }} & co")
JPEG = b"\xff\xd8\xff not really"

HISTORY = [
    {"epoch": 1.0, "loss": 1.25, "accuracy": 0.4, "val_loss": 1.0, "val_accuracy": 0.5},
    {"epoch": 2.0, "loss": 0.75, "accuracy": 0.625, "val_loss": float("nan"), "speed": 1234.5},
]


class Page(HTMLParser):
    """Collects the elements of a page, their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25]])
    return evaluate(LABELS, [0, 0, 1, 2], probabilities)


@pytest.fixture(scope="module")
def pictures(evaluation: Evaluation) -> dict[str, bytes]:
    return {
        "confusion_matrix": confusion_matrix(LABELS, evaluation.confusion),
        "reliability_diagram": reliability_diagram(evaluation),
    }


def trained(**more: Any) -> str:
    options: dict[str, Any] = {
        "title": f"Pets {EVIL}",
        "configuration": {"learning_rate": "0.001", EVIL: QUOTES},
        "data": {"table": "s3://lake/photo-features", "train": "11,200 rows"},
        "specification": {"backbone": "vgg16"},
        "history": HISTORY,
        "best_epoch": 2,
        "evaluation": None,
        "versions": {"keras": "3.15.1"},
    }
    return TrainingReport(**(options | more)).to_html()


def predicted(**more: Any) -> str:
    options: dict[str, Any] = {
        "title": EVIL,
        "model": {"version": "3", EVIL: EVIL},
        "statuses": {"ok": 4_000, "truncated": 3},
        "predicted": {QUOTES: 1_000, EVIL: 3_000},
        "evaluation": None,
    }
    return PredictionReport(**(options | more)).to_html()


def check(source: str) -> Page:
    """Asserts that a page needs and runs nothing, and that its elements are closed."""
    page = Page(source)
    assert page.open == []
    assert source.startswith("<!doctype html>\n")
    policies = [one for one in page.all("meta") if one.get("http-equiv")]
    assert [one["http-equiv"] for one in policies] == ["Content-Security-Policy"]
    assert str(policies[0]["content"]).startswith(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
    )
    # The policy must come before anything it is about.
    assert source.index("Content-Security-Policy") < source.index("<style>")
    for name, attributes in page.elements:
        assert name not in {"script", "link", "iframe", "object", "a", "form", "base", "svg"}
        assert not {"onerror", "onload", "href", "srcset", "x"} & attributes.keys()
        assert str(attributes.get("src", "data:")).startswith("data:")
    written = re.sub(r'"data:[^"]*"', "", source).replace("s3://", "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", written)
    for image in page.all("img"):
        assert image["alt"]
        base64.b64decode(str(image["src"]).split(",")[1], validate=True)
    source.encode("utf-8")
    return page


def test_training_report_has_everything(evaluation: Evaluation, pictures: dict[str, bytes]) -> None:
    page = check(
        trained(
            evaluation=evaluation,
            evaluated_on="test",
            learning_curves=learning_curves(HISTORY),
            **pictures,
        )
    )
    for text in (
        f"Pets {EVIL}", "learning_rate", "0.001", QUOTES, "s3://lake/photo-features",
        "11,200 rows", "backbone", "vgg16", "keras", "3.15.1", "accuracy on 4 images of the test",
        "95 % interval 15.0 – 85.0 %", "2 epochs; the model is that of epoch 2", "epoch",
        "validation accuracy", "1.2500", "0.7500", "62.50 %", "speed", "1234", "–",
        *LABELS, *evaluation.headline(), *evaluation.headline().values(),
    ):  # fmt: skip
        assert text in page.text, text
    sources = [str(image["src"]) for image in page.all("img")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[-1].split(",")[1]) == pictures["confusion_matrix"]
    alt = " ".join(str(image["alt"]) for image in page.all("img"))
    assert "Loss and accuracy over 2 epochs; best epoch 2" in alt
    assert "Confusion matrix of 3 classes" in alt
    best = [one for one in page.all("tr") if one.get("class") == "best"]
    assert len(best) == 1


def test_training_report_without_an_evaluation(pictures: dict[str, bytes]) -> None:
    page = check(trained(**pictures))
    assert "Not evaluated" in page.text
    assert "Confusions" not in page.text
    assert not page.all("img")
    page = check(trained(history=[], best_epoch=None, data={}))
    assert "0 epochs." in page.text


def test_class_table_is_sorted_and_complete() -> None:
    labels = [f"class {number}" for number in range(40)]
    probabilities = np.full((40, 40), 0.3 / 39)
    np.fill_diagonal(probabilities, 0.7)
    probabilities[7] = np.roll(probabilities[7], 1)
    source = trained(evaluation=evaluate(labels, np.arange(40), probabilities))
    check(source)
    rows = re.findall(r"<bdi>(class \d+)</bdi>", source)
    assert sorted(rows) == sorted(labels)
    assert rows[:2] == ["class 7", "class 8"]
    assert source.count('class="scroll tall"') == 1


def test_large_matrices_are_not_shrunk(evaluation: Evaluation) -> None:
    page = check(trained(evaluation=evaluation, confusion_matrix=_png_of_size(1_900, 1_800)))
    assert page.all("img")[0]["width"] == "1520"
    assert {"class": "large"} in page.all("figure")
    page = check(trained(evaluation=evaluation, confusion_matrix=_png_of_size(1_000, 900)))
    assert {"class": "large"} not in page.all("figure")


def _png_of_size(width: int, height: int) -> bytes:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    return head + width.to_bytes(4, "big") + height.to_bytes(4, "big")


def test_prediction_report_shows_mistakes_the_surest_first() -> None:
    five_wrong = evaluate(("a", "b"), [0] * 5, [[0.1, 0.9]] * 5)
    mistakes = [
        Mistake("a/unsure.jpg", EVIL, QUOTES, 0.6, None),
        Mistake(f"b/{EVIL}.jpg", QUOTES, EVIL, 0.987, JPEG),
        Mistake(f"c/{QUOTES}.jpg", QUOTES, EVIL, 0.7, JPEG),
    ]
    page = check(predicted(evaluation=five_wrong, mistakes=mistakes))
    places = [page.text.index(one.image) for one in mistakes]
    assert places[1] < places[2] < places[0]
    for text in ("98.7 %", "70.0 %", "60.0 %", "no picture", "3 of 5, the surest first"):
        assert text in page.text
    thumbnails = [
        image for image in page.all("img") if str(image["src"]).startswith("data:image/jpeg")
    ]
    assert [image["alt"] for image in thumbnails] == [mistakes[1].image, mistakes[2].image]
    assert base64.b64decode(str(thumbnails[0]["src"]).split(",")[1]) == JPEG


def test_prediction_report_counts() -> None:
    page = check(predicted())
    for text in ("4,003", "4,000", "99.9 %", "3,000", "75.0 %", "25.0 %", "have no labels"):
        assert text in page.text
    assert page.text.index(EVIL, page.text.index("By predicted")) < page.text.index(QUOTES)
    assert "Mistakes" not in page.text
    check(predicted(statuses={}, predicted={}))
    check(predicted(statuses={"ok": 0}, predicted={"a": 0}))


def test_prediction_report_without_mistakes(evaluation: Evaluation) -> None:
    assert "2; none is shown." in check(predicted(evaluation=evaluation)).text
    right = evaluate(("a", "b"), [0, 1], [[0.9, 0.1], [0.2, 0.8]])
    assert "None." in check(predicted(evaluation=right)).text


def test_names_are_escaped_everywhere(evaluation: Evaluation, pictures: dict[str, bytes]) -> None:
    mistakes = [Mistake(EVIL, EVIL, QUOTES, 0.9, JPEG)]
    for source in (
        trained(evaluation=evaluation, evaluated_on=EVIL, **pictures),
        predicted(evaluation=evaluation, mistakes=mistakes, **pictures),
    ):
        check(source)
        assert "<script" not in source
        assert QUOTES not in source
        assert html.unescape(source).count(EVIL) >= 4
        assert "{{ 7 * 7 }} &amp; co" in source


@pytest.mark.parametrize("letter", ["\udcff", "\x00", "\x1b", "\u202e", "\u2066"])
def test_letters_that_deceive_or_break_are_replaced(letter: str) -> None:
    right = evaluate(("a", "b"), [0, 1], [[0.9, 0.1], [0.8, 0.2]])
    mistakes = [Mistake(f"exe{letter}gpj.jpg", "b", f"a{letter}", 0.8, JPEG)]
    source = predicted(evaluation=right, mistakes=mistakes)
    check(source)
    assert letter not in source
    assert source.count("exe\ufffdgpj.jpg") == 2


def test_equal_input_gives_equal_pages(evaluation: Evaluation) -> None:
    assert trained(evaluation=evaluation) == trained(evaluation=evaluation)


def test_status_report_has_its_chart_and_its_text() -> None:
    page = check(
        StatusReport(
            title=f"Features table {EVIL}",
            chart=learning_curves(HISTORY),
            text=f"run  {EVIL}\n  ok",
        ).to_html()
    )
    assert page.text.count(f"Features table {EVIL}") == 2
    assert f"run  {EVIL}\n  ok" in page.text
    (image,) = page.all("img")
    assert image["alt"] == "Growth of the table and throughput of its runs"
