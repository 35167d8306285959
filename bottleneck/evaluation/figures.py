"""The figures of an evaluation, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bottleneck.evaluation.intervals import Interval, Ints

_PRINTED_CLASSES = 20


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class is recognized.

    Attributes:
        label: Its name.
        support: Rows that are of this class.
        predicted: Rows taken for it.
        precision: Share of the rows taken for it that are of it; None if it was never predicted.
        recall: Share of its rows that were recognized; None without support.
        f1: Harmonic mean of both, 0 if never predicted; None without support.
    """

    label: str
    support: int
    predicted: int
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose top probability lies in (``low``, ``high``].

    Attributes:
        low: Lower end of the bin.
        high: Upper end of the bin.
        count: Rows in it.
        confidence: Their mean top probability; None if there are none.
        accuracy: Share of them that was classified correctly; None if there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: Interval | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`~bottleneck.evaluation.evaluate.evaluate` found.

    Attributes:
        labels: Names of the C classes.
        count: Number of rows N.
        accuracy: Share of rows whose most probable class is the true one.
        top_k: K → share of rows whose true class is among the k most probable; for k of 1, 3 and 5
            below C.
        log_loss: Mean of −ln(probability of the true class), in nats.
        calibration_error: Expected calibration error in 15 bins of equal width (Guo et al. 2017,
            "On Calibration of Modern Neural Networks").
        macro_precision: Mean precision of the classes with support, 0 for those never predicted.
        macro_recall: Mean recall of the classes with support ("balanced accuracy").
        macro_f1: Mean F1 of the classes with support.
        per_class: The classes in the order of ``labels``.
        confusion: (C, C) int64, rows by true class (row) and predicted class (column).
        reliability: The 15 bins of the calibration error, by rising confidence.
    """

    labels: tuple[str, ...]
    count: int
    accuracy: Interval
    top_k: dict[int, Interval]
    log_loss: Interval
    calibration_error: Interval
    macro_precision: Interval
    macro_recall: Interval
    macro_f1: Interval
    per_class: tuple[ClassMetrics, ...]
    confusion: Ints
    reliability: tuple[ReliabilityBin, ...]

    @property
    def by_f1(self) -> tuple[ClassMetrics, ...]:
        """The classes with the lowest F1 first, those without support last."""
        return tuple(
            sorted(self.per_class, key=lambda one: one.f1.value if one.f1 is not None else 2.0)
        )

    def headline(self) -> dict[str, str]:
        """Returns the figures over all classes as names and formatted values."""
        top_k = {f"top-{k} accuracy": figure for k, figure in self.top_k.items() if k > 1}
        return {
            "images": f"{self.count:,}",
            "accuracy": self.accuracy.to_percent(),
            **{name: figure.to_percent() for name, figure in top_k.items()},
            "log loss": self.log_loss.to_number(),
            "calibration error": self.calibration_error.to_percent(),
            "macro precision": self.macro_precision.to_percent(),
            "macro recall": self.macro_recall.to_percent(),
            "macro F1": self.macro_f1.to_percent(),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes as JSON values; intervals are objects, undefined ones null."""
        values = {name: value for name, value in vars(self).items() if name != "confusion"}
        for name in ("accuracy", "log_loss", "calibration_error"):
            values[name] = asdict(values[name])
        for name in ("macro_precision", "macro_recall", "macro_f1"):
            values[name] = asdict(values[name])
        return values | {
            "labels": list(self.labels),
            "top_k": {str(k): asdict(figure) for k, figure in self.top_k.items()},
            "per_class": [asdict(one) for one in self.per_class],
            "confusion": self.confusion.tolist(),
            "reliability": [asdict(one) for one in self.reliability],
        }

    def to_text(self) -> str:
        """Returns a table for the terminal, with the 20 classes of the lowest F1."""
        figures = self.headline()
        width = max(map(len, figures))
        lines = [f"  {name.ljust(width)}  {value}" for name, value in figures.items()]
        shown = self.by_f1[:_PRINTED_CLASSES]
        labels = [printable(one.label, 32) for one in shown]
        width = max(len("class"), *map(len, labels))
        lines += ["", f"  {'class'.ljust(width)}   images  predicted  precision   recall       F1"]
        for label, one in zip(labels, shown, strict=True):
            precision, recall, f1 = (
                "-" if figure is None else f"{100 * figure.value:.1f} %"
                for figure in (one.precision, one.recall, one.f1)
            )
            lines.append(
                f"  {label.ljust(width)}  {one.support:7,}  {one.predicted:9,}"
                f"  {precision:>9}  {recall:>7}  {f1:>7}"
            )
        rest = len(self.per_class) - len(shown)
        return "\n".join([*lines, f"  … {rest:,} more"] if rest else lines)


def printable(text: str, limit: int) -> str:
    """Returns a name on one line: no control or broken characters, an ellipsis after ``limit``."""
    shown = "".join(
        letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split())
    )
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"
