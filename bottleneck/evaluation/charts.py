"""Pictures of a training and of an evaluation, as PNG files.

Nothing here touches matplotlib's global state, so that it neither needs a display nor changes the
figures of a notebook that calls it. Names of classes are drawn as they are: matplotlib would take
what stands between two ``$`` for a formula.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from bottleneck.errors import ConfigError
from bottleneck.evaluation.figures import Evaluation, printable

_DPI = 120
_TRAIN, _VALIDATION, _NEUTRAL = "#3b6fb6", "#d1662b", "#777777"

#: Up to this many classes a matrix shows the counts, and above the other only a choice of rows.
_CLASSES_WITH_COUNTS = 20
_CLASSES_SHOWN = 100
_CLASSES_CHOSEN = 60

#: Fonts with letters that matplotlib's own, DejaVu Sans, lacks; those installed are used.
_MORE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Noto Emoji",
)


def learning_curves(
    history: Sequence[Mapping[str, float]], *, best_epoch: int | None = None
) -> bytes:
    """Draws loss and accuracy over the epochs.

    Args:
        history: For each epoch Keras's names: `loss` (in nats), `accuracy` (0…1), `val_loss`,
            `val_accuracy`, each if known, and `epoch` unless the first row is epoch 1.
        best_epoch: The epoch to mark; without it, that of the lowest `val_loss`, or `loss`.

    Returns:
        A PNG file.

    Raises:
        ConfigError: ``history`` is empty.
    """
    if not history:
        raise ConfigError("no epochs to draw: pass at least one row of a training's history")
    epochs = [int(row.get("epoch", number)) for number, row in enumerate(history, start=1)]
    if best_epoch is None:
        best_epoch = _best(epochs, history)
    figure = _figure(11.5, 4.2)
    panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.22})
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for key, label, color in (
            (name, "training", _TRAIN),
            (f"val_{name}", "validation", _VALIDATION),
        ):
            values = _column(history, key)
            if np.isfinite(values).any():
                marker = "o" if len(epochs) <= 30 else ""
                axes.plot(
                    epochs, values, color=color, label=label, marker=marker, markersize=4, lw=1.8
                )
        axes.set_title("Loss" if name == "loss" else "Accuracy")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        margin = 0.02 * (epochs[-1] - epochs[0]) or 0.5
        axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
        _grid(axes)
        if not axes.lines:
            axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
            continue
        if best_epoch in epochs:
            axes.axvline(
                best_epoch, color=_NEUTRAL, ls="--", lw=1.2, label=f"best epoch ({best_epoch})"
            )
        axes.legend(edgecolor="none", framealpha=0.8)
    panels[0].set_ylabel("cross-entropy (nats)")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    return _png(figure)


def confusion_matrix(labels: Sequence[str], confusion: npt.ArrayLike) -> bytes:
    """Draws which classes are taken for which.

    Colors tell shares of each row. Up to 20 classes the counts stand in the cells. Of more than
    100 classes the 60 with the most mistakes, as true or as predicted class, are shown.

    Args:
        labels: Names of the C classes.
        confusion: (C, C) integers, rows by true class (row) and predicted class (column).

    Returns:
        A PNG file.

    Raises:
        ConfigError: The shapes differ.
    """
    counts = np.asarray(confusion)
    classes = len(labels)
    if not classes or counts.shape != (classes, classes):
        raise ConfigError(
            f"a confusion matrix of {classes} labels has shape ({classes}, {classes}) and at least"
            f" one row, not {counts.shape}: pass the labels that it was counted with"
        )
    sums = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_array(
        counts / np.maximum(sums, 1), mask=np.repeat(sums == 0, classes, axis=1)
    )
    title = "Confusion matrix"
    if classes > _CLASSES_SHOWN:
        mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diagonal(counts)
        chosen = np.sort(np.argsort(-mistakes, kind="stable")[:_CLASSES_CHOSEN])
        counts, shares = counts[np.ix_(chosen, chosen)], shares[np.ix_(chosen, chosen)]
        title += f": the {len(chosen)} of {classes:,} classes with the most mistakes"
        labels = [labels[number] for number in chosen]

    shown = len(labels)
    with_counts = shown <= _CLASSES_WITH_COUNTS
    cell = max(0.42, 0.95 - 0.04 * shown) if with_counts else max(0.13, 6 / shown)
    side = max(2.6, cell * shown)
    figure = _figure(side + 1, side)
    axes = figure.add_axes((0, 0, side / (side + 1), 1))
    colors = colormaps["Blues"].with_extremes(bad="#eeeeee")
    # The square root keeps a confusion of one row in a hundred visible.
    image = axes.imshow(shares, cmap=colors, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set_title(title, fontsize=11)
    _name_cells(axes, labels, side / shown)
    if with_counts:
        _write_counts(axes, counts, shares)
    bar_height = min(1.0, 5 / side)
    bar_axes = figure.add_axes(
        (1 - 0.85 / (side + 1), 1 - bar_height, 0.18 / (side + 1), bar_height)
    )
    bar = figure.colorbar(
        image, cax=bar_axes, format=PercentFormatter(1.0), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1]
    )
    bar.set_label("share of the true class", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    return _png(figure)


def _name_cells(axes: Axes, labels: Sequence[str], cell: float) -> None:
    """Writes the names beside and below a matrix of cells of that width in inches."""
    shown = len(labels)
    many = shown > _CLASSES_WITH_COUNTS
    names = [printable(label, 24) for label in labels]
    size = 7 if many else 9
    text: dict[str, Any] = {"fontsize": size, "parse_math": False, "fontfamily": _families()}
    # The widest letters are as wide as the font is high.
    fit = max(map(len, names)) * size / 72 < cell
    axes.set_xticks(range(shown), names, rotation=0 if fit else 90, **text)
    axes.set_yticks(range(shown), names, **text)
    axes.tick_params(length=2 if many else 0)
    axes.set_xlabel("predicted class", fontsize=10)
    axes.set_ylabel("true class", fontsize=10)
    edges = np.arange(1, shown) - 0.5
    color, width = ("#e4e4e4", 0.3) if many else ("white", 1.0)
    axes.hlines(edges, -0.5, shown - 0.5, colors=color, linewidths=width)
    axes.vlines(edges, -0.5, shown - 0.5, colors=color, linewidths=width)


def _write_counts(
    axes: Axes, counts: npt.NDArray[Any], shares: np.ma.MaskedArray[Any, Any]
) -> None:
    dark = shares.filled(0.0) > 0.35
    for row, column in np.ndindex(counts.shape):
        axes.text(
            column,
            row,
            _short_count(int(counts[row, column])),
            ha="center",
            va="center",
            fontsize=9 if len(counts) <= 10 else 8,
            color="white" if dark[row, column] else "#333333",
        )


def reliability_diagram(evaluation: Evaluation) -> bytes:
    """Draws how often predictions of each confidence are right, and how many there are.

    Args:
        evaluation: The figures of a classifier.

    Returns:
        A PNG file.
    """
    figure = _figure(5.2, 5.6)
    upper, lower = figure.subplots(
        2, 1, sharex=True, height_ratios=(3, 1), gridspec_kw={"hspace": 0.08}
    )
    upper.plot([0, 1], [0, 1], color=_NEUTRAL, ls="--", lw=1.2, label="as sure as right")
    bins = evaluation.reliability
    width = bins[0].high - bins[0].low
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    confidences, values, errors = [], [], []
    for one in bins:
        if one.accuracy is not None and one.confidence is not None:
            confidences.append(one.confidence)
            values.append(one.accuracy.value)
            errors.append(
                (one.accuracy.value - one.accuracy.low, one.accuracy.high - one.accuracy.value)
            )
    upper.errorbar(
        confidences, values, yerr=np.array(errors).T, color=_TRAIN, marker="o", markersize=4.5,
        lw=1.5, elinewidth=1, capsize=2, label="measured, 95 % interval", clip_on=False, zorder=3,
    )  # fmt: skip
    upper.legend(frameon=False, loc="upper left")
    upper.set_title(f"Calibration error {100 * evaluation.calibration_error.value:.1f} %")
    lower.bar([one.low for one in bins], [one.count for one in bins], width, align="edge",
              color=_TRAIN, edgecolor="white")  # fmt: skip
    lower.set(xlabel="probability of the predicted class", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in (upper, lower):
        _grid(axes)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    upper.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _png(figure)


def _best(epochs: Sequence[int], history: Sequence[Mapping[str, float]]) -> int | None:
    for key in ("val_loss", "loss"):
        values = _column(history, key)
        if np.isfinite(values).any():
            return epochs[int(np.nanargmin(values))]
    return None


def _column(history: Sequence[Mapping[str, float]], key: str) -> npt.NDArray[np.float64]:
    """Returns a quantity by epoch, nan where it is unknown or infinite."""
    values = np.array([row.get(key, np.nan) for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _figure(width: float, height: float) -> Figure:
    """Makes an empty figure, in inches; what is drawn beyond its edges enlarges the file."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _grid(axes: Axes) -> None:
    axes.grid(color="#e4e4e4", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short_count(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M"


@cache
def _families() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that no installed font has becomes a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Without the version of matplotlib: equal input gives equal bytes.
        figure.savefig(
            buffer,
            format="png",
            dpi=_DPI,
            bbox_inches="tight",
            pad_inches=0.12,
            metadata={"Software": None},
        )
    return buffer.getvalue()
