"""Printing to a standard output whose reader may be gone, such as ``head``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Ends the process quietly, as other commands end, if nobody reads standard output any more.

    Raises:
        SystemExit: The reader closed the pipe; the exit code is that of SIGPIPE, 141.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
