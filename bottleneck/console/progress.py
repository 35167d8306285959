"""Progress a person can follow, in a terminal and in a log, and a program in JSON."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from typing import TextIO

from bottleneck.console import logs
from bottleneck.console.formatting import format_duration

#: Seconds between two lines in a log, and between two updates of a terminal's line.
_LOG_INTERVAL_S = 10.0
_TERMINAL_INTERVAL_S = 0.5


class Progress:
    """Prints how far a run is: plain lines in a log, one line that renews itself in a terminal.

    Where the command's lines are JSON, they go there as events with figures.

    Args:
        total: Number of images to do.
        stream: Where to print; no control characters unless it is a terminal.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._structured = logs.structured()
        self._terminal = self._stream.isatty() and not self._structured
        self._began = time.monotonic()
        self._first_done: float | None = None
        self._done_at_first = 0
        self._printed = -_LOG_INTERVAL_S if self._terminal else time.monotonic()
        self._width = 0
        self.done = 0
        self.failed = 0
        self.committed = 0

    def add(self, images: int) -> None:
        """Counts images that the backbone is done with."""
        self.done += images
        if self._first_done is None:
            self._first_done, self._done_at_first = time.monotonic(), self.done
        self.print_if_due()

    @property
    def rate(self) -> float:
        """Images a second since the first ones came out; start-up does not count."""
        if self._first_done is None:
            return 0.0
        return (self.done - self._done_at_first) / max(1e-9, time.monotonic() - self._first_done)

    def print_if_due(self, note: str = "") -> None:
        """Prints the state unless it was printed a moment ago."""
        interval = _TERMINAL_INTERVAL_S if self._terminal else _LOG_INTERVAL_S
        if time.monotonic() - self._printed >= interval:
            self._printed = time.monotonic()
            self._print(note)

    def line(self) -> str:
        """Returns the state in words."""
        share = 100 * self.done / max(1, self._total)
        parts = [
            f"[{format_duration(time.monotonic() - self._began)}]",
            f"{self.done:,} / {self._total:,} images ({share:.1f} %)",
            f"{self.rate:,.1f} images/s" if self.rate else "starting",
            f"{self.failed:,} failed",
            f"{self.committed:,} committed",
        ]
        if self.rate:
            parts.append(f"ETA {format_duration(self._left_s)}")
        return "  ".join(parts)

    @property
    def _left_s(self) -> float:
        return (self._total - self.done) / self.rate

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self._structured:
            logs.say(text, event="notice", level=logging.WARNING)
            return
        self._clear()
        print(text, file=self._stream, flush=True)

    def _print(self, note: str = "") -> None:
        text = self.line() + (f"  {note}" if note else "")
        if self._structured:
            logs.say(
                text,
                event="progress",
                done=self.done,
                total=self._total,
                failed=self.failed,
                committed=self.committed,
                elapsed_s=round(time.monotonic() - self._began, 1),
                images_per_s=round(self.rate, 2) if self.rate else None,
                eta_s=round(self._left_s) if self.rate else None,
            )
        elif self._terminal:
            # A line that wrapped could not be renewed.
            text = text[: shutil.get_terminal_size().columns - 1]
            print(f"\r{text.ljust(self._width)}", end="", file=self._stream, flush=True)
            self._width = len(text)
        else:
            print(text, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._terminal and self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream)
            self._width = 0

    def close(self) -> None:
        """Prints the final state, unless there was nothing to compute."""
        if not self._total:
            return
        self._print()
        if self._terminal:
            print(file=self._stream, flush=True)
            self._width = 0
