"""Reports for people: one HTML file each, that any browser shows, mails carry and printers print.

The files refer to nothing outside themselves and run no code, which their Content-Security-Policy
also forbids. Names of images and classes come from strangers and are escaped everywhere.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bottleneck.evaluation.figures import Evaluation

#: Pixels per CSS pixel: pictures are drawn with 120 dots per inch, browsers lay out with 96.
_PICTURE_SCALE = 1.25

#: CSS pixels that fit on a page's width; a larger picture scrolls, so that its text stays legible.
_PAGE_WIDTH = 1_030

_COLUMNS = {
    "loss": "loss",
    "val_loss": "validation loss",
    "accuracy": "accuracy",
    "val_accuracy": "validation accuracy",
    "learning_rate": "learning rate",
    "seconds": "seconds",
}

#: Control characters, those that turn the direction of text around (with which `gpj.exe` looks like
#: `exe.jpg`), and surrogates, as which Python keeps the bytes of file names that are not UTF-8.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class.

    Attributes:
        image: Its identity.
        label: Its class.
        predicted: The class it was taken for.
        probability: Of that class, 0…1.
        thumbnail: A small JPEG file of it; None if there is none.
    """

    image: str
    label: str
    predicted: str
    probability: float
    thumbnail: bytes | None


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """How a classifier was trained and how good it is.

    Attributes:
        title: The page's title.
        configuration: The training's settings.
        data: What it learned from: the table's URI and version, rows by split.
        specification: Specification of the features.
        history: One row per epoch, as :func:`bottleneck.evaluation.charts.learning_curves` takes
            it; other keys become columns too.
        best_epoch: The epoch whose model was kept; None to mark none.
        evaluation: The model's figures; None without images to evaluate on.
        evaluated_on: Name of the split these were.
        learning_curves: PNG file, as of :mod:`bottleneck.evaluation.charts`; so are the next two.
        confusion_matrix: Shown if there is an evaluation.
        reliability_diagram: Shown if there is an evaluation.
        versions: Versions of the software.
    """

    title: str
    configuration: Mapping[str, str]
    data: Mapping[str, str]
    specification: Mapping[str, str]
    history: Sequence[Mapping[str, float]]
    best_epoch: int | None
    evaluation: Evaluation | None
    evaluated_on: str = ""
    learning_curves: bytes | None = None
    confusion_matrix: bytes | None = None
    reliability_diagram: bytes | None = None
    versions: Mapping[str, str]

    def to_html(self) -> str:
        """Returns the report as an HTML document."""
        known = {key for row in self.history for key in row} - {"epoch"}
        keys = [*(key for key in _COLUMNS if key in known), *sorted(known - _COLUMNS.keys())]
        epochs = [
            (int(row.get("epoch", number)), [_quantity(key, row.get(key)) for key in keys])
            for number, row in enumerate(self.history, start=1)
        ]
        best = "" if self.best_epoch is None else f"; best epoch {self.best_epoch}"
        curves = _picture(
            self.learning_curves, f"Loss and accuracy over {len(epochs)} epochs{best}"
        )
        values = vars(self) | {
            "columns": ["epoch", *(_COLUMNS.get(key, key) for key in keys)],
            "epochs": epochs,
            "learning_curves": curves,
        }
        return _render("training.html.j2", values | _evaluation_pictures(self))


@dataclass(frozen=True, kw_only=True)
class PredictionReport:
    """What a classifier made of a collection of images.

    Attributes:
        title: The page's title.
        model: Facts about it.
        statuses: Images by status.
        predicted: Images by predicted label.
        evaluation: Comparison with the images' labels; None if they have none.
        mistakes: Some to look at, shown if there is an evaluation.
        confusion_matrix: PNG file, shown if there is an evaluation.
        reliability_diagram: PNG file, shown if there is an evaluation.
    """

    title: str
    model: Mapping[str, str]
    statuses: Mapping[str, int]
    predicted: Mapping[str, int]
    evaluation: Evaluation | None
    mistakes: Sequence[Mistake] = ()
    confusion_matrix: bytes | None = None
    reliability_diagram: bytes | None = None

    def to_html(self) -> str:
        """Returns the report as an HTML document."""
        wrong = 0
        if self.evaluation is not None:
            wrong = int(self.evaluation.confusion.sum() - self.evaluation.confusion.trace())
        values = vars(self) | {
            "statuses": _by_count(self.statuses),
            "predicted": _by_count(self.predicted),
            "wrong": wrong,
            "mistakes": [
                vars(one) | {"thumbnail": one.thumbnail and _data_uri("image/jpeg", one.thumbnail)}
                for one in sorted(self.mistakes, key=lambda one: (-one.probability, one.image))
            ],
        }
        return _render("prediction.html.j2", values | _evaluation_pictures(self))


@dataclass(frozen=True, kw_only=True)
class StatusReport:
    """What a table holds and what its runs did.

    Attributes:
        title: The page's title.
        chart: PNG file of the table's growth and its runs.
        text: The same in words and figures, as a terminal shows it.
    """

    title: str
    chart: bytes
    text: str

    def to_html(self) -> str:
        """Returns the report as an HTML document."""
        chart = _picture(self.chart, "Growth of the table and throughput of its runs")
        return _render("status.html.j2", vars(self) | {"chart": chart})


@dataclass(frozen=True)
class _Picture:
    """A picture in a page; sizes in CSS pixels."""

    uri: str
    width: int
    height: int
    alt: str

    @property
    def large(self) -> bool:
        return self.width > _PAGE_WIDTH


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("bottleneck.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """Shows that there is something in a name that cannot be shown, or not be written as UTF-8."""
    return _UNSHOWABLE.sub("\ufffd", value) if type(value) is str else value


def _render(template: str, values: Mapping[str, Any]) -> str:
    return _templates().get_template(template).render(values) + "\n"


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _picture(content: bytes | None, alt: str) -> _Picture | None:
    if content is None:
        return None
    # A PNG file starts with 8 bytes of signature, then 8 of the first chunk's head, then its size.
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))
    return _Picture(
        _data_uri("image/png", content),
        round(width / _PICTURE_SCALE),
        round(height / _PICTURE_SCALE),
        alt,
    )


def _evaluation_pictures(report: TrainingReport | PredictionReport) -> dict[str, _Picture | None]:
    evaluation = report.evaluation
    if evaluation is None:
        return {"confusion_matrix": None, "reliability_diagram": None}
    error = 100 * evaluation.calibration_error.value
    return {
        "confusion_matrix": _picture(
            report.confusion_matrix,
            f"Confusion matrix of {len(evaluation.labels)} classes; the table of classes tells"
            " each one's precision and recall",
        ),
        "reliability_diagram": _picture(
            report.reliability_diagram,
            f"Share of right predictions by their probability; calibration error {error:.1f} %",
        ),
    }


def _quantity(key: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if key.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if key.endswith("loss") else f"{value:.4g}"


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
