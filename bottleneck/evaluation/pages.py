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

#: Pixels a CSS pixel: pictures are drawn with 120 dots an inch, browsers lay out with 96.
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


def training_report(
    *,
    title: str,
    configuration: Mapping[str, str],
    data: Mapping[str, str],
    specification: Mapping[str, str],
    history: Sequence[Mapping[str, float]],
    best_epoch: int | None,
    evaluation: Evaluation | None,
    evaluated_on: str = "",
    learning_curves: bytes | None = None,
    confusion_matrix: bytes | None = None,
    reliability_diagram: bytes | None = None,
    versions: Mapping[str, str],
) -> str:
    """Tells how a classifier was trained and how good it is.

    Args:
        title: The page's title.
        configuration: The training's settings.
        data: What it learned from: the table's URI and version, rows by split.
        specification: Of the features.
        history: A row an epoch, as :func:`bottleneck.evaluation.charts.learning_curves` takes it;
            other keys become columns too.
        best_epoch: The epoch whose model was kept.
        evaluation: The model's figures; None without images to evaluate on.
        evaluated_on: Name of the split these were.
        learning_curves: PNG file, as of :mod:`bottleneck.evaluation.charts`; so are the next two.
        confusion_matrix: Shown if there is an evaluation.
        reliability_diagram: Shown if there is an evaluation.
        versions: Of the software.

    Returns:
        An HTML document.
    """
    known = {key for row in history for key in row} - {"epoch"}
    keys = [*(key for key in _COLUMNS if key in known), *sorted(known - _COLUMNS.keys())]
    epochs = [
        (int(row.get("epoch", number)), [_quantity(key, row.get(key)) for key in keys])
        for number, row in enumerate(history, start=1)
    ]
    best = "" if best_epoch is None else f"; best epoch {best_epoch}"
    return _render(
        "training.html.j2",
        title=title,
        configuration=configuration,
        data=data,
        specification=specification,
        versions=versions,
        columns=["epoch", *(_COLUMNS.get(key, key) for key in keys)],
        epochs=epochs,
        best_epoch=best_epoch,
        evaluation=evaluation,
        evaluated_on=evaluated_on,
        learning_curves=_picture(
            learning_curves, f"Loss and accuracy over {len(epochs)} epochs{best}"
        ),
        **_evaluation_pictures(evaluation, confusion_matrix, reliability_diagram),
    )


def prediction_report(
    *,
    title: str,
    model: Mapping[str, str],
    statuses: Mapping[str, int],
    predicted: Mapping[str, int],
    evaluation: Evaluation | None,
    mistakes: Sequence[Mistake] = (),
    confusion_matrix: bytes | None = None,
    reliability_diagram: bytes | None = None,
) -> str:
    """Tells what a classifier made of a collection of images.

    Args:
        title: The page's title.
        model: Facts about it.
        statuses: Images by status.
        predicted: Images by predicted label.
        evaluation: Comparison with the images' labels; None if they have none.
        mistakes: Some to look at, shown if there is an evaluation.
        confusion_matrix: PNG file, shown if there is an evaluation.
        reliability_diagram: PNG file, shown if there is an evaluation.

    Returns:
        An HTML document.
    """
    wrong = 0
    if evaluation is not None:
        wrong = int(evaluation.confusion.sum() - evaluation.confusion.trace())
    return _render(
        "prediction.html.j2",
        title=title,
        model=model,
        statuses=_by_count(statuses),
        predicted=_by_count(predicted),
        evaluation=evaluation,
        wrong=wrong,
        mistakes=[
            {
                "image": one.image,
                "label": one.label,
                "predicted": one.predicted,
                "probability": one.probability,
                "thumbnail": one.thumbnail and _data_uri("image/jpeg", one.thumbnail),
            }
            for one in sorted(mistakes, key=lambda one: (-one.probability, one.image))
        ],
        **_evaluation_pictures(evaluation, confusion_matrix, reliability_diagram),
    )


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


def _render(template: str, **values: Any) -> str:
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


def _evaluation_pictures(
    evaluation: Evaluation | None, confusion_matrix: bytes | None, reliability_diagram: bytes | None
) -> dict[str, _Picture | None]:
    if evaluation is None:
        return {"confusion_matrix": None, "reliability_diagram": None}
    error = 100 * evaluation.calibration_error.value
    return {
        "confusion_matrix": _picture(
            confusion_matrix,
            f"Confusion matrix of {len(evaluation.labels)} classes; the table of classes tells"
            " each one's precision and recall",
        ),
        "reliability_diagram": _picture(
            reliability_diagram,
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
