"""Progress of a run, for people in a terminal or a log, and for programs in JSON."""

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
    """Progress of a run: plain lines in a log, one line that is rewritten in a terminal.

    If the lines of the command are JSON, progress is an event with figures.

    Args:
        total: Number of images to compute.
        stream: Stream to print to; control characters are printed only to a terminal.
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
        """Counts images that the backbone has computed."""
        self.done += images
        if self._first_done is None:
            self._first_done, self._done_at_first = time.monotonic(), self.done
        self.print_if_due()

    @property
    def rate(self) -> float:
        """Images per second since the first block of results; start-up does not count."""
        if self._first_done is None:
            return 0.0
        return (self.done - self._done_at_first) / max(1e-9, time.monotonic() - self._first_done)

    def print_if_due(self, note: str = "") -> None:
        """Prints the state unless the last line is recent."""
        interval = _TERMINAL_INTERVAL_S if self._terminal else _LOG_INTERVAL_S
        if time.monotonic() - self._printed >= interval:
            self._printed = time.monotonic()
            self._print(note)

    def line(self) -> str:
        """Returns the state as a line of text."""
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
        """Prints a line that is not overwritten."""
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
            # A line that wraps could not be rewritten.
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
