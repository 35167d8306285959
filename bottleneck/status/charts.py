"""The status of a features table as a chart: growth over time, throughput by run."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from bottleneck.console.formatting import format_bytes
from bottleneck.status.history import Run, Status

_ROWS, _BYTES, _THROUGHPUT = "#1f6fb2", "#c8641e", "#4a8a5a"

#: Maximum number of labels under the bars that do not overlap; with more bars some are left out.
_MOST_LABELS = 12
_MOST_MARKERS = 40


def draw(status: Status) -> bytes:
    """Draws rows and bytes over time, and the images per second of each run, as a PNG."""
    # Loading matplotlib takes longer than all the rest, so that only a chart waits for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    # A URI may hold dollar signs, between which matplotlib would see a formula.
    figure.suptitle(status.table_uri, fontsize=11, parse_math=False)
    rows, size, throughput = figure.subplots(3, 1)
    # Mostly proportional to each other, the two would hide each other in one panel.
    _draw_growth(rows, "Rows", [(s.time, s.rows) for s in status.growth], _ROWS, _count)
    _draw_growth(
        size, "Size of the shards", [(s.time, s.bytes) for s in status.growth], _BYTES, format_bytes
    )
    _draw_throughput(throughput, [run for run in status.runs if run.images_per_s])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(status: Status) -> bytes:
    """Returns a self-contained HTML page with the chart and the printed text."""
    # Like matplotlib, loaded only for a page.
    from bottleneck.evaluation.pages import StatusReport

    title = f"Features table {status.table_uri}"
    return StatusReport(title=title, chart=draw(status), text=status.to_text()).to_html().encode()


def _draw_growth(
    axes: Any,
    name: str,
    points: list[tuple[datetime, int]],
    color: str,
    form: Callable[[float], str],
) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(name)
    axes.set_xlabel("time of the commit (UTC)")
    axes.set_ylabel(name.lower())
    if not points:
        _say(axes, "no commit yet")
        return
    times = [time for time, _ in points]
    values = [value for _, value in points]
    marker = "o" if len(points) <= _MOST_MARKERS else ""
    axes.plot(times, values, color=color, drawstyle="steps-post", marker=marker, markersize=4)
    axes.set_ylim(0, 1.15 * max(1, *values))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    if min(times) == max(times):
        axes.set_xlim(times[0] - timedelta(hours=1), times[0] + timedelta(hours=1))
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.annotate(
        form(values[-1]), (times[-1], values[-1]), xytext=(0, 5), textcoords="offset points",
        ha="right", fontsize=9,
    )  # fmt: skip
    axes.grid(axis="y", alpha=0.3)


def _draw_throughput(axes: Any, runs: list[Run]) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_title("Throughput of each run")
    axes.set_xlabel("last commit of the run (UTC)")
    axes.set_ylabel("images/s")
    if not runs:
        _say(axes, "no run computed images")
        return
    bars = axes.bar(range(len(runs)), [run.images_per_s for run in runs], 0.7, color=_THROUGHPUT)
    if len(runs) <= _MOST_LABELS:
        axes.bar_label(bars, [f"{run.images_per_s:,.1f}" for run in runs], padding=2, fontsize=9)
    step = -(-len(runs) // _MOST_LABELS)
    # Counted from the newest, which people look for.
    labeled = list(range(len(runs) - 1, -1, -step))
    axes.set_xticks(labeled, [runs[n].last.strftime("%Y-%m-%d\n%H:%M") for n in labeled])
    axes.tick_params(axis="x", labelsize=8)
    # A single bar would otherwise be as wide as the chart.
    axes.set_xlim(min(-0.6, len(runs) / 2 - 3.5), max(len(runs) - 0.4, len(runs) / 2 + 2.5))
    axes.set_ylim(top=1.15 * max(run.images_per_s for run in runs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4")
    axes.set(xticks=[], yticks=[])


def _count(number: float) -> str:
    return f"{number:,.0f}"
