"""Progress: lines in a log, one line that is rewritten in a terminal."""

from __future__ import annotations

import io
import re

import pytest

from bottleneck.console import progress
from bottleneck.console.formatting import format_bytes, format_duration, format_seconds
from bottleneck.console.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def screen(printed: str, columns: int = 80) -> list[str]:
    """What a terminal of this width shows: carriage returns overwrite, long lines wrap."""
    rows = [""]
    row = column = 0
    for char in printed:
        if char == "\n":
            row, column = row + 1, 0
        elif char == "\r":
            column = 0
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(rows) <= row:
                rows.append("")
            rows[row] = rows[row][:column].ljust(column) + char + rows[row][column + 1 :]
            column += 1
        while len(rows) <= row:
            rows.append("")
    return [text.rstrip() for text in rows]


def test_a_log_gets_plain_lines_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    shown = Progress(4_000, stream)
    for _ in range(100):
        clock.now += 0.5
        shown.add(20)
        shown.committed = shown.done // 1000 * 1000
    shown.failed = 3
    shown.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0] == (
        "[0:10]  400 / 4,000 images (10.0 %)  40.0 images/s  0 failed  0 committed  ETA 1:30"
    )
    assert lines[-1] == (
        "[0:50]  2,000 / 4,000 images (50.0 %)  40.0 images/s  3 failed  2,000 committed  ETA 0:50"
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stream.getvalue())


def test_start_up_is_no_throughput(clock: Clock) -> None:
    stream = io.StringIO()
    shown = Progress(100, stream)
    clock.now += 9
    shown.print_if_due("waiting for workers")
    assert stream.getvalue() == ""
    clock.now += 3
    shown.print_if_due("waiting for workers")
    assert stream.getvalue() == (
        "[0:12]  0 / 100 images (0.0 %)  starting  0 failed  0 committed  waiting for workers\n"
    )
    assert shown.rate == 0.0
    clock.now += 60
    shown.add(32)
    assert shown.rate == 0.0
    clock.now += 2
    shown.add(32)
    assert shown.rate == 16.0
    assert shown.line() == (
        "[1:14]  64 / 100 images (64.0 %)  16.0 images/s  0 failed  0 committed  ETA 0:02"
    )


def test_a_terminal_gets_one_line_that_renews_itself(clock: Clock) -> None:
    stream = Terminal()
    shown = Progress(50, stream)
    for _ in range(40):
        clock.now += 0.3
        shown.add(1)
    shown.say("a node is lost")
    clock.now += 1
    shown.add(10)
    shown.close()
    assert screen(stream.getvalue(), 200) == [
        "a node is lost",
        "[0:13]  50 / 50 images (100.0 %)  3.9 images/s  0 failed  0 committed  ETA 0:00",
        "",
    ]
    # Twice a second at most.
    assert 15 <= stream.getvalue().count("\r") <= 25
    assert "\x1b" not in stream.getvalue()


def test_a_line_fits_a_narrow_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that wraps does not renew itself: it would fill the screen."""
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    shown = Progress(1_234_567, stream)
    shown.failed, shown.committed = 1_234, 900_000
    for _ in range(5):
        clock.now += 3_600
        shown.add(200_000)
    shown.close()
    assert len([line for line in screen(stream.getvalue(), 80) if line]) == 1


def test_an_empty_plan(clock: Clock) -> None:
    stream = io.StringIO()
    shown = Progress(0, stream)
    shown.close()
    # The summary says that nothing was to be computed.
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0, "0:00"), (-3, "0:00"), (0.6, "0:01"), (59.4, "0:59"), (59.6, "1:00"),
        (3_599.6, "1:00:00"), (3_600, "1:00:00"), (360_000, "100:00:00"),
    ],
)  # fmt: skip
def test_durations(seconds: float, wanted: str) -> None:
    assert format_duration(seconds) == wanted


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0, "0 s"), (0.004, "0 s"), (0.12, "0.12 s"), (1.0, "1 s"), (9.94, "9.9 s"),
        (9.99, "10 s"), (34.4, "34 s"), (119.4, "119 s"), (120, "2:00"), (306, "5:06"),
    ],
)  # fmt: skip
def test_short_durations(seconds: float, wanted: str) -> None:
    assert format_seconds(seconds) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_540_000, "1.5 MB"),
        (2e9, "2.0 GB"), (-3_000, "-3.0 kB"), (5e15, "5000.0 TB"), (999_960, "1.0 MB"),
    ],
)  # fmt: skip
def test_sizes(count: float, wanted: str) -> None:
    assert format_bytes(count) == wanted
